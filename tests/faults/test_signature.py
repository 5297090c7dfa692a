"""Rows 17 and 20: signatures that are wrong in every way, and secrets that must not turn up anywhere."""

import hashlib
import hmac
import json
import logging
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from conftest import APP_ID, T0, body_of, projectors_of
from kit.wait import wait_until

from app.infra.json_logs import JsonFormatter
from app.tencent.request import ClockOff, Query, Refused, check_signature, sign
from faults.lib import Victim, assert_verified, no_traceback, report, rounds, run_program

# ---- row 17 ----

OLD, NEW = "token-that-goes-0001", "token-that-comes-0002"


def query_of(**fields: Any) -> str:
    """A callback's query; None leaves a parameter out."""
    given = {"SdkAppid": APP_ID, "CallbackCommand": "x", **fields}
    return "&".join(f"{name}={value}" for name, value in given.items() if value is not None)


def signed(token: str, off_s: float = 0.0, **changes: Any) -> str:
    request_time = str(int(time.time() + off_s))
    return query_of(**({"Sign": sign(token, request_time), "RequestTime": request_time} | changes))


def _round_constants() -> list[int]:
    """The first 32 bits behind the point of the cube roots of the first 64 primes."""
    primes = [n for n in range(2, 312) if all(n % divisor for divisor in range(2, n))]
    roots = []
    for prime in primes:
        low, high = 0, prime << 33
        while high - low > 1:  # the largest whole number whose cube is at most prime * 2^96
            middle = (low + high) // 2
            low, high = (middle, high) if middle**3 <= prime << 96 else (low, middle)
        roots.append(low & 0xFFFFFFFF)
    return roots


_ROUND_CONSTANTS = _round_constants()


def _compress(state: list[int], block: bytes) -> list[int]:
    """SHA-256's step over a block of 64 bytes."""

    def rotated(word: int, by: int) -> int:
        return (word >> by | word << (32 - by)) & 0xFFFFFFFF

    words = list(struct.unpack(">16I", block))
    for number in range(16, 64):
        before, behind = words[number - 15], words[number - 2]
        small_0 = rotated(before, 7) ^ rotated(before, 18) ^ before >> 3
        small_1 = rotated(behind, 17) ^ rotated(behind, 19) ^ behind >> 10
        words.append((words[number - 16] + small_0 + words[number - 7] + small_1) & 0xFFFFFFFF)
    a, b, c, d, e, f, g, h = state
    for constant, word in zip(_ROUND_CONSTANTS, words, strict=True):
        first = h + (rotated(e, 6) ^ rotated(e, 11) ^ rotated(e, 25)) + (e & f ^ ~e & g) + constant + word
        second = (rotated(a, 2) ^ rotated(a, 13) ^ rotated(a, 22)) + (a & b ^ a & c ^ b & c)
        a, b, c, d, e, f, g, h = (first + second) & 0xFFFFFFFF, a, b, c, (d + first) & 0xFFFFFFFF, e, f, g
    return [(old + new) & 0xFFFFFFFF for old, new in zip(state, (a, b, c, d, e, f, g, h), strict=True)]


def _padding(length: int) -> bytes:
    return b"\x80" + b"\0" * (-(length + 9) % 64) + struct.pack(">Q", length * 8)


def extended(signature: str, length: int, more: bytes) -> tuple[bytes, str]:
    """What to put behind a message of some length, and the hash of both: its own hash is all one has to know."""
    state = list(struct.unpack(">8I", bytes.fromhex(signature)))
    glue = _padding(length)
    rest = more + _padding(length + len(glue) + len(more))
    for begin in range(0, len(rest), 64):
        state = _compress(state, rest[begin : begin + 64])
    return glue + more, b"".join(struct.pack(">I", word) for word in state).hex()


def length_extensions(token: str) -> Iterator[str]:
    """Queries that are signed right, by somebody who has seen a URL of an hour ago and not the token."""
    seen = str(int(time.time()) - 3600)
    signature = sign(token, seen)
    for more in (str(int(time.time())), f"&{time.time()}", ""):
        for length in range(8, 33):  # he tries every length that the token may have
            behind, forged = extended(signature, length + 10, more.encode())
            yield query_of(RequestTime=seen + quote(behind, safe=""), Sign=forged)
    behind, forged = extended(signature, len(token) + 10, str(int(time.time())).encode())
    yield query_of(RequestTime=seen + quote(behind, safe=""), Sign=forged)


def test_the_length_extension_of_this_file_is_a_real_one() -> None:
    token, seen = "any-token", "1669872112"
    behind, forged = extended(sign(token, seen), len(token) + len(seen), b"1700000000")
    assert forged == hashlib.sha256(token.encode() + seen.encode() + behind).hexdigest()


def wrong_signatures() -> dict[str, str]:
    now = str(int(time.time()))
    good = sign(OLD, now)
    full_width = "".join(chr(0xFF10 + int(digit)) for digit in now)
    arabic = "".join(chr(0x660 + int(digit)) for digit in now)
    times = {
        "full-width digits": full_width,
        "Arabic digits": arabic,
        "a space behind": f"{now} ",
        "a space before": f" {now}",
        "a line break behind": f"{now}\n",
        "a NUL behind": f"{now}\0",
        "a plus before": f"+{now[1:]}",
        "a minus before": f"-{now[1:]}",
        "an underscore": f"{now[:5]}_{now[6:]}",
        "a point": f"{now[:8]}.0",
        "an exponent": "17000000e2",
        "milliseconds": f"{now}000",
        "nine digits": now[:9],
        "eleven digits": f"0{now}",
        "hexadecimal": hex(int(now)),
        "no digits": "abcdefghij",
        "empty": "",
    }
    signs = {
        "of a wrong token": sign("another-token", now),
        "of no token": sign("", now),
        "of another second": sign(OLD, str(int(now) - 1)),
        "in upper case": good.upper(),
        "in mixed case": good.swapcase().replace("A", "a"),
        "cut off": good[:-1],
        "too long": good + "0",
        "one digit off": good[:-1] + ("0" if good[-1] != "0" else "1"),
        "with a space behind": good + "%20",
        "with a NUL behind": good + "%00",
        "empty": "",
        "None": "None",
        "all zeros": "0" * 64,
        "the token itself": OLD,
        "in full-width digits": quote("".join(chr(ord(char) + 0xFEE0) for char in good)),
        "non-ASCII": quote("é" * 64),
        "not UTF-8": "%ff" * 64,
        "a surrogate": "%ed%a0%80" * 20,
        "very long": "a" * 8000,
        "SQL": quote("' OR '1'='1"),
    }
    return {
        "no Sign": query_of(RequestTime=now),
        "no RequestTime": query_of(Sign=good),
        "neither": query_of(),
        "Sign twice": f"{query_of(RequestTime=now, Sign=good)}&Sign={good}",
        "Sign twice, in two cases": f"{query_of(RequestTime=now, Sign=good)}&sign={good}",
        "Sign twice, one of them wrong": f"{query_of(RequestTime=now, Sign='x')}&Sign={good}",
        "RequestTime twice": f"{query_of(RequestTime=now, Sign=good)}&requesttime={now}",
        "RequestTime -62 s": signed(OLD, -62),
        "RequestTime +63 s": signed(OLD, 63),
        "RequestTime an hour off": signed(OLD, -3600),
        "RequestTime zero": query_of(RequestTime="0000000000", Sign=sign(OLD, "0000000000")),
        "RequestTime in 2286": query_of(RequestTime="9999999999", Sign=sign(OLD, "9999999999")),
        "a digit moved into the token": query_of(RequestTime=now[1:], Sign=good),
        **{
            f"RequestTime {name}": query_of(RequestTime=quote(written, safe=""), Sign=sign(OLD, written))
            for name, written in times.items()
        },
        **{f"Sign {name}": query_of(RequestTime=now, Sign=written) for name, written in signs.items()},
    }


def stored(victim: Victim) -> tuple[int, int, int]:
    answer = json.loads(victim.get("/status")[1])
    return answer["events"], answer["duplicates"], answer["rejected"]


def test_whatever_is_wrong_with_a_signature_it_is_401_and_nothing_is_stored(tmp_path: Path) -> None:
    body = body_of("r", T0)
    with Victim(tmp_path / "data", token=f"{OLD},{NEW}") as victim, no_traceback(victim):
        assert victim.post(body, query=signed(OLD))[0] == 200
        before = stored(victim)
        refused = 0
        queries = wrong_signatures() | {f"extended {n}": query for n, query in enumerate(length_extensions(OLD))}
        for name, query in queries.items():
            for sent in (body_of("forged", T0), b"not json"):
                status, answer = victim.post(sent, query=query)
                assert status == 401, (name, status, answer)
                assert json.loads(answer)["ErrorCode"] == 401, name
                refused += 1
        assert stored(victim) == before
        assert victim.post(body_of("r", T0 + 1), query=signed(OLD, -55))[0] == 200  # so the table bites
        assert victim.post(body_of("r", T0 + 2), query=signed(OLD, 55))[0] == 200
        assert victim.stop() == 0
    assert_verified(tmp_path / "data")
    report(
        17,
        "wrong signatures",
        f"{len(queries)} kinds, {sum(name.startswith('extended') for name in queries)} of them length extensions",
        "0",
        f"{refused} of {refused} with 401, nothing stored",
    )


def test_a_minute_and_a_second_are_too_much_a_minute_is_not() -> None:
    """With a clock that is given: over HTTP a second passes between signing and checking."""
    now_s = 1_700_000_000
    for off_s in (-60, -1, 0, 1, 60):
        request_time = str(now_s + off_s)
        check_signature(Query(APP_ID, sign(OLD, request_time), request_time, None, None), [OLD], now_s)
    for off_s in (-61, 61):
        request_time = str(now_s + off_s)
        with pytest.raises(ClockOff):
            check_signature(Query(APP_ID, sign(OLD, request_time), request_time, None, None), [OLD], now_s)


def test_tokens_are_rotated_without_losing_a_callback(tmp_path: Path) -> None:
    """The receiver gets both, the sender changes over, the receiver gets the new one alone."""
    data = tmp_path / "data"
    steps = [(OLD, {OLD: 200, NEW: 401}), (f"{OLD},{NEW}", {OLD: 200, NEW: 200}), (NEW, {OLD: 401, NEW: 200})]
    number = refused = 0
    for tokens, expected in steps:
        with Victim(data, token=tokens) as victim, no_traceback(victim):
            for token, wanted in expected.items():
                number += 1
                status, answer = victim.post(body_of("r", T0 + number), query=signed(token))
                assert status == wanted, (tokens, token, answer)
                refused += status == 401
            assert victim.stop() == 0
    assert_verified(data)
    report(
        17, "tokens while they are rotated", f"{number} callbacks, 3 sets of tokens", "0", f"{refused} of 2 expected"
    )


def test_signatures_are_compared_in_constant_time_as_bytes_with_every_token(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[Any, Any]] = []
    compare = hmac.compare_digest

    def watch(one: Any, other: Any) -> bool:
        compared.append((one, other))
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", watch)
    tokens, request_time = ["a", "b", "c"], "1700000000"
    right = [sign(token, request_time) for token in tokens]
    for given in (*right, "0" * 64, "é" * 64, right[0].upper()):
        compared.clear()
        query = Query(APP_ID, given, request_time, None, None)
        with nullcontext() if given in right else pytest.raises(Refused):
            check_signature(query, tokens, 1_700_000_000)
        assert [other for _, other in compared] == [one.encode() for one in right], "not each token was compared"
        assert {type(one) for pair in compared for one in pair} == {bytes}
        assert {one for one, _ in compared} == {given.encode()}


# ---- row 20 ----

CALLBACK_1, CALLBACK_2 = "canary-callback-one-7f3a91", "canary-callback-two-0b62ce"
API, ADMIN = "canary-api-51d0e8", "canary-admin-9c44b7"
CANARIES = (CALLBACK_1, CALLBACK_2, API, ADMIN)


def failing_projection(folder: Path) -> dict[str, str]:
    """An environment in which a projection cannot read the events of one room."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import os\n"
        "import projections.change_counts as broken\n"
        "apply = broken.apply\n"
        "def fail(state, event):\n"
        "    if event.room_id == 'poison':\n"
        "        raise RuntimeError(f'cannot read {event.room_id}: {sorted(os.environ.items())}')\n"
        "    return apply(state, event)\n"
        "broken.apply = fail\n"
    )
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))}


def process_texts(victim: Victim) -> Iterator[tuple[str, bytes]]:
    """What anybody may read of every process, and what the projector's has been given."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                yield f"{entry}/cmdline", (entry / "cmdline").read_bytes()
            except OSError:
                continue  # it has ended
    projectors = projectors_of(victim.data)
    assert projectors, "there is no projector"
    for child in projectors:
        yield f"/proc/{child}/environ of the projector", Path(f"/proc/{child}/environ").read_bytes()


def encodings(secret: str) -> list[bytes]:
    """A secret as it is, and as it would look if it had been written in another way."""
    plain = secret.encode()
    return [plain, plain.hex().encode(), quote(secret, safe="").encode(), plain[::-1], secret.upper().encode()]


def found_in(name: str, content: bytes) -> list[str]:
    return [f"{name} holds {secret}" for secret in CANARIES if any(one in content for one in encodings(secret))]


def garbage(port: int, data: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall(data)
        sock.settimeout(0.1)  # one of them is not answered before it is cut
        with suppress(TimeoutError):
            sock.recv(65536)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


PATHS = (
    *("/", "/healthz", "/readyz", "/metrics", "/status", "/schema", "/rooms", "/rooms/r", "/rooms/nobody"),
    *("/rooms/poison", "/rooms/r/history", "/rooms/r/diff?from=0&to=1", "/rooms/r/change-counts", "/events"),
    *("/rooms/r/visibility", "/change-counts", "/rejected", "/events/0", "/nothing", "/rooms?limit=x", "/rooms?a=1"),
    *("/rooms?as_of=yesterday", "/events?after=-1", "/events/stream?after=x", "/rooms/%ff", "/rooms?cursor=x"),
)


def busy_life(victim: Victim, first: int) -> list[tuple[str, bytes]]:
    """Use a server well and badly; every answer that it gave."""
    answers: list[tuple[str, bytes]] = []

    def note(name: str, answer: tuple[int, bytes]) -> None:
        answers.append((f"answer {answer[0]} to {name}", answer[1]))

    for number, token in enumerate((CALLBACK_1, CALLBACK_2) * 4):
        note("callback", victim.post(body_of("r", T0 + first + number, RoomName="n"), query=signed(token)))
    note("poison", victim.post(body_of("poison", T0 + first), query=signed(CALLBACK_1)))
    note("bad body", victim.post(b"not json", query=signed(CALLBACK_2)))
    note("oversize", victim.post(b"x" * 70_000, query=signed(CALLBACK_2)))
    wrong = {"sign": "0" * 64, "é": quote("é" * 64), "token as sign": CALLBACK_1}
    for name, written in wrong.items():
        note(name, victim.post(b"{}", query=signed(CALLBACK_1, Sign=written)))
    note("old", victim.post(b"{}", query=signed(CALLBACK_1, -3600)))
    note("token as time", victim.post(b"{}", query=signed(CALLBACK_1, RequestTime=CALLBACK_2)))
    note("token as app", victim.post(b"{}", query=signed(CALLBACK_1, SdkAppid=API)))
    for headers in ({}, bearer("wrong"), bearer(API), bearer(ADMIN), {"Authorization": f"Basic {API}"}):
        for path in PATHS:
            note(path, victim.get(path, headers=headers))
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        note(method, victim.request(method, "/rooms", b"", headers=bearer(API)))
    garbage(victim.port, f"GARBAGE /{API} HTTP/9\r\nAuthorization: Bearer {ADMIN}\r\n\r\n".encode())
    garbage(victim.port, f"GET /rooms HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {API}".encode())
    garbage(victim.port, f"GET /rooms?token={API} HTTP/1.1\r\nHost: x\r\nBad Header: {ADMIN}\r\n\r\n".encode())
    return answers


@pytest.mark.parametrize("by_file", [False, True], ids=["by environment", "by file"])
def test_no_secret_turns_up_anywhere(tmp_path: Path, by_file: bool) -> None:
    data = tmp_path / "data"
    values = {
        "ROOMLAPSE_CALLBACK_TOKENS": f"{CALLBACK_1},{CALLBACK_2}",
        "ROOMLAPSE_API_TOKEN": API,
        "ROOMLAPSE_ADMIN_TOKEN": ADMIN,
    }
    if by_file:
        for name, value in list(values.items()):
            path = tmp_path / name
            path.write_text(value + "\n")
            values[f"{name}_FILE"] = str(path)
            del values[name]
    env = values | failing_projection(tmp_path / "broken")
    places: list[tuple[str, bytes]] = []
    logs: list[Path] = []
    lives = rounds(1, 4)
    for life in range(lives):
        with Victim(data, env=env, token="") as victim, no_traceback(victim):
            logs.append(victim.log_path)
            places += busy_life(victim, 1000 * life)

            def is_stopped(victim: Victim = victim) -> bool:
                return "cannot read poison" in victim.get("/readyz", headers=bearer(API))[1].decode()

            wait_until(is_stopped)
            os.kill(projectors_of(victim.data)[0], 9)  # the projector's end, and another's beginning
            wait_until(lambda victim=victim: "starting it again" in victim.logs())  # type: ignore[misc]
            wait_until(lambda victim=victim: bool(projectors_of(victim.data)))  # type: ignore[misc]
            wait_until(is_stopped)
            places += busy_life(victim, 1000 * life + 500)
            places += process_texts(victim)
            if by_file:
                environ = Path(f"/proc/{victim.process.pid}/environ")
                places.append(("the server's environ", environ.read_bytes()))
            places += [(path.name, path.read_bytes()) for path in data.iterdir()]  # with what is in the WAL
            if life % 2 == 0:
                victim.kill()
                victim.wait_for_projector()
            else:
                assert victim.stop() == 0
        places += [(path.name, path.read_bytes()) for path in data.iterdir()]
    places += [(path.name, path.read_bytes()) for path in logs]
    commands = (["room", "nobody"], ["doctor"], ["status"], ["rejected"], ["room", "r"], ["serve", "--port", "x"])
    for command in commands[: rounds(2, len(commands))]:
        done = run_program(*command, "--data", str(data), env=values)
        places.append((f"roomlapse {command[0]}", (done.stdout + done.stderr).encode()))
    names = {name for name, _ in places}
    assert {"events.db", "read_models.db", "events.db-wal"} <= names
    assert any(name.startswith("answer 503") for name in names)
    assert any("cannot read poison" in content.decode(errors="replace") for name, content in places if ".log" in name)
    leaks = [leak for name, content in places for leak in found_in(name, content)]
    assert leaks == []
    searched = sum(len(content) for _, content in places)
    how = "from files" if by_file else "from the environment"
    report(
        20,
        f"a canary in every secret, {how}",
        f"{len(places)} answers, logs, databases with WAL, command lines and environments ({searched / 1e6:.1f} MB)"
        f" after refusals, errors, a failing projection and {lives + (lives + 1) // 2} kills",
        "0 canaries found",
        "-",
    )


def test_the_search_finds_a_canary_that_is_put_somewhere(tmp_path: Path) -> None:
    """The negative control: a token in a room's name, in a query's parameter that is stored, and in a command line."""
    env = {"ROOMLAPSE_CALLBACK_TOKENS": CALLBACK_1, "ROOMLAPSE_API_TOKEN": API}
    with Victim(tmp_path / "data", env=env, token="") as victim:
        victim.post(body_of("r", T0, RoomName=CALLBACK_1), query=signed(CALLBACK_1, ClientIP=API))
        wait_until(lambda: victim.get("/rooms/r", headers=bearer(API))[0] == 200)
        answer = victim.get("/rooms/r", headers=bearer(API))[1]
        sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", ADMIN])
        try:
            # Between fork and exec it is still this process.
            wait_until(lambda: ADMIN.encode() in Path(f"/proc/{sleeper.pid}/cmdline").read_bytes())
            places = [*process_texts(victim), ("answer", answer)]
            places += [(path.name, path.read_bytes()) for path in victim.data.iterdir()]
        finally:
            sleeper.kill()
            sleeper.wait()
    leaks = [leak for name, content in places for leak in found_in(name, content)]
    for wanted in (
        f"answer holds {CALLBACK_1}",
        f"events.db-wal holds {CALLBACK_1}",
        f"events.db-wal holds {API}",
        f"/proc/{sleeper.pid}/cmdline holds {ADMIN}",
    ):
        assert wanted in leaks, leaks
    report(20, "the search itself: a canary put in 4 places", "4 places", "4 canaries found, as they must be", "-")


# What the log leaves out, for any logger and wherever it stands.

SECRETS = {
    "plain": "s3cret-token",
    "with quotes": "s3\"cr'et",
    "with backslashes": "s3\\cr\\\\et\\n",
    "beyond ASCII": "s3crét-房间-\U0001f511",
    "with spaces and braces": "s3 {cret}: [x], y",
    "of a pattern": "s3.*(cret)+$^|",
    "of digits": "0000",
    "of a letter that escapes use": "u0000",
}


def written(secrets: list[str], log: Callable[[logging.Logger], None]) -> str:
    """What a logger writes that is told these secrets; it has to be lines of JSON."""
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    logger = logging.Logger("any.library", logging.DEBUG)
    handler = Keep()
    handler.setFormatter(JsonFormatter(secrets))
    logger.addHandler(handler)
    log(logger)
    assert lines
    for line in lines:
        assert "\n" not in line
        assert isinstance(json.loads(line), dict)
    return "\n".join(lines)


def told(value: Any) -> str:
    """All texts of a JSON value, one after the other."""
    if isinstance(value, dict):
        return "".join(told(one) for pair in value.items() for one in pair)
    if isinstance(value, list):
        return "".join(map(told, value))
    return str(value)


def _fail(error: Exception) -> None:
    raise error


def ways_to_log(secret: str) -> dict[str, Callable[[logging.Logger], None]]:
    def failed(error: Exception) -> Callable[[logging.Logger], None]:
        def log(logger: logging.Logger) -> None:
            try:
                _fail(error)
            except Exception:
                logger.exception("it failed")

        return log

    return {
        "a message": lambda logger: logger.info(f"x{secret}y"),
        "an argument": lambda logger: logger.info("with %s", secret),
        "an argument's repr": lambda logger: logger.info("with %r", secret),
        "a list": lambda logger: logger.info("with %s", [secret, {secret: 1}]),
        "a text with control characters": lambda logger: logger.info(f"\0\n\0001{secret}\x1b\n1\u0000"),
        "an extra": lambda logger: logger.info("x", extra={"value": secret}),
        "an extra's name": lambda logger: logger.info("x", extra={secret: 1}),
        "far down an extra": lambda logger: logger.info("x", extra={"value": {"a": [{"b": (secret, {secret: 1})}]}}),
        "an object in an extra": lambda logger: logger.info("x", extra={"value": ValueError(secret)}),
        "an exception": failed(ValueError(secret)),
        "an exception that shows its repr": failed(KeyError(secret)),
        "JSON in a message": lambda logger: logger.info(json.dumps({"token": secret})),
    }


@pytest.mark.parametrize("kind", list(SECRETS))
def test_a_secret_is_taken_out_of_every_line_wherever_it_stands(kind: str) -> None:
    secret = SECRETS[kind]
    for way, log in ways_to_log(secret).items():
        with_it = written(["another-secret", secret], log)
        without = written([], log)
        shown = told(json.loads(with_it))
        for form in {
            secret,
            repr(secret)[1:-1],
            json.dumps(secret)[1:-1],
            json.dumps(secret, ensure_ascii=False)[1:-1],
        }:
            assert form not in shown.replace(str(json.loads(with_it)["time"]), ""), (way, with_it)
        assert "[redacted]" in with_it, (way, with_it)
        if kind == "plain":  # so the table bites
            assert secret in told(json.loads(without)), way


def test_of_secrets_that_hold_one_another_nothing_is_left_over() -> None:
    secrets = ["abc", "abcdef", "xabcdefx", "def"]
    for order in (secrets, secrets[::-1]):
        line = json.loads(written(order, lambda logger: logger.info("1 abc 2 abcdef 3 xabcdefx 4 def 5")))
        assert line["message"] == "1 [redacted] 2 [redacted] 3 [redacted] 4 [redacted] 5"


def test_what_is_no_secret_is_left_as_it_is() -> None:
    line = json.loads(written(["abc"], lambda logger: logger.info("ab c ABC", extra={"value": [1, None, 2.5, True]})))
    assert (line["message"], line["value"], line["level"]) == ("ab c ABC", [1, None, 2.5, True], "info")


def test_a_sign_is_taken_out_of_whatever_quotes_a_query() -> None:
    signature = sign("t", "1700000000")
    line = written([], lambda logger: logger.info(f"POST /callbacks?SdkAppid=1&Sign={signature}&RequestTime=1"))
    assert signature not in line
    assert "Sign=[redacted]&RequestTime=1" in line
