"""Group commit: callbacks that arrive together share one synced transaction, and each is answered after it."""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from app import db
from app.metrics import Metrics
from app.store import Appended, Arrival, EventStore, Rejection

MAX_BATCH = 512
MAX_WAITING = 8192
"""Beyond this the receiver refuses: the sender gives up after 2 s, and memory stays flat."""

_log = logging.getLogger(__name__)


class Full(Exception):
    """Too many callbacks wait for the disk."""


class _Waiter(NamedTuple):
    item: Arrival | Rejection
    future: "asyncio.Future[Appended | None]"
    loop: asyncio.AbstractEventLoop


class GroupCommit:
    """The log's writer: one thread, one connection, as many callbacks a commit as have arrived by then.

    A failed commit fails everything in it, and the connection is opened anew: SQLite may have rolled back by itself,
    so nothing that was in memory about the log's end can be trusted.
    """

    def __init__(
        self, open_store: Callable[[], EventStore], metrics: Metrics, on_commit: Callable[[], None] = lambda: None
    ) -> None:
        self._open_store = open_store
        self._metrics = metrics
        self._on_commit = on_commit
        self._waiting: queue.SimpleQueue[_Waiter | None] = queue.SimpleQueue()  # None: stop behind those before it
        self._stopping = False
        self._ended = False
        self._store: EventStore | None = None
        self._thread = threading.Thread(target=self._run, name="roomlapse-commit")

    def start(self) -> None:
        """Open the log and start the thread. Raises what opening raises."""
        self._store = self._open_store()
        self._thread.start()

    def stop(self) -> None:
        """Commit what waits, then end the thread and close the log."""
        self._stopping = True
        self._waiting.put(None)
        self._thread.join()

    def submit(self, item: Arrival | Rejection) -> "asyncio.Future[Appended | None]":
        """Queue an item; the future is done when it is on disk: where it stands, None for a rejection.

        Call it in an event loop. Raises Full; the future raises db.Error.
        """
        if self._stopping or self._waiting.qsize() >= MAX_WAITING:
            raise Full
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Appended | None] = loop.create_future()
        self._waiting.put(_Waiter(item, future, loop))
        return future

    def _run(self) -> None:
        while batch := self._next_batch():
            try:
                outcomes = self._commit(batch)
            except Exception as error:  # noqa: BLE001  whatever it was, all who wait have to hear of it
                _log.error("commit failed: %s", error, extra={"callbacks": len(batch)})
                self._metrics.commit_failures.inc()
                self._close()
                _resolve(batch, [error] * len(batch))
            else:
                _resolve(batch, outcomes)
                self._tell()
        self._close()
        left_over = self._left_over()
        _resolve(left_over, [Full()] * len(left_over))

    def _tell(self) -> None:
        try:
            self._on_commit()
        except Exception:  # noqa: BLE001  whoever listens, callbacks are taken on
            _log.exception("a commit could not be told")

    def _next_batch(self) -> list[_Waiter]:
        """Wait for a callback and take what came with it; nothing once the end is reached."""
        batch: list[_Waiter] = []
        if self._ended:
            return batch
        waiter = self._waiting.get()
        while waiter is not None:
            batch.append(waiter)
            if len(batch) == MAX_BATCH:
                return batch
            try:
                waiter = self._waiting.get_nowait()
            except queue.Empty:
                return batch
        self._ended = True
        return batch

    def _left_over(self) -> list[_Waiter]:
        """Who came while the thread ended."""
        return [waiter for _ in range(self._waiting.qsize()) if (waiter := self._waiting.get()) is not None]

    def _commit(self, batch: list[_Waiter]) -> list[Appended | None]:
        if self._store is None:
            self._store = self._open_store()
        arrivals = [waiter.item for waiter in batch if isinstance(waiter.item, Arrival)]
        rejections = [waiter.item for waiter in batch if isinstance(waiter.item, Rejection)]
        begin = time.perf_counter()
        appended = iter(self._store.append(arrivals, rejections))
        self._metrics.commit_seconds.observe(time.perf_counter() - begin)
        self._metrics.commit_size.observe(len(batch))
        return [next(appended) if isinstance(waiter.item, Arrival) else None for waiter in batch]

    def _close(self) -> None:
        if self._store is not None:
            try:
                self._store.close()
            except db.Error as error:
                _log.error("the log did not close: %s", error)
            self._store = None


def _resolve(batch: list[_Waiter], outcomes: "Sequence[Appended | Exception | None]") -> None:
    """Wake the waiters: one call into each event loop for the whole batch."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Waiter, Appended | Exception | None]]] = {}
    for waiter, outcome in zip(batch, outcomes, strict=True):
        by_loop.setdefault(waiter.loop, []).append((waiter, outcome))
    for loop, woken in by_loop.items():
        try:
            loop.call_soon_threadsafe(_wake, woken)
        except RuntimeError:
            _log.warning("the event loop closed before %d answers", len(woken))


def _wake(woken: "list[tuple[_Waiter, Appended | Exception | None]]") -> None:
    for waiter, outcome in woken:
        if waiter.future.done():
            continue  # its connection was cut while it waited; what it sent is on disk all the same
        if isinstance(outcome, Exception):
            waiter.future.set_exception(outcome)
        else:
            waiter.future.set_result(outcome)
