"""Signing in and out, and the session between."""

from urllib.parse import quote, urlencode

import httpx
import pytest
from conftest import T0, Server
from html_tree import values_of

from server.page.reading import banners, check, check_other_headers, open_page, sign_in, sign_out_form
from server.page.town import ADMIN_TOKEN, COOKIE, MARKUP, READ_TOKEN


@pytest.mark.parametrize("path", ["/", "/room/r", "/room/nobody", "/room/r/visibility.csv", "/health", "/event/x"])
def test_who_has_not_signed_in_is_sent_to_do_so_and_told_nothing(browser: httpx.Client, path: str) -> None:
    response = browser.get(path)
    assert (response.status_code, response.text) == (303, "")
    assert response.headers["location"] == f"/sign-in?next={path}"
    check_other_headers(response)
    page = check(browser.get(response.headers["location"]))
    assert values_of(page.one("form"))["next"] == path
    assert page.one("form").attrs == {"method": "post", "action": "/sign-in", "class": "sign-in"}
    assert "secret" not in page.text
    assert banners(page) == []


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/room/r?at=2026-03-11T20:14:00%2B08:00&operator=a%26b&field=%E6%97%A5",
        f"/room/{quote('what? #1 é%', safe='')}?at={T0}",
        f"/room/{quote('日本', safe='')}",
        "/?q=100%25&show=public",
    ],
)
def test_signing_in_leads_to_the_page_that_was_asked_for(browser: httpx.Client, path: str) -> None:
    page = check(browser.get(browser.get(path).headers["location"]))
    form = values_of(page.one("form")) | {"token": READ_TOKEN}
    response = browser.post("/sign-in", data=form)
    assert (response.status_code, response.text) == (303, "")
    assert response.headers["location"] == path
    check(browser.get(response.headers["location"]))


def test_the_session_is_kept_from_scripts_and_other_sites(browser: httpx.Client) -> None:
    (cookie,) = sign_in(browser, READ_TOKEN).headers.get_list("set-cookie")
    assert cookie.startswith(f"{COOKIE}=read.")
    assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= {part.strip() for part in cookie.split(";")}
    assert READ_TOKEN not in cookie


@pytest.mark.parametrize("token", ["", "wrong", READ_TOKEN[:-1], READ_TOKEN.upper(), "日本", "\x00", MARKUP])
def test_a_wrong_token_opens_nothing(browser: httpx.Client, token: str) -> None:
    response = sign_in(browser, token, next="/room/r")
    page = check(response, 401)
    assert "set-cookie" not in response.headers
    assert banners(page) == ["The token is wrong."]
    assert values_of(page.one("form"))["next"] == "/room/r"
    assert page.one("input", name="token").attrs.get("value") is None
    assert browser.get("/").status_code == 303


def test_blanks_around_a_token_that_was_pasted_do_not_matter(browser: httpx.Client) -> None:
    assert sign_in(browser, f"  {READ_TOKEN}\r\n").status_code == 303
    check(browser.get("/"))


@pytest.mark.parametrize(
    "body", [b"", b"\xff\xfe", b"token", b"&&&=;", b'{"token":"x"}', b"token=%FF%00", b"a=" + b"b" * 4000]
)
def test_a_form_that_is_none_opens_nothing(browser: httpx.Client, body: bytes) -> None:
    page = check(browser.post("/sign-in", content=body), 403)
    assert banners(page) == [OLD_FORM]
    assert COOKIE not in browser.cookies


def test_a_form_that_is_too_large_is_refused_however_it_is_sent(browser: httpx.Client) -> None:
    form = values_of(check(browser.get("/sign-in")).one("form")) | {"token": READ_TOKEN, "more": "x" * 5000}
    large = urlencode(form).encode()
    check(browser.post("/sign-in", content=large), 413)
    response = browser.post("/sign-in", content=iter([large[:3000], large[3000:]]))  # in chunks, its length unsaid
    check(response, 413)
    assert "set-cookie" not in response.headers
    assert browser.get("/").status_code == 303


OLD_FORM = "This form was open for too long, or cookies are switched off: sign in once more."
ELSEWHERE = [
    "//evil.example",
    "///evil.example",
    "https://evil.example",
    "http:evil.example",
    "/\\evil.example",
    "\\\\evil.example",
    "javascript:alert(1)",
    "/\n/evil.example",
    "/\t/evil.example",
    "\n//evil.example",
    " //evil.example",
    "/x\r\nSet-Cookie: a=b",
    "evil.example",
    "//[",
    "//ex℀mple",
    "/日本",
    "@evil.example",
    "",
]


@pytest.mark.parametrize("elsewhere", ELSEWHERE)
def test_signing_in_leads_to_no_other_site(browser: httpx.Client, elsewhere: str) -> None:
    page = check(browser.get("/sign-in", params={"next": elsewhere}))
    assert values_of(page.one("form"))["next"] == "/"
    response = sign_in(browser, READ_TOKEN, next=elsewhere)
    assert response.status_code == 303
    assert response.headers.get_list("location") == ["/"]
    assert len(response.headers.get_list("set-cookie")) == 1


def test_where_to_go_on_to_is_text_in_the_form(browser: httpx.Client) -> None:
    page = check(browser.get("/sign-in", params={"next": f'/"{MARKUP}'}))
    assert values_of(page.one("form"))["next"] == f'/"{MARKUP}'


def test_signing_out_ends_the_session(browser: httpx.Client) -> None:
    sign_in(browser, READ_TOKEN)
    page = check(browser.get("/"))
    form = next(form for form in page.all("form") if form.attrs["action"] == "/sign-out")
    assert form.attrs["method"] == "post"
    response = browser.post("/sign-out", data=sign_out_form(page))
    assert (response.status_code, response.headers["location"]) == (303, "/")
    assert COOKIE not in browser.cookies
    assert browser.get("/").status_code == 303
    assert browser.get("/sign-out").status_code == 405  # a link or a picture signs nobody out


@pytest.mark.parametrize("value", ["", "x", "read.9999999999.", "admin.9999999999." + "0" * 64, "a.b.c", '"', "é" * 3])
def test_a_forged_session_is_none(browser: httpx.Client, value: str) -> None:
    header = [(b"cookie", f"{COOKIE}={value}".encode())]
    assert browser.get("/", headers=header).status_code == 303
    assert browser.get("/rooms", headers=header).status_code == 401


def test_a_reader_cannot_make_an_admin_of_a_session(browser: httpx.Client) -> None:
    sign_in(browser, READ_TOKEN)
    value = browser.cookies[COOKIE]
    browser.cookies.clear()
    raised = {"cookie": f"{COOKIE}={value.replace('read.', 'admin.', 1)}"}
    assert browser.get("/", headers=raised).status_code == 303
    assert browser.get("/", headers={"cookie": f"{COOKIE}={value}"}).status_code == 200


def test_a_session_lives_beside_cookies_of_other_programs_on_this_host(browser: httpx.Client) -> None:
    sign_in(browser, READ_TOKEN)
    value = browser.cookies[COOKIE]
    browser.cookies.clear()
    check(browser.get("/", headers={"cookie": f'flag; prefs={{"a":"b,c"}}; a/b=1; {COOKIE}={value}; x'}))


def test_a_server_without_tokens_asks_nobody_to_sign_in_or_out(town: Server) -> None:
    page = open_page(town, "/")
    assert [form.attrs["action"] for form in page.all("form")] == ["/"]


def test_only_members_find_a_way_to_sign_out(member: tuple[str, httpx.Client]) -> None:
    page = check(member[1].get("/"))
    assert "/sign-out" in [form.attrs["action"] for form in page.all("form")]


# ---- forms carry a token of their own ----


def sign_in_form(client: httpx.Client) -> dict[str, str]:
    return values_of(check(client.get("/sign-in")).one("form", class_="sign-in")) | {"token": READ_TOKEN}


def test_signing_in_needs_the_token_of_a_form_that_this_browser_opened(guarded: Server, browser: httpx.Client) -> None:
    with httpx.Client(base_url=guarded.url, timeout=30) as other:
        theirs = sign_in_form(other)
        mine = sign_in_form(browser)
        assert theirs["form_token"] != mine["form_token"]
        for form_token in (
            "",
            "x",
            theirs["form_token"],
            mine["form_token"][:-2],
            mine["form_token"].upper(),
            "é",
            ".",
        ):
            page = check(browser.post("/sign-in", data=mine | {"form_token": form_token}), 403)
            assert banners(page) == [OLD_FORM]
        without = {name: value for name, value in mine.items() if name != "form_token"}
        check(browser.post("/sign-in", data=without), 403)
        assert COOKIE not in browser.cookies
        again = values_of(check(browser.post("/sign-in", data=without), 403).one("form")) | {"token": READ_TOKEN}
        assert browser.post("/sign-in", data=again).status_code == 303  # the form that comes back is a good one
        assert other.post("/sign-in", data=theirs).status_code == 303


def test_a_form_without_its_cookie_is_none_and_a_right_token_does_not_help(browser: httpx.Client) -> None:
    form = sign_in_form(browser)
    browser.cookies.clear()
    check(browser.post("/sign-in", data=form), 403)
    assert COOKIE not in browser.cookies


def test_two_tabs_may_sign_in_one_after_the_other(browser: httpx.Client) -> None:
    one, two = sign_in_form(browser), sign_in_form(browser)
    assert browser.post("/sign-in", data=one).status_code == 303
    assert browser.post("/sign-in", data=two).status_code == 303


def test_the_cookie_of_the_form_is_kept_from_scripts_and_other_sites(browser: httpx.Client) -> None:
    (cookie,) = browser.get("/sign-in").headers.get_list("set-cookie")
    assert cookie.startswith("roomlapse_form=")
    assert {"HttpOnly", "SameSite=Lax", "Path=/", "Max-Age=3600"} <= {part.strip() for part in cookie.split(";")}


def test_signing_out_needs_the_token_of_this_session(guarded: Server, browser: httpx.Client) -> None:
    sign_in(browser, READ_TOKEN)
    with httpx.Client(base_url=guarded.url, timeout=30) as other:
        sign_in(other, ADMIN_TOKEN)
        theirs = sign_out_form(check(other.get("/")))
    for form in ({}, {"form_token": ""}, theirs, sign_in_form(browser)):
        response = browser.post("/sign-out", data=form)
        check(response, 403)
        assert "set-cookie" not in response.headers
        check(browser.get("/"))
    assert browser.post("/sign-out", data=sign_out_form(check(browser.get("/health")))).status_code == 303
    assert browser.get("/").status_code == 303


def test_a_form_of_another_site_signs_nobody_out_or_in(browser: httpx.Client) -> None:
    response = browser.post("/sign-out")  # as it comes from there: without the cookie
    assert (response.status_code, response.headers["location"]) == (303, "/")
    assert "set-cookie" not in response.headers
    sign_in(browser, READ_TOKEN)
    for site in ("cross-site", "same-site"):
        headers = {"Sec-Fetch-Site": site, "Origin": "https://evil.example"}
        check(browser.post("/sign-out", data=sign_out_form(check(browser.get("/"))), headers=headers), 403)
        check(browser.post("/sign-in", data=sign_in_form(browser), headers=headers), 403)


def test_no_token_of_a_form_tells_the_session(browser: httpx.Client) -> None:
    sign_in(browser, READ_TOKEN)
    assert browser.cookies[COOKIE] not in browser.get("/").text
    assert browser.cookies[COOKIE].rpartition(".")[2] not in browser.get("/").text


def test_asking_changes_nothing(browser: httpx.Client) -> None:
    sign_in(browser, READ_TOKEN)
    token = sign_out_form(check(browser.get("/")))["form_token"]
    for path in ("/sign-out", f"/sign-out?form_token={token}"):
        assert browser.get(path).status_code in (400, 405)
    check(browser.get(f"/sign-in?next=/&token={ADMIN_TOKEN}"), 400)
    check(browser.get("/"))
