"""Group commit on a real log: what a failed commit does, to whom, and how the writer goes on."""

import asyncio
import json
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import APP_ID, T0, body_of
from kit.wait import wait_until

from app.infra import sqlite
from app.infra.errors import DiskSlow, Overloaded
from app.infra.metrics import Metrics
from app.log import quarantine, schema, wal
from app.log.records import GENESIS, Appended, Arrival, Rejection, next_chain
from app.log.store import EventStore
from app.receiver import housekeeping, waiting
from app.receiver.callbacks import Receiver
from app.receiver.group_commit import GroupCommit
from app.receiver.waiting import ANSWER_WITHIN_S, MAX_BATCH, MAX_WAITING
from app.tencent.body import decode

Spoil = Callable[[EventStore], None]
Outcome = Appended | None | BaseException


def arrival(number: int, **fields: Any) -> Arrival:
    return Arrival(decode(body_of(f"room-{number % 5}", T0 + number, **fields), T0), T0 + number)


def make_read_only(store: EventStore) -> None:
    store.conn.execute("PRAGMA query_only = ON")


def fill_disk(store: EventStore) -> None:
    """Let the database grow by eight pages and no further: SQLite answers as it does on a full disk."""
    (pages,) = store.conn.execute("PRAGMA page_count").fetchone()
    store.conn.execute(f"PRAGMA max_page_count = {pages + 8}")


class Opener:
    """Opens the log; the first stores are spoiled, or do not open at all (None)."""

    def __init__(self, folder: Path, *spoils: Spoil | None) -> None:
        self.path = folder / "events.db"
        self.spoils = list(spoils)
        self.opened = 0

    def __call__(self) -> EventStore:
        self.opened += 1
        spoil: Spoil | None = keep
        if self.spoils:
            spoil = self.spoils.pop(0)
        if spoil is None:
            raise sqlite.Error("unable to open database file")
        store = EventStore(schema.open_log(self.path))
        spoil(store)
        return store

    def reader(self) -> EventStore:
        return EventStore(sqlite.open_reader(self.path))


def keep(store: EventStore) -> None:
    """Leave a store as it is."""


class Harness:
    """A GroupCommit and what it counts."""

    def __init__(self, folder: Path, *spoils: Spoil | None) -> None:
        self.opener = Opener(folder, *spoils)
        self.metrics = Metrics()
        self.commits_seen = 0
        self.commits = GroupCommit(self.opener, self.metrics, self._on_commit)

    def _on_commit(self) -> None:
        self.commits_seen += 1

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run to the end, within a minute. A failed test leaves no thread behind, which would hold up pytest."""
        try:
            return asyncio.run(asyncio.wait_for(work, 60))
        except BaseException:
            if self.commits._thread.is_alive():
                self.commits.stop()
            raise

    async def submit_all(self, *items: Arrival | Rejection) -> list[Outcome]:
        """Submit items together and wait for all of them."""
        return await asyncio.gather(*[self.commits.submit(item) for item in items], return_exceptions=True)

    async def submit_when_taken(self, item: Arrival) -> Appended | None:
        """Submit an item again and again until there is room for it, and wait for it."""
        while True:
            with suppress(Overloaded):
                return await self.commits.submit(item)
            await asyncio.sleep(0.01)

    async def as_first_batch(self, *items: Arrival | Rejection) -> list[Outcome]:
        """Submit items before the writer runs, so that they are one batch; then start it and wait for them."""
        futures = [self.commits.submit(item) for item in items]
        self.commits.start()
        return await asyncio.gather(*futures, return_exceptions=True)

    def stored(self) -> list[str]:
        """The bodies in the log, by a reader of its own; the chain is checked on the way."""
        reader = self.opener.reader()
        chain, bodies = GENESIS, []
        for position, record in enumerate(reader.tail(0, 10_000), start=1):
            chain = next_chain(chain, record.event_id, record.received_at_ms, record.body)
            assert (record.position, record.chain) == (position, chain)
            bodies.append(record.body)
        reader.close()
        return bodies

    def quarantined(self) -> list[bytes]:
        reader = self.opener.reader()
        bodies = [row.body for row in quarantine.page(reader.conn, None, 100)]
        reader.close()
        return bodies


def test_what_waits_together_is_one_commit_and_each_hears_its_own_outcome(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    one, two = arrival(1), arrival(2)
    rejection = Rejection(b"\xff", "not UTF-8", T0)

    async def work() -> None:
        assert await harness.as_first_batch(one, rejection, two, one) == [
            Appended(1, duplicate=False),
            None,
            Appended(2, duplicate=False),
            Appended(1, duplicate=True),
        ]
        assert await harness.submit_all(two) == [Appended(2, duplicate=True)]

    harness.run(work())
    harness.commits.stop()
    assert harness.stored() == [one.callback.body, two.callback.body]
    assert harness.quarantined() == [b"\xff"]
    assert harness.value("roomlapse_commit_callbacks_count") == 2
    assert harness.value("roomlapse_commit_callbacks_sum") == 5
    assert harness.value("roomlapse_commit_seconds_count") == 2
    assert harness.commits_seen == 2
    assert harness.opener.opened == 1


@pytest.mark.parametrize("spoil", [make_read_only, fill_disk])
def test_a_failed_commit_fails_all_of_its_batch_and_stores_nothing_of_it(tmp_path: Path, spoil: Spoil) -> None:
    harness = Harness(tmp_path, spoil)
    # Small ones at both ends: they would fit, and must not slip in before or after the one that does not.
    small, large = [arrival(number) for number in range(4)], arrival(4, CustomInfo="x" * 60_000)
    batch: list[Arrival | Rejection] = [
        small[0],
        Rejection(b"bad", "a reason", T0),
        small[1],
        large,
        small[2],
        small[3],
    ]

    async def work() -> None:
        outcomes = await harness.as_first_batch(*batch)
        assert [isinstance(outcome, sqlite.Error) for outcome in outcomes] == [True] * len(batch)
        assert harness.stored() == []
        assert harness.quarantined() == []
        assert harness.commits_seen == 0
        assert harness.value("roomlapse_commit_failures_total") == 1
        assert harness.value("roomlapse_commit_callbacks_count") == 0
        assert await harness.submit_all(small[2]) == [Appended(1, duplicate=False)]

    harness.run(work())
    harness.commits.stop()
    assert harness.opener.opened == 2
    assert harness.stored() == [small[2].callback.body]
    assert harness.value("roomlapse_commit_failures_total") == 1


def test_after_a_failure_the_chain_goes_on_from_what_is_on_disk(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    before, lost, after = [arrival(number) for number in range(3)], arrival(3), [arrival(4), arrival(5)]

    async def work() -> None:
        await harness.as_first_batch(*before)
        assert harness.commits._store is not None
        make_read_only(harness.commits._store)  # the disk fails while the server runs
        (outcome,) = await harness.submit_all(lost)
        assert isinstance(outcome, sqlite.Error)
        assert await harness.submit_all(*after) == [Appended(4, duplicate=False), Appended(5, duplicate=False)]

    harness.run(work())
    harness.commits.stop()
    assert harness.stored() == [item.callback.body for item in (*before, *after)]


def test_what_was_refused_can_be_sent_again(tmp_path: Path) -> None:
    harness = Harness(tmp_path, fill_disk)
    item = arrival(1, CustomInfo="x" * 60_000)

    async def work() -> None:
        (outcome,) = await harness.as_first_batch(item)
        assert isinstance(outcome, sqlite.Error)
        assert await harness.submit_all(item) == [Appended(1, duplicate=False)]

    harness.run(work())
    harness.commits.stop()
    assert harness.stored() == [item.callback.body]


def test_while_the_log_does_not_open_each_batch_fails_and_the_writer_tries_again(tmp_path: Path) -> None:
    harness = Harness(tmp_path, make_read_only, None, None)

    async def work() -> None:
        for _ in range(3):
            outcomes = await (harness.submit_all if harness.opener.opened else harness.as_first_batch)(arrival(1))
            assert [isinstance(outcome, sqlite.Error) for outcome in outcomes] == [True]
        assert await harness.submit_all(arrival(1)) == [Appended(1, duplicate=False)]

    harness.run(work())
    harness.commits.stop()
    assert harness.opener.opened == 4
    assert harness.value("roomlapse_commit_failures_total") == 3


def test_a_log_that_does_not_open_at_the_start_is_said_at_the_start(tmp_path: Path) -> None:
    harness = Harness(tmp_path, None)
    with pytest.raises(sqlite.Error):
        harness.commits.start()


def test_above_max_waiting_it_is_full_and_stop_commits_what_waits(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    items = [arrival(number) for number in range(MAX_WAITING)]

    async def work() -> list[Outcome]:
        futures = [harness.commits.submit(item) for item in items]
        with pytest.raises(Overloaded):
            harness.commits.submit(arrival(MAX_WAITING))
        harness.commits.start()
        await asyncio.to_thread(harness.commits.stop)
        return await asyncio.gather(*futures, return_exceptions=True)

    outcomes = harness.run(work())
    assert outcomes == [Appended(position, duplicate=False) for position in range(1, MAX_WAITING + 1)]
    assert harness.stored() == [item.callback.body for item in items]
    assert harness.value("roomlapse_commit_callbacks_count") == MAX_WAITING / MAX_BATCH


def test_nothing_is_taken_after_stop(tmp_path: Path) -> None:
    harness = Harness(tmp_path)

    async def work() -> None:
        assert await harness.as_first_batch(arrival(1)) == [Appended(1, duplicate=False)]
        await asyncio.to_thread(harness.commits.stop)
        with pytest.raises(Overloaded):
            harness.commits.submit(arrival(2))

    harness.run(work())
    assert len(harness.stored()) == 1


def test_a_waiter_who_left_does_not_keep_the_others_waiting(tmp_path: Path) -> None:
    harness = Harness(tmp_path)

    async def work() -> None:
        left, stays = harness.commits.submit(arrival(1)), harness.commits.submit(arrival(2))
        left.cancel()
        harness.commits.start()
        assert await stays == Appended(2, duplicate=False)

    harness.run(work())
    harness.commits.stop()
    assert len(harness.stored()) == 2


def test_waiters_of_an_event_loop_that_is_gone_do_not_end_the_writer(tmp_path: Path) -> None:
    harness = Harness(tmp_path)

    async def leave() -> None:
        harness.commits.submit(arrival(1))

    async def work() -> None:
        # The first waiter's loop is closed by now; its item and this one are a batch.
        assert await harness.as_first_batch(arrival(2)) == [Appended(2, duplicate=False)]
        assert await harness.submit_all(arrival(3)) == [Appended(3, duplicate=False)]

    harness.run(leave())
    harness.run(work())
    harness.commits.stop()


# ---- a disk that takes its time: somebody else holds the log's write lock ----


class WriteLock:
    """Holds the log's write lock until it is let go."""

    def __init__(self, path: Path) -> None:
        self._conn = schema.open_log(path)
        self._conn.execute("BEGIN IMMEDIATE")

    def let_go(self) -> None:
        self._conn.execute("ROLLBACK")
        self._conn.close()


@pytest.mark.serial  # it measures how long that takes
def test_who_waits_too_long_is_refused_in_time_and_stored_all_the_same(tmp_path: Path) -> None:
    harness = Harness(tmp_path)

    async def work() -> None:
        harness.commits.start()
        lock = WriteLock(harness.opener.path)
        loop = asyncio.get_running_loop()
        begin_s = loop.time()
        outcomes = await harness.submit_all(arrival(1), arrival(2))
        assert [type(outcome) for outcome in outcomes] == [DiskSlow, DiskSlow]
        assert ANSWER_WITHIN_S <= loop.time() - begin_s < 2  # the sender's patience
        with pytest.raises(Overloaded, match="the disk is slow"):
            harness.commits.submit(arrival(3))
        lock.let_go()
        assert await harness.submit_when_taken(arrival(2)) == Appended(2, duplicate=True)
        assert await harness.submit_when_taken(arrival(4)) == Appended(3, duplicate=False)

    harness.run(work())
    harness.commits.stop()
    assert len(harness.stored()) == 3


def test_what_waits_is_bounded_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "MAX_WAITING_BYTES", 10_000)
    harness = Harness(tmp_path)
    large = arrival(1, CustomInfo="x" * 6000)

    async def work() -> None:
        waiting = harness.commits.submit(large)
        with pytest.raises(Overloaded):
            harness.commits.submit(arrival(2, CustomInfo="x" * 6000))
        harness.commits.start()
        await waiting
        third = arrival(3, CustomInfo="x" * 6000)
        assert await harness.submit_when_taken(third) == Appended(2, duplicate=False)

    harness.run(work())
    harness.commits.stop()


def test_a_failure_is_known_until_the_disk_takes_something_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    harness = Harness(tmp_path, make_read_only, make_read_only)

    async def work() -> None:
        (outcome,) = await harness.as_first_batch(arrival(1))
        assert isinstance(outcome, sqlite.Error)
        assert harness.commits.failure == str(outcome)
        assert harness.value("roomlapse_log_writable") == 0
        # Nobody sends anything: the writer itself tries again.
        await asyncio.to_thread(wait_until, lambda: harness.commits.failure is None)
        assert harness.value("roomlapse_log_writable") == 1

    with caplog.at_level("WARNING", "app.receiver.housekeeping"):
        harness.run(work())
    harness.commits.stop()
    said = [record.message.partition(":")[0] for record in caplog.records]
    assert said == ["commit failed", "commits succeed again"]  # it failed twice: said once in ten seconds
    assert harness.opener.opened == 3
    assert harness.stored() == []


def test_the_head_is_logged_with_its_chain(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    harness = Harness(tmp_path)

    async def work() -> None:
        await harness.as_first_batch(arrival(1))
        await harness.submit_all(arrival(2))

    with caplog.at_level("INFO", "app.receiver.housekeeping"):
        harness.run(work())
        harness.commits.stop()
    heads = [vars(record) for record in caplog.records if record.message == "head"]
    reader = harness.opener.reader()
    assert [(head["position"], head["chain"]) for head in heads] == [(1, reader.chain_at(1))]  # once a minute
    reader.close()


# ---- the WAL ----


needs_sound_library = pytest.mark.skipif(
    not sqlite.LIBRARY_IS_SOUND, reason=f"SQLite {sqlite.LIBRARY_VERSION} moves the WAL by itself, as it is left to"
)


def wal_pages(harness: Harness) -> int:
    reader = harness.opener.reader()
    try:
        return wal.wal_pages(reader.conn)
    finally:
        reader.close()


def large(number: int) -> Arrival:
    return arrival(number, CustomInfo="x" * 60_000)  # 16 pages in the WAL


async def send_on(harness: Harness, seconds: float) -> None:
    """Send a small one now and then, so that the writer is never idle."""
    loop = asyncio.get_running_loop()
    end_s, number = loop.time() + seconds, 10**5
    while loop.time() < end_s:
        number += 1
        await harness.commits.submit(arrival(number))
        await asyncio.sleep(0.02)


@needs_sound_library
def test_a_long_wal_is_moved_into_the_database_behind_the_answers(tmp_path: Path) -> None:
    harness = Harness(tmp_path)

    async def work() -> None:
        outcomes = await harness.as_first_batch(*map(large, range(50)))
        assert all(isinstance(outcome, Appended) for outcome in outcomes)
        await send_on(harness, 0.1)
        assert 0 < wal_pages(harness) < housekeeping._LONG_WAL_PAGES  # not long yet: it stays
        await harness.submit_all(*map(large, range(50, 100)))
        await asyncio.to_thread(wait_until, lambda: wal_pages(harness) == 0)

    harness.run(work())
    assert harness.commits.failure is None
    harness.commits.stop()
    assert len(harness.stored()) > 100


@needs_sound_library
def test_where_commits_are_slow_the_wal_waits_until_nobody_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "_SLOW_COMMIT_S", 0.0)
    monkeypatch.setattr(housekeeping, "_IDLE_S", 1.5)  # a busy machine may make us pause for a moment
    harness = Harness(tmp_path)

    async def work() -> None:
        await harness.as_first_batch(*map(large, range(100)))
        await send_on(harness, 2)
        assert wal_pages(harness) > housekeeping._LONG_WAL_PAGES
        await asyncio.to_thread(wait_until, lambda: wal_pages(harness) == 0)
        monkeypatch.setattr(housekeeping, "_MAX_WAL_PAGES", 2000)  # but not for ever
        await asyncio.sleep(housekeeping._IDLE_S)
        await harness.submit_all(*map(large, range(100, 150)))
        await send_on(harness, 0.5)
        assert wal_pages(harness) > 0
        await harness.submit_all(*map(large, range(150, 250)))
        await send_on(harness, 0.1)
        assert wal_pages(harness) < housekeeping._LONG_WAL_PAGES

    harness.run(work())
    harness.commits.stop()


@needs_sound_library
def test_a_wal_that_a_reader_holds_up_is_moved_when_he_is_gone(tmp_path: Path) -> None:
    harness = Harness(tmp_path)

    async def work() -> None:
        await harness.as_first_batch(large(0))
        reader = harness.opener.reader()
        reader.conn.execute("BEGIN")
        reader.head()
        await harness.submit_all(*map(large, range(1, 100)))
        await asyncio.sleep(3 * housekeeping._IDLE_S)
        assert wal_pages(harness) > housekeeping._LONG_WAL_PAGES
        reader.close()
        await asyncio.to_thread(wait_until, lambda: wal_pages(harness) == 0)  # nobody sends anything

    harness.run(work())
    harness.commits.stop()


@needs_sound_library
def test_while_moving_the_wal_takes_long_it_is_known_and_who_comes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    move_wal = wal.move_wal

    def move_wal_slowly(conn: sqlite.Connection) -> None:
        time.sleep(2)
        move_wal(conn)

    monkeypatch.setattr(wal, "move_wal", move_wal_slowly)
    harness = Harness(tmp_path)
    commits = harness.commits

    async def work() -> None:
        await harness.as_first_batch(*map(large, range(100)))
        await asyncio.to_thread(wait_until, lambda: commits.trouble() == "the disk is slow")
        with pytest.raises(Overloaded, match="the disk is slow"):
            commits.submit(arrival(100))
        await asyncio.to_thread(wait_until, lambda: commits.trouble() is None)
        assert await commits.submit(arrival(100)) == Appended(101, duplicate=False)

    harness.run(work())
    commits.stop()


def forbid_moving(store: EventStore) -> None:
    store.conn.set_authorizer(lambda _action, _name, value, *_: 1 if value == "PASSIVE" else 0)


def forbid_looking(store: EventStore) -> None:
    store.conn.set_authorizer(lambda _action, _name, value, *_: 1 if value == "NOOP" else 0)


@needs_sound_library
@pytest.mark.parametrize(
    "spoil", [forbid_moving, forbid_looking, None], ids=["forbid_moving", "forbid_looking", "run_out_of_memory"]
)
def test_a_wal_that_cannot_be_moved_costs_no_callback_and_is_said_seldom(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, spoil: Spoil | None
) -> None:
    def raise_memory_error(_: sqlite.Connection) -> None:
        raise MemoryError

    if spoil is None:
        monkeypatch.setattr(wal, "move_wal", raise_memory_error)
    harness = Harness(tmp_path) if spoil is None else Harness(tmp_path, spoil)

    async def work() -> None:
        for begin in range(0, 300, 100):
            outcomes = await harness.submit_all(*map(large, range(begin, begin + 100)))
            assert all(isinstance(outcome, Appended) for outcome in outcomes)
        await send_on(harness, 0.5)

    harness.commits.start()
    with caplog.at_level("WARNING", "app.receiver.housekeeping"):
        harness.run(work())
    assert harness.commits.failure is None
    assert wal_pages(harness) > 3 * housekeeping._LONG_WAL_PAGES
    harness.commits.stop()
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "the WAL cannot be moved into the database"
    ]


# ---- the receiver's answer, in this process because a full disk cannot be ordered over HTTP ----


class Request:
    """One POST, as a server hands it to the receiver, and what came back."""

    def __init__(self, *messages: dict[str, Any]) -> None:
        self.messages = list(messages)
        self.sent: list[dict[str, Any]] = []

    async def to(self, receiver: Receiver) -> None:
        async def receive() -> Any:
            return self.messages.pop(0)

        async def send(message: Any) -> None:
            self.sent.append(message)

        scope: Any = {
            "type": "http",
            "method": "POST",
            "path": "/callbacks",
            "query_string": f"SdkAppid={APP_ID}".encode(),
            "headers": [],
        }
        await receiver(scope, receive, send)

    @property
    def answer(self) -> tuple[int, Any]:
        start, body = self.sent
        return start["status"], json.loads(body["body"])


def whole(body: bytes) -> Request:
    return Request({"type": "http.request", "body": body, "more_body": False})


@pytest.mark.parametrize("spoil", [make_read_only, fill_disk])
@pytest.mark.parametrize("body", [body_of("r", T0, CustomInfo="x" * 60_000), b"bad" * 20_000])
def test_what_the_disk_does_not_take_is_503_and_counted(tmp_path: Path, spoil: Spoil, body: bytes) -> None:
    harness = Harness(tmp_path, spoil)
    receiver = Receiver(APP_ID, (), harness.commits, harness.metrics)

    async def work() -> None:
        harness.commits.start()
        refused = whole(body)
        await refused.to(receiver)
        status_code, answer = refused.answer
        assert status_code == 503
        assert set(answer) == {"ActionStatus", "ErrorInfo", "ErrorCode"}
        assert answer["ActionStatus"] == "FAIL"
        assert answer["ErrorCode"] != 0
        assert "not stored" in answer["ErrorInfo"]
        assert harness.value("roomlapse_callbacks_total", outcome="unavailable") == 1
        assert harness.value("roomlapse_callbacks_total", outcome="accepted") == 0
        assert harness.value("roomlapse_callbacks_total", outcome="quarantined") == 0
        assert harness.value("roomlapse_quarantined_total") == 0
        taken = whole(body_of("r", T0 + 1))
        await taken.to(receiver)
        assert taken.answer == (200, {"ActionStatus": "OK", "ErrorInfo": "", "ErrorCode": 0})

    harness.run(work())
    harness.commits.stop()
    assert harness.stored() == [body_of("r", T0 + 1).decode()]
    assert harness.quarantined() == []
    assert harness.value("roomlapse_callbacks_total", outcome="unavailable") == 1
    assert harness.value("roomlapse_callbacks_total", outcome="accepted") == 1


def test_too_many_waiting_is_503(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "MAX_WAITING", 3)
    harness = Harness(tmp_path)
    receiver = Receiver(APP_ID, (), harness.commits, harness.metrics)

    async def work() -> None:
        waiting = [harness.commits.submit(arrival(number)) for number in range(3)]
        refused = whole(body_of("r", T0))
        await refused.to(receiver)
        assert refused.answer[0] == 503
        assert refused.answer[1]["ActionStatus"] == "FAIL"
        harness.commits.start()
        await asyncio.gather(*waiting)

    harness.run(work())
    harness.commits.stop()
    assert len(harness.stored()) == 3
    assert harness.value("roomlapse_callbacks_total", outcome="unavailable") == 1


def test_a_request_that_is_cut_off_is_not_stored_and_not_answered(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    receiver = Receiver(APP_ID, (), harness.commits, harness.metrics)
    body = body_of("r", T0)

    async def work() -> None:
        harness.commits.start()
        cut = Request({"type": "http.request", "body": body, "more_body": True}, {"type": "http.disconnect"})
        await cut.to(receiver)
        assert cut.sent == []

    harness.run(work())
    harness.commits.stop()
    assert harness.stored() == []
    assert harness.quarantined() == []
