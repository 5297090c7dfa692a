"""Every page over HTTP: no script of its own, errors, files, methods."""

from pathlib import Path

import httpx
import pytest
from conftest import T0, Server

from server.page.reading import check, check_other_headers, open_page, path_of, title_of
from server.page.town import DIARY, MARKUP

PAGES = ["/", path_of(DIARY), f"{path_of(DIARY)}?at={T0}&known_at={T0}", "/health", "/sign-in"]


@pytest.mark.parametrize("path", PAGES)
def test_a_page_runs_no_script_of_its_own_and_loads_nothing_from_elsewhere(town: Server, path: str) -> None:
    page = check(town.client.get(path))
    assert page.one("html").attrs["lang"] == "en"
    assert town.client.get(path).headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("path", "status_code"),
    [
        ("/?at=yesterday", 400),
        ("/?unknown=1", 400),
        ("/room/nobody", 404),
        ("/event/nothing", 404),
        ("/static/nothing", 404),
        ("/health?at=1", 400),
        ("/static/page.css?v=1", 400),
    ],
)
def test_an_error_is_a_page_too_and_as_safe(town: Server, path: str, status_code: int) -> None:
    page = open_page(town, path, status_code)
    assert title_of(page).startswith(str(status_code))
    assert page.one("p", class_="empty").text
    assert page.one("main").one("a").attrs["href"] == "/"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("page.css", "text/css; charset=utf-8"),
        ("page.js", "text/javascript; charset=utf-8"),
        ("icon.svg", "image/svg+xml"),
    ],
)
def test_what_pages_load_comes_with_its_type(town: Server, name: str, kind: str) -> None:
    response = town.client.get(f"/static/{name}")
    assert (response.status_code, response.headers["content-type"]) == (200, kind)
    assert response.content == (Path("app/server/page/static") / name).read_bytes()
    check_other_headers(response)


@pytest.mark.parametrize(
    "path", ["/static/..%2ftemplates%2fbase.html", "/static/%2e%2e", "/static/.", "/static/page.py"]
)
def test_nothing_but_those_files_is_given_out(town: Server, path: str) -> None:
    with httpx.Client(base_url=town.url) as client:
        response = client.get(path, follow_redirects=False)
    assert response.status_code == 404
    assert "{%" not in response.text


@pytest.mark.parametrize(
    "path", ["/", path_of(DIARY), "/health", "/event/x", "/room/r/visibility.csv", "/static/page.js"]
)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_pages_take_no_other_method(town: Server, path: str, method: str) -> None:
    assert town.client.request(method, path).status_code == 405


@pytest.mark.parametrize(
    "path", ["/room/nobody", "/room/%00", "/room/" + "x" * 500, path_of(MARKUP + "?"), "/room/%FF"]
)
def test_an_unknown_room_is_a_404_page(town: Server, path: str) -> None:
    page = open_page(town, path, 404)
    assert page.one("h1").text == "Not found"
    assert "no room" in page.one("p", class_="empty").text
    assert open_page(town, f"{path}/visibility.csv", 404).one("h1").text == "Not found"
