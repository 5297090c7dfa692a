"""Rows 16 and 18: requests that are too long, too slow or twisted, on bare sockets; and URLs that are used again."""

import json
import os
import select
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
from conftest import APP_ID, T0, body_of

from app.server.connections import MAX_HEAD_BYTES, READ_WITHIN_S, TAKE_WITHIN_S
from app.tencent.body import MAX_BODY_BYTES
from app.tencent.request import sign
from faults.lib import FULL, TOKEN, Victim, assert_verified, no_traceback, query_now, report, rounds

_FLAT_BYTES = 48 * 2**20  # what memory may move by, whatever comes
_KERNEL_BYTES = 24 * 2**20  # what the system itself takes from a sender before the server has read it
_CUT_WITHIN_S = 30.0
_QUICK_READ_WITHIN_S = 3.0
_HOST = b"Host: 127.0.0.1\r\n"


def connect(victim: Victim, timeout_s: float = 10.0) -> socket.socket:
    return socket.create_connection(("127.0.0.1", victim.port), timeout=timeout_s)


def head(*headers: bytes, line: bytes | None = None) -> bytes:
    """The head of a callback, signed now, without its end."""
    line = line or b"POST /callbacks?%s HTTP/1.1" % query_now().encode()
    return line + b"\r\n" + _HOST + b"".join(header + b"\r\n" for header in headers)


def callback(body: bytes) -> bytes:
    return head(b"Content-Length: %d" % len(body)) + b"\r\n" + body


def read_to_end(sock: socket.socket) -> bytes:
    """Everything that comes until the server closes."""
    parts = []
    with suppress(ConnectionResetError):
        while part := sock.recv(65536):
            parts.append(part)
    return b"".join(parts)


def read_answer(sock: socket.socket) -> tuple[int, bytes]:
    """One answer with Content-Length: its status and body."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = sock.recv(65536)
        assert part, f"no whole answer: {data!r}"
        data += part
    text, _, body = data.partition(b"\r\n\r\n")
    headers = dict(line.lower().split(b": ", 1) for line in text.split(b"\r\n")[1:])
    while len(body) < int(headers[b"content-length"]):
        body += sock.recv(65536)
    assert len(body) == int(headers[b"content-length"]), "more than one answer came"
    return int(text.split()[1]), body


def stored(victim: Victim) -> tuple[int, int, int]:
    """How many events, duplicates and quarantined bodies there are."""
    status, body = victim.get("/status")
    assert status == 200, body
    answer = json.loads(body)
    return answer["events"], answer["duplicates"], answer["rejected"]


def assert_serves(victim: Victim) -> None:
    """A callback that has nothing wrong is taken."""
    status, body = victim.post(body_of("still-here", T0 + time.monotonic_ns() % 10**9))
    assert status == 200, body


class Flood(msgspec.Struct):
    """What came of sending without end: how much could be sent, whether it was cut, and how memory moved."""

    sent: int
    cut: bool
    grown: int


def flood(victim: Victim, begin: bytes, piece: bytes, most: int) -> Flood:
    """Send the same piece over and over, until the server cuts the connection or `most` bytes are out."""
    block = piece * max(1, 16384 // len(piece))
    before = peak = victim.memory_bytes()
    sent, cut = 0, False
    with connect(victim) as sock:
        sock.sendall(begin)
        try:
            while sent < most:
                sock.sendall(block)
                sent += len(block)
                if sent % 2**20 < len(block):
                    peak = max(peak, victim.memory_bytes())
        except (ConnectionResetError, BrokenPipeError):
            cut = True
    return Flood(sent, cut, max(peak, victim.memory_bytes()) - before)


# ---- row 16 ----


def test_a_body_that_is_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    much = rounds(64, 512) * 2**20
    with Victim(tmp_path / "data") as victim, no_traceback(victim):
        for length in (MAX_BODY_BYTES + 1, 10**9, 10**18):
            with connect(victim) as sock:  # nothing of the body is ever sent
                sock.sendall(head(b"Content-Length: %d" % length) + b"\r\n")
                assert read_answer(sock)[0] == 413
        with connect(victim) as sock:  # no end of the body is ever sent
            sock.sendall(head(b"Transfer-Encoding: chunked") + b"\r\n")
            sock.sendall(b"1000\r\n%s\r\n" % (b"x" * 4096) * 17)
            status, body = read_answer(sock)
            assert status == 413
            assert json.loads(body)["ErrorCode"] == 413
        declared = flood(victim, head(b"Content-Length: %d" % 10**12) + b"\r\n", b"x" * 16384, much)
        chunked = flood(victim, head(b"Transfer-Encoding: chunked") + b"\r\n", b"1000\r\n%s\r\n" % (b"x" * 4096), much)
        assert max(declared.grown, chunked.grown) < _FLAT_BYTES, (declared, chunked)
        assert stored(victim) == (0, 0, 0)
        assert_serves(victim)
        assert victim.stop() == 0
    report(
        16,
        "oversize bodies, declared and chunked",
        f"6 bodies, two of them of {much // 2**20} MB and more; memory grew by"
        f" {max(0, declared.grown, chunked.grown) / 2**20:.0f} MB at the most",
        "0",
        "413 each time, before the body came or at 64 KiB of it",
    )


ENDLESS = {
    "a request line": (b"GET /rooms/", b"x" * 1024),
    "a query": (b"POST /callbacks?Sign=", b"x" * 1024),
    "headers": (b"GET /healthz HTTP/1.1\r\n", b"X-Some: " + b"y" * 1000 + b"\r\n"),
    "a header's name": (b"GET /healthz HTTP/1.1\r\n", b"x" * 1024),
    "a header's value": (b"GET /healthz HTTP/1.1\r\nX: ", b"x" * 1024),
    "empty headers": (b"GET /healthz HTTP/1.1\r\n", b"a:\r\n"),
    "empty lines": (b"", b"\r\n"),
    "a chunk's extension": (b"CHUNKED2;", b"a=b;" * 256),
    "headers behind a body": (b"CHUNKED2\r\n{}\r\n0\r\n", b"X-Some: " + b"y" * 1000 + b"\r\n"),
    "one header behind a body": (b"CHUNKED2\r\n{}\r\n0\r\nX: ", b"x" * 1024),
}


def test_a_head_without_an_end_is_refused_at_64_kib_and_cut(tmp_path: Path) -> None:
    most = rounds(64, 512) * 2**20
    grown = 0
    with Victim(tmp_path / "data") as victim, no_traceback(victim):
        for name, (begin, piece) in ENDLESS.items():
            begin = begin.replace(b"CHUNKED", head(b"Transfer-Encoding: chunked") + b"\r\n")  # noqa: PLW2901
            found = flood(victim, begin, piece, most)
            assert found.cut, f"{name}: {found}"
            assert found.sent < _KERNEL_BYTES, f"{name}: {found}"
            grown = max(grown, found.grown)
        assert grown < _FLAT_BYTES
        with connect(victim) as sock:  # just below: it is served
            sock.sendall(head(line=b"GET /healthz HTTP/1.1"))
            sock.sendall(b"X: y\r\n" * ((MAX_HEAD_BYTES - 1024) // 6))
            sock.sendall(b"\r\n")
            assert read_answer(sock)[0] == 200
        with connect(victim) as sock:  # just above: it is told why
            sock.sendall(head(line=b"GET /healthz HTTP/1.1") + b"X: ")
            sock.sendall(b"y" * MAX_HEAD_BYTES)
            answer = read_to_end(sock)
            assert answer.startswith(b"HTTP/1.1 400 ")
            assert str(MAX_HEAD_BYTES).encode() in answer
        assert stored(victim) == (0, 0, 0)
        assert_serves(victim)
        assert victim.stop() == 0
    report(
        16,
        "heads without an end",
        f"{len(ENDLESS)} kinds: request line, headers, chunk extensions, trailers; memory grew by"
        f" {max(0, grown) / 2**20:.0f} MB at the most",
        "0",
        "400 and cut at 64 KiB each time",
    )


class Slow:
    """A connection that holds on; `drip` is what it sends each second."""

    def __init__(self, victim: Victim, begin: bytes, drip: bytes) -> None:
        self.sock = connect(victim)
        self.sock.sendall(begin)
        self.sock.setblocking(False)
        self.drip = drip
        self.begun_s = time.monotonic()
        self.cut_after_s: float | None = None

    def go_on(self) -> None:
        """Send the next piece; note when the server has cut the connection."""
        if self.cut_after_s is not None:
            return
        try:
            if self.drip:
                self.sock.send(self.drip)
            while self.sock.recv(4096):
                pass  # an answer to the first of two requests
        except BlockingIOError:
            return
        except OSError:
            pass
        self.cut_after_s = time.monotonic() - self.begun_s
        self.sock.close()


def hurried(folder: Path, read_within_s: float) -> dict[str, str]:
    """An environment in which the server waits less long for a request, and is the same otherwise."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "from app.server import connections\n\n"
        f"connections.READ_WITHIN_S = connections.TAKE_WITHIN_S = {read_within_s}\n"
    )
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))}


def slow_kinds() -> dict[str, tuple[bytes, bytes]]:
    whole = head(line=b"GET /healthz HTTP/1.1") + b"\r\n"
    body_head = head(b"Content-Length: 60000") + b"\r\n"
    return {
        "a body a byte a second": (body_head, b"{"),
        "a body in chunks of a byte": (head(b"Transfer-Encoding: chunked") + b"\r\n", b"1\r\n{\r\n"),
        "a head a byte a second": (b"POST /callbacks?", b"x"),
        "nothing at all": (b"", b""),
        "half a head, then silence": (head(), b""),
        "half a body, then silence": (body_head + b'{"CallbackCommand"', b""),
        "a whole request and half a head in one piece": (whole + head(), b""),
        "a whole request and half a body in one piece": (whole + body_head + b"{", b""),
        "a whole request, then silence": (whole, b""),
    }


def test_slow_and_silent_connections_are_cut_while_others_are_served(tmp_path: Path) -> None:
    count = rounds(60, 500)
    read_within_s = READ_WITHIN_S if FULL else _QUICK_READ_WITHIN_S
    kinds = list(slow_kinds().items())
    env = None if FULL else hurried(tmp_path / "hurry", read_within_s)
    with Victim(tmp_path / "data", env={"ROOMLAPSE_IDLE_S": "5"} | (env or {})) as victim, no_traceback(victim):
        slow = [Slow(victim, *kinds[0][1]) for _ in range(count)]
        others = [(name, Slow(victim, *kind)) for name, kind in kinds for _ in range(2)]
        before = victim.memory_bytes()
        everybody = slow + [other for _, other in others]
        served, slowest_s = 0, 0.0
        deadline = time.monotonic() + read_within_s + _CUT_WITHIN_S
        while any(one.cut_after_s is None for one in everybody):
            assert time.monotonic() < deadline, f"{sum(one.cut_after_s is None for one in everybody)} are left"
            begin = time.monotonic()
            assert victim.post(body_of(f"r{served % 7}", T0 + served))[0] == 200
            assert victim.get("/healthz")[0] == 200
            slowest_s = max(slowest_s, time.monotonic() - begin)
            served += 1
            for one in everybody:
                one.go_on()
            time.sleep(0.25 if FULL else 0.1)
        grown = victim.memory_bytes() - before
        ends = [one.cut_after_s or 0.0 for one in everybody]
        assert min(one.cut_after_s or 0.0 for one in slow) >= read_within_s - 1.0, "cut too early"
        assert max(ends) <= (_CUT_WITHIN_S if FULL else read_within_s + 10.0), Counter(map(round, ends))
        assert grown < _FLAT_BYTES
        assert stored(victim) == (served, 0, 0)
        assert victim.stop() == 0
    assert_verified(tmp_path / "data")
    report(
        16,
        "slow and silent connections",
        f"{count} sockets that send a body byte by byte and {len(others)} that stop half-way, all cut after at most"
        f" {max(ends):.0f} s (limit set to {read_within_s:.0f} s); {served} callbacks of others served meanwhile",
        "0",
        f"{len(everybody)} connections cut",
    )


def test_who_asks_and_takes_no_answers_is_cut_and_keeps_little_memory(tmp_path: Path) -> None:
    count = rounds(10, 40)
    take_within_s = TAKE_WITHIN_S if FULL else _QUICK_READ_WITHIN_S
    env = None if FULL else hurried(tmp_path / "hurry", take_within_s)
    question = b"GET /events?limit=500 HTTP/1.1\r\n" + _HOST + b"\r\n"
    with Victim(tmp_path / "data", env=env) as victim, no_traceback(victim):
        for number in range(500):
            assert victim.post(body_of(f"r{number % 7}", T0 + number))[0] == 200
        size = len(victim.get("/events?limit=500")[1])
        asked = max(1, 16 * 2**20 // size)  # more than the system keeps of it
        before = victim.memory_bytes()
        poll = select.poll()
        left: dict[int, socket.socket] = {}
        for _ in range(count):
            sock = connect(victim)
            sock.sendall(question * asked)
            left[sock.fileno()] = sock
            poll.register(sock, 0)  # of its end alone
        begun_s, most, served, cut_s = time.monotonic(), 0, 0, list[float]()
        while left:
            waited_s = time.monotonic() - begun_s
            assert waited_s < take_within_s + _CUT_WITHIN_S, f"{len(left)} are left"
            for number, _ in poll.poll(0):
                poll.unregister(number)
                left.pop(number).close()
                cut_s.append(waited_s)
            assert victim.post(body_of("other", T0 + served))[0] == 200
            served += 1
            most = max(most, victim.memory_bytes() - before)
            time.sleep(0.1)
        assert min(cut_s) >= take_within_s - 1.0, "cut too early"
        assert most < _FLAT_BYTES
        # Who takes them slowly, but takes them, gets them all.
        with connect(victim) as sock:
            sock.sendall((question * 20)[:-2] + b"Connection: close\r\n\r\n")
            got, pause_s = 0, (take_within_s + 5) / 40
            while part := sock.recv(size // 2):
                got += len(part)
                time.sleep(pause_s if got < 20 * size else 0)
            assert got > 20 * size
        assert victim.stop() == 0
    assert_verified(tmp_path / "data")
    report(
        16,
        "clients that ask and take no answers",
        f"{count} sockets that ask for {asked * size / 2**20:.0f} MiB each, all cut after at most {max(cut_s):.0f} s"
        f" (limit set to {take_within_s:.0f} s), memory +{most / 2**20:.0f} MiB at the most; {served} callbacks of"
        " others served meanwhile; one that takes them slowly gets them all",
        "0",
        f"{count} connections cut",
    )


def twisted() -> dict[str, bytes]:
    """Requests whose end two readers would see at different places, each with a callback hidden behind that end."""
    hidden = callback(body_of("smuggled", T0))
    size = b"%x" % len(hidden)
    post = b"POST /callbacks?%s HTTP/1.1" % query_now().encode()
    return {
        "Content-Length and chunked": head(b"Content-Length: 4", b"Transfer-Encoding: chunked")
        + b"\r\n"
        + size
        + b"\r\n"
        + hidden
        + b"\r\n0\r\n\r\n",
        "chunked and Content-Length": head(b"Transfer-Encoding: chunked", b"Content-Length: 4")
        + b"\r\n0\r\n\r\n"
        + hidden,
        "two lengths": head(b"Content-Length: 0", b"Content-Length: %d" % len(hidden)) + b"\r\n" + hidden,
        "two lengths in one": head(b"Content-Length: 0, 0") + b"\r\n" + hidden,
        "a length below zero": head(b"Content-Length: -1") + b"\r\n" + hidden,
        "a length with a sign": head(b"Content-Length: +0") + b"\r\n" + hidden,
        "a length in hexadecimal": head(b"Content-Length: 0x0") + b"\r\n" + hidden,
        "a length beyond 64 bits": head(b"Content-Length: " + b"9" * 40) + b"\r\n" + hidden,
        "a space before the colon": head(b"Content-Length : 0") + b"\r\n" + hidden,
        "a folded header": head(b"X: a", b" Content-Length: 0") + b"\r\n" + hidden,
        "another encoding": head(b"Transfer-Encoding: xchunked") + b"\r\n0\r\n\r\n" + hidden,
        "chunked, then another encoding": head(b"Transfer-Encoding: chunked, identity") + b"\r\n0\r\n\r\n" + hidden,
        "a chunk's length beyond 64 bits": head(b"Transfer-Encoding: chunked") + b"\r\n" + b"F" * 17 + b"\r\n" + hidden,
        "a chunk's length with a sign": head(b"Transfer-Encoding: chunked") + b"\r\n-0\r\n\r\n" + hidden,
        "a chunk longer than it says": head(b"Transfer-Encoding: chunked") + b"\r\n1\r\n{}\r\n0\r\n\r\n" + hidden,
        "bare LF in a head": (head(b"Content-Length: 0") + b"\r\n").replace(b"\r\n", b"\n") + hidden,
        "bare LF behind one header": post + b"\r\n" + _HOST + b"X: y\nContent-Length: 0\r\n\r\n" + hidden,
        "bare CR behind one header": post + b"\r\n" + _HOST + b"X: y\rContent-Length: 0\r\n\r\n" + hidden,
        "bare LF in chunks": head(b"Transfer-Encoding: chunked") + b"\r\n2\n{}\n0\n\n" + hidden,
        "NUL in a header": head(b"X: a\0b") + b"\r\n" + hidden,
        "NUL in the request line": head(line=post.replace(b"callbacks", b"callbacks\0")) + b"\r\n" + hidden,
        "no version": post.rpartition(b" ")[0] + b"\r\n" + hidden,
        "HTTP/2 at once": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + hidden,
        "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + hidden,
        "a tunnel": head(line=b"CONNECT 127.0.0.1:1 HTTP/1.1") + b"\r\n" + hidden,
    }


def test_a_request_that_could_be_read_in_two_ways_is_refused_and_hides_nothing(tmp_path: Path) -> None:
    with Victim(tmp_path / "data", env={"ROOMLAPSE_IDLE_S": "5"}) as victim, no_traceback(victim):
        with connect(victim) as sock:  # what is hidden would be taken if it were seen
            sock.sendall(callback(body_of("plain", T0)))
            assert read_answer(sock)[0] == 200
        before = stored(victim)
        for name, data in twisted().items():
            with connect(victim) as sock:
                sock.sendall(data)
                answer = read_to_end(sock)  # the connection ends with it
            assert answer == b"" or answer.startswith(b"HTTP/1.1 400 "), (name, answer)
            assert answer.count(b"HTTP/1.1 ") <= 1, (name, answer)
            assert stored(victim) == before, name
        assert_serves(victim)
        assert victim.stop() == 0
    report(
        16,
        "requests with two possible ends (CL+TE, bare LF ...)",
        f"{len(twisted())} kinds, each with a callback hidden behind it",
        "0",
        "400 and cut each time, nothing hidden was read",
    )


def test_requests_that_come_in_one_packet_or_byte_by_byte_are_read_the_same(tmp_path: Path) -> None:
    count = rounds(20, 200)
    with Victim(tmp_path / "data") as victim, no_traceback(victim):
        with connect(victim, 60) as sock:
            packet = b"".join(callback(body_of("packet", T0 + number)) for number in range(count))
            sock.sendall(packet)
            answers = b""
            while answers.count(b'"ActionStatus":"OK"') < count:
                part = sock.recv(65536)
                assert part, answers[-300:]
                answers += part
            assert answers.count(b"HTTP/1.1 200 ") == count
        assert stored(victim) == (count, 0, 0)
        data = callback(body_of("bytes", T0))
        with connect(victim) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for number in range(len(data)):
                sock.sendall(data[number : number + 1])
            assert read_answer(sock)[0] == 200
        assert stored(victim) == (count + 1, 0, 0)
        assert victim.stop() == 0
    assert_verified(tmp_path / "data")
    report(16, "many callbacks in one packet, one in many", f"{count} and 1 callbacks", "0", "0")


# ---- row 18 ----

Spell = Callable[[str], str]
SPELLINGS: tuple[Spell, ...] = (str, str.lower, str.upper, str.swapcase, str.title)


def query_of(fields: dict[str, Any], spell: Spell = str) -> str:
    return "&".join(f"{spell(name)}={value}" for name, value in fields.items())


def signed_fields(ago_s: float, app_id: str = APP_ID) -> dict[str, Any]:
    request_time = str(int(time.time() - ago_s))
    return {"SdkAppid": app_id, "CallbackCommand": "x", "Sign": sign(TOKEN, request_time), "RequestTime": request_time}


def old_urls() -> Iterator[str]:
    """URLs that were right once, and will be right later, in any spelling."""
    for ago_s in (62, 120, 3600, 10**8, -63, -120):
        for spell in SPELLINGS:
            yield query_of(signed_fields(ago_s), spell)


def wrong_applications() -> Iterator[str]:
    others = ("1400000002", "", "0", f"0{APP_ID}", f"{APP_ID}0", f"%20{APP_ID}", f"{APP_ID}%00", f"{APP_ID}%0a", "None")
    for other in others:
        for spell in SPELLINGS:
            yield query_of(signed_fields(0, other), spell)
    right = query_of(signed_fields(0))
    yield right.replace("SdkAppid", "Sdk_Appid")
    yield right.replace(f"SdkAppid={APP_ID}&", "")
    yield f"{right}&sdkappid={APP_ID}"  # twice, in two spellings
    yield f"sdkAppId=1400000002&{right}"
    full_width = "".join(chr(0xFF10 + int(digit)) for digit in APP_ID)
    yield query_of({**signed_fields(0), "SdkAppid": "".join(f"%{byte:02x}" for byte in full_width.encode())})


def test_a_url_that_was_seen_is_of_no_use_after_a_minute_nor_for_another_application(tmp_path: Path) -> None:
    refused = 0
    with Victim(tmp_path / "data") as victim, no_traceback(victim):
        seen = query_now()
        seen_s = time.monotonic()
        assert victim.post(body_of("r", T0, RoomName="first"), query=seen)[0] == 200
        for number, spell in enumerate(SPELLINGS):  # our own, in any spelling, is taken
            assert victim.post(body_of("spelled", T0 + number), query=query_of(signed_fields(0), spell))[0] == 200
        before = stored(victim)
        forged = body_of("r", T0 + 99, RoomName="forged")
        for expected, queries in ((401, old_urls()), (403, wrong_applications())):
            for query in queries:
                for body in (forged, b"not json"):
                    status, answer = victim.post(body, query=query)
                    assert status == expected, (query, answer)
                    refused += 1
        if FULL:  # the very same URL, when its minute is over
            time.sleep(max(0.0, seen_s + 62 - time.monotonic()))
            for body in (forged, b"not json"):
                assert victim.post(body, query=seen)[0] == 401
                refused += 1
        assert stored(victim) == before, "something of it was stored or quarantined"
        assert json.loads(victim.get("/rooms/r")[1])["room_info"] == {"RoomName": "first"}
        assert victim.stop() == 0
    assert_verified(tmp_path / "data")
    waited = "; one used again after a real minute" if FULL else ""
    report(
        18,
        "a URL used again, or for another SDKAppID",
        f"{refused} callbacks with other bodies, parameter names in {len(SPELLINGS)} spellings{waited}",
        "0",
        f"{refused} of {refused}, nothing stored",
    )
