"""Row 6 goes on: the log's file or its directory goes away under a running server. And ends that are not tidy."""

import os
import shutil
import signal
import time
from pathlib import Path

from conftest import body_of, projectors_of
from kit.wait import wait_until

from app.tencent.body import decode
from faults.disk_fault import DiskFault
from faults.lib import Sent, Victim, assert_exact, now_ms, report


def send(victim: Victim, sent: Sent, number: int) -> int:
    """Send a callback; the status of its answer."""
    body = body_of(f"room-{number}", now_ms(), RoomName=f"Name {number}")
    status, _ = victim.post(body)
    sent.answers.setdefault(decode(body, now_ms()).event_id, []).append(status)
    return status


def is_red(victim: Victim) -> bool:
    status, answer = victim.get("/readyz")
    return status == 503 and b'"ready":false' in answer


def test_a_log_that_was_removed_takes_no_callback(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with Victim(data) as victim:
        assert send(victim, Sent(), 1) == 200
        for file in data.glob("events.db*"):
            file.unlink()
        answers = [send(victim, Sent(), number) for number in range(2, 7)]
        assert answers == [503] * 5
        wait_until(lambda: is_red(victim))
        assert not (data / "events.db").exists(), "a new log was begun in the place of the one that is gone"
        assert "Traceback" not in victim.logs()
        victim.stop()
    report(6, "the log's file is removed under a running server", "5 callbacks", "0", "all 5; readiness red")


def test_a_directory_that_was_moved_away_is_not_begun_anew_and_is_taken_again_when_it_is_back(tmp_path: Path) -> None:
    data, away = tmp_path / "data", tmp_path / "away"

    def bring_back() -> None:
        shutil.rmtree(data, ignore_errors=True)
        away.rename(data)

    with Victim(data) as victim:
        fault = DiskFault(victim, "no database")
        with fault.broken(lambda: data.rename(away), bring_back, may_be_stored=True):
            fault.assert_refuses()
            data.mkdir()  # as a mount point without its disk
            fault.assert_refuses()
            assert list(data.glob("events.db*")) == []
        found = fault.end()
    report(
        6,
        "the data directory is moved away and comes back",
        f"{found.answered_ok} answered OK",
        str(found.lost),
        f"{fault.refused}, every one meanwhile; sent again each is there once",
    )


def test_a_second_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    sent = Sent()
    with Victim(tmp_path / "data") as victim:
        assert send(victim, sent, 1) == 200
        for _ in range(3):
            victim.process.send_signal(signal.SIGINT)
            time.sleep(0.02)
        assert victim.stop() == 0
        assert "Traceback" not in victim.logs()
    assert_exact(tmp_path / "data", sent)


def test_a_projector_that_stands_still_does_not_hold_up_the_end(tmp_path: Path) -> None:
    sent = Sent()
    with Victim(tmp_path / "data") as victim:
        assert send(victim, sent, 1) == 200
        (projector,) = projectors_of(victim.data)
        os.kill(projector, signal.SIGSTOP)
        assert send(victim, sent, 2) == 200
        assert victim.stop() == 0
        assert not Path(f"/proc/{projector}").exists()
    assert_exact(tmp_path / "data", sent)
    report(9, "SIGTERM while the projector stands still", "1 time", "0", "0")
