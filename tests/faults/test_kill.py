"""Row 1: the server's whole process group is killed at a random moment while callbacks come."""

import random
import time
from pathlib import Path

from faults.lib import Load, Victim, assert_exact, kept, report, rounds

_BACK_WITHIN_S = 5.0


def test_kill_under_load_loses_nothing(tmp_path: Path) -> None:
    count = rounds(5, 100)
    pick = random.Random(1)
    data = tmp_path / "data"
    slowest_s = 0.0
    with Victim(data) as first:
        load = Load(first.port)
        load.__enter__()
        victim = first
        try:
            for number in range(count):
                load.wait_for_answers(pick.randint(20, 200))
                victim.kill()
                begin = time.monotonic()
                victim = Victim(data)
                slowest_s = max(slowest_s, time.monotonic() - begin)
                load.port = victim.port
                assert kept(data, load.snapshot()).lost == 0, f"after kill {number + 1}"
        finally:
            sent = load.stop()
            victim.stop()
    found = assert_exact(data, sent)
    assert slowest_s < _BACK_WITHIN_S
    assert found.answered_ok > 10 * count
    report(
        1,
        "kill -9 under load",
        f"{count} kills, {found.answered_ok} callbacks answered OK, back within {slowest_s:.1f} s",
        str(found.lost),
        f"{sent.unanswered()} unanswered, {found.unknown} of them stored",
    )
