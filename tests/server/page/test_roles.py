"""Who may see what, in pages and in the API."""

import httpx
import pytest
from conftest import T0, Server, StartServer, body_of

from server.page.reading import banners, check, sign_in
from server.page.town import ADMIN_TOKEN, COOKIE, GUARDED, READ_TOKEN, REFUSED


def test_a_callback_is_shown_to_admins_alone(guarded: Server, member: tuple[str, httpx.Client]) -> None:
    role, client = member
    event_id = guarded.client.get("/rooms/r", headers={"authorization": f"Bearer {ADMIN_TOKEN}"}).json()["event_id"]
    response = client.get(f"/event/{event_id}")
    if role == "admin":
        assert "secret" in check(response).one("pre", id="body").text
    else:
        assert "admin token" in check(response, 403).text
        assert "secret" not in response.text
    links = [link.attrs["href"] for link in check(client.get("/room/r")).all("a")]
    assert (f"/event/{event_id}" in links) is (role == "admin")


def test_what_was_refused_is_shown_to_admins_alone(member: tuple[str, httpx.Client]) -> None:
    role, client = member
    response = client.get("/health")
    page = check(response)
    assert bool(page.all("table", class_="quarantine")) is (role == "admin")
    assert ("quarantine')" in page.raw_text) is (role == "admin")
    assert (f"{len(REFUSED)} rejected callbacks. Sign in with the admin token" in page.text) is (role == "read")


def test_every_other_page_is_open_to_readers(member: tuple[str, httpx.Client]) -> None:
    client = member[1]
    for path in ("/", "/room/r", "/health"):
        check(client.get(path))
    assert client.get("/room/r/visibility.csv").status_code == 200
    check(client.get("/room/nobody"), 404)


@pytest.mark.parametrize("path", ["/rooms", "/rooms/r", "/rooms/r/history", "/events", "/status", "/events/stream"])
def test_the_api_still_wants_its_bearer(browser: httpx.Client, path: str) -> None:
    response = browser.get(path)
    assert response.status_code == 401
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {"status_code": 401, "detail": "this needs the header Authorization: Bearer <API token>"}


def test_the_api_opens_to_a_session_too_for_the_scripts_of_the_page(member: tuple[str, httpx.Client]) -> None:
    role, client = member
    assert client.get("/rooms/r").json()["room_info"]["RoomName"] == "secret"
    assert client.get("/rooms/r").headers["content-type"] == "application/json"
    assert len(client.get("/rooms").json()["rooms"]) == 3
    with client.stream("GET", "/events/stream", params={"after": 0}) as stream:
        assert stream.status_code == 200
        assert next(stream.iter_lines()) == ": room updates follow"
    for path in ("/rejected", "/metrics"):
        assert client.get(path).status_code == (200 if role == "admin" else 403)


@pytest.mark.parametrize("authorization", ["Bearer wrong", f"Bearer {ADMIN_TOKEN}x", "Bearer \xff"])
def test_a_wrong_bearer_is_refused_even_with_a_session(member: tuple[str, httpx.Client], authorization: str) -> None:
    header = [(b"authorization", authorization.encode("latin-1"))]
    assert member[1].get("/rooms", headers=header).status_code == 401
    assert member[1].get("/", headers=header).status_code == 303


def test_a_bearer_opens_the_pages_too(browser: httpx.Client) -> None:
    header = {"authorization": f"Bearer {ADMIN_TOKEN}"}
    check(browser.get("/", headers=header))
    assert check(browser.get("/health", headers=header)).all("table", class_="quarantine")


def test_a_receiver_of_signed_callbacks_has_no_banner_and_a_session_signs_none(start_server: StartServer) -> None:
    server = start_server(env={**GUARDED, "ROOMLAPSE_CALLBACK_TOKENS": "callback-token"})
    with httpx.Client(base_url=server.url, timeout=30) as client:
        sign_in(client, ADMIN_TOKEN)
        assert client.get("/status").json()["head"] == 0
        assert banners(check(client.get("/"))) == banners(check(client.get("/health"))) == []
        assert client.post("/callbacks", params={"SdkAppid": "1400000001"}, content=body_of("r", T0)).status_code == 401
        assert client.get("/status").json()["head"] == 0


def test_tokens_and_cookies_are_in_no_log(start_server: StartServer) -> None:
    server = start_server(env=GUARDED)
    with httpx.Client(base_url=server.url, timeout=30) as client:
        sign_in(client, READ_TOKEN)
        value = client.cookies[COOKIE]
        sign_in(client, "mistyped-token")
        check(client.get("/?x=1"), 400)
        check(client.get("/room/nobody"), 404)
    server.stop()
    for secret in (READ_TOKEN, ADMIN_TOKEN, value, "mistyped-token"):
        assert secret not in server.logs()
