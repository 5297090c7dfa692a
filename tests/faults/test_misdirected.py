"""Row 26: callbacks that miss the route are taken where they plainly are some, else refused, counted, logged, named."""

import itertools
import json
from pathlib import Path

from cli.commands import roomlapse
from conftest import T0, body_of
from kit.socket_client import ask

from app.tencent.body import decode
from faults.lib import Sent, Victim, assert_exact, no_traceback, now_ms, query_now, report

TAKEN = ["/callbacks", "/callbacks/", "//callbacks", "/callbacks//", "///callbacks///"]
REFUSED = [
    "/callback",
    "/",
    "/callbacks/x",
    "/api/callbacks",
    "/rooms",
    "/room/r",
    "/sign-in",
    "/Callbacks",
    "/callbacks\xe6",
]
METHODS = ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"]
_times = itertools.count(T0)


def test_callbacks_that_miss_the_route(tmp_path: Path) -> None:
    sent, refused, paths = Sent(), 0, set()
    with Victim(tmp_path / "data") as victim, no_traceback(victim):
        for path, more in itertools.product(TAKEN, ("", "&OptPlatform=\xe6\x88\xbf", "&x=\xff")):
            body = body_of("r", next(_times))
            head = f"POST {path}?{query_now()}{more} HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n\r\n"
            answer = ask(victim.port, head.encode("latin-1") + body)
            assert answer.status == 200, (path, answer)
            sent.answers.setdefault(decode(body, now_ms()).event_id, []).append(answer.status)
        wrong = [("POST", path) for path in REFUSED] + [(method, "/callbacks") for method in METHODS]
        for method, path in wrong:
            body = body_of("r", next(_times))
            head = f"{method} {path}?{query_now()} HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n\r\n"
            answer = ask(victim.port, head.encode("latin-1") + body)
            assert answer.status in (404, 405), (method, path, answer)
            if method != "HEAD":
                assert answer.json()["ActionStatus"] == "FAIL"
            refused += 1
            paths.add(path.replace("\xe6", "%E6"))
        for broken in (b"a b", b"x HTTP/9.9"):  # what the server below would refuse in plain text
            answer = ask(
                victim.port, b"POST /callbacks?%s&x=%s HTTP/1.1\r\nHost: h\r\n\r\n" % (query_now().encode(), broken)
            )
            assert (answer.status, answer.json()["ActionStatus"]) == (400, "FAIL")
            refused += 1
        counter = f'roomlapse_callbacks_total{{outcome="misdirected"}} {refused}.0'
        assert counter in victim.get("/metrics")[1].decode()
        done = roomlapse("doctor", "--json", "--data", str(victim.data), "--url", victim.url)
        (found,) = [it for it in json.loads(done.stdout)["findings"] if it["check"] == "refused"]
        assert f"{refused} misdirected" in found["found"]
        assert_exact(victim.data, sent)
        victim.terminate()
        victim.process.wait(20)
        logged = {record.get("path", "") for record in victim.records() if record["message"] == "callbacks refused"}
        assert {path for path in paths if "%" not in path} <= logged
    report(
        26,
        "callbacks that miss the route: slashes, other paths and methods, bytes that are not escaped, broken heads",
        f"{len(sent.answers)} taken and stored, {refused} not",
        "0",
        f"{refused}, each as JSON, counted, logged, named by doctor",
    )
