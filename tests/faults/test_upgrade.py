"""Row 25: a request that offers an upgrade, in one packet and in several, chunked, kept alive; real clients that do."""

import itertools
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import T0, body_of
from kit.socket_client import SocketClient

from app.tencent.body import decode
from faults.lib import Sent, Victim, assert_exact, no_traceback, now_ms, query_now, report, rounds

OFFERS = {
    "h2c": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n",
    "websocket": b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\n",
    "TLS": b"Connection: Upgrade\r\nUpgrade: TLS/1.2\r\n",
}
_CLIENT = Path(__file__).parent / "UpgradingClient.java"
_times = itertools.count(T0)


def remember(sent: Sent, body: bytes, status: int) -> None:
    sent.answers.setdefault(decode(body, now_ms()).event_id, []).append(status)


def test_offers_of_an_upgrade_on_bare_sockets(tmp_path: Path) -> None:
    sent, requests = Sent(), 0
    with Victim(tmp_path / "data") as victim, no_traceback(victim):
        for _ in range(rounds(1, 10)):
            for offer, chunked, size in itertools.product(OFFERS.values(), (False, True), (1, 7, 64, 4096)):
                with SocketClient(victim.port) as client:
                    for _ in range(3):  # the connection goes on
                        body = body_of("upgraded", next(_times))
                        framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(body)
                        line = b"POST /callbacks?%s HTTP/1.1\r\nHost: h\r\n" % query_now().encode()
                        content = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if chunked else body
                        whole = line + offer + framing + b"\r\n\r\n" + content
                        client.send(*(whole[i : i + size] for i in range(0, len(whole), size)), pause_s=0.0)
                        remember(sent, body, client.answer("POST").status)
                        requests += 1
        assert sent.refused() == sent.unanswered() == 0
        assert_exact(victim.data, sent)
    report(
        25,
        "offers to upgrade (h2c, websocket, TLS), cut into packets of 1 to 4096 bytes, chunked, kept alive",
        f"{requests} callbacks, three on each connection",
        "0",
        "0",
    )


def test_curl_and_java_that_offer_h2c(tmp_path: Path) -> None:
    sent, clients = Sent(), []
    with Victim(tmp_path / "data") as victim, no_traceback(victim):
        url = f"{victim.url}/callbacks?{query_now()}"
        bodies = [body_of("by-curl", next(_times)) for _ in range(3)]
        curl = shutil.which("curl")
        assert curl is not None, "install curl"
        for body in bodies:
            done = subprocess.run(
                [curl, "-sS", "--http2", "-o", "/dev/null", "-w", "%{http_code}", "--data-binary", "@-", url],
                input=body,
                capture_output=True,
                timeout=30,
                check=True,
            )
            remember(sent, body, int(done.stdout))
        clients.append("curl --http2")
        java = shutil.which("java")
        if java is not None:
            texts = [body_of("by-java", next(_times)) for _ in range(3)]
            done = subprocess.run(
                [java, str(_CLIENT), f"{victim.url}/callbacks?{query_now()}", *(body.decode() for body in texts)],
                capture_output=True,
                timeout=120,
                check=True,
            )
            for body, status in zip(texts, done.stdout.split(), strict=True):
                remember(sent, body, int(status))
            clients.append("Java's HttpClient")
        assert sent.refused() == sent.unanswered() == 0
        assert_exact(victim.data, sent)
        assert victim.get("/rooms/by-curl")[0] == 200
    report(25, f"real clients that offer h2c: {', '.join(clients)}", f"{len(sent.answers)} callbacks", "0", "0")
    if java is None:
        pytest.skip("java is not installed: its client was left out, curl's offer was sent")
