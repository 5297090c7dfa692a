"""Row 7: syncing the log to disk fails for a while, then works. Row 8: syncing takes long; and a projector that stands
still, since whoever waits for it must not hold up the callbacks either.

The server runs with slow_sync.c before its fsync and fdatasync, which a file switches while it runs.
"""

import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from conftest import projectors_of

from app.projector.process import WAKE
from faults.batches import (
    Batches,
    ask_together,
    assert_blocking_is_answered_at_once,
    blocking_body,
    events_of,
    metric,
    post_all,
    readiness,
    run_tool,
    wait_until_ready,
)
from faults.disk_fault import DiskFault
from faults.lib import FULL, Load, Victim, assert_exact, no_traceback, report, rounds

_ANSWERED_WITHIN_S = 2.0 if FULL else 2.8  # the sender waits 2 s; a busy machine is given some more, not 3 s
_READS_WAIT_S = 9.0  # they give up after 5 s
_MEGABYTE = 2**20
_MAY_WAIT = 64 * _MEGABYTE

_NOT_SYNCED = """
from app.infra import sqlite

_as_it_is = sqlite.open_writer


def open_writer(path, *, synchronous, **more):
    return _as_it_is(path, synchronous="OFF", **more)


sqlite.open_writer = open_writer
"""
"""Python runs it before the program: the program has no such setting."""


class Syncs:
    """The switch: what becomes of the syncs of the files of events.db."""

    def __init__(self, folder: Path, library: Path) -> None:
        self._control = folder / "sync-control"
        self._hits = folder / "sync-hits"
        self.env = {
            "LD_PRELOAD": str(library),
            "SLOW_SYNC_CONTROL": str(self._control),
            "SLOW_SYNC_HITS": str(self._hits),
        }

    def fail(self) -> None:
        """They fail with EIO from now on."""
        self._switch("events.db fail")

    def take(self, milliseconds: int) -> None:
        """They take so much longer from now on."""
        self._switch(f"events.db sleep {milliseconds}")

    def work(self) -> None:
        """They are again what they were."""
        self._switch("")

    def hits(self) -> int:
        """How many syncs have been touched up to now."""
        return self._hits.stat().st_size if self._hits.exists() else 0

    def _switch(self, text: str) -> None:
        new = self._control.with_suffix(".new")
        new.write_text(text)
        new.replace(self._control)  # nobody reads half of it


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """slow_sync.c, compiled."""
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler (cc)")
    compiled = tmp_path_factory.mktemp("slow-sync") / "slow_sync.so"
    source = Path(__file__).with_name("slow_sync.c")
    run_tool("cc", "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-o", str(compiled), str(source), "-ldl")
    return compiled


@pytest.fixture
def syncs(tmp_path: Path, library: Path) -> Syncs:
    return Syncs(tmp_path, library)


# ---- row 7 ----


def test_while_syncing_fails_whole_batches_are_refused_and_sent_again_they_are_there_once(
    tmp_path: Path, syncs: Syncs
) -> None:
    data = tmp_path / "data"
    begin = time.monotonic()
    with Victim(data, env=syncs.env) as victim, no_traceback(victim):
        fault = DiskFault(victim, "I/O error", threads=32)
        for _ in range(rounds(3, 30)):
            hits = syncs.hits()
            with fault.broken(syncs.fail, syncs.work, may_be_stored=True):
                fault.assert_refuses()
                assert syncs.hits() > hits, "no sync was touched: the test shows nothing"
            assert metric(victim, "roomlapse_commit_failures_total") > 0
        assert_failures_are_said(victim, begin)
        found = fault.end()
    report(
        7,
        "fsync fails (EIO), then works",
        f"{fault.times} times, {found.answered_ok} callbacks answered OK in the end, taken again within"
        f" {fault.slowest_s:.1f} s without a restart",
        str(found.lost),
        f"{fault.refused} while it failed, every one of them; sent again each is there once",
    )


def assert_failures_are_said(victim: Victim, begin_s: float) -> None:
    """One in ten seconds, however many there are, and of those said that they are over."""
    messages = [str(record["message"]).partition(":")[0] for record in victim.records()]
    failed = messages.count("commit failed")
    assert 1 <= failed <= 1 + (time.monotonic() - begin_s) / 10
    assert messages.count("commits succeed again") == failed


def test_syncing_that_fails_now_and_then_under_load_loses_nothing(tmp_path: Path, syncs: Syncs) -> None:
    """The failures begin and end in the midst of batches, and the server is killed after the last one."""
    count = rounds(8, 200)
    data = tmp_path / "data"
    with Victim(data, env=syncs.env) as victim, no_traceback(victim):
        with Load(victim.port, seed=7) as load:
            for _ in range(count):
                load.wait_for_answers(60)
                syncs.fail()
                load.wait_for_answers(20)
                syncs.work()
            load.wait_for_answers(60)
            syncs.fail()
            load.wait_for_answers(20)
            sent = load.stop()
        assert syncs.hits() >= count
        victim.kill()
    syncs.work()
    found = assert_exact(data, sent)
    assert sent.refused() > 0
    assert found.answered_ok > count
    report(
        7,
        "fsync fails now and then under load, killed while it fails",
        f"{count} times, {found.answered_ok} callbacks answered OK",
        str(found.lost),
        f"{sent.refused()}; {found.unknown} of these callbacks stored all the same",
    )


def test_without_syncing_the_same_failures_go_unnoticed(tmp_path: Path, syncs: Syncs) -> None:
    """The control: a program that does not sync before it answers would be caught by the first test."""
    folder = tmp_path / "not-synced"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(_NOT_SYNCED)
    with Victim(tmp_path / "data", env=syncs.env | {"PYTHONPATH": str(folder)}) as victim:
        batches = Batches(victim)
        syncs.fail()
        answers = batches.send(50)
        syncs.work()
    assert 200 in answers
    assert 503 not in answers
    report(
        7,
        "the same without syncing (the control: it has to go unnoticed)",
        f"{len(answers)} callbacks, all answered OK while fsync could not work",
        "as it would be",
        "0",
    )


# ---- row 8 ----


@pytest.mark.parametrize("milliseconds", [50, 500])
def test_slow_syncs_make_larger_batches_and_nothing_is_refused(tmp_path: Path, syncs: Syncs, milliseconds: int) -> None:
    """In the full form the WAL grows until commits end with a checkpoint, which syncs two times more."""
    sizes: dict[str, float] = {}
    for name, count in (("fast", 4000), ("slow", 4000)) if FULL else (("slow", 200),):
        data = tmp_path / name
        with Victim(data, env=syncs.env) as victim, no_traceback(victim):
            batches = Batches(victim, threads=100)
            assert batches.send_one() == 200  # the commit that begins a WAL syncs twice
            if name == "slow":
                syncs.take(milliseconds)
            hits, before = syncs.hits(), _commits(victim)
            answers = Counter(batches.send(count))
            assert answers == {200: count}, f"{name}: {answers}, slowest {batches.slowest_s} s"
            callbacks, commits = (after - was for after, was in zip(_commits(victim), before, strict=True))
            sizes[name] = callbacks / commits
            assert (syncs.hits() > hits) == (name == "slow")
            syncs.work()
            assert victim.stop() == 0
        found = assert_exact(data, batches.sent)
    assert batches.slowest_s >= milliseconds / 1000
    assert sizes["slow"] > sizes.get("fast", 10)
    a_commit = ", ".join(f"{size:.0f} a commit when it is {name}" for name, size in sizes.items())
    report(
        8,
        f"fsync takes {milliseconds} ms",
        f"{found.answered_ok} callbacks from 100 connections, "
        + a_commit
        + f"; slowest answer {batches.slowest_s:.1f} s",
        str(found.lost),
        f"{batches.sent.refused()}",
    )


def _commits(victim: Victim) -> tuple[float, float]:
    """How many callbacks have been committed, and in how many commits."""
    return metric(victim, "roomlapse_commit_callbacks_sum"), metric(victim, "roomlapse_commit_callbacks_count")


def test_with_syncs_that_take_longer_than_the_sender_waits_callbacks_are_refused_fast(
    tmp_path: Path, syncs: Syncs
) -> None:
    slowest_s = 0.0
    blocking = refused = 0
    failures = set()
    with Victim(tmp_path / "data", env=syncs.env) as victim, no_traceback(victim):
        fault = DiskFault(victim, threads=50)
        hits = syncs.hits()
        with fault.broken(lambda: syncs.take(3000), syncs.work, may_be_stored=True):
            for _ in range(rounds(2, 30)):
                answers = fault.batches.send(500)
                assert set(answers) == {503}, "a commit of 3 s cannot be answered in time"
                refused += len(answers)
                slowest_s = max(slowest_s, fault.batches.slowest_s)
                assert_blocking_is_answered_at_once(victim)
                blocking += 1
                failures.add(readiness(victim)[1])
                assert victim.get("/healthz")[0] == 200
            assert syncs.hits() > hits
            assert "the disk is slow" in failures
            assert slowest_s < _ANSWERED_WITHIN_S
        found = fault.end()
    report(
        8,
        "fsync takes 3000 ms",
        f"{refused} callbacks while it did, slowest refusal {slowest_s:.1f} s, {blocking} blocking ones between them"
        f" answered OK at once; all taken again {fault.slowest_s:.1f} s after it was fast, without a restart",
        str(found.lost),
        f"{refused}; sent again each is there once",
    )


def test_what_waits_for_a_slow_disk_takes_a_bounded_memory(tmp_path: Path, syncs: Syncs) -> None:
    """Callbacks that are answered at once do not slow their sender down: only a bound keeps them from piling up."""
    data = tmp_path / "data"
    bytes_each, bodies_each = 60_000, 200
    with Victim(data, env=syncs.env) as victim, no_traceback(victim):
        batches = Batches(victim)
        assert set(batches.send(100)) == {200}
        memory_before = memory_most = victim.memory_bytes()
        syncs.take(3000)
        slowest_s = 0.0
        sent = 0
        for _ in range(rounds(11, 60)):
            bodies = [blocking_body(number, bytes_each) for number in range(sent, sent + bodies_each)]
            answers = post_all(victim, bodies, threads=8)
            assert {status for status, _ in answers} == {200}
            slowest_s = max(slowest_s, *(took_s for _, took_s in answers))
            sent += len(answers)
            memory_most = max(memory_most, victim.memory_bytes())
        unstored = metric(victim, "roomlapse_unstored_blocking_callbacks_total")
        assert unstored > 0, "there was room for all: the test shows nothing"
        grown = memory_most - memory_before
        assert grown < _MAY_WAIT + 48 * _MEGABYTE  # SQLite's cache, and a batch on its way into it
        assert slowest_s < _ANSWERED_WITHIN_S
        syncs.work()
        wait_until_ready(victim, batches)
        assert set(batches.send(100)) == {200}
        assert victim.stop() == 0
    found = assert_exact(data, batches.sent)
    report(
        8,
        "fsync takes 3000 ms while blocking callbacks of 60 kB pour in",
        f"{sent} callbacks ({sent * bytes_each / _MEGABYTE:.0f} MiB) all answered OK, slowest {slowest_s:.1f} s; memory"
        f" +{grown / _MEGABYTE:.0f} MiB at the most",
        str(found.lost),
        f"{unstored:.0f} of them counted as not known to be stored",
    )


# ---- a projector that stands still ----


@contextmanager
def standing_still(process_id: int) -> Iterator[None]:
    os.kill(process_id, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process_id, signal.SIGCONT)


def test_a_projector_that_stands_still_holds_up_queries_only_and_those_not_for_ever(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with Victim(data) as victim, no_traceback(victim):
        batches = Batches(victim)
        assert set(batches.send(100)) == {200}
        assert events_of(victim, "room-0") == (200, 5)
        (projector,) = projectors_of(victim.data)
        with standing_still(projector):
            # What tells it of a commit is a pipe, which is full some day: here at once.
            pipe = os.open(f"/proc/{projector}/fd/0", os.O_WRONLY | os.O_NONBLOCK)
            with suppress(BlockingIOError):
                while True:
                    os.write(pipe, WAKE)
            os.close(pipe)
            before = _commits(victim)[1]
            for _ in range(rounds(2, 40)):
                assert set(batches.send(250)) == {200}
            commits = _commits(victim)[1] - before
            begin = time.monotonic()
            statuses = ask_together([lambda: events_of(victim, "room-0")[0]] * 8)
            waited_s = time.monotonic() - begin
            assert set(statuses) == {503}
            assert waited_s < _READS_WAIT_S
            assert victim.get("/events?limit=1")[0] == 200
            assert readiness(victim)[0] == 503
        assert set(batches.send(20)) == {200}
        wait_until_ready(victim, batches)
        assert events_of(victim, "room-0") == (200, batches.of_room(0))
        assert victim.stop() == 0
    found = assert_exact(data, batches.sent)
    report(
        8,
        "the projector stands still (kill -STOP)",
        f"{commits:.0f} commits and {found.answered_ok} callbacks answered OK meanwhile; queries 503 after"
        f" {waited_s:.1f} s; all there after kill -CONT",
        str(found.lost),
        f"{batches.sent.refused()}",
    )
