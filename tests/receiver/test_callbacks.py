"""The receiver over HTTP: what is accepted, what is refused with which status, and what is kept of it (contract, 2)."""

import base64
import hashlib
import http.client
import json
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import httpx
import pytest
from conftest import APP_ID, T0, UPDATE, Server, body_of
from oracle import canonical
from prometheus_client.parser import text_string_to_metric_families

from app.tencent.request import sign

OK = {"ActionStatus": "OK", "ErrorInfo": "", "ErrorCode": 0}
LIMIT = 65_536
TOKENS = ("token-new-8f2e", "token-old-77aa")

# The sample of the vendor's page, repaired: its comma and its comment.
SAMPLE = b"""{"CallbackCommand":"Live.CallbackAfterUpdateRoomInfo","Operator_Account":"bob",
 "RoomInfo":{"RoomId":"live-room","RoomName":"rname-123","MaxMemberCount":300,"IsMessageDisabled":false,
  "CoverURL":"https://xxxx.png","Category":[1,2,3],"ActivityStatus":1,"IsPublicVisible":false,
  "TakeSeatMode":"ApplyToTake","CustomInfo":"custom123"},
 "EventTime":1670574414123}"""
SAMPLE_AS_PUBLISHED = SAMPLE.replace(b'},\n "EventTime":1670574414123', b'}\n "EventTime":1670574414123 // ms')


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("receiver") / "data") as server:
        yield server


@pytest.fixture(scope="module")
def signed_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    env = {"ROOMLAPSE_CALLBACK_TOKENS": ",".join(TOKENS)}
    with Server(tmp_path_factory.mktemp("signed") / "data", env=env) as server:
        yield server


def event_id_of(body: bytes) -> str:
    return hashlib.sha256(canonical(json.loads(body)).encode()).hexdigest()


def kept(server: Server) -> tuple[int, int, int]:
    """How many events, duplicates and quarantined bodies there are."""
    status = server.get("/status")
    return status["events"], status["duplicates"], status["rejected"]


def metric(server: Server, name: str, **labels: str) -> float:
    text = server.client.get("/metrics").text
    (value,) = [
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and sample.labels == labels
    ]
    return value


def post_query(server: Server, query: str, body: bytes) -> httpx.Response:
    return server.client.post(f"/callbacks?{query}", content=body)


def room_path(room_id: str) -> str:
    return "/rooms/" + quote(room_id, safe="").replace(".", "%2E")


def assert_accepted(response: httpx.Response) -> None:
    assert (response.status_code, response.json()) == (200, OK)
    assert response.headers["content-type"] == "application/json"


def assert_refused(response: httpx.Response, status_code: int) -> str:
    """A refusal of the contract's shape; its reason."""
    assert response.status_code == status_code, response.text
    assert response.headers["content-type"] == "application/json"
    answer = response.json()
    assert set(answer) == {"ActionStatus", "ErrorInfo", "ErrorCode"}
    assert answer["ActionStatus"] == "FAIL"
    assert isinstance(answer["ErrorCode"], int)
    assert answer["ErrorCode"] != 0
    reason = answer["ErrorInfo"]
    assert isinstance(reason, str)
    assert len(reason) > 10
    return reason


def padded(size: int, room_id: str) -> bytes:
    """A valid body of exactly so many bytes."""
    bare = len(body_of(room_id, T0, CustomInfo=""))
    body = body_of(room_id, T0, CustomInfo="x" * (size - bare))
    assert len(body) == size
    return body


def in_chunks(body: bytes) -> Iterator[bytes]:
    """As an iterator, a body goes out with Transfer-Encoding: chunked."""
    yield body[: len(body) // 2]
    yield body[len(body) // 2 :]


def update(room_info: Any = None, event_time: Any = T0, **more: Any) -> bytes:
    content = {"CallbackCommand": UPDATE, "RoomInfo": room_info, "EventTime": event_time, **more}
    return json.dumps(content).encode()


def nested(levels: int) -> bytes:
    """A valid update, nested so many levels deep: the body and RoomInfo are two of them."""
    inner = "[" * (levels - 2) + "]" * (levels - 2)
    return body_of("deep", T0, CustomInfo="@").replace(b'"@"', inner.encode())


# ---- size ----


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_of_64_kib_is_accepted(server: Server, chunked: bool) -> None:
    body = padded(LIMIT, f"big-{chunked}")
    content = in_chunks(body) if chunked else body
    assert_accepted(server.client.post("/callbacks", params={"SdkAppid": APP_ID}, content=content))
    assert server.get(f"/events/{event_id_of(body)}")["body"] == body.decode()


@pytest.mark.parametrize("chunked", [False, True])
def test_one_byte_more_is_413_and_nothing_is_kept(server: Server, chunked: bool) -> None:
    before = kept(server)
    body = padded(LIMIT + 1, "too-big")
    content = in_chunks(body) if chunked else body
    assert_refused(server.client.post("/callbacks", params={"SdkAppid": APP_ID}, content=content), 413)
    assert kept(server) == before


def test_a_declared_size_above_the_limit_is_413_before_the_body_comes(server: Server) -> None:
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=10)
    connection.putrequest("POST", f"/callbacks?SdkAppid={APP_ID}")
    connection.putheader("Content-Length", str(10**12))
    connection.endheaders()
    response = connection.getresponse()
    assert response.status == 413
    assert json.loads(response.read())["ActionStatus"] == "FAIL"
    connection.close()


def test_size_is_checked_before_the_application(server: Server) -> None:
    assert_refused(post_query(server, "SdkAppid=1400009999", padded(LIMIT + 1, "too-big")), 413)


# ---- SdkAppid ----


@pytest.mark.parametrize("name", ["SdkAppid", "SdkAppId", "sdkappid", "SDKAPPID"])
def test_sdk_app_id_is_found_in_any_case(server: Server, name: str) -> None:
    assert_accepted(post_query(server, f"{name}={APP_ID}", body_of(f"case-{name}", T0)))


@pytest.mark.parametrize(
    "query",
    [
        "",
        "SdkAppid=",
        "SdkAppid=1400009999",
        f"SdkAppid={APP_ID}0",
        f"SdkAppid={APP_ID[:-1]}",
        f"SdkAppid={APP_ID}%20",
        f"SdkAppid={APP_ID}&sdkappid=1400009999",
        "SdkAppid=%D9%A1%FF",
        "&".join(f"a{number}=1" for number in range(1000)) + f"&SdkAppid={APP_ID}",
    ],
)
def test_another_application_is_403_and_nothing_is_kept(server: Server, query: str) -> None:
    before = kept(server)
    assert_refused(post_query(server, query, body_of("foreign", T0)), 403)
    assert_refused(post_query(server, query, b"not json"), 403)
    assert kept(server) == before


def test_only_sdk_app_id_is_needed_and_the_rest_of_the_query_is_kept_beside(server: Server) -> None:
    bare, full = body_of("query", T0, RoomName="bare"), body_of("query", T0, RoomName="full")
    assert_accepted(post_query(server, f"SdkAppid={APP_ID}", bare))
    # The command of the URL differs from the body's on the vendor's own pages: the body decides.
    query = f"sdkappid={APP_ID}&CallbackCommand=Live.Other&contenttype=json&clientip=203.0.113.9&OPTPLATFORM=iPad"
    assert_accepted(post_query(server, query, full))
    first, second = (server.get(f"/events/{event_id_of(body)}") for body in (bare, full))
    assert (first["client_ip"], first["platform"], first["command"]) == (None, None, UPDATE)
    assert (second["client_ip"], second["platform"], second["command"]) == ("203.0.113.9", "iPad", UPDATE)


# ---- tokens ----


def signed(token: str, offset_s: int = 0, **changes: str | None) -> str:
    """A query signed `offset_s` from now, with some parameters replaced or (None) left out."""
    request_time = str(int(time.time()) + offset_s)
    fields = {"SdkAppid": APP_ID, "RequestTime": request_time, "Sign": sign(token, request_time), **changes}
    return urlencode({name: value for name, value in fields.items() if value is not None})


@pytest.mark.parametrize("token", TOKENS)
def test_each_of_two_tokens_may_sign(signed_server: Server, token: str) -> None:
    body = body_of("signed", T0, RoomName=token)
    assert_accepted(post_query(signed_server, signed(token), body))
    assert signed_server.get(f"/events/{event_id_of(body)}")["body"] == body.decode()


@pytest.mark.parametrize("offset_s", [-50, 50])
def test_a_clock_less_than_a_minute_off_is_no_problem(signed_server: Server, offset_s: int) -> None:
    assert_accepted(post_query(signed_server, signed(TOKENS[0], offset_s), body_of("clock", T0 + offset_s)))


def test_sign_and_request_time_are_found_in_any_case(signed_server: Server) -> None:
    query = signed(TOKENS[0]).replace("Sign", "SIGN").replace("RequestTime", "requesttime")
    assert_accepted(post_query(signed_server, query, body_of("signed-case", T0)))


def unsigned_queries() -> dict[str, str]:
    token = TOKENS[0]
    now = str(int(time.time()))
    good = sign(token, now)
    arabic = now.translate({ord("0") + digit: 0x660 + digit for digit in range(10)})
    return {
        "wrong token": signed("another token"),
        "no sign": signed(token, Sign=None),
        "no time": signed(token, RequestTime=None),
        "neither": f"SdkAppid={APP_ID}",
        "empty sign": signed(token, Sign=""),
        "upper case": signed(token, RequestTime=now, Sign=good.upper()),
        "cut": signed(token, RequestTime=now, Sign=good[:-1]),
        "not ascii": signed(token, RequestTime=now, Sign="é" * 64),
        "sign of another second": signed(token, RequestTime=now, Sign=sign(token, str(int(now) - 1))),
        "65 s old": signed(token, -65),
        "65 s ahead": signed(token, 65),
        "published in 2022": signed(token, RequestTime="1669872112", Sign=sign(token, "1669872112")),
        "milliseconds": signed(token, RequestTime=now + "000", Sign=sign(token, now + "000")),
        "nine digits": signed(token, RequestTime=now[:-1], Sign=sign(token, now[:-1])),
        "space": signed(token, RequestTime=f"{now} ", Sign=sign(token, f"{now} ")),
        "line break": signed(token, RequestTime=f"{now}\n", Sign=sign(token, f"{now}\n")),
        "sign character": signed(token, RequestTime=f"+{now[1:]}", Sign=sign(token, f"+{now[1:]}")),
        "other digits": signed(token, RequestTime=arabic, Sign=sign(token, arabic)),
        "two signs": f"{signed(token, RequestTime=now, Sign=good)}&Sign={good}",
        "two times": f"{signed(token, RequestTime=now, Sign=good)}&RequestTime={now}",
        "moved digit": signed(token + now[0], RequestTime=now[1:], Sign=good),
    }


@pytest.mark.parametrize("case", list(unsigned_queries()))
def test_a_bad_signature_is_401_and_nothing_is_kept(signed_server: Server, case: str) -> None:
    before = kept(signed_server)
    query = unsigned_queries()[case]  # made now: the clock has moved since the tests were collected
    assert_refused(post_query(signed_server, query, body_of("unsigned", T0)), 401)
    assert_refused(post_query(signed_server, query, b"not json"), 401)
    assert kept(signed_server) == before


def test_the_application_is_checked_before_the_signature(signed_server: Server) -> None:
    assert_refused(post_query(signed_server, "SdkAppid=1400009999", body_of("unsigned", T0)), 403)


def test_a_signed_bad_body_is_quarantined(signed_server: Server) -> None:
    events, duplicates, rejected = kept(signed_server)
    assert_refused(post_query(signed_server, signed(TOKENS[1]), b"not json, but signed"), 400)
    assert kept(signed_server) == (events, duplicates, rejected + 1)
    assert signed_server.get("/rejected", limit=1)["rejected"][0]["body"] == "not json, but signed"


# ---- bodies ----

GOOD = body_of("r", T0, RoomName="name")
BAD_JSON = {
    "empty": b"",
    "white space": b" \n\t ",
    "null": b"null",
    "array": b"[" + GOOD + b"]",
    "number": b"1670574414123",
    "string": b'"Live.CallbackAfterUpdateRoomInfo"',
    "cut off": GOOD[:-1],
    "something behind": GOOD + b"{}",
    "NUL behind": GOOD + b"\0",
    "as published": SAMPLE_AS_PUBLISHED,
    "single quotes": GOOD.replace(b'"', b"'"),
    "trailing comma": GOOD[:-1] + b",}",
    "form": b"CallbackCommand=Live.CallbackAfterUpdateRoomInfo&RoomId=r",
    "raw line break in a string": GOOD.replace(b"name", b"na\nme"),
    "not UTF-8": GOOD.replace(b"name", b"na\xff\xfeme"),
    "Latin-1": GOOD.replace(b"name", "näme".encode("latin-1")),
    "overlong UTF-8": GOOD.replace(b"name", b"na\xc0\xafme"),
    "surrogate in UTF-8": GOOD.replace(b"name", b"na\xed\xa0\x80me"),
    "UTF-16": GOOD.decode().encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf" + GOOD,
    "lone surrogate": GOOD.replace(b"name", rb"\ud800"),
    "lone surrogate in a key": GOOD.replace(b"RoomName", rb"\udfff"),
    "NaN": GOOD.replace(b'"name"', b"NaN"),
    "Infinity": GOOD.replace(b'"name"', b"Infinity"),
    "minus Infinity": GOOD.replace(b'"name"', b"-Infinity"),
    "leading zero": GOOD.replace(b'"name"', b"007"),
    "hexadecimal": GOOD.replace(b'"name"', b"0x7"),
    "beyond a double": GOOD.replace(b'"name"', b"1e999"),
    "a number without end": GOOD.replace(b'"name"', b"9" * 60_000),
    "repeated key": GOOD.replace(b'"RoomName"', b'"RoomId": "other", "RoomName"'),
    "65 levels": nested(65),
    "20,000 levels": nested(20_000),
    "20,000 open brackets": b"[" * 20_000,
    "20,000 open braces": b'{"a":' * 10_000,
}
NO_COMMAND = {
    "no command": b"{}",
    "null": update({"RoomId": "r"}, CallbackCommand=None),
    "number": update({"RoomId": "r"}, CallbackCommand=7),
    "array": update({"RoomId": "r"}, CallbackCommand=[UPDATE]),
    "other case": GOOD.replace(b"CallbackCommand", b"callbackcommand"),
}
BAD_ROOM = {
    "no RoomInfo": b'{"CallbackCommand":"%s","EventTime":1670574414123}' % UPDATE.encode(),
    "RoomInfo null": update(None),
    "RoomInfo array": update([{"RoomId": "r"}]),
    "RoomInfo string": update('{"RoomId":"r"}'),
    "RoomId at the top only": update({"RoomName": "n"}, RoomId="r"),
    "RoomId empty": update({"RoomId": ""}),
    "RoomId null": update({"RoomId": None}),
    "RoomId number": update({"RoomId": 7}),
    "RoomId array": update({"RoomId": ["r"]}),
    "RoomId with a slash": update({"RoomId": "a/b"}),
    "RoomId a slash": update({"RoomId": "/"}),
    "RoomId with NUL": update({"RoomId": "a\0b"}),
    "RoomId of 129 bytes": update({"RoomId": "r" * 129}),
    "RoomId of 43 characters and 129 bytes": update({"RoomId": "房" * 43}),
}
BAD_TIME = {
    "missing": b'{"CallbackCommand":"%s","RoomInfo":{"RoomId":"r"}}' % UPDATE.encode(),
    "null": update({"RoomId": "r"}, None),
    "string in seconds": update({"RoomId": "r"}, str(T0 // 1000)),
    "string with a space": update({"RoomId": "r"}, f" {T0}"),
    "float": update({"RoomId": "r"}, 1670574414123.0),
    "exponent": GOOD.replace(b"1670574414123", b"1670574414123e0"),
    "true": update({"RoomId": "r"}, True),
    "array": update({"RoomId": "r"}, [T0]),
    "seconds": update({"RoomId": "r"}, 1_670_574_414),
    "just below": update({"RoomId": "r"}, 10**11 - 1),
    "zero": update({"RoomId": "r"}, 0),
    "negative": update({"RoomId": "r"}, -T0),
    "microseconds": update({"RoomId": "r"}, T0 * 1000),
    "2^63": update({"RoomId": "r"}, 2**63),
    "200 digits": update({"RoomId": "r"}, 10**200),
}
ALL_BAD = {
    f"{kind}: {case}": body
    for kind, bodies in {"json": BAD_JSON, "command": NO_COMMAND, "room": BAD_ROOM, "time": BAD_TIME}.items()
    for case, body in bodies.items()
}


@pytest.mark.parametrize("case", list(ALL_BAD))
def test_a_bad_body_is_400_and_in_quarantine_byte_for_byte(server: Server, case: str) -> None:
    events, duplicates, rejected = kept(server)
    before_ms = time.time_ns() // 1_000_000
    response = server.post(ALL_BAD[case], ClientIP="198.51.100.4", OptPlatform="Web")
    reason = assert_refused(response, 400)
    assert kept(server) == (events, duplicates, rejected + 1)
    (newest,) = server.get("/rejected", limit=1)["rejected"]
    assert base64.b64decode(newest["body_base64"]) == ALL_BAD[case]
    assert newest["reason"] == reason
    assert before_ms <= newest["received_at_ms"] <= time.time_ns() // 1_000_000
    assert (newest["client_ip"], newest["platform"]) == ("198.51.100.4", "Web")


def test_event_time_may_be_ten_minutes_ahead_of_our_clock_and_no_more(server: Server) -> None:
    now_ms = time.time_ns() // 1_000_000
    assert_accepted(server.post(body_of("ahead", now_ms + 590_000)))
    reason = assert_refused(server.post(body_of("ahead", now_ms + 630_000)), 400)
    assert "ahead" in reason
    assert server.get("/rooms/ahead")["events"] == 1


def test_event_time_may_be_long_ago(server: Server) -> None:
    assert_accepted(server.post(body_of("1973", 10**11)))
    assert server.get("/rooms/1973")["event_time_ms"] == 10**11


def test_64_levels_of_nesting_are_accepted_and_brackets_in_strings_are_none(server: Server) -> None:
    assert_accepted(server.post(nested(64)))
    value = server.get("/rooms/deep")["room_info"]["CustomInfo"]
    levels = 0
    while value:
        (value,) = value
        levels += 1
    assert levels == 61  # of 62 lists the innermost is empty
    name = '[{"\\' * 500
    assert_accepted(server.post(body_of("brackets", T0, RoomName=name)))
    assert server.get("/rooms/brackets")["room_info"] == {"RoomName": name}


ODD_ROOM_IDS = [
    " ",
    " a  b ",
    "?",
    "a?b=c&d",
    "#",
    "a#b",
    "%",
    "%41",
    "a%2Fb",
    "%252F",
    "+",
    "a+b c",
    ".",
    "..",
    "...",
    "a.b",
    "房间-七",
    "Ночной эфир",
    "🎉👩‍👩‍👧",
    "é",
    "e\u0301",
    "\u202eabc",
    "\t\n\r\x7f",
    '"',
    "'; DROP TABLE events; --",
    "\\",
    "<script>alert(1)</script>".replace("/", "\\"),
    "{room_id}",
    "history",
    "stream",
    ":",
    "a;b",
    "r" * 64,
    "房" * 21 + "x",
    "r" * 128,
    "房" * 42 + "xx",
]


@pytest.mark.parametrize("room_id", ODD_ROOM_IDS)
def test_odd_room_ids_are_read_back_through_every_route(server: Server, room_id: str) -> None:
    assert_accepted(server.post(body_of(room_id, T0, RoomName="odd", IsPublicVisible=True)))
    path = room_path(room_id)
    room = server.get(path)
    assert room["room_id"] == room_id
    assert room["room_info"] == {"RoomName": "odd", "IsPublicVisible": True}
    assert [change["event_time_ms"] for change in server.get(f"{path}/history")["changes"]] == [T0]
    assert server.get(f"{path}/change-counts")["room_id"] == room_id
    assert server.get(f"{path}/visibility")["room_id"] == room_id
    assert set(server.get(f"{path}/diff", **{"from": 0, "to": T0})["changed"]) == {"RoomName", "IsPublicVisible"}
    assert room_id in [found["room_id"] for found in server.get("/rooms", q=room_id, limit=500)["rooms"]]


# ---- identity ----


def test_a_duplicate_is_ok_counted_and_stored_once(server: Server) -> None:
    content = json.loads(body_of("twice", T0, RoomName="ü", Category=[1, 2], Deep={"b": 1, "a": 2}))
    bodies = [
        json.dumps(content).encode(),
        json.dumps(content, ensure_ascii=False).encode(),
        json.dumps(content, indent=3).encode(),
        json.dumps(dict(reversed(content.items())), separators=(",", ":")).encode(),
        json.dumps(content, sort_keys=True).encode() + b"\n",
    ]
    assert len(set(bodies)) == len(bodies)
    events, duplicates, rejected = kept(server)
    accepted = metric(server, "roomlapse_callbacks_total", outcome="accepted")
    again = metric(server, "roomlapse_duplicates_total")
    for number, body in enumerate(bodies):
        assert_accepted(server.post(body, ClientIP=f"192.0.2.{number}", OptPlatform="iOS" if number else "Web"))
    assert kept(server) == (events + 1, duplicates + 4, rejected)
    assert metric(server, "roomlapse_callbacks_total", outcome="accepted") == accepted + 1
    assert metric(server, "roomlapse_duplicates_total") == again + 4
    stored = server.get(f"/events/{event_id_of(bodies[0])}")
    assert stored["body"] == bodies[0].decode()  # the first, as it came
    assert (stored["client_ip"], stored["platform"]) == ("192.0.2.0", "Web")
    assert server.get("/rooms/twice")["events"] == 1


@pytest.mark.parametrize("other", ["1.0", "true", '"1"', "[1]", "null"])
def test_values_that_differ_in_type_alone_are_not_duplicates(server: Server, other: str) -> None:
    room_id = f"type {other}".replace('"', "'")
    one = body_of(room_id, T0, ActivityStatus=1)
    another = one.replace(b'"ActivityStatus": 1', f'"ActivityStatus": {other}'.encode())
    assert one != another
    for body in (one, another):
        assert_accepted(server.post(body))
    assert server.get(room_path(room_id))["events"] == 2


@pytest.mark.parametrize(
    "body",
    [
        b' \n{ "CallbackCommand" : "%s",\t"RoomInfo":{"RoomId":"exact","X":"\\u00e9\\/"},'
        b'"EventTime":1670574414123 }\r\n' % UPDATE.encode(),
        b'{"EventTime":1670574414124,"Operator_Account":123456789012345678901234567890,"CallbackCommand":"%s",'
        b'"RoomInfo":{"X":1.10e2,"RoomId":"exact"}}' % UPDATE.encode(),
        body_of("exact", T0 + 2, RoomName="\u0000\u007f\u2028😀"),
    ],
)
def test_the_body_is_kept_exactly_as_it_came(server: Server, body: bytes) -> None:
    assert_accepted(server.post(body))
    assert server.get(f"/events/{event_id_of(body)}")["body"].encode() == body


def test_an_operator_beyond_2_to_the_53rd_is_never_rounded(server: Server) -> None:
    body = body_of("operator", T0, operator=2**53 + 1, RoomName="n")
    assert_accepted(server.post(body))
    exact = str(2**53 + 1)
    for path in (f"/events/{event_id_of(body)}", "/rooms/operator", "/rooms/operator/history"):
        assert f'"operator":{exact}' in server.client.get(path).text


# ---- the published sample, and its siblings ----


def test_the_published_sample_is_accepted_and_four_questions_answer_about_it(server: Server) -> None:
    at, event_id = 1_670_574_414_123, event_id_of(SAMPLE)
    assert_accepted(server.post(SAMPLE, ClientIP="203.0.113.7", OptPlatform="RESTAPI"))
    fields = json.loads(SAMPLE)["RoomInfo"]
    del fields["RoomId"]
    assert len(fields) == 9
    room = server.get("/rooms/live-room")
    assert room == {
        "room_id": "live-room",
        "room_info": fields,
        "fields": {name: {"set_at_ms": at, "event_id": event_id, "operator": "bob"} for name in fields},
        "event_id": event_id,
        "event_time_ms": at,
        "events": 1,
        "as_of_ms": None,
        "known_at_ms": None,
    }
    (change,) = server.get("/rooms/live-room/history")["changes"]
    assert change["changed"] == {name: {"to": value} for name, value in fields.items()}
    assert (change["event_id"], change["event_time_ms"], change["operator"]) == (event_id, at, "bob")
    assert (change["platform"], change["late"]) == ("RESTAPI", False)
    assert server.get("/rooms/live-room/change-counts") == {
        "room_id": "live-room",
        "counts": {
            name: {"observations": 1, "changes": 0, "first_seen_ms": at, "last_changed_ms": None} for name in fields
        },
    }
    assert server.get("/rooms/live-room/visibility", to=at + 1000) == {
        "room_id": "live-room",
        "intervals": [{"from_ms": at, "to_ms": at + 1000, "public": False}],
        "public_ms": 0,
        "hidden_ms": 1000,
        "window": {"from_ms": at, "to_ms": at + 1000},
    }


SIBLINGS: list[tuple[dict[str, Any], str | None]] = [
    (
        {
            "CallbackCommand": "Live.CallbackAfterCreateRoom",
            "RoomInfo": {"RoomId": "sibling", "Owner_Account": "anna", "RoomType": "Live", "CreateTime": 1670574414},
        },
        "sibling",
    ),
    (
        {
            "CallbackCommand": "Live.CallbackAfterDestroyRoom",
            "RoomId": "sibling",
            "EventType": "DestroyByUser",
            "RoomInfo": {"RoomId": "sibling", "RoomName": "gone"},
            "EventTime": T0 + 5,
        },
        "sibling",
    ),
    (
        {
            "CallbackCommand": "Live.CallbackAfterSetMetadata",
            "RoomId": "sibling",
            "Metadata": [{"Key": "k", "Value": "v"}],
            "EventTime": T0 + 1,
        },
        "sibling",
    ),
    (
        {
            "CallbackCommand": "Live.CallbackAfterMemberStateChanged",
            "RoomId": "sibling",
            "EventType": "Online",
            "MemberList": [{"Member_Account": "eve"}],
            "EventTime": T0 + 2,
        },
        "sibling",
    ),
    (
        {
            "CallbackCommand": "Live.CallbackAfterCreateRoomReachingThreshold",
            "CurRoomCount": 90,
            "MaxRoomCount": 100,
            "EventTime": T0 + 3,
        },
        None,
    ),
    ({"CallbackCommand": "Live.CallbackBeforeSendGift", "RoomId": 17, "EventTime": "soon"}, None),
    ({"CallbackCommand": "Group.CallbackBeforeSendMsg", "GroupId": "@TGS#1", "RoomInfo": ["?"]}, None),
    ({"CallbackCommand": ""}, None),
]


@pytest.mark.parametrize(("content", "room_id"), SIBLINGS, ids=[content["CallbackCommand"] for content, _ in SIBLINGS])
def test_another_command_is_stored_as_it_is(server: Server, content: dict[str, Any], room_id: str | None) -> None:
    body = json.dumps(content).encode()
    head = server.get("/status")["head"]
    before_ms = time.time_ns() // 1_000_000
    assert_accepted(server.post(body))
    while not (events := server.get("/events", after=head)["events"]):
        time.sleep(0.01)  # one that holds up a user is answered before it is stored
    (event,) = events
    assert event["position"] == head + 1
    assert event["event_id"] == event_id_of(body)
    assert (event["command"], event["room_id"]) == (content["CallbackCommand"], room_id)
    if isinstance(content.get("EventTime"), int):
        assert event["event_time_ms"] == content["EventTime"]
    else:
        assert event["event_time_ms"] == event["received_at_ms"] >= before_ms
    assert server.get(f"/events/{event['event_id']}")["body"] == body.decode()


def test_other_commands_are_no_updates_of_a_room(server: Server) -> None:
    for content in (
        {"CallbackCommand": "Live.CallbackAfterDestroyRoom", "RoomId": "left-alone", "EventTime": T0 + 9},
        {"CallbackCommand": "Live.CallbackAfterSetMetadata", "RoomId": "never-updated", "EventTime": T0 + 9},
    ):
        assert_accepted(server.post(json.dumps(content).encode()))
    assert_accepted(server.post(body_of("left-alone", T0, RoomName="n")))
    room = server.get("/rooms/left-alone")
    assert (room["events"], room["event_time_ms"], room["room_info"]) == (1, T0, {"RoomName": "n"})
    assert server.client.get("/rooms/never-updated").status_code == 404


# ---- the route ----


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_callbacks_come_by_post_only(server: Server, method: str) -> None:
    before = kept(server)
    response = server.client.request(method, f"/callbacks?SdkAppid={APP_ID}")
    assert_refused(response, 405)
    assert response.headers["allow"] == "POST"
    assert kept(server) == before


def test_one_bad_event_harms_nobody_else(server: Server) -> None:
    for number in range(3):
        assert_accepted(server.post(body_of("neighbour", T0 + number, RoomName=str(number))))
        assert_refused(server.post(body_of("neighbour", number, RoomName="bad")), 400)
    assert server.get("/rooms/neighbour")["room_info"] == {"RoomName": "2"}
    assert server.get("/rooms/neighbour")["events"] == 3


# ---- many at a time ----


def test_300_at_once_share_commits_and_each_ok_is_in_the_log(server: Server) -> None:
    bodies = [body_of(f"crowd-{number % 7}", T0 + number, RoomName=f"n{number}") for number in range(300)]
    head = server.get("/status")["head"]
    commits, callbacks = (metric(server, f"roomlapse_commit_callbacks_{part}") for part in ("count", "sum"))
    barrier = threading.Barrier(len(bodies))
    answers: dict[int, tuple[int, Any]] = {}

    def post(number: int) -> None:
        connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=30)
        connection.connect()
        barrier.wait(30)
        connection.request("POST", f"/callbacks?SdkAppid={APP_ID}", bodies[number])
        response = connection.getresponse()
        answers[number] = (response.status, json.loads(response.read()))
        connection.close()

    threads = [threading.Thread(target=post, args=(number,)) for number in range(len(bodies))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [answers.get(number) for number in range(len(bodies))] == [(200, OK)] * len(bodies)

    page = server.get("/events", after=head, limit=500)
    assert page["head"] == head + 300
    assert [event["position"] for event in page["events"]] == list(range(head + 1, head + 301))
    assert {event["event_id"] for event in page["events"]} == {event_id_of(body) for body in bodies}
    received = [event["received_at_ms"] for event in page["events"]]
    assert received == sorted(received)
    assert metric(server, "roomlapse_commit_callbacks_sum") == callbacks + 300
    assert metric(server, "roomlapse_commit_callbacks_count") - commits < 300


def test_every_ok_is_seen_by_the_next_question(server: Server) -> None:
    for number in range(100):
        body = body_of("own-writes", T0 + number * (-1) ** number, RoomName=f"n{number}", Seen=number)
        assert_accepted(server.post(body))
        event_id = event_id_of(body)
        match number % 4:
            case 0:
                assert server.get("/rooms/own-writes")["events"] == number + 1
            case 1:
                changes = server.get("/rooms/own-writes/history", limit=500)["changes"]
                assert event_id in [change["event_id"] for change in changes]
            case 2:
                counts = server.get("/rooms/own-writes/change-counts")["counts"]
                assert counts["Seen"]["observations"] == number + 1
            case 3:
                assert server.get(f"/events/{event_id}")["body"] == body.decode()
    assert server.get("/rooms/own-writes")["room_info"]["RoomName"] == "n98"  # the latest in event order
