"""The demo starts, says what to try, answers it, takes the sender's callbacks, and ends in both ways."""

import json
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from conftest import PROGRAM, UPDATE, environment, run
from kit.wait import wait_until

SAMPLE = Path(__file__).parent.parent.parent / "data" / "sample-callbacks.jsonl"


@pytest.fixture
def demo() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [PROGRAM, "demo", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment(),
    )
    yield process
    if process.poll() is None:
        process.kill()
    process.wait(10)
    assert process.stdout is not None
    process.stdout.close()


def introduction_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "Ctrl-C ends it" in line:
            return "".join(lines)
    raise AssertionError(f"the demo ended: {lines}")


def test_what_it_says_to_try_works_and_ctrl_c_ends_it(demo: subprocess.Popen[str]) -> None:
    said = introduction_of(demo)
    requests = [shlex.split(line.removeprefix("  Try "))[1] for line in said.splitlines() if "curl" in line]
    assert len(requests) == 3
    for request in requests:
        assert httpx.get(request).status_code == 200, request
    opened = re.search(r"Open +(\S+)", said)
    assert opened is not None
    assert httpx.get(opened[1]).status_code == 200
    status = f"{opened[1]}status"
    head = httpx.get(status).json()["head"]
    wait_until(lambda: httpx.get(status).json()["head"] > head, "the simulated sender adds to it")
    demo.send_signal(signal.SIGINT)
    assert demo.wait(15) == 0


def test_it_ends_by_itself() -> None:
    done = run("demo", "--port", "0", "--for", "1")
    assert done.returncode == 0, done.stderr
    assert b"ends by itself after 1 s" in done.stdout
    assert done.stdout.endswith(b"demo ended\n")


def test_a_taken_port_is_said_without_a_traceback(demo: subprocess.Popen[str]) -> None:
    port = re.search(r"Open +\S+:(\d+)/", introduction_of(demo))
    assert port is not None
    done = run("demo", "--port", port[1])
    assert done.returncode == 1
    assert b"in use" in done.stderr
    assert b"Traceback" not in done.stderr


def test_the_sample_is_the_evening_it_is_said_to_be() -> None:
    lines = [json.loads(line) for line in SAMPLE.read_text().splitlines()]
    bodies = [json.loads(line["body"]) for line in lines]
    updates = [body for body in bodies if body["CallbackCommand"] == UPDATE]
    assert any(body["EventTime"] == 1670574414123 and body["RoomInfo"]["RoomName"] == "rname-123" for body in updates)
    assert len({body["RoomInfo"]["RoomId"] for body in updates}) == 12
    assert len({line["body"] for line in lines}) < len(lines), "no repeated delivery"
    assert any(len(body["RoomInfo"]) == 2 for body in updates), "no patch"
    received = [line["received_at_ms"] for line in lines]
    assert received == sorted(received)
    happened = [body["EventTime"] for body in updates]
    assert happened != sorted(happened), "nothing late"
    assert {body["RoomInfo"].get("IsPublicVisible") for body in updates} >= {True, False}
    assert len(bodies) > len(updates), "no other command"
