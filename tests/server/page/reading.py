"""Pages as the tests open and read them: what every page has to be, its lists, tables and forms."""

import json
import unicodedata
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import msgspec
from conftest import Server
from html_tree import Node, attributes, read_html, values_of

from app.infra.texts import visible
from app.infra.times import format_time
from app.server.page.values import text_of

HIDDEN_CATEGORIES = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


def sign_in(client: httpx.Client, token: str, **more: str) -> httpx.Response:
    """Open the form, fill it in and send it."""
    form = read_html(client.get("/sign-in").text).one("form", class_="sign-in")
    return client.post("/sign-in", data=values_of(form) | {"token": token, **more})


def sign_out_form(page: Node) -> dict[str, str]:
    """What the form for signing out sends."""
    return values_of(next(form for form in page.all("form") if form.attrs["action"] == "/sign-out"))


def check(response: httpx.Response, status_code: int = 200) -> Node:
    """Check what every page has to be, and read it."""
    assert response.status_code == status_code, response.text
    check_headers(response)
    page = read_html(response.text)
    for tag, name, value in attributes(page):
        assert not name.startswith("on"), f"{tag} {name}"
        assert name != "style", f"{tag} has a style of its own"
        if name in ("href", "src", "action", "formaction", "xlink:href"):
            ours = value.startswith(("/", "#")) and not value.startswith(("//", "/\\"))
            assert ours or value.startswith(("https://covers.example/",)), value
    assert page.all("style") == []
    assert [(script.attrs["src"], script.raw_text) for script in page.all("script")] == [("/static/page.js", "")]
    assert [link.attrs["href"] for link in page.all("link", rel="stylesheet")] == ["/static/page.css"]
    assert {node.tag for node in page.elements}.isdisjoint(
        {"iframe", "object", "embed", "base", "img", "foreignobject"}
    )
    ids = [value for _, name, value in attributes(page) if name == "id"]
    assert len(ids) == len(set(ids))
    assert len(page.all("h1")) == 1
    assert title_of(page).endswith("Roomlapse")
    for node in page.elements:
        if node.tag != "pre":
            shown = "".join(child for child in node.children if isinstance(child, str))
            assert not {unicodedata.category(char) for char in shown.replace("\n", "")} & HIDDEN_CATEGORIES, shown
    for field in page.elements:
        if field.tag in ("input", "select") and field.attrs.get("type") != "hidden" and "hidden" not in field.attrs:
            assert field.parent is not None
            assert field.parent.tag == "label", f"nothing says what {field.attrs} is"
    return page


def title_of(page: Node) -> str:
    """The title of the page; the drawings in it have titles too."""
    return page.one("head").one("title").text


def check_headers(response: httpx.Response) -> None:
    headers = response.headers
    assert headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(part.strip().partition(" ")[::2] for part in headers["content-security-policy"].split(";"))
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self'",
        "connect-src": "'self'",
        "form-action": "'self'",
        "base-uri": "'none'",
        "frame-ancestors": "'none'",
    }
    assert len(headers.get_list("content-security-policy")) == 1
    check_other_headers(response)


def check_other_headers(response: httpx.Response) -> None:
    headers = response.headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]


def open_page(server: Server, path: str, status_code: int = 200, **params: Any) -> Node:
    return check(server.client.get(path, params=params or None), status_code)


def path_of(room_id: str) -> str:
    return "/room/" + quote(room_id, safe="")


def open_room(server: Server, room_id: str, **params: Any) -> Node:
    return open_page(server, path_of(room_id), **params)


def api(server: Server, room_id: str, what: str = "", **params: Any) -> Any:
    """What the API says of a room, fractions as they came."""
    response = server.client.get("/rooms/" + quote(room_id, safe="") + what, params=params)
    assert response.status_code == 200, response.text
    return json.loads(response.text, parse_float=lambda text: msgspec.Raw(text.encode()))


def submit(server: Server, form: Node, **typed: str) -> Node:
    """Fill in a form and send it, as a browser would."""
    fields = values_of(form)
    assert set(typed) <= set(fields), f"the form has {sorted(fields)}"
    address = urlsplit(form.attrs["action"])
    return check(server.client.get(address.path, params=fields | typed))


def listed(page: Node) -> list[str]:
    """The rooms of a list, in its order."""
    return [row.attrs["data-room"] for row in page.all("tr") if "data-room" in row.attrs]


def all_listed(server: Server, page: Node) -> list[list[str]]:
    """The rooms of a list and of all pages behind it."""
    found = [listed(page)]
    while links := page.all("a", rel="next"):
        page = check(server.client.get(links[0].attrs["href"]))
        found.append(listed(page))
    return found


def shown_fields(page: Node) -> dict[str, list[str]]:
    """The fields of a room that is shown: value, who set it, when, from where, which event."""
    tables = page.all("table", class_="fields")
    if not tables:
        return {}
    lines = {}
    for row in tables[0].one("tbody").all("tr"):
        lines[name_of(row)] = [cell.text for cell in row.all("td")]
    return lines


def name_of(row: Node) -> str:
    """The field that a row is about, without the marks behind it."""
    return " ".join(child.strip() for child in row.one("th").children if isinstance(child, str)).strip()


def as_shown(value: Any) -> str:
    """How a page writes a JSON value."""
    return " ".join(visible(text_of(value)).split()) or "empty"


def check_state(page: Node, room: dict[str, Any] | None) -> None:
    """A room's page shows the state that the API tells of."""
    shown = shown_fields(page)
    if room is None:
        assert shown == {}
        assert "This room was unknown then" in page.text
        return
    assert set(shown) == {as_shown(name) for name in room["room_info"]}
    for name, value in room["room_info"].items():
        cell, by, at, _, event_id = shown[as_shown(name)]
        set_by = room["fields"][name]
        assert cell == as_shown(value)
        assert event_id == set_by["event_id"][:12]
        assert at == format_time(set_by["set_at_ms"]).replace("T", " ").removesuffix("Z")
        assert by == as_shown(set_by["operator"])


def changes_of(server: Server, room_id: str, **params: Any) -> list[dict[str, Any]]:
    """The whole history as the API tells it, oldest first."""
    found: list[dict[str, Any]] = api(server, room_id, "/history", limit=500, **params)["changes"]
    return found[::-1]


def banners(page: Node) -> list[str]:
    return [banner.text for banner in page.all("p", class_="banner")]
