"""Rows 12 and 13: any order of arrival, duplicates, batches and crashes; and bugs that are seeded to see them caught.

The histories are those of `tests/test_properties.py` and `tests/test_crashes.py`; in full they are 10,000 here. Beside
them stand the writes that those do not take: a bulk append (an import), which puts the log's guard aside for a moment,
and a body's way out of quarantine.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import T0, body_of
from kit.crash import FailingConnection, PowerGone

import app.log.append
from app.infra import sqlite
from app.log import quarantine, schema
from app.log.audit import verify_log
from app.log.records import Arrival, Rejection
from app.log.store import EventStore
from app.tencent.body import decode
from faults.lib import FULL, report

ROOT = Path(__file__).parent.parent.parent
_HISTORIES = 10_000
in_full = pytest.mark.skipif(not FULL, reason="`make test` and `make rounds` run it in short; in full with FAULTS=full")


def run_tests(*args: str) -> str:
    """Run tests in a process of their own; what it said, which has to be that all passed."""
    env = {name: value for name, value in os.environ.items() if name != "FAULTS"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", *args],
        cwd=ROOT,
        env=env | {"HISTORIES": str(_HISTORIES)},
        capture_output=True,
        text=True,
        timeout=3600,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def passing_examples(output: str) -> list[int]:
    """How many histories each property was held against, as Hypothesis counts them."""
    return [int(count) for count in re.findall(r"generate phase.*?- (\d+) passing", output, re.DOTALL)]


@in_full
def test_ten_thousand_histories_give_the_oracles_answers_and_a_rebuilds_fingerprints() -> None:
    output = run_tests("tests/test_properties.py", "tests/test_crashes.py", "--hypothesis-show-statistics")
    answers, crashes = passing_examples(output)
    assert answers >= _HISTORIES
    assert crashes >= _HISTORIES // 4
    report(
        12,
        "any order of arrival, duplicates, batches; a crash between any two statements",
        f"{answers} histories against the oracle, each in two orders and rebuilt; {crashes} with a crash",
        "0",
        "0",
    )


@in_full
def test_each_seeded_bug_is_caught_and_without_one_nothing_is() -> None:
    output = run_tests("tests/test_seeded_bugs.py", "-vv")
    caught = re.findall(r"test_a_seeded_bug_is_caught\[(.+?)\] PASSED", output)
    assert "test_the_same_properties_hold_without_a_bug PASSED" in output
    for what in ("ties", "duplicates", "late event is skipped", "late event is folded", "checkpoint"):
        assert any(what in name for name in caught), f"no bug of this kind: {what}"
    report(
        13,
        "bugs seeded in ordering, dedup, late events, checkpoint and others",
        f"{len(caught)} bugs, all caught; nothing is reported without them",
        "-",
        "-",
    )


# ---- the writes that the properties do not take ----

_BODIES = [body_of("r", T0 + number, MaxMemberCount=number) for number in range(40)]


def arrivals_of(bodies: list[bytes]) -> list[Arrival]:
    return [Arrival(decode(body, T0 + 10**6), T0 + number) for number, body in enumerate(bodies)]


def state_of(log: EventStore) -> tuple[Any, ...]:
    """Everything that is in the log's file, the definitions of its tables and triggers included."""
    dump = [
        log.conn.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall() for table in ("events", "rejected", "meta")
    ]
    schema = sorted(log.conn.execute("SELECT type, name, sql FROM sqlite_schema").fetchall(), key=str)
    return (*dump, schema)


def crash_everywhere(path: Path, prepare: Callable[[EventStore], object], work: Callable[[EventStore], object]) -> int:
    """Let the process die before each of the statements of some work: the file holds all of it or nothing of it, and
    what stands there takes the work anew. Returns how many statements there were."""
    statements = 0
    while True:
        for file in path.parent.glob(f"{path.name}*"):
            file.unlink()
        log = EventStore(schema.open_log(path))
        prepare(log)
        before = state_of(log)
        dying: Any = FailingConnection(log.conn, statements)
        died = False
        try:
            work(EventStore(dying))
        except PowerGone:
            died = True
        log.close()
        log = EventStore(schema.open_log(path))
        try:
            if not died:
                assert state_of(log) != before
                return statements
            assert state_of(log) == before, f"something stays of a crash before statement {statements + 1}"
            work(log)
            assert verify_log(log) is None
            with pytest.raises(sqlite.Error, match="events only grows"):
                log.conn.execute(
                    "INSERT OR REPLACE INTO events (position, event_id, event_time_ms, received_at_ms, chain, body)"
                    " SELECT position, event_id, event_time_ms, received_at_ms, chain, body FROM events LIMIT 1"
                )
        finally:
            log.close()
        statements += 1


def test_a_crash_between_any_two_statements_of_a_bulk_append_leaves_all_or_nothing_and_the_guard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.log.append, "_BULK", 10)
    bulk = arrivals_of([*_BODIES, *_BODIES[:5], *_BODIES[3:9]])
    statements = crash_everywhere(
        tmp_path / "events.db", lambda log: log.append(arrivals_of(_BODIES[:6])), lambda log: log.append(bulk)
    )
    assert statements > len(_BODIES) - 6
    report(
        12,
        "a crash between any two statements of an import's commit",
        f"{statements} places: all of it or nothing, the guard against rewriting in place each time",
        "0",
        "0",
    )


def test_a_crash_between_any_two_statements_of_a_release_from_quarantine_leaves_the_body_in_one_place(
    tmp_path: Path,
) -> None:
    rejected = [Rejection(_BODIES[9], "EventTime is more than 10 min ahead of our clock", T0)]
    (arrival,) = arrivals_of(_BODIES[9:10])

    def release(log: EventStore) -> None:
        (row,) = quarantine.page(log.conn, None, 10)
        log.release(arrival, row.id)

    statements = crash_everywhere(
        tmp_path / "events.db", lambda log: log.append(arrivals_of(_BODIES[:6]), rejected), release
    )
    assert statements > 3
    report(
        12,
        "a crash between any two statements of a release from quarantine",
        f"{statements} places: the body is in the log or in quarantine, never in both or in neither",
        "0",
        "0",
    )
