"""A server under a path of another site, behind nginx with TLS and behind Caddy, with the files in deploy/."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

import httpx
import pytest
from html_tree import Node, attributes, read_html, values_of
from kit.callbacks import T0, body_of
from kit.deploy import (
    API_TOKEN,
    TOKENS,
    bearer,
    certificate,
    deploy_file,
    free_port,
    listens,
    output_of,
    running,
    signed_query,
    tool,
)
from kit.program import Server
from kit.wait import wait_until

ROOT = "/tools/rooms"
ODD_ROOMS = ["r", "what? #1 é%", "..", ".", "...", "~x", "%2e%2e", "100%", "a b+c", "直播间", "a\\b"]


@contextmanager
def nginx(folder: Path, upstream_port: int, passed_on: str = "") -> Iterator[str]:
    """nginx with TLS and the lines of deploy/ in a site of its own; `passed_on`: what stands behind the upstream."""
    program, port = tool("nginx"), free_port()
    key, chain = certificate(folder)
    address = f"http://127.0.0.1:{upstream_port}"
    lines = deploy_file("nginx-sub-path.conf", {"proxy_pass http://127.0.0.1:8000;": f"proxy_pass {address};"})
    lines = lines.replace(f"proxy_pass {address};", f"proxy_pass {address}{passed_on};", 1)
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = folder / "nginx.conf"
    config.write_text(
        f"{'user root;' if os.geteuid() == 0 else ''}\n"
        f"daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log; events {{}}\n"
        f"http {{\naccess_log off;\n{temporary}server {{\nlisten 127.0.0.1:{port} ssl;\n"
        f"ssl_certificate {chain}; ssl_certificate_key {key};\n{lines}\n"
        'location / { return 200 "another application"; }\n}\n}\n'
    )
    output_of(program, "-t", "-q", "-c", str(config))
    with running([program, "-c", str(config)], folder / "stderr.log"):
        wait_until(lambda: listens(port), "nginx listens")
        yield f"https://127.0.0.1:{port}"


@contextmanager
def nginx_that_takes_it_off(folder: Path, upstream_port: int) -> Iterator[str]:
    with nginx(folder, upstream_port, "/") as url:
        yield url


@contextmanager
def caddy(folder: Path, upstream_port: int) -> Iterator[str]:
    """Caddy, with TLS by the same kind of certificate."""
    program, port = tool("caddy"), free_port()
    key, chain = certificate(folder)
    text = deploy_file("Caddyfile-sub-path", {"\tredir /tools/rooms /": f"\ttls {chain} {key}\n\tredir /tools/rooms /"})
    config = folder / "Caddyfile"
    config.write_text("{\n\tadmin off\n\tauto_https disable_redirects\n\tskip_install_trust\n}\n" + text)
    env = {
        "ROOMLAPSE_SITE": f"https://127.0.0.1:{port}",
        "ROOMLAPSE_UPSTREAM": f"127.0.0.1:{upstream_port}",
        "HOME": str(folder),
        "XDG_DATA_HOME": str(folder),
        "XDG_CONFIG_HOME": str(folder),
    }
    with running([program, "run", "--adapter", "caddyfile", "--config", str(config)], folder / "caddy.log", env):
        wait_until(lambda: listens(port), "Caddy listens")
        yield f"https://127.0.0.1:{port}"


PROXIES = {"nginx": nginx, "nginx-takes-it-off": nginx_that_takes_it_off, "caddy": caddy}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("server") / "data", env=TOKENS) as it:
        for room_id in ODD_ROOMS:
            body = body_of(room_id, T0, IsPublicVisible=True, RoomName=f"name of {room_id}")
            assert it.client.post("/callbacks", params=signed_query(), content=body).status_code == 200
        yield it


@pytest.fixture(scope="module", params=list(PROXIES))
def site(request: pytest.FixtureRequest, server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with PROXIES[request.param](tmp_path_factory.mktemp(request.param), server.port) as url:
        yield url


@pytest.fixture
def browser(site: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=site, verify=False, timeout=20) as client:
        yield client


def sign_in(browser: httpx.Client, path: str = f"{ROOT}/") -> httpx.Response:
    """Ask for a page, fill in the form that it leads to, and send it as a browser does."""
    form = read_html(browser.get(path, follow_redirects=True).text).one("form", class_="sign-in")
    headers = {"Origin": str(browser.base_url).rstrip("/"), "Sec-Fetch-Site": "same-origin"}
    return browser.post(form.attrs["action"], data=values_of(form) | {"token": API_TOKEN}, headers=headers)


def addresses_in(page: Node, base: str) -> set[str]:
    """Where a page leads to, and what it loads, each as its whole path."""
    names = ("href", "src", "action")
    return {urljoin(base, value) for _, name, value in attributes(page) if name in names and not value.startswith("#")}


def test_signing_in_leads_back_under_the_path_with_a_cookie_for_it_and_for_tls_alone(browser: httpx.Client) -> None:
    asked = browser.get(f"{ROOT}/room/r", params={"at": "2024-01-01"})
    assert asked.headers["location"].startswith(f"{ROOT}/sign-in?next={ROOT}/room/r")
    response = sign_in(browser, f"{ROOT}/room/r?at=2024-01-01")
    assert (response.status_code, response.headers["location"]) == (303, f"{ROOT}/room/r?at=2024-01-01")
    flags = {part.strip() for part in response.headers["set-cookie"].split(";")[1:]}
    assert {"Secure", "HttpOnly", "SameSite=Lax", f"Path={ROOT}"} <= flags
    assert "name of r" in browser.get(response.headers["location"]).text


def test_every_link_form_and_file_is_there_under_the_path(browser: httpx.Client) -> None:
    sign_in(browser)
    seen: set[str] = set()
    waiting = {f"{ROOT}/", f"{ROOT}/health"}
    while waiting:
        path = waiting.pop()
        seen.add(path)
        response = browser.get(path)
        assert response.status_code == 200, path
        if "html" not in response.headers["content-type"]:
            continue
        for address in addresses_in(read_html(response.text), path):
            assert f"{urlsplit(address).path}/".startswith(f"{ROOT}/"), (path, address)
            plain = urlsplit(address)._replace(fragment="").geturl()
            if plain not in seen and not plain.endswith("/sign-out") and ("/room/" not in plain or "?" not in plain):
                waiting.add(plain)
    assert {f"{ROOT}/static/{name}" for name in ("page.css", "page.js", "icon.svg")} <= seen
    assert {f"{ROOT}/room/~../visibility.csv", f"{ROOT}/room/~x", f"{ROOT}/schema"} <= seen


@pytest.mark.parametrize("room_id", ODD_ROOMS)
def test_rooms_of_odd_names_are_reached_on_the_page_and_by_programs(browser: httpx.Client, room_id: str) -> None:
    name = f"~{room_id}" if room_id in (".", "..") else quote(room_id, safe="")
    asked = browser.get(f"{ROOT}/rooms/{name}", headers=bearer(API_TOKEN))
    assert asked.json()["room_id"] == room_id
    sign_in(browser)
    assert f"name of {room_id}" in read_html(browser.get(f"{ROOT}/room/{name}").text).one("main").raw_text


def test_signing_out_leads_to_the_list_and_ends_the_session(browser: httpx.Client) -> None:
    sign_in(browser)
    form = read_html(browser.get(f"{ROOT}/").text).one("form", method="post")
    response = browser.post(form.attrs["action"], data=values_of(form))
    assert response.headers["location"] == f"{ROOT}/"
    assert browser.get(f"{ROOT}/").status_code == 303


def test_an_event_stream_comes_as_it_happens(browser: httpx.Client) -> None:
    room_id = f"stream-{time.time_ns()}"
    with browser.stream("GET", f"{ROOT}/events/stream", headers=bearer(API_TOKEN)) as response:
        lines = response.iter_lines()
        assert next(lines).startswith(":")
        began_s = time.monotonic()
        sent = browser.post(f"{ROOT}/callbacks", params=signed_query(), content=body_of(room_id, T0))
        assert (sent.status_code, sent.json()["ActionStatus"]) == (200, "OK")
        data: dict[str, Any] = json.loads(next(it for it in lines if it.startswith("data:")).removeprefix("data:"))
        assert data["room_id"] == room_id
        assert time.monotonic() - began_s < 10


def test_the_schema_names_the_path_and_the_path_alone_leads_to_the_list(browser: httpx.Client) -> None:
    assert browser.get(f"{ROOT}/schema", headers=bearer(API_TOKEN)).json()["servers"] == [{"url": ROOT}]
    response = browser.get(ROOT)
    assert response.status_code == 308
    assert urlsplit(response.headers["location"]).path == f"{ROOT}/"


def test_no_client_says_another_path_or_scheme_through_the_proxy(browser: httpx.Client) -> None:
    strange = {"X-Forwarded-Prefix": "/evil", "X-Forwarded-Proto": "http"}
    assert browser.get(f"{ROOT}/", headers=strange).headers["location"] == f"{ROOT}/sign-in?next={ROOT}/"
    assert "evil" not in browser.get(f"{ROOT}/sign-in", headers=strange).text


def test_others_may_send_callbacks_and_nothing_else(site: str) -> None:
    transport = httpx.HTTPTransport(local_address="127.0.0.2", verify=False)
    with httpx.Client(base_url=site, transport=transport, timeout=20) as stranger:
        for path in ("/callbacks", "/callbacks/"):
            sent = stranger.post(ROOT + path, params=signed_query(), content=body_of("open", T0))
            assert sent.json()["ActionStatus"] == "OK"
        for path in ("/", "/rooms", "/events/stream", "/callbacks/x", "/static/page.css"):
            assert stranger.get(ROOT + path, headers=bearer(API_TOKEN)).status_code == 403, path


def test_the_caddyfile_is_valid_and_well_formatted(tmp_path: Path) -> None:
    program, path = tool("caddy"), tmp_path / "Caddyfile"
    path.write_text(deploy_file("Caddyfile-sub-path", {}))
    assert "Valid configuration" in output_of(program, "validate", "--adapter", "caddyfile", "--config", str(path))
    assert output_of(program, "fmt", str(path)) == path.read_text()
