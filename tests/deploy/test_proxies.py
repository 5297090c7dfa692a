"""nginx and Caddy with the files in deploy/, before a real server: callbacks get through, and Sign gets into no log."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
from html_tree import read_html, values_of
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

OK = {"ActionStatus": "OK", "ErrorInfo": "", "ErrorCode": 0}


class Proxy:
    """A proxy that runs: where it listens, and what it logs."""

    def __init__(self, folder: Path, url: str, plain_url: str | None = None) -> None:
        self.folder = folder
        self.url = url
        self.plain_url = plain_url

    def client(self, address: str = "127.0.0.1") -> httpx.Client:
        """A client at an address of this machine."""
        transport = httpx.HTTPTransport(local_address=address, verify=False)
        return httpx.Client(base_url=self.url, transport=transport, timeout=20)

    def logs(self) -> str:
        """All that it has logged anywhere."""
        return "".join(path.read_text() for path in self.folder.glob("*.log"))


def nginx_config(folder: Path, upstream_port: int) -> tuple[Path, int, int]:
    """nginx.conf with its places changed, within the least configuration of nginx; and its two ports."""
    port, plain_port = free_port(), free_port()
    certificate(folder)
    changes = {
        "    listen [::]:80;\n": "",
        "    listen [::]:443 ssl http2;\n": "",
        "listen 80;": f"listen 127.0.0.1:{plain_port};",
        "listen 443 ": f"listen 127.0.0.1:{port} ",
        "/etc/ssl/rooms.example/": f"{folder}/",
        "/var/log/nginx/": f"{folder}/",
        "server 127.0.0.1:8000;": f"server 127.0.0.1:{upstream_port};",
    }
    (folder / "roomlapse.conf").write_text(deploy_file("nginx.conf", changes))
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    main = folder / "main.conf"
    main.write_text(
        f"{'user root;' if os.geteuid() == 0 else ''}\n"
        f"daemon off; pid {folder}/nginx.pid; error_log {folder}/main.log info; events {{}}\n"
        f"http {{\naccess_log off;\n{temporary}include {folder}/roomlapse.conf;\n}}\n"
    )
    return main, port, plain_port


@contextmanager
def nginx(folder: Path, upstream_port: int) -> Iterator[Proxy]:
    program = tool("nginx")
    config, port, plain_port = nginx_config(folder, upstream_port)
    output_of(program, "-t", "-q", "-c", str(config))
    with running([program, "-c", str(config)], folder / "stderr.log"):
        wait_until(lambda: listens(port), "nginx listens")
        yield Proxy(folder, f"https://127.0.0.1:{port}", f"http://127.0.0.1:{plain_port}")


@contextmanager
def caddy(folder: Path, upstream_port: int) -> Iterator[Proxy]:
    """Caddy, with a certificate that is given to it: those that it gets by itself are its own affair."""
    program, port = tool("caddy"), free_port()
    key, chain = certificate(folder)
    config, site = folder / "Caddyfile", "{$ROOMLAPSE_SITE:rooms.example} {\n"
    options = {"{\n\tlog default {": "{\n\tadmin off\n\tauto_https disable_redirects\n\tlog default {"}
    config.write_text(deploy_file("Caddyfile", options | {site: f"{site}\ttls {chain} {key}\n"}))
    env = {
        "ROOMLAPSE_SITE": f"https://127.0.0.1:{port}",
        "ROOMLAPSE_UPSTREAM": f"127.0.0.1:{upstream_port}",
        "HOME": str(folder),
        "XDG_DATA_HOME": str(folder),
        "XDG_CONFIG_HOME": str(folder),
    }
    with running([program, "run", "--adapter", "caddyfile", "--config", str(config)], folder / "caddy.log", env):
        wait_until(lambda: listens(port), "Caddy listens")
        yield Proxy(folder, f"https://127.0.0.1:{port}")


PROXIES = {"nginx": nginx, "caddy": caddy}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("server") / "data", env=TOKENS) as it:
        it.client.headers.update(bearer(API_TOKEN))
        yield it


@pytest.fixture(scope="module", params=list(PROXIES))
def proxy(request: pytest.FixtureRequest, server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with PROXIES[request.param](tmp_path_factory.mktemp(request.param), server.port) as it:
        yield it


def test_a_signed_callback_is_stored_and_its_query_is_in_no_log(proxy: Proxy, server: Server) -> None:
    query, room = signed_query(), f"signed-{time.time_ns()}"
    with proxy.client() as client:
        for path in ("/callbacks", "/callbacks/"):
            response = client.post(path, params=query, content=body_of(room, T0))
            assert (response.status_code, response.json()) == (200, OK)
        asked = client.get(f"/rooms/{room}", params={"as_of": "2024-01-01T00:00:00Z"}, headers=bearer(API_TOKEN))
    assert asked.json()["events"] == 1
    assert server.get(f"/rooms/{room}")["events"] == 1
    wait_until(lambda: f"/rooms/{room}" in proxy.logs(), "the question is logged")
    logs = proxy.logs()
    assert "/callbacks" in logs
    for secret in ("Sign", query["Sign"], "RequestTime", "as_of", API_TOKEN):
        assert secret not in logs


def test_a_callback_that_is_refused_or_misdirected_leaves_no_sign(proxy: Proxy) -> None:
    query = signed_query()
    with proxy.client() as client, proxy.client("127.0.0.2") as stranger:
        assert client.post("/callbacks", params=query | {"SdkAppid": "1"}, content=b"{}").status_code == 403
        assert client.post("/callback", params=query, content=b"{}").status_code in (401, 404, 405)
        assert stranger.post("/callback", params=query, content=b"{}").status_code == 403
        assert client.get("/", params=query, headers={"Referer": f"https://x/?Sign={query['Sign']}"}).status_code < 500
    wait_until(lambda: proxy.logs().count("/callback") >= 3, "the requests are logged")
    assert query["Sign"] not in proxy.logs()


@pytest.mark.parametrize("name", PROXIES)
def test_while_the_server_is_away_the_sender_is_told_and_no_log_has_sign(name: str, tmp_path: Path) -> None:
    query = signed_query()
    with PROXIES[name](tmp_path, free_port()) as proxy, proxy.client() as client:
        assert client.post("/callbacks", params=query, content=body_of("r", T0)).status_code == 502
        assert client.get("/rooms", params=query).status_code == 502
        wait_until(lambda: "502" in proxy.logs() and "/rooms" in proxy.logs(), "it is logged")
        assert query["Sign"] not in proxy.logs()


def test_callbacks_are_open_to_all_and_questions_are_not(proxy: Proxy) -> None:
    with proxy.client() as known, proxy.client("127.0.0.2") as stranger:
        response = stranger.post("/callbacks", params=signed_query(), content=body_of("open", T0))
        assert (response.status_code, response.json()) == (200, OK)
        for path in ("/", "/rooms", "/events/stream", "/metrics", "/healthz", "/callbacks/x", "/static/page.css"):
            assert stranger.get(path, headers=bearer(API_TOKEN)).status_code == 403, path
        assert known.get("/rooms", headers=bearer(API_TOKEN)).status_code == 200
        assert known.get("/rooms").status_code == 401


def test_a_body_that_is_too_large_is_refused_by_the_server_in_the_senders_words(proxy: Proxy, server: Server) -> None:
    with proxy.client() as client:
        largest = body_of("large", T0, CustomInfo="x" * 65_000)
        assert client.post("/callbacks", params=signed_query(), content=largest).json() == OK
        response = client.post("/callbacks", params=signed_query(), content=b"x" * 70_000)
    assert (response.status_code, response.json()["ActionStatus"]) == (413, "FAIL")


def test_an_event_stream_comes_as_it_happens(proxy: Proxy) -> None:
    room = f"stream-{time.time_ns()}"
    with proxy.client() as client, ExitStack() as stack:
        response = stack.enter_context(client.stream("GET", "/events/stream", headers=bearer(API_TOKEN)))
        lines = response.iter_lines()
        assert next(lines).startswith(":")
        began_s = time.monotonic()
        assert client.post("/callbacks", params=signed_query(), content=body_of(room, T0)).json() == OK
        data = next(line for line in lines if line.startswith("data:"))
        assert json.loads(data.removeprefix("data:"))["room_id"] == room
        assert time.monotonic() - began_s < 10  # a buffered one would come with the comment after 15 s, or never


def test_signing_in_works_and_its_cookie_is_for_https_alone(proxy: Proxy) -> None:
    with proxy.client() as client:
        origin = {"Origin": proxy.url, "Sec-Fetch-Site": "same-origin"}
        form = values_of(read_html(client.get("/sign-in").text).one("form", class_="sign-in")) | {"token": API_TOKEN}
        response = client.post("/sign-in", data=form, headers=origin)
        without = client.post("/sign-in", data=form, headers={"Origin": proxy.url})
        strange = client.post("/sign-in", data=form, headers={"Origin": "https://elsewhere.example"})
    assert "roomlapse_session=" in response.headers["set-cookie"]
    assert "roomlapse_session=" in without.headers["set-cookie"]
    assert "set-cookie" not in strange.headers
    attributes = {part.strip().lower() for part in response.headers["set-cookie"].split(";")[1:]}
    assert {"secure", "httponly", "samesite=lax"} <= attributes
    assert response.headers["strict-transport-security"] == "max-age=31536000"


def test_plain_http_leads_to_https_without_the_query(tmp_path: Path) -> None:
    query = signed_query()
    with nginx(tmp_path, free_port()) as proxy:  # Caddy does it by itself, with its certificates
        response = httpx.get(f"{proxy.plain_url}/rooms", params=query)
        assert (response.status_code, response.headers["location"]) == (301, "https://rooms.example/rooms")
        assert query["Sign"] not in proxy.logs()


def test_the_caddyfile_is_valid_for_a_domain_and_well_formatted(tmp_path: Path) -> None:
    program, path = tool("caddy"), tmp_path / "Caddyfile"
    path.write_text(deploy_file("Caddyfile", {}))
    assert "Valid configuration" in output_of(program, "validate", "--adapter", "caddyfile", "--config", str(path))
    assert output_of(program, "fmt", str(path)) == path.read_text()
