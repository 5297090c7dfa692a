"""Rows 14, 15 and 21: bodies made at random, JSON that is meant to hurt, and times that cannot be."""

import base64
import http.client
import json
import re
import sqlite3
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from conftest import T0, UPDATE, body_of
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.wait import wait_until

from app.tencent.body import MAX_BODY_BYTES
from faults.lib import Victim, assert_verified, no_traceback, query_now, report, rounds

_FLAT_BYTES = 64 * 2**20
_AT_ONCE = 8
BLOCKING = "Group.CallbackBeforeSendMsg"


_BLOCKS = re.compile(rb'"CallbackCommand"\s*:\s*"[^"]*Callback(Before|Prev)')


def is_settled(data: Path) -> bool:
    """Whether nothing is stored for half a second."""
    before = len(in_log(data)), len(in_quarantine(data))
    time.sleep(0.5)
    return before == (len(in_log(data)), len(in_quarantine(data)))


def canonical(body: bytes) -> str:
    """What makes two bodies the same event, worked out without any code of the server's."""
    return json.dumps(json.loads(body), ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def in_log(data: Path) -> list[bytes]:
    with closing(sqlite3.connect(f"file:{data / 'events.db'}?mode=ro", uri=True)) as conn:
        return [body.encode() for (body,) in conn.execute("SELECT body FROM events ORDER BY position")]


def in_quarantine(data: Path) -> list[tuple[bytes, str]]:
    with closing(sqlite3.connect(f"file:{data / 'events.db'}?mode=ro", uri=True)) as conn:
        return [(bytes(body), reason) for body, reason in conn.execute("SELECT body, reason FROM rejected ORDER BY id")]


def assert_is_answer(status: int, text: bytes) -> dict[str, Any]:
    """An answer to a callback has three fields, and says the same as its status."""
    answer: dict[str, Any] = json.loads(text)
    assert set(answer) == {"ActionStatus", "ErrorInfo", "ErrorCode"}, answer
    if status == 200:
        assert answer == {"ActionStatus": "OK", "ErrorInfo": "", "ErrorCode": 0}
    else:
        assert answer["ActionStatus"] == "FAIL"
        assert answer["ErrorCode"] == status
        assert isinstance(answer["ErrorInfo"], str)
        assert answer["ErrorInfo"]
    return answer


# ---- row 14 ----

_scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**40), 10**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from(["", "a/b", "\0", "房间", "\u202e", "x" * 200, "1670574414123"])
)
_values = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
_rooms = st.sampled_from(["r1", "r2", "房间 七", "a b?#%"])
_times = st.integers(T0, T0 + 10**6)
_commands = st.sampled_from([UPDATE, "Live.CallbackAfterDestroyRoom", BLOCKING, "live.callbackafterupdateroominfo"])


def _weighted(*choices: tuple[int, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    """One of the choices, each as often as its weight says; `one_of` takes equal ones together."""
    strategies = [strategy for weight, strategy in choices for _ in range(weight)]
    return st.integers(0, len(strategies) - 1).flatmap(strategies.__getitem__)


def _often(usual: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return _weighted((19, usual), (1, _values))


_room_infos = st.builds(
    lambda room_id, fields: {"RoomId": room_id, **fields},
    _often(_rooms),
    st.dictionaries(st.sampled_from(["RoomName", "IsPublicVisible", "Category"]) | st.text(max_size=8), _values),
)
_contents = st.fixed_dictionaries(
    {},
    optional={
        "CallbackCommand": _often(_commands),
        "Operator_Account": _values,
        "RoomId": _often(_rooms),
        "RoomInfo": _often(_room_infos),
        "EventTime": _often(_times),
        "More": _values,
    },
)
_updates = st.builds(
    lambda room_info, time_ms, operator: {
        "CallbackCommand": UPDATE,
        "Operator_Account": operator,
        "RoomInfo": room_info,
        "EventTime": time_ms,
    },
    _room_infos,
    _often(_times),
    _values,
)


def _write(value: Any, escaped: bool, indent: int | None) -> bytes:
    return json.dumps(value, ensure_ascii=escaped, indent=indent).encode("utf-8", "surrogatepass")


_written = st.builds(
    _write, _weighted((3, _contents), (8, _updates), (1, _values)), st.booleans(), st.sampled_from([None, None, 2])
)


@st.composite
def _corrupt(draw: st.DrawFn) -> bytes:
    """A body like those that are right, with some bytes changed, taken away, put in, or said twice."""
    body = bytearray(draw(_written))
    for _ in range(draw(st.integers(1, 3))):
        begin = draw(st.integers(0, len(body)))
        end = min(len(body), begin + draw(st.integers(0, 9)))
        tokens = st.sampled_from([b'"', b"\\", b"{", b"}", b"[", b",", b":", b"\0", b"\xff", b"\xef\xbb\xbf", b"NaN"])
        body[begin:end] = draw(st.binary(max_size=4) | tokens | st.just(bytes(body[begin:end]) * 2))
    return bytes(body)


_large = st.builds(
    lambda size, piece: (piece * (size // len(piece) + 1))[:size],
    st.sampled_from([MAX_BODY_BYTES - 1, MAX_BODY_BYTES, MAX_BODY_BYTES + 1, 3 * MAX_BODY_BYTES]),
    st.binary(min_size=1, max_size=8) | st.sampled_from([b"[", b'{"a":', b'"', b"\\", b"1", b" "]),
)
_bodies = _weighted((12, _written), (6, _corrupt()), (1, st.binary(max_size=300)), (1, _large))


class _Clients:
    """A connection for each thread that sends, kept as long as the server keeps it."""

    def __init__(self, victim: Victim) -> None:
        self._victim = victim
        self._local = threading.local()
        self._opened: list[http.client.HTTPConnection] = []

    def post(self, body: bytes) -> tuple[int, bytes]:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = http.client.HTTPConnection("127.0.0.1", self._victim.port, timeout=30)
            self._local.connection = connection
            self._opened.append(connection)
        with suppress(BrokenPipeError):  # it refused the head already, and has its answer out
            connection.request("POST", f"/callbacks?{query_now()}", body)
        answer = connection.getresponse()
        text = answer.read()
        if answer.status == 413:
            connection.close()
        return answer.status, text

    def close(self) -> None:
        for connection in self._opened:
            connection.close()


def test_bodies_made_at_random_are_stored_or_quarantined_as_they_came(tmp_path: Path) -> None:
    examples = rounds(500, 10_000) // _AT_ONCE + 1
    data = tmp_path / "data"
    answers: dict[int, list[bytes]] = {}
    memory: list[int] = []
    with Victim(data) as victim, no_traceback(victim), ThreadPoolExecutor(_AT_ONCE) as pool:
        clients = _Clients(victim)

        @settings(settings.get_profile("fuzz"), max_examples=examples)
        @given(bodies=st.lists(_bodies, min_size=_AT_ONCE, max_size=_AT_ONCE))
        def send(bodies: list[bytes]) -> None:
            for body, (status, text) in zip(bodies, pool.map(clients.post, bodies), strict=True):
                assert status in {200, 400, 413}, (status, body)
                assert_is_answer(status, text)
                answers.setdefault(status, []).append(body)
            memory.append(victim.memory_bytes())

        try:
            send()
        finally:
            clients.close()
        taken, refused, oversize = (answers.get(status, []) for status in (200, 400, 413))
        wait_until(lambda: is_settled(data))  # those of blocking commands were answered before they were stored
        quarantined = Counter(body for body, _ in in_quarantine(data))
        unread = [body for body in taken if body in quarantined and _BLOCKS.search(body)]  # OK, whatever the body
        taken = [body for body in taken if body not in unread]
        events = {canonical(body) for body in taken}
        wait_until(lambda: len(in_log(data)) == len(events))  # those of blocking commands were answered before
        log = in_log(data)
        assert Counter(canonical(body) for body in log) == dict.fromkeys(events, 1), "an event is not there once"
        assert set(log) <= set(taken), "the log holds what was not sent, or not so"
        assert quarantined == Counter(refused) + Counter(unread)
        assert all(len(body) > MAX_BODY_BYTES for body in oversize)
        assert all(len(body) <= MAX_BODY_BYTES for body in taken + refused)
        path: str | None = "/rooms?limit=500"
        while path is not None:  # what was taken can be read
            status, text = victim.get(path)
            assert status == 200, text
            cursor = json.loads(text)["next_cursor"]
            path = f"/rooms?limit=500&cursor={cursor}" if cursor else None
        # After the first fifth, whatever is loaded once is loaded.
        grown = max(memory) - memory[len(memory) // 5]
        assert grown < _FLAT_BYTES
        assert victim.stop() == 0
    assert_verified(data)
    total = sum(map(len, answers.values()))
    assert min(len(taken), len(refused)) > total // 10, "each kind is to come up"
    assert len(oversize) > total // 200
    report(
        14,
        "fuzzed bodies",
        f"{total} bodies, {len(taken)} taken; no 5xx, no traceback, memory grew by {max(0, grown) / 2**20:.0f} MB",
        "0",
        f"{len(refused)} quarantined as sent, {len(oversize)} too large",
    )


# ---- row 15 ----

GOOD = body_of("torture", T0, RoomName="name")


def _nested(levels: int) -> bytes:
    return GOOD.replace(b'"name"', b"[" * (levels - 2) + b"]" * (levels - 2))


TORTURE: dict[str, bytes] = {
    "a key twice": GOOD.replace(b'"RoomName"', b'"RoomName": 1, "RoomName"'),
    "a key twice at the top": GOOD[:-1] + b', "EventTime": 1670574414123}',
    "a key twice, once escaped": GOOD.replace(b'"RoomName"', rb'"RoomNam\u0065": 1, "RoomName"'),
    "a key twice, far down": GOOD.replace(b'"name"', b'[[{"a":[{"b":1,"b":1}]}]]'),
    "the room twice": GOOD.replace(b'"RoomName"', b'"RoomId": "other", "RoomName"'),
    "nested 65 deep": _nested(65),
    "nested 10,000 deep": _nested(10_000),
    "objects nested 10,000 deep": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "60,000 brackets that open": b"[" * 60_000,
    "60,000 brackets that close": b"]" * 60_000,
    "brackets behind a string without end": b'{"a":"' + b"[" * 60_000,
    "60,000 backslashes": b'"' + b"\\" * 60_000,
    "a byte order mark": b"\xef\xbb\xbf" + GOOD,
    "two byte order marks": b"\xef\xbb\xbf" * 2 + GOOD,
    "UTF-16": GOOD.decode().encode("utf-16"),
    "UTF-16, no mark": GOOD.decode().encode("utf-16-le"),
    "UTF-16, big end first": GOOD.decode().encode("utf-16-be"),
    "UTF-32": GOOD.decode().encode("utf-32"),
    "UTF-7": GOOD.replace(b"name", b"+-\xff"),
    "Latin-1": GOOD.replace(b"name", b"n\xe4me"),
    "UTF-8 that is too long": GOOD.replace(b"name", b"\xc0\x80"),
    "UTF-8 beyond U+10FFFF": GOOD.replace(b"name", b"\xf4\x90\x80\x80"),
    "UTF-8 cut off": GOOD.replace(b"name", b"\xf0\x9f\x98"),
    "a surrogate in UTF-8": GOOD.replace(b"name", b"\xed\xa0\x80"),
    "a lone high surrogate": GOOD.replace(b"name", rb"\ud83d"),
    "a lone low surrogate": GOOD.replace(b"name", rb"\udc00"),
    "surrogates the wrong way round": GOOD.replace(b"name", rb"\udc00\ud83d"),
    "a lone surrogate in a key": GOOD.replace(b"RoomName", rb"\ud83d"),
    "a lone surrogate in the operator": GOOD.replace(b"bob", rb"\ud83d"),
    "a lone surrogate in the room": GOOD.replace(b"torture", rb"\ud83d"),
    "U+0000 in the room": GOOD.replace(b"torture", rb"tor\u0000ture"),
    "U+0000 alone as the room": GOOD.replace(b"torture", rb"\u0000"),
    "a NUL byte in a string": GOOD.replace(b"name", b"na\0me"),
    "a NUL byte behind": GOOD + b"\0",
    "a NUL byte before": b"\0" + GOOD,
    "control characters in a string": GOOD.replace(b"name", b"\x01\x1f\n"),
    "NaN": GOOD.replace(b'"name"', b"NaN"),
    "-NaN": GOOD.replace(b'"name"', b"-NaN"),
    "Infinity": GOOD.replace(b'"name"', b"Infinity"),
    "-Infinity": GOOD.replace(b'"name"', b"-Infinity"),
    "1e400": GOOD.replace(b'"name"', b"1e400"),
    "-1e400": GOOD.replace(b'"name"', b"-1e400"),
    "1e400 far down": GOOD.replace(b'"name"', b'{"a":[1e400]}'),
    "10^400": GOOD.replace(b'"name"', b"1" + b"0" * 400),
    "-10^400": GOOD.replace(b'"name"', b"-1" + b"0" * 400),
    "10^400 and a fraction": GOOD.replace(b'"name"', b"1" + b"0" * 400 + b".5"),
    "a number of 60,000 digits": GOOD.replace(b'"name"', b"9" * 60_000),
    "an exponent of 60,000 digits": GOOD.replace(b'"name"', b"1e" + b"9" * 60_000),
    "10^400 as operator": GOOD.replace(b'"bob"', b"1" + b"0" * 400),
    "a leading zero": GOOD.replace(b'"name"', b"01"),
    "a plus": GOOD.replace(b'"name"', b"+1"),
    "a number that ends in a point": GOOD.replace(b'"name"', b"1."),
    "hexadecimal": GOOD.replace(b'"name"', b"0x1F"),
    "an underscore": GOOD.replace(b'"name"', b"1_000"),
    "two documents": GOOD + GOOD,
    "two documents on lines": GOOD + b"\n" + GOOD,
    "a document and a comma": GOOD + b",",
    "a record separator": b"\x1e" + GOOD,
    "a comment": GOOD[:-1] + b"} // no JSON",
    "a comment inside": GOOD.replace(b'"name"', b'/* no */ "name"'),
    "a trailing comma": GOOD[:-1] + b",}",
    "single quotes": GOOD.replace(b'"', b"'"),
    "keys without quotes": GOOD.replace(b'"EventTime"', b"EventTime"),
    "a bad escape": GOOD.replace(b"name", rb"\x41"),
    "half an escape": GOOD.replace(b"name", rb"\u12"),
    "True": GOOD.replace(b'"name"', b"True"),
    "a no-break space": GOOD.replace(b" ", "\u00a0".encode()),
    "nothing": b"",
    "white space": b" \t\r\n" * 100,
    "cut off": GOOD[:-1],
    "cut off in a string": GOOD[:60],
    "an array": b"[" + GOOD + b"]",
    "a string": json.dumps(GOOD.decode()).encode(),
    "null": b"null",
}
ODD_BUT_RIGHT: dict[str, bytes] = {
    "nested 64 deep": _nested(64),
    "brackets in a string": GOOD.replace(b"name", b"[{" * 1000),
    "U+0000 in a field": GOOD.replace(b"name", rb"na\u0000me"),
    "U+0000 in a key": GOOD.replace(b"RoomName", rb"Room\u0000Name"),
    "U+0000 in a command": b'{"CallbackCommand":"Live.\\u0000","RoomId":"torture"}',
    "a pair of surrogates": GOOD.replace(b"name", rb"\ud83d\ude00"),
    "an escaped solidus": GOOD.replace(b"name", rb"\/"),
    "a key twice, in two objects": GOOD.replace(b'"name"', b'[{"a":1},{"a":1}]'),
    "white space all over": GOOD.replace(b" ", b" \t\r\n "),
    "the smallest double": GOOD.replace(b'"name"', b"5e-324"),
    "10^300": GOOD.replace(b'"name"', b"1" + b"0" * 300),
    "minus zero": GOOD.replace(b'"name"', b"-0"),
    "an empty key": GOOD.replace(b"RoomName", b""),
}


def test_json_that_is_meant_to_hurt_is_quarantined_with_a_reason_byte_for_byte(tmp_path: Path) -> None:
    with Victim(tmp_path / "data") as victim, no_traceback(victim):
        for name, body in TORTURE.items():
            status, text = victim.post(body)
            assert status == 400, (name, status, text)
            reason = assert_is_answer(status, text)["ErrorInfo"]
            status, text = victim.get("/rejected?limit=1")
            assert status == 200, (name, text)
            (newest,) = json.loads(text)["rejected"]
            assert base64.b64decode(newest["body_base64"]) == body, name
            assert newest["reason"] == reason, name
        listed: list[bytes] = []
        path: str | None = "/rejected?limit=20"
        while path is not None:
            page = json.loads(victim.get(path)[1])
            listed += [base64.b64decode(rejected["body_base64"]) for rejected in page["rejected"]]
            path = f"/rejected?limit=20&cursor={page['next_cursor']}" if page["next_cursor"] else None
        assert listed == list(TORTURE.values())[::-1]
        assert in_log(victim.data) == []
        for name, body in ODD_BUT_RIGHT.items():  # the table does not only refuse
            status, text = victim.post(body)
            assert status == 200, (name, text)
        assert in_log(victim.data) == list(ODD_BUT_RIGHT.values())
        assert json.loads(victim.get("/rooms/torture")[1])["events"] == len(ODD_BUT_RIGHT) - 1  # one is no update
        assert victim.stop() == 0
    assert_verified(tmp_path / "data")
    report(
        15,
        "JSON torture",
        f"{len(TORTURE)} bodies, and {len(ODD_BUT_RIGHT)} that are odd and right",
        "0",
        f"{len(TORTURE)} with 400 and a reason, listed byte for byte; the others taken as sent",
    )


# ---- row 21 ----


def times_that_cannot_be() -> dict[str, str]:
    """What stands for EventTime, as JSON; empty: nothing does."""
    now_ms = int(time.time() * 1000)
    return {
        "missing": "",
        "null": "null",
        "0": "0",
        "-0": "-0",
        "-1": "-1",
        "seconds": str(now_ms // 1000),
        "just below a millisecond time": str(10**11 - 1),
        "microseconds": str(now_ms * 1000),
        "2^53": str(2**53),
        "2^63 - 1": str(2**63 - 1),
        "2^63": str(2**63),
        "-2^63 - 1": str(-(2**63) - 1),
        "2^64": str(2**64),
        "10^400": "1" + "0" * 400,
        "11 minutes ahead": str(now_ms + 11 * 60_000),
        "ten years ahead": str(now_ms + 10 * 365 * 86_400_000),
        "a float": f"{now_ms}.0",
        "a float with a fraction": f"{now_ms}.5",
        "an exponent": f"{now_ms}e0",
        "a string that is not digits alone": f'"+{now_ms}"',
        "a date": '"2026-03-11T14:28:44Z"',
        "true": "true",
        "false": "false",
        "an array": f"[{now_ms}]",
        "an object": f'{{"ms":{now_ms}}}',
        "NaN": "NaN",
    }


def test_an_event_time_that_cannot_be_is_quarantined_and_freezes_no_room(tmp_path: Path) -> None:
    with Victim(tmp_path / "data") as victim, no_traceback(victim):
        assert victim.post(body_of("r", T0, RoomName="begin"))[0] == 200
        cases = times_that_cannot_be()
        for number, (name, written) in enumerate(cases.items()):
            end = f',"EventTime":{written}}}' if written else "}"
            begin = f'{{"CallbackCommand":"{UPDATE}","RoomInfo":{{"RoomId":"r","RoomName":"impossible"}}'
            body = (begin + end).encode()
            status, text = victim.post(body)
            assert status == 400, (name, status, text)
            reason = assert_is_answer(status, text)["ErrorInfo"]
            assert "EventTime" in reason or name in {"10^400", "NaN"}, (name, reason)
            assert in_quarantine(victim.data)[-1] == (body, reason), name
            right = body_of("r", T0 + 1 + number, RoomName=f"after {name}")
            assert victim.post(right)[0] == 200, name
            room = json.loads(victim.get("/rooms/r")[1])
            assert room["room_info"] == {"RoomName": f"after {name}"}
            assert room["events"] == number + 2
        assert victim.post(body_of("r", int(time.time() * 1000), RoomName="now"))[0] == 200
        assert json.loads(victim.get("/rooms/r")[1])["room_info"] == {"RoomName": "now"}
        assert victim.stop() == 0
    assert_verified(tmp_path / "data")
    report(
        21,
        "EventTime that cannot be",
        f"{len(cases)} values, and an update of the same room after each",
        "0",
        f"{len(cases)} quarantined with the reason; the room went on each time",
    )
