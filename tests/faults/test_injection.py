"""Row 19: text that wants to be SQL, a path, a log line, an escape code, a formula or HTML, wherever text goes."""

import json
import os
import pty
import re
import select
import shutil
import socket
import sqlite3
import subprocess
import time
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from conftest import APP_ID, PROGRAM, T0, body_of, environment

from faults.lib import FULL, Victim, assert_verified, no_traceback, query_now, report, rounds
from faults.test_fuzz import in_log

MARKER = "injected-marker"
PAYLOADS: dict[str, str] = {
    "SQL: a quote": "'",
    "SQL: a string's end": "x'; DROP TABLE events; --",
    "SQL: always": "' OR '1'='1",
    "SQL: another table": "x' UNION SELECT sql, 1, 2 FROM sqlite_schema --",
    "SQL: a file": f"x'; ATTACH DATABASE '{MARKER}' AS a; CREATE TABLE a.t (x); --",
    "SQL: an identifier": 'x"; DELETE FROM rejected; --',
    "SQL: wildcards": "%_[a-z]*?",
    "SQL: full-text": '" OR NEAR(a b) * NOT x:y^',
    "SQL: a parameter": "?1 :a @b $c",
    "path: upwards": "..\\..\\..\\etc\\passwd",
    "path: a dot": ".",
    "path: two dots": "..",
    "path: escaped": "..%2f..%2fetc%2fpasswd",
    "path: escaped twice": "%252e%252e%252fetc",
    "path: an option": "--data",
    "path: another option": "-h",
    "log: a line": 'x\r\n{"level":"error","message":"forged"}',
    "log: an end of JSON": '"}\n{"level":"error","message":"forged"}',
    "log: line ends beyond ASCII": "a\x85b\u2028c\u2029d\x0be\x0cf",
    "log: a format": "%s%s%n %(message)s {0.__class__} {x!r} ${jndi:ldap://127.0.0.1/x}",
    "header: another": "x\r\nX-Injected: yes\r\n\r\n<html>",
    "terminal: colours": "\x1b[31mred\x1b[0m",
    "terminal: a title": "\x1b]0;owned\x07",
    "terminal: a clipboard": "\x1b]52;c;b3duZWQ=\x07",
    "terminal: 8-bit codes": "\x9b31mred\x9b0m\x9d0;owned\x9c",
    "terminal: cleared": "\x1b[2J\x1b[H\x1bc",
    "terminal: overwritten": "good\rbad\b\b\b\x7f",
    "terminal: other direction": "\u202egnp.exe\u2066x\u2069",
    "terminal: nothing to see": "a\u200bb\ufeffc\u00add",
    "terminal: markup": "[bold red]x[/bold red] [link=http://127.0.0.1]y[/link] [/nope] [[",
    "terminal: markup in a room": "[bold red]x[reset] [nope]y[[ [link=x]z",
    "CSV: a formula": "=HYPERLINK(\"http://127.0.0.1\",\"x\")",
    "CSV: a command": "+cmd|' -C calc'!A0",
    "CSV: a call": "@SUM(1+1)*cmd|' -C calc'!A0",
    "CSV: a minus and a tab": "-2+3\t=1+1",
    "HTML: a script": "<script>alert(1)<\\script>",
    "HTML: an attribute": "\"><img src=x onerror=alert(1)>",
    "HTML: an address": "javascript:alert(1)",
    "HTML: a template": "{{7*7}} ${7*7} <%= 7*7 %>",
    "shell: a command": f"$(touch {MARKER})`touch {MARKER}`; touch {MARKER} | touch {MARKER}",
    "Python: a call": f"__import__('os').system('touch {MARKER}')",
}  # fmt: skip
WITH_SLASH = {
    "path: upwards": "../../../../etc/passwd",
    "path: from the root": "/etc/passwd",
    "path: a file's address": "file:///etc/passwd",
    "HTML: a script": "</script><script>alert(1)</script>",
}
ROOMS = [payload for payload in PAYLOADS.values() if "/" not in payload]


def room_path(room_id: str) -> str:
    return "/rooms/" + quote(room_id, safe="").replace(".", "%2e")


def ask(
    connection: HTTPConnection, path: str, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    connection.request("GET", path, headers=headers or {})
    answer = connection.getresponse()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()


def assert_harmless(name: str, found: tuple[int, dict[str, str], bytes]) -> Any:
    """An answer is JSON, says that it is nothing else, and has no header of anybody else's."""
    status, headers, body = found
    assert status in {200, 400, 404, 405, 414, 421}, (name, found)
    assert headers["x-content-type-options"] == "nosniff", (name, found)
    assert headers["content-security-policy"].startswith("default-src 'none'"), (name, found)
    assert "x-injected" not in headers, (name, found)
    assert b"root:" not in body, (name, found)
    if headers["content-type"].startswith("text/html"):  # a page that says what is wrong; what is in it is text
        assert (status, name.startswith("/static")) == (404, True), (name, found)
        return None
    assert headers["content-type"].startswith("application/json"), (name, found)
    assert not re.search(rb"[\x00-\x1f]", body), (name, found)
    return json.loads(body)


def assert_log_is_whole(victim: Victim) -> int:
    """Each line is one JSON object of the server's own, in ASCII; how many there are."""
    text = victim.log_path.read_bytes()
    assert text.isascii()
    assert not re.search(rb"[^\x20-\x7e\n]", text)
    for line in text.decode().splitlines():
        record = json.loads(line)
        assert list(record)[:4] == ["time", "level", "logger", "message"], line
        assert record["message"] != "forged"
    return len(text.splitlines())


def bodies_of(payload: str, number: int) -> list[bytes]:
    """The payload in each place of a body: one of a room of that name if it can be one, one of a plain room."""
    fields: dict[str, Any] = {
        "RoomName": payload,
        "CustomInfo": payload,
        "CoverURL": payload,
        "TakeSeatMode": payload,
        "Category": [payload, {payload: payload}],
        "IsPublicVisible": payload,
        payload: payload,
    }
    bodies = [body_of("plain", T0 + number, operator=payload, **fields)]
    if "/" not in payload:
        bodies.append(body_of(payload, T0, operator={payload: [payload]}, **fields))
    sibling = {"CallbackCommand": payload, "RoomId": payload, "EventTime": payload, payload: payload}
    return [*bodies, json.dumps(sibling).encode()]


def test_text_in_a_callback_comes_back_as_it_was_and_does_nothing(tmp_path: Path) -> None:
    payloads = list(PAYLOADS.values()) + list(WITH_SLASH.values())
    asked = 0
    with Victim(tmp_path / "data") as victim, no_traceback(victim), ExitStack() as stack:
        sent: list[bytes] = []
        for number, payload in enumerate(payloads):
            for body in bodies_of(payload, number):
                more = urlencode({"ClientIP": payload, "OptPlatform": payload, "CallbackCommand": payload})
                query = f"{query_now().replace('ClientIP=', 'a=').replace('OptPlatform=', 'b=')}&{more}"
                query = query.replace("CallbackCommand=Live", "c=Live")
                status, answer = victim.post(body, query=query)
                assert status == 200, (payload, answer)
                sent.append(body)
            repeated = json.dumps({payload: 1})[:-1] + f", {json.dumps(payload)}: 2}}"  # a reason that quotes it
            assert victim.post(repeated.encode())[0] == 400
            for name in ("SdkAppid", "Sign", "RequestTime"):
                query = re.sub(rf"{name}=[^&]*", lambda _, it=(name, payload): urlencode([it]), query_now())  # type: ignore[misc]
                assert victim.post(body_of("never", T0), query=query)[0] in {401, 403}, (name, payload)
        assert in_log(victim.data) == sent
        connection = stack.enter_context(closing(HTTPConnection("127.0.0.1", victim.port, timeout=30)))
        for payload in ROOMS:
            path = room_path(payload)
            room = assert_harmless(path, ask(connection, path))
            assert room["room_id"] == payload
            assert room["room_info"]["RoomName"] == payload
            assert room["room_info"][payload] == payload
            assert room["room_info"]["Category"] == [payload, {payload: payload}]
            assert room["fields"]["RoomName"]["operator"] == {payload: [payload]}
            for question, holds in (
                ("/history", lambda it, p=payload: it["changes"][0]["changed"][p] == {"to": p}),
                ("/change-counts", lambda it, p=payload: it["counts"][p]["observations"] == 1),
                (f"/diff?from=0&to={T0}", lambda it, p=payload: it["changed"][p] == {"to": p}),
                ("/visibility", lambda it, p=payload: it["room_id"] == p),
                (f"/history?{urlencode({'field': payload})}", lambda it: len(it["changes"]) == 1),
            ):
                answer = assert_harmless(path + question, ask(connection, path + question))
                assert holds(answer), (payload, question, answer)
                asked += 1
            found = assert_harmless("q", ask(connection, f"/rooms?{urlencode({'q': payload, 'limit': 500})}"))
            assert payload in [one["room_id"] for one in found["rooms"]], payload
        events = json.loads(victim.get("/events?limit=500")[1])["events"]
        assert {event["client_ip"] for event in events} == {payload[:64] for payload in payloads}
        assert {event["platform"] for event in events} == {payload[:64] for payload in payloads}
        assert {event["command"] for event in events} >= set(payloads)
        assert "never" not in victim.get("/rooms?limit=500")[1].decode()
        lines = assert_log_is_whole(victim)
        assert victim.stop() == 0
    assert_verified(tmp_path / "data")
    assert not list(tmp_path.rglob(MARKER))
    assert not Path(MARKER).exists()
    report(
        19,
        "injection in every field of a callback",
        f"{len(payloads)} texts in {len(sent)} bodies and every URL parameter, {asked} questions about them;"
        f" the log has {lines} lines, each one JSON object",
        "0",
        "nothing ran; every text came back as sent",
    )


ROUTES: dict[str, tuple[str, ...]] = {
    "/rooms": ("as_of", "known_at", "public", "q", "limit", "cursor"),
    "/rooms/plain": ("as_of", "known_at"),
    "/rooms/plain/history": ("as_of", "known_at", "from", "to", "field", "limit", "cursor"),
    "/rooms/plain/diff": ("as_of", "known_at", "from", "to"),
    "/rooms/plain/change-counts": ("as_of", "known_at"),
    "/rooms/plain/visibility": ("as_of", "known_at", "from", "to"),
    "/change-counts": ("limit", "cursor"),
    "/events": ("after", "limit"),
    "/events/stream": ("after",),
    "/rejected": ("limit", "cursor"),
    "/status": (),
}
PATHS_OF_FILES = (
    *("/../../../etc/passwd", "/rooms/../../../../etc/passwd", "//etc/passwd", "/%2e%2e/%2e%2e/etc/passwd"),
    *("/rooms/..%2f..%2f..%2fetc%2fpasswd", "/rooms/%2e%2e%5c%2e%2e%5cetc", "/events.db", "/data/events.db"),
    *("/schema/../events.db", "/schema/%2e%2e%2fevents.db", "/static/app.py", "/.git/config", "/rooms/plain;/x"),
    *("/rooms/plain/..%2f..%2fstatus", "/proc/self/environ", "/rooms/%00", "/rooms/plain%0d%0aX-Injected:%20yes"),
)


def test_text_in_a_question_is_answered_in_json_and_changes_nothing(tmp_path: Path) -> None:
    payloads = list((PAYLOADS | {f"{name}, slashes": text for name, text in WITH_SLASH.items()}).values())
    asked = 0
    with Victim(tmp_path / "data") as victim, no_traceback(victim), ExitStack() as stack:
        assert victim.post(body_of("plain", T0, RoomName="name"))[0] == 200
        rooms = victim.get("/rooms")[1]  # which waits until the projections have read it
        before = json.loads(victim.get("/status")[1])
        connection = stack.enter_context(closing(HTTPConnection("127.0.0.1", victim.port, timeout=30)))
        for payload in payloads:
            paths = [
                f"{path}?{urlencode({**({'from': 0, 'to': 1} if path.endswith('diff') else {}), name: payload})}"
                for path, names in ROUTES.items()
                for name in (*names, payload)
            ]
            paths += [room_path(payload) + more for more in ("", "/history", "/change-counts", "/visibility")]
            paths += [f"/events/{quote(payload, safe='')}", f"/{quote(payload, safe='')}", f"{room_path(payload)}/x"]
            for path in paths:
                assert_harmless(path, ask(connection, path))
            asked += len(paths)
            if payload.isprintable() and payload.isascii():  # others are no header: the last part of this test
                for name in ("Last-Event-ID", "Authorization", "User-Agent", "Origin", "X-Forwarded-For", "Cookie"):
                    path = "/events/stream" if name == "Last-Event-ID" else "/rooms"
                    assert_harmless(name, ask(connection, path, {name: payload}))
                    asked += 1
                assert_harmless("Host", ask(connection, "/rooms", {"Host": payload}))
                asked += 1
        for path in PATHS_OF_FILES:
            assert_harmless(path, ask(connection, path))
        for raw in (b"x\r X-Injected: yes", b"\x1b[31m", b"\x00", b"\xff\xfe", b"'; DROP TABLE events; --"):
            with socket.create_connection(("127.0.0.1", victim.port), timeout=10) as sock:
                sock.sendall(b"GET /rooms/" + raw + b" HTTP/1.1\r\nHost: " + raw + b"\r\nX: " + raw + b"\r\n\r\n")
                answer = sock.recv(65536)
            assert re.match(rb"HTTP/1.1 (400|421) ", answer), (raw, answer)
            assert raw not in answer.partition(b"\r\n\r\n")[2]
        assert json.loads(victim.get("/status")[1]) == before
        assert victim.get("/rooms")[1] == rooms
        lines = assert_log_is_whole(victim)
        assert victim.stop() == 0
    assert_verified(tmp_path / "data")
    assert not list(tmp_path.rglob(MARKER))
    report(
        19,
        "injection in every parameter of every route",
        f"{asked + len(PATHS_OF_FILES)} questions: {len(payloads)} texts, {len(ROUTES)} routes, paths and headers;"
        f" the log has {lines} lines, each one JSON object",
        "0",
        "nothing ran or changed; JSON answers only",
    )


# ---- the command line ----

HIDDEN = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


def commands_with(text: str) -> list[list[str]]:
    return [
        ["room", "--", text],
        ["room", "--json", "--", text],
        ["history", "plain", f"--field={text}"],
        ["history", "--", text],
        ["rooms", f"--q={text}"],
        ["rooms", f"--cursor={text}"],
        ["room", "plain", f"--as-of={text}"],
        ["diff", f"--from={text}", "--to=1", "plain"],
        ["counts", "--", text],
        ["visibility", "--", text],
        ["rebuild", f"--projection={text}"],
        ["serve", f"--port={text}"],
        ["import", "--", f"nowhere-{text}"],
        [text],
    ]


def run_on_terminal(args: list[str], folder: Path, env: dict[str, str]) -> tuple[int, str]:
    """Run `roomlapse` as somebody at a terminal does: its exit code, and everything that the terminal was sent."""
    mine, its = pty.openpty()
    process = subprocess.Popen(
        [PROGRAM, *args], stdin=subprocess.DEVNULL, stdout=its, stderr=its, cwd=folder, env=env, start_new_session=True
    )
    os.close(its)
    parts = []
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            if not select.select([mine], [], [], 1)[0]:
                continue
            try:
                part = os.read(mine, 65536)
            except OSError:  # the terminal's other end is closed
                break
            if not part:
                break
            parts.append(part)
        return process.wait(30), b"".join(parts).decode(errors="replace")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(mine)


# What rich and click send by themselves: colours, and the ends of lines.
_OWN_CODES = re.compile(r"\x1b\[[0-9;]*m|\r\n|\n|\x1b\[\?25[lh]|\x1b\[[0-9]*[AK]|\r(?=\x1b\[2K)|\x1b\[2K")


def test_text_on_the_command_line_is_data_and_terminals_get_it_escaped(tmp_path: Path) -> None:
    data = tmp_path / "data"
    everything = PAYLOADS | {f"{name}, slashes": text for name, text in WITH_SLASH.items()}
    with Victim(data) as victim, no_traceback(victim):
        for number, payload in enumerate(everything.values()):
            for body in bodies_of(payload, number):
                assert victim.post(body)[0] == 200
            assert victim.post(json.dumps({payload: 1}).encode() + payload.encode())[0] == 400
        assert victim.stop() == 0
    env = environment({"ROOMLAPSE_DATA": str(data), "ROOMLAPSE_SDK_APP_ID": APP_ID, "TERM": "xterm-256color"})
    folder = tmp_path / "folder"
    folder.mkdir()
    listing = [["rooms", "--limit=500"], ["rejected"], ["history", "plain"], ["counts"], ["room", "plain"], ["status"]]
    hostile = [payload for name, payload in everything.items() if name.startswith(("terminal", "log"))]
    runs = [
        (args, payload in hostile)
        for number, payload in enumerate(everything.values())
        for place, args in enumerate(commands_with(payload))
        if number == (place * 5 + 26) % len(everything) or (FULL and (payload in hostile or (number + place) % 6 == 0))
    ]
    runs = [(args, True) for args in listing[: rounds(2, len(listing))]] + runs

    def check(run: tuple[list[str], bool]) -> None:
        args, hostile_to_terminals = run
        piped = subprocess.run([PROGRAM, *args], capture_output=True, cwd=folder, env=env, timeout=120, check=False)
        text = (piped.stdout + piped.stderr).decode()
        assert piped.returncode in {0, 1, 2}, (args, text)
        assert "Traceback" not in text, (args, text)
        if "--json" in args and piped.returncode == 0:  # for programs, and the same as over HTTP
            assert json.loads(piped.stdout)["room_id"] == args[-1]
            return
        shown = [char for char in text if char != "\n" and unicodedata.category(char) in HIDDEN]
        assert shown == [], (args, text)
        if args in listing or (FULL and hostile_to_terminals):
            code, text = run_on_terminal(args, folder, env)
            assert code == piped.returncode, (args, text)
            rest = _OWN_CODES.sub("", text)
            shown = [char for char in rest if unicodedata.category(char) in HIDDEN]
            assert shown == [], (args, rest)
            assert "\x1b]" not in text, (args, text)

    def check_exact(payload: str) -> None:
        done = subprocess.run(
            [PROGRAM, "room", "--json", "--", payload], capture_output=True, env=env, timeout=120, check=False
        )
        assert json.loads(done.stdout)["room_id"] == payload, (payload, done)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(check, runs))
        list(pool.map(check_exact, ROOMS if FULL else [PAYLOADS["log: a line"]]))
    assert list(folder.iterdir()) == []
    assert not list(tmp_path.rglob(MARKER))
    assert_verified(data)
    report(
        19,
        "injection on the command line and into its output",
        f"{len(runs)} commands with {len(everything)} texts stored and given, in a pipe and on a terminal",
        "0",
        "nothing ran; no control character of theirs was printed",
    )
    shutil.rmtree(folder)


def test_the_texts_would_do_something_if_they_were_let(tmp_path: Path) -> None:
    """The negative control: the shell's text makes its file, SQL's drops its table, the log's is two lines."""
    subprocess.run(
        ["sh", "-c", f'echo "{PAYLOADS["shell: a command"]}"'], cwd=tmp_path, check=True, capture_output=True
    )
    assert (tmp_path / MARKER).exists()
    conn = sqlite3.connect(":memory:")
    conn.executescript("CREATE TABLE events (x)")
    conn.executescript("SELECT '" + PAYLOADS["SQL: a string's end"])
    assert conn.execute("SELECT count(*) FROM sqlite_schema").fetchone() == (0,)
    conn.close()
    assert len(PAYLOADS["log: a line"].splitlines()) == 2
    assert json.loads(PAYLOADS["log: a line"].splitlines()[1])["message"] == "forged"
    report(19, "the texts themselves", "3 of them let loose on purpose", "all 3 did harm, as they must", "-")
