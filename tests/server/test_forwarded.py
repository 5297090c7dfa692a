"""A server that a proxy shows under a path, and what proxies may say of the browser: whose word counts, and which."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

import httpx
import pytest
from conftest import T0, Server, StartServer, body_of, run
from html_tree import Node, attributes, read_html, values_of
from kit.deploy import API_TOKEN

from app.infra.errors import BadSettings
from app.infra.settings import Settings, read_root_path, read_trusted_proxies
from app.server.forwarded import Forwarded, is_secure, root_of

ROOT = "/tools/rooms"
NAMES = {"rooms", "room", "callbacks", "health", ""}
PLAIN = ["/tools/rooms", "/a", "/a/b/c", "/A-b_c.d~e", "/.hidden", "/...", "/1"]
ODD = [
    *("tools", "tools/rooms", "//tools", "/tools//rooms", "//evil.example", "/\\evil.example", "\\\\evil", "/.", "/.."),
    *("/a/../b", "/a/./b", "/a/..", "https://evil.example/", "/a?b", "/a#b", "/a b", "/a%2fb", "/%2e%2e", "/é", '/"'),
    *(
        "/a;Domain=evil.example",
        "/a, /b",
        "/a\tb",
        "/a\r\nSet-Cookie: x=1",
        "/<script>",
        "/a'",
        "/a&b",
        "/" + "a" * 300,
    ),
]


def noted(
    path: str = "/health",
    *headers: tuple[str, str],
    client: str = "127.0.0.1",
    raw_path: str | None = None,
    root_path: str = "",
    proxies: str = "",
) -> Any:
    """A request's scope after the server has read what its proxy says."""
    scope = {
        "path": path,
        "raw_path": (raw_path or quote(path)).encode(),
        "scheme": "http",
        "client": (client, 5),
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers],
    }
    trusted = read_trusted_proxies({"ROOMLAPSE_TRUSTED_PROXIES": proxies})
    return Forwarded(Settings("1", root_path=root_path, trusted_proxies=trusted), NAMES).read(scope)


def prefix(value: str) -> tuple[str, str]:
    return ("X-Forwarded-Prefix", value)


# ---- the path itself ----


@pytest.mark.parametrize("path", PLAIN)
def test_a_path_of_plain_segments_is_one_with_or_without_a_slash_behind(path: str) -> None:
    for given in (path, f"{path}/", f" {path} "):
        assert read_root_path({"ROOMLAPSE_ROOT_PATH": given}) == path
        assert root_of(noted("/health", prefix(given))) == path


@pytest.mark.parametrize("path", ODD)
def test_any_other_path_is_refused_as_a_setting_and_no_word_of_a_proxy(path: str) -> None:
    with pytest.raises(BadSettings, match="/tools/rooms"):
        read_root_path({"ROOMLAPSE_ROOT_PATH": path})
    assert root_of(noted("/health", ("X-Forwarded-Prefix", path.encode().decode("latin-1")))) == ""


@pytest.mark.parametrize("path", ["", "/", " "])
def test_no_path_is_none(path: str) -> None:
    assert read_root_path({"ROOMLAPSE_ROOT_PATH": path}) == ""
    assert root_of(noted("/health", prefix(path))) == ""


def test_a_path_that_is_none_keeps_the_server_from_starting() -> None:
    done = run("serve", "--sdk-app-id", "1", "--root-path", "tools/../rooms", "--data", "/nonexistent/x")
    assert done.returncode == 2
    assert b"'tools/../rooms' is no path of plain segments" in done.stderr


# ---- whose word counts ----


@pytest.mark.parametrize("client", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_a_proxy_on_this_machine_is_believed(client: str) -> None:
    scope = noted("/health", prefix(ROOT), ("X-Forwarded-Proto", "https"), client=client)
    assert (root_of(scope), is_secure(scope)) == (ROOT, True)


@pytest.mark.parametrize("client", ["127.0.0.2", "10.0.0.7", "192.168.1.5", "::2", "testclient", ""])
def test_nobody_else_is(client: str) -> None:
    scope = noted("/health", prefix("/evil"), ("X-Forwarded-Proto", "https"), client=client)
    assert (root_of(scope), is_secure(scope), scope["path"]) == ("", False, "/health")


def test_proxies_are_named_by_address_or_network_and_then_those_alone_are_believed() -> None:
    for client, believed in (("10.0.0.7", True), ("10.1.0.7", False), ("fd00::5", True), ("127.0.0.1", False)):
        scope = noted("/health", prefix(ROOT), client=client, proxies="10.0.0.0/24, fd00::5")
        assert root_of(scope) == (ROOT if believed else "")


@pytest.mark.parametrize("proxies", ["10.0.0.1/24", "proxy.example", "*", "10.0.0.0/33", "1"])
def test_proxies_that_are_no_addresses_are_refused(proxies: str) -> None:
    with pytest.raises(BadSettings, match=r"10\.0\.0\.0/24"):
        read_trusted_proxies({"ROOMLAPSE_TRUSTED_PROXIES": proxies})


def test_a_header_that_comes_twice_is_one_of_the_clients_and_none_counts() -> None:
    scope = noted(
        "/health", prefix("/evil"), prefix(ROOT), ("X-Forwarded-Proto", "https"), ("X-Forwarded-Proto", "http")
    )
    assert (root_of(scope), is_secure(scope)) == ("", False)


def test_what_is_set_goes_before_what_a_proxy_says() -> None:
    assert root_of(noted("/health", prefix("/other"), root_path=ROOT)) == ROOT
    assert root_of(noted("/health", root_path=ROOT, client="10.0.0.7")) == ROOT


@pytest.mark.parametrize(
    ("value", "secure"),
    [("https", True), ("HTTPS", True), ("https, http", True), ("http", False), ("", False), ("httpsx", False)],
)
def test_the_scheme_of_the_browser_is_the_first_that_is_named(value: str, secure: bool) -> None:
    assert is_secure(noted("/health", ("X-Forwarded-Proto", value))) is secure


# ---- taken off, or passed on whole ----


@pytest.mark.parametrize(
    ("path", "inside"),
    [
        ("/tools/rooms", "/"),
        ("/tools/rooms/", "/"),
        ("/tools/rooms/health", "/health"),
        ("/tools/rooms/callbacks", "/callbacks"),
        ("/tools/rooms/tools/rooms/x", "/tools/rooms/x"),
        ("/tools/roomsx", "/tools/roomsx"),
        ("/health", "/health"),
        ("/x/tools/rooms/health", "/x/tools/rooms/health"),
    ],
)
def test_a_path_that_comes_whole_is_cut(path: str, inside: str) -> None:
    for scope in (noted(path, root_path=ROOT), noted(path, prefix(ROOT))):
        assert (scope["path"], scope["raw_path"]) == (inside, inside.encode())


def test_what_is_escaped_in_a_path_stays_so() -> None:
    scope = noted("/tools/rooms/room/a?b", root_path=ROOT, raw_path="/tools/rooms/room/a%3Fb")
    assert scope["raw_path"] == b"/room/a%3Fb"
    scope = noted("/tools/rooms/room/a?b", root_path=ROOT, raw_path="/t%6Fols/rooms/room/a%3Fb")
    assert (scope["path"], scope["raw_path"]) == ("/room/a?b", b"/room/a%3Fb")


def test_under_a_root_that_is_called_like_a_route_the_proxy_takes_it_off() -> None:
    scope = noted("/rooms/late-show", root_path="/rooms")
    assert (scope["path"], root_of(scope)) == ("/rooms/late-show", "/rooms")


# ---- a server under a path ----


@pytest.fixture(scope="module")
def rooted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    data, env = tmp_path_factory.mktemp("rooted") / "data", {"ROOMLAPSE_API_TOKEN": API_TOKEN}
    with Server(data, "--root-path", f"{ROOT}/", env=env) as server:
        for room_id in ("r", "what? #1 é%", "..", "~x"):
            assert server.post(body_of(room_id, T0, IsPublicVisible=True, RoomName="name")).status_code == 200
        yield server


@pytest.fixture
def member(rooted: Server) -> Iterator[httpx.Client]:
    """A browser that has signed in under the path."""
    with httpx.Client(base_url=rooted.url, timeout=30, follow_redirects=True) as client:
        sign_in(client, f"{ROOT}/")
        yield client


def sign_in(client: httpx.Client, path: str, **headers: str) -> httpx.Response:
    """Ask for a page, fill in the form that it leads to, and follow on."""
    response = client.get(path, headers=headers, follow_redirects=True)
    form = read_html(response.text).one("form", class_="sign-in")
    values = values_of(form) | {"token": API_TOKEN}
    return client.post(form.attrs["action"], data=values, headers=headers, follow_redirects=False)


def addresses_in(page: Node) -> set[str]:
    """Where a page leads to, and what it loads."""
    return {value for _, name, value in attributes(page) if name in ("href", "src", "action") and value[:1] != "#"}


def test_who_is_not_signed_in_is_led_under_the_path_and_back(rooted: Server) -> None:
    for path in ("/", "/health", f"/room/{quote('what? #1 é%', safe='')}?at={T0}"):
        with httpx.Client(base_url=rooted.url, timeout=30) as client:
            asked = client.get(ROOT + path)
            assert asked.headers["location"].startswith(f"{ROOT}/sign-in?next={ROOT}/")
            signed_in = sign_in(client, ROOT + path)
            assert (signed_in.status_code, signed_in.headers["location"]) == (303, ROOT + path)
            assert "; Path=/tools/rooms;" in signed_in.headers["set-cookie"]
            assert client.get(ROOT + path).status_code == 200


@pytest.mark.parametrize("path", ["/", "/?at=2099-01-01", "/room/r", "/room/~..", "/room/~x", "/room/none", "/health"])
def test_every_link_form_and_file_of_a_page_stands_under_the_path_and_is_there(
    member: httpx.Client, rooted: Server, path: str
) -> None:
    page = read_html(member.get(ROOT + path).text)
    found = {urlsplit(urljoin(ROOT + path, address)) for address in addresses_in(page)}
    assert {address.path for address in found} >= {f"{ROOT}/static/page.js", f"{ROOT}/static/page.css", f"{ROOT}/"}
    for address in found:
        assert address.netloc == ""
        assert f"{address.path}/".startswith(f"{ROOT}/"), address
        if address.path.rpartition("/")[2] not in ("sign-out", "sign-in"):
            assert member.get(address.geturl()).status_code == (
                404 if path == "/room/none" and "none" in address.path else 200
            )


def test_signing_out_ends_the_session_under_the_path(member: httpx.Client) -> None:
    form = read_html(member.get(f"{ROOT}/").text).one("form", method="post")
    response = member.post(form.attrs["action"], data=values_of(form), follow_redirects=False)
    assert (response.status_code, response.headers["location"]) == (303, f"{ROOT}/")
    assert "; Path=/tools/rooms; Max-Age=0;" in response.headers["set-cookie"]
    assert member.get(f"{ROOT}/", follow_redirects=False).status_code == 303


@pytest.mark.parametrize(
    "elsewhere",
    [
        *("/", "/health", "//evil.example", f"{ROOT}//evil.example", f"{ROOT}/\\evil", f"{ROOT}/../admin"),
        *(f"{ROOT}/%2e%2e/admin", f"{ROOT}/a/..%2f", f"{ROOT}/..\\admin", f"{ROOT}x/y", "https://evil.example", ROOT),
    ],
)
def test_signing_in_leads_to_nothing_outside_of_the_path(rooted: Server, elsewhere: str) -> None:
    with httpx.Client(base_url=rooted.url, timeout=30) as client:
        response = sign_in(client, f"{ROOT}/sign-in?next={quote(elsewhere, safe='')}")
        within = urljoin(f"http://x{ROOT}/", response.headers["location"])
        assert urlsplit(within).netloc == "x"
        assert urlsplit(within).path.startswith(f"{ROOT}/")


def test_the_same_server_is_there_for_a_proxy_that_takes_the_path_off(rooted: Server) -> None:
    response = rooted.client.get("/health")
    assert response.headers["location"] == f"{ROOT}/sign-in?next={ROOT}/health"
    for path in ("/healthz", f"{ROOT}/healthz", "/static/page.css", f"{ROOT}/static/page.css"):
        assert rooted.client.get(path).status_code == 200


def test_programs_ask_and_send_under_the_path_and_the_schema_says_it(rooted: Server) -> None:
    bearer = {"Authorization": f"Bearer {API_TOKEN}"}
    assert rooted.client.get(f"{ROOT}/rooms/r", headers=bearer).json()["room_id"] == "r"
    sent = rooted.client.post(f"{ROOT}/callbacks", params={"SdkAppid": "1400000001"}, content=body_of("sent", T0))
    assert sent.json()["ActionStatus"] == "OK"
    assert rooted.client.get("/rooms/sent", headers=bearer).status_code == 200
    assert rooted.client.get(f"{ROOT}/schema", headers=bearer).json()["servers"] == [{"url": ROOT}]


def test_a_trusted_proxy_says_the_path_and_the_scheme_request_by_request(start_server: StartServer) -> None:
    server = start_server(env={"ROOMLAPSE_API_TOKEN": API_TOKEN})
    proxy = {"X-Forwarded-Prefix": "/p", "X-Forwarded-Proto": "https"}
    assert server.client.get("/", headers=proxy).headers["location"] == "/p/sign-in?next=/p/"
    assert server.client.get("/").headers["location"] == "/sign-in?next=/"
    with httpx.Client(base_url=server.url, timeout=30) as client:
        cookie = sign_in(client, "/sign-in", **proxy | {"X-Forwarded-Prefix": ""}).headers["set-cookie"]
        assert {"Secure", "HttpOnly", "SameSite=Lax", "Path=/"} <= {part.strip() for part in cookie.split(";")}
    bearer = {"Authorization": f"Bearer {API_TOKEN}"}
    assert server.client.get("/schema", headers=proxy | bearer).json()["servers"] == [{"url": "/p"}]
    page = read_html(server.client.get("/", headers=proxy | bearer).text)
    assert {"/p/", "/p/health", "/p/static/page.js"} <= addresses_in(page)


def test_a_stranger_says_nothing(start_server: StartServer) -> None:
    server = start_server(env={"ROOMLAPSE_API_TOKEN": API_TOKEN})
    transport = httpx.HTTPTransport(local_address="127.0.0.2")
    with httpx.Client(base_url=server.url, transport=transport, timeout=30) as client:
        strange = {"X-Forwarded-Prefix": "/evil", "X-Forwarded-Proto": "https"}
        assert client.get("/", headers=strange).headers["location"] == "/sign-in?next=/"
        assert "evil" not in client.get("/sign-in", headers=strange).text
        assert "Secure" not in sign_in(client, "/sign-in", **strange).headers["set-cookie"]
