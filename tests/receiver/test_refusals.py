"""What is said of refused callbacks: each reason by itself, within ten seconds and at stop, and never too much."""

import asyncio
import logging
import time
from typing import Any

import pytest
from conftest import APP_ID, T0, StartServer, body_of
from kit.socket_client import SocketClient
from kit.wait import wait_until

from app.receiver import refusals
from app.receiver.refusals import RefusalLog
from app.tencent.request import Refused

BAD = [b"not json", b"[]", b"{}", b'{"a":1,"a":2}', b'{"CallbackCommand":"Live.CallbackAfterUpdateRoomInfo"}']


def said(server: Any) -> list[dict[str, Any]]:
    return [record for record in server.records() if record["message"] == "callbacks refused"]


def test_five_bad_bodies_at_once_are_five_reasons_at_stop(start_server: StartServer) -> None:
    server = start_server(env={"ROOMLAPSE_CALLBACK_TOKENS": ""})
    for body in BAD:
        for _ in range(2):
            assert server.post(body, ClientIP="203.0.113.5").status_code == 400
    server.stop()
    records = said(server)
    counts: dict[str, int] = {}
    for record in records:
        counts[record["reason"]] = counts.get(record["reason"], 0) + record["count"]
        assert (record["outcome"], record["client_ip"], record["peer"]) == ("quarantined", "203.0.113.5", "127.0.0.1")
        assert (record["sdk_app_id"], record["path"]) == (APP_ID, "/callbacks")
    assert len(counts) == len(BAD)
    assert set(counts.values()) == {2}


@pytest.mark.slow
def test_each_reason_is_said_within_ten_seconds(start_server: StartServer) -> None:
    server = start_server()
    begin_s = time.monotonic()
    for body in BAD:
        server.post(body)
    wait_until(lambda: len({it["reason"] for it in said(server)}) == len(BAD), "all are said", timeout_s=11)
    assert time.monotonic() - begin_s < 11


def test_an_app_that_is_not_ours_is_named(start_server: StartServer) -> None:
    server = start_server(env={"ROOMLAPSE_CALLBACK_TOKENS": "a-callback-token"})
    assert server.client.post("/callbacks?SdkAppid=1400000666", content=b"{}").status_code == 403
    assert server.client.post(f"/callbacks?SdkAppid={APP_ID}&Sign=a-callback-token", content=b"{}").status_code == 401
    server.stop()
    assert {it["sdk_app_id"] for it in said(server)} == {"1400000666", APP_ID}
    assert "a-callback-token" not in server.logs()


def test_a_sender_that_hangs_up_is_counted_and_named(start_server: StartServer) -> None:
    server = start_server()
    with SocketClient(server.port) as client:
        head = b"POST /callbacks?SdkAppid=%s HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n" % APP_ID.encode()
        client.send(head + b'{"CallbackCommand"')
        time.sleep(0.1)
    counter = 'roomlapse_callbacks_total{outcome="incomplete"} 1.0'
    wait_until(lambda: counter in server.client.get("/metrics").text, "it is counted")
    server.stop()
    assert [it["outcome"] for it in said(server)] == ["incomplete"]


def scope_of(path: str) -> dict[str, Any]:
    return {"path": path, "query_string": b"SdkAppid=1", "client": ("203.0.113.1", 1)}


def test_a_flood_of_reasons_is_a_bounded_number_of_lines(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> RefusalLog:
        log = RefusalLog()
        for number in range(5000):
            log.note(Refused(404, f"reason {number}", "misdirected"), scope_of(f"/{number}"))
        log.close()
        return log

    with caplog.at_level(logging.WARNING):
        log = asyncio.run(run())
    assert len(caplog.records) <= refusals._MAX_KINDS + 2
    assert sum(record.__dict__["count"] for record in caplog.records) == 5000
    assert any(record.__dict__["reason"] == "other reasons" for record in caplog.records)
    latest = log.latest()
    assert [it.path for it in latest[:2]] == ["/4999", "/4998"]
    assert len(latest) == refusals._MAX_KEPT


def test_the_page_has_the_sum_and_the_latest_sender() -> None:
    async def run() -> RefusalLog:
        log = RefusalLog()
        for number in range(3):
            log.note(Refused(404, "x" * 1000, "misdirected"), {**scope_of("/"), "client": (f"203.0.113.{number}", 1)})
        log.note(Refused(200, "not stored", "unstored"), None)
        log.close()
        return log

    unstored, misdirected = asyncio.run(run()).latest()
    assert (unstored.outcome, unstored.peer, unstored.path) == ("unstored", None, "")
    assert (misdirected.count, misdirected.peer, misdirected.sdk_app_id) == (3, "203.0.113.2", "1")
    assert len(misdirected.reason) == 200


# ---- blocking commands ----

BLOCKING = [
    "Live.CallbackBeforeSendGift",
    "Group.CallbackBeforeSendMsg",
    "Sns.CallbackPrevFriendAdd",
    "Sns.CallbackPrevFriendResponse",
]
NOT_BLOCKING = [
    "Live.CallbackAfterUpdateRoomInfo",
    "State.StateChange",
    "Sns.CallbackFriendAdd",
    "Group.CallbackPreview",
]
SPOILT = [b"", b"not json", b"[1]", b'{"CallbackCommand":', b"\xff\xfe", b'{"a":1,"a":2}', b"[" * 5000]


@pytest.mark.parametrize("command", BLOCKING)
def test_a_blocking_command_is_ok_whatever_its_body(start_server: StartServer, command: str) -> None:
    server = start_server()
    for body in [*SPOILT, b'{"CallbackCommand":"%s"}' % command.encode(), b"x" * 70_000]:
        answer = server.post(body, CallbackCommand=command)
        assert (answer.status_code, answer.json()["ActionStatus"]) == (200, "OK"), body[:20]
    # Without the parameter, what can be seen of the body tells.
    for body in (b'{"CallbackCommand":"%s","a":1,"a":2}', b'{"CallbackCommand":"%s",'):
        answer = server.client.post(f"/callbacks?SdkAppid={APP_ID}", content=body % command.encode())
        assert answer.status_code == 200
    assert wait_until(lambda: server.get("/status")["events"] == 1)
    wait_until(lambda: server.get("/status")["rejected"] == len(SPOILT) + 2)
    metrics = server.client.get("/metrics").text
    assert "roomlapse_unstored_blocking_callbacks_total 1.0" in metrics  # the one that is too large to be kept


@pytest.mark.parametrize("command", NOT_BLOCKING)
def test_other_commands_wait_for_the_disk_and_are_refused_for_their_body(
    start_server: StartServer, command: str
) -> None:
    server = start_server()
    assert server.post(b"not json", CallbackCommand=command).status_code == 400
    assert server.post(b"x" * 70_000, CallbackCommand=command).status_code == 413
    assert server.client.post("/callbacks?SdkAppid=1&CallbackCommand=Sns.CallbackPrevX", content=b"").status_code == 403
    assert (
        server.client.post("/callbacks?SdkAppid=1&CallbackCommand=Sns.CallbackPrevX", content=b"x" * 70_000).status_code
        == 413
    )


def test_a_callback_after_a_refused_one_is_taken(start_server: StartServer) -> None:
    server = start_server()
    assert server.post(b"not json").status_code == 400
    assert server.post(body_of("r", T0)).status_code == 200
