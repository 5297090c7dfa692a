"""The rate limit: buckets of tokens with a clock that is given; what a server limits, and what it never does."""

import json
import random
import time
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import APP_ID, T0, Server, StartServer, body_of
from kit.wait import wait_until

from app.infra import rate_limit
from app.infra.errors import BadSettings
from app.infra.rate_limit import RateLimit
from app.infra.settings import read_rate_limit
from app.tencent.sender import signed_query

TOKEN = "limits-token"
ELSEWHERE = "198.51.100.7"


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def answer_if(server: Server, path: str, *, limited: bool) -> httpx.Response | None:
    """Ask once; the answer if it is one of the limit, or if it is none."""
    response = server.client.get(path)
    return response if (response.status_code == 429) is limited else None


def asked_by(address: str | None) -> Any:
    return {"type": "http", "client": None if address is None else (address, 40_000)}


def allowed(limit: RateLimit, times: int, address: str | None = ELSEWHERE) -> int:
    """How many of so many requests at once are let through."""
    return sum(limit.allows(asked_by(address)) for _ in range(times))


def test_a_burst_of_five_seconds_is_let_through_and_then_so_many_a_second() -> None:
    clock = Clock()
    limit = RateLimit(10, clock=clock)
    assert allowed(limit, 200) == 50
    for seconds, expected in ((0.0625, 0), (0.0625, 1), (0.5, 5), (1, 10), (2, 20), (5, 50), (3600, 50)):
        clock.now_s += seconds
        assert allowed(limit, 200) == expected, seconds


def test_what_is_refused_costs_nothing() -> None:
    clock = Clock()
    limit = RateLimit(1, clock=clock)
    assert allowed(limit, 1000) == 5
    clock.now_s += 1
    assert allowed(limit, 1000) == 1


def test_less_than_one_a_second_is_a_limit_too() -> None:
    clock = Clock()
    limit = RateLimit(0.5, clock=clock)
    assert allowed(limit, 10) == 2  # two and a half
    clock.now_s += 1
    assert allowed(limit, 10) == 1
    clock.now_s += 2
    assert allowed(limit, 10) == 1


@pytest.mark.parametrize("seed", range(5))
def test_over_any_time_no_more_are_let_through_than_the_burst_and_the_rate(seed: int) -> None:
    clock = Clock()
    pick = random.Random(seed)
    limit = RateLimit(7, clock=clock)
    begin, count = clock.now_s, 0
    for _ in range(2000):
        clock.now_s += pick.choice([0.0, 0.01, 0.1, pick.random()])
        count += allowed(limit, pick.randint(1, 3))
        assert count <= 35 + 7 * (clock.now_s - begin) + 1e-6
    assert count >= 7 * (clock.now_s - begin) * 0.8  # there were enough to use it up


def test_each_address_has_a_bucket_of_its_own() -> None:
    limit = RateLimit(2, clock=Clock())
    assert allowed(limit, 50, "198.51.100.1") == 10
    assert allowed(limit, 50, "198.51.100.2") == 10
    assert allowed(limit, 50, "2001:db8::1") == 10
    assert allowed(limit, 50, "198.51.100.1") == 0


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_this_machine_is_a_proxy_perhaps_and_limited_only_if_everyone_is(address: str) -> None:
    assert allowed(RateLimit(1, clock=Clock()), 100, address) == 100
    assert allowed(RateLimit(1, everyone=True, clock=Clock()), 100, address) == 5


@pytest.mark.parametrize("address", [ELSEWHERE, "10.0.0.1", "2001:db8::1", "::ffff:198.51.100.7", "fe80::1%eth0"])
def test_other_machines_are_limited(address: str) -> None:
    assert allowed(RateLimit(1, clock=Clock()), 100, address) == 5


def test_zero_is_no_limit_and_who_has_no_address_is_not_counted() -> None:
    assert allowed(RateLimit(0, everyone=True, clock=Clock()), 10_000) == 10_000
    assert allowed(RateLimit(1, everyone=True, clock=Clock()), 10_000, None) == 10_000


def test_the_addresses_that_are_remembered_are_bounded_and_the_busy_one_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limit, "_MAX_ADDRESSES", 100)
    limit = RateLimit(1, clock=Clock())
    assert allowed(limit, 50) == 5
    for number in range(5000):
        limit.allows(asked_by(f"2001:db8:0:{number:x}::1"))
        assert allowed(limit, 1) == 0  # who asks all the time is not forgotten
        assert len(limit._buckets) <= 100
    for number in range(100):
        limit.allows(asked_by(f"2001:db8:1:{number:x}::1"))
    assert allowed(limit, 50) == 5  # who does not is, and begins anew


def test_a_network_of_ipv6_addresses_is_one_asker() -> None:
    limit = RateLimit(1, clock=Clock())
    assert [limit.allows(asked_by(f"2001:db8::{number:x}")) for number in range(6)] == [True] * 5 + [False]


# ---- a running server ----


def test_signed_callbacks_are_never_limited_whoever_sends_wrong_ones(start_server: StartServer) -> None:
    """One address sends both, as a proxy would, a hundred times as many wrong ones as the limit lets be answered."""
    wrong = 2000
    server = start_server(env={"ROOMLAPSE_CALLBACK_TOKENS": TOKEN, "ROOMLAPSE_RATE_LIMIT": "5"})
    connection = HTTPConnection("127.0.0.1", int(server.url.rpartition(":")[2]), timeout=30)
    answers: dict[int, int] = {}
    taken = 0

    def post(body: bytes, query: str) -> tuple[int, dict[str, Any]]:
        connection.request("POST", f"/callbacks?{query}", body)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())

    begin_s = time.monotonic()
    for number in range(wrong):
        query = signed_query(APP_ID, "another-token" if number % 2 else TOKEN, time.time(), "203.0.113.7", "Web")
        if not number % 2:
            query = query.replace(f"SdkAppid={APP_ID}", "SdkAppid=1")
        status, answer = post(b"{}", query)
        assert answer["ActionStatus"] == "FAIL"
        assert answer["ErrorCode"] == status
        answers[status] = answers.get(status, 0) + 1
        if number % 10 == 0:
            right = signed_query(APP_ID, TOKEN, time.time(), "203.0.113.7", "Web")
            assert post(body_of("r", T0 + number), right)[0] == 200, f"after {number} wrong ones"
            assert post(b"bad %d" % number, right)[0] == 400
            taken += 1
    seconds = time.monotonic() - begin_s
    connection.close()
    assert set(answers) == {401, 403, 429}
    assert answers[401] + answers[403] <= 25 + 5 * (seconds + 1)
    assert answers[429] > wrong // 2
    # Of questions the bucket is as empty: it fills again.
    response = wait_until(lambda: answer_if(server, "/status", limited=False), every_s=0.3)
    assert (response.json()["events"], response.json()["rejected"]) == (taken, taken)
    lines = [line for line in server.logs().splitlines() if "callbacks refused" in line]
    assert len(lines) <= 4 * (2 + seconds / 10)  # four outcomes, a line each in ten seconds


def test_questions_beyond_the_limit_are_429_and_say_when_to_ask_again(start_server: StartServer) -> None:
    server = start_server(env={"ROOMLAPSE_RATE_LIMIT": "10"})
    assert server.post(body_of("r", T0)).status_code == 200
    assert 429 not in {server.client.get("/healthz").status_code for _ in range(50)}, "the burst"
    for path in ("/status", "/rooms/r", "/rooms/nobody", "/nothing", "/healthz", "/schema", "/rooms?x", "/metrics"):
        response = wait_until(lambda path=path: answer_if(server, path, limited=True), f"{path} is limited", every_s=0)  # type: ignore[misc]
        assert response.headers["retry-after"] == "1"
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.json().keys() == {"status_code", "detail"}
        wait_until(lambda path=path: answer_if(server, path, limited=False), "the bucket fills again", every_s=0.05)  # type: ignore[misc]
    assert server.post(body_of("r", T0 + 1)).status_code == 200


def test_zero_switches_it_off_and_by_default_this_machine_is_not_limited(
    start_server: StartServer, tmp_path: Path
) -> None:
    wrong = signed_query(APP_ID, "another-token", time.time(), "203.0.113.7", "Web")
    for name, env in (("none", {}), ("zero", {"ROOMLAPSE_RATE_LIMIT": "0"})):
        server = start_server(data=tmp_path / name, env={"ROOMLAPSE_CALLBACK_TOKENS": TOKEN, **env})
        connection = HTTPConnection("127.0.0.1", int(server.url.rpartition(":")[2]), timeout=30)
        for method, path, status in (("GET", "/healthz", 200), ("POST", f"/callbacks?{wrong}", 401)):
            for number in range(600):  # more than the default's burst
                connection.request(method, path, b"")
                answer = connection.getresponse()
                answer.read()
                assert answer.status == status, (name, path, number)
        connection.close()
        server.stop()


@pytest.mark.parametrize("value", ["-1", "x", "nan", "inf", "1e10", "1,5"])
def test_a_limit_that_is_no_number_is_wrong_usage(value: str) -> None:
    with pytest.raises(BadSettings, match="ROOMLAPSE_RATE_LIMIT"):
        read_rate_limit({"ROOMLAPSE_RATE_LIMIT": value})
