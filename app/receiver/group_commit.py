"""Group commit: callbacks that arrive together share one synced transaction, and each is answered after it."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable

from app.infra import sqlite
from app.infra.errors import Overloaded
from app.infra.metrics import Metrics
from app.log import wal
from app.log.records import Appended, Arrival, Rejection
from app.log.store import EventStore
from app.receiver.housekeeping import Disk, HeadLog, WalMover
from app.receiver.waiting import SLOW, Busy, Queue, Waiter, resolve

_PROBE_S = 1.0

_log = logging.getLogger(__name__)


class GroupCommit:
    """The log's writer: one thread, one connection, as many callbacks a commit as have arrived by then.

    A failed commit fails everything in it, and the connection is opened anew: SQLite may have rolled back by itself,
    so nothing that was in memory about the log's end can be trusted. While commits fail and no callback comes, the
    thread probes the disk each second, so that `trouble` tells when callbacks are taken again.
    """

    def __init__(
        self,
        open_store: Callable[[], EventStore],
        metrics: Metrics,
        on_commit: Callable[[], None] = lambda: None,
        check: Callable[[EventStore, int], None] = lambda _store, _size: None,
    ) -> None:
        """`check` raises if the log cannot take so many bytes more."""
        self._open_store = open_store
        self._metrics = metrics
        self._on_commit = on_commit
        self._check = check
        self._busy = Busy()
        self._queue = Queue(self._busy)
        self._store: EventStore | None = None
        self._commit_s = 0.0
        self._disk = Disk(metrics)
        self._wal_mover = WalMover()
        self._head_log = HeadLog()
        self._thread = threading.Thread(target=self._run, name="roomlapse-commit")

    @property
    def failure(self) -> str | None:
        """Why the last commit failed; None if it did not."""
        return self._disk.failure

    def start(self) -> None:
        """Open the log and start the thread. Raises what opening raises."""
        self._opened()
        self._thread.start()

    def stop(self) -> None:
        """Commit what waits, then end the thread and close the log."""
        self._queue.stop()
        self._thread.join()

    def submit(self, item: Arrival | Rejection, *, patient: bool = False) -> "asyncio.Future[Appended | None]":
        """Queue an item; the future's result is its place in the log, None for a rejection, once it is on disk.

        Call it in an event loop. Raises Overloaded; the future raises Overloaded, sqlite.Error or, unless it is
        patient, DiskSlow.
        """
        return self._queue.put(item, patient=patient)

    def trouble(self) -> str | None:
        """Why callbacks are refused now: the last commit failed, or this one takes too long. None if they are not."""
        return self.failure or (SLOW if self._busy.is_slow() else None)

    # ---- the thread ----

    def _run(self) -> None:
        while (batch := self._queue.next_batch(self._timeout_s())) is not None:
            idle = not batch
            if batch:
                self._take(batch)
                batch.clear()  # others may wait in its place by now: they are not to be in memory both
            elif self.failure is not None:
                self._probe()
            self._keep_house(idle=idle)
        self._close()
        left_over = self._queue.left_over()
        resolve(left_over, [Overloaded("the server stops")] * len(left_over))

    def _timeout_s(self) -> float:
        return self._wal_mover.idle_after_s if self.failure is None else _PROBE_S

    def _take(self, batch: list[Waiter]) -> None:
        size = sum(waiter.size for waiter in batch)
        try:
            with self._busy:
                self._commit_and_answer(batch, size)
        finally:
            self._queue.taken_bytes += size

    def _commit_and_answer(self, batch: list[Waiter], size: int) -> None:
        try:
            outcomes = self._commit(batch, size)
        except Exception as error:  # noqa: BLE001  whatever it was, every waiter has to be answered
            self._fail(error, len(batch))
            resolve(batch, [error] * len(batch))
            return
        self._disk.succeeded()
        resolve(batch, outcomes)
        try:
            self._on_commit()
        except Exception:  # noqa: BLE001  a listener's bug does not stop the receiver
            _log.exception("a commit could not be told")

    def _commit(self, batch: list[Waiter], size: int) -> list[Appended | None]:
        store = self._opened()
        self._check(store, size)
        arrivals = [waiter.item for waiter in batch if isinstance(waiter.item, Arrival)]
        rejections = [waiter.item for waiter in batch if isinstance(waiter.item, Rejection)]
        begin = time.perf_counter()
        outcomes = store.append(arrivals, rejections)
        self._commit_s = time.perf_counter() - begin
        self._metrics.commit_seconds.observe(self._commit_s)
        self._metrics.commit_size.observe(len(batch))
        if outcomes:
            self._metrics.see_head(max(outcome.position for outcome in outcomes))
        appended = iter(outcomes)
        return [next(appended) if isinstance(waiter.item, Arrival) else None for waiter in batch]

    def _probe(self) -> None:
        """Find out whether the disk takes something again."""
        with self._busy:
            try:
                store = self._opened()
                self._check(store, 0)
                store.probe()
            except Exception as error:  # noqa: BLE001  whatever it is, it is why callbacks are refused
                self._fail(error, 0)
            else:
                self._disk.succeeded()

    def _keep_house(self, *, idle: bool) -> None:
        if self._store is None:
            return
        if self._wal_mover.is_due():
            with self._busy:
                self._wal_mover.move_if_long(self._store, idle=idle, commit_s=self._commit_s)
        self._head_log.write(self._store)

    def _fail(self, error: Exception, callbacks: int) -> None:
        self._disk.failed(error, callbacks)
        self._close()

    def _opened(self) -> EventStore:
        if self._store is None:
            self._store = self._open_store()
            wal.keep_wal(self._store.conn)
        return self._store

    def _close(self) -> None:
        if self._store is not None:
            try:
                self._store.close()
            except sqlite.Error as error:
                _log.error("the log did not close: %s", error)
            self._store = None
