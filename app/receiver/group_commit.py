"""Group commit: callbacks that arrive together share one synced transaction, and each is answered after it."""

import asyncio
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from app.infra import sqlite
from app.infra.errors import DiskSlow, Overloaded
from app.infra.metrics import Metrics
from app.infra.throttle import Throttle
from app.log import wal
from app.log.records import Appended, Arrival, Rejection
from app.log.store import EventStore

MAX_BATCH = 512
MAX_WAITING = 8192
MAX_WAITING_BYTES = 64 * 2**20
"""Beyond these the receiver refuses: memory stays flat, whatever comes and however slow the disk is."""
ANSWER_WITHIN_S = 1.5
"""The sender gives up after 2 s. Who waits so long is refused, and so is who comes while a commit takes so long."""
_LOOK_S = 0.1
_TRY_AGAIN_S = 1.0
_SAY_HEAD_S = 60.0
_TIDY_AGAIN_S = 10.0
_SLOW = "the disk is slow"
_LONG_WAL_PAGES = 1000
"""So long SQLite lets the WAL grow before it moves it into the database, which syncs twice and makes the next commit
sync twice. The same is done here, but behind the answers."""
_MAX_WAL_PAGES = 8192
_SLOW_COMMIT_S = 0.25
"""Where commits take so long, moving the WAL keeps who comes meanwhile waiting for longer than the sender does: it is
left for when nobody comes, until the WAL has _MAX_WAL_PAGES."""
_IDLE_S = 0.2


_log = logging.getLogger(__name__)


class _Waiter(NamedTuple):
    item: Arrival | Rejection
    size: int
    future: "asyncio.Future[Appended | None]"
    loop: asyncio.AbstractEventLoop


class GroupCommit:
    """The log's writer: one thread, one connection, as many callbacks a commit as have arrived by then.

    A failed commit fails everything in it, and the connection is opened anew: SQLite may have rolled back by itself,
    so nothing that was in memory about the log's end can be trusted. While commits fail and no callback comes, the
    thread tries the disk now and then, so that whoever asks knows when it takes callbacks again.
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
        self._waiting: queue.SimpleQueue[_Waiter | None] = queue.SimpleQueue()  # None: stop behind those before it
        self._patience = _Patience()
        self._submitted_bytes = self._taken_bytes = 0  # one thread adds to the one, another to the other
        self._busy_since_s: float | None = None
        self._stopping = False
        self._ended = False
        self._store: EventStore | None = None
        self._head_said = 0
        self._say_head_at_s = 0.0
        self._commit_s = 0.0
        self._wal_is_long = False
        self._tidy_at_s = 0.0
        self._failures = Throttle()
        self._failure_said = False
        self.failure: str | None = None
        """Why the last commit failed; None if it did not."""
        self._thread = threading.Thread(target=self._run, name="roomlapse-commit")

    def start(self) -> None:
        """Open the log and start the thread. Raises what opening raises."""
        self._opened()
        self._thread.start()

    def stop(self) -> None:
        """Commit what waits, then end the thread and close the log."""
        self._stopping = True
        self._waiting.put(None)
        self._thread.join()

    def submit(self, item: Arrival | Rejection, *, patient: bool = False) -> "asyncio.Future[Appended | None]":
        """Queue an item; the future is done when it is on disk: where it stands, None for a rejection.

        Call it in an event loop. Raises Overloaded; the future raises Overloaded, sqlite.Error or, unless it is
        patient, DiskSlow.
        """
        size = item.size
        if self._stopping or self._waiting.qsize() >= MAX_WAITING:
            raise Overloaded("too many callbacks wait")
        if self._submitted_bytes - self._taken_bytes + size > MAX_WAITING_BYTES:
            raise Overloaded("too many callbacks wait")
        if self._is_slow():
            raise Overloaded(_SLOW)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Appended | None] = loop.create_future()
        self._submitted_bytes += size
        self._waiting.put(_Waiter(item, size, future, loop))
        if not patient:
            self._patience.watch(future, loop)
        return future

    def trouble(self) -> str | None:
        """Why callbacks are refused now: the last commit failed, or this one takes too long. None if they are not."""
        return self.failure or (_SLOW if self._is_slow() else None)

    def _is_slow(self) -> bool:
        busy_since_s = self._busy_since_s
        return busy_since_s is not None and time.monotonic() - busy_since_s > ANSWER_WITHIN_S

    # ---- the thread ----

    def _run(self) -> None:
        while (batch := self._next_batch()) is not None:
            idle = not batch
            if batch:
                self._take(batch)
                batch.clear()  # others may wait in its place by now: they are not to be in memory both
            elif self.failure is not None:
                self._probe()
            self._tidy(idle=idle)
            self._say_head()
        self._close()
        left_over = self._left_over()
        _resolve(left_over, [Overloaded("the server stops")] * len(left_over))

    def _next_batch(self) -> list[_Waiter] | None:
        """What waits, MAX_BATCH at the most; nothing if for some time nobody comes, None at the end."""
        if self._ended:
            return None
        batch: list[_Waiter] = []
        wait_s = _IDLE_S if self._wal_is_long else _SAY_HEAD_S
        try:
            waiter = self._waiting.get(timeout=wait_s if self.failure is None else _TRY_AGAIN_S)
            while waiter is not None:
                batch.append(waiter)
                if len(batch) == MAX_BATCH:
                    return batch
                waiter = self._waiting.get_nowait()
        except queue.Empty:
            return batch
        self._ended = True
        return batch

    def _left_over(self) -> list[_Waiter]:
        """Who came while the thread ended."""
        return [waiter for _ in range(self._waiting.qsize()) if (waiter := self._waiting.get()) is not None]

    def _take(self, batch: list[_Waiter]) -> None:
        self._busy_since_s = time.monotonic()
        try:
            outcomes = self._commit(batch)
        except Exception as error:  # noqa: BLE001  whatever it was, all who wait have to hear of it
            self._fail(error, len(batch))
            _resolve(batch, [error] * len(batch))
        else:
            self._succeed()
            _resolve(batch, outcomes)
            self._tell()
        finally:
            self._busy_since_s = None
            self._taken_bytes += sum(waiter.size for waiter in batch)

    def _commit(self, batch: list[_Waiter]) -> list[Appended | None]:
        store = self._opened()
        self._check(store, sum(waiter.size for waiter in batch))
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
        self._busy_since_s = time.monotonic()
        try:
            store = self._opened()
            self._check(store, 0)
            store.probe()
        except Exception as error:  # noqa: BLE001  whatever it is, it is why callbacks are refused
            self._fail(error, 0)
        else:
            self._succeed()
        finally:
            self._busy_since_s = None

    def _tidy(self, *, idle: bool) -> None:
        """Move the WAL into the database if it is long, and if that keeps nobody waiting."""
        now_s = time.monotonic()
        if self._store is None or now_s < self._tidy_at_s:
            return
        self._busy_since_s = now_s
        try:
            pages = wal.wal_pages(self._store.conn)
            if pages >= _LONG_WAL_PAGES and (idle or self._commit_s < _SLOW_COMMIT_S or pages >= _MAX_WAL_PAGES):
                wal.move_wal(self._store.conn)
                pages = wal.wal_pages(self._store.conn)
                if pages >= _LONG_WAL_PAGES:  # a reader holds it up: trying at each commit would not help
                    self._tidy_at_s = now_s + _IDLE_S
            self._wal_is_long = pages >= _LONG_WAL_PAGES
        except Exception as error:  # noqa: BLE001  what was answered OK is safe in the WAL, and the next ones are too
            self._wal_is_long = False
            self._tidy_at_s = now_s + _TIDY_AGAIN_S
            _log.error("the WAL cannot be moved into the database: %s", _reason_of(error))
        finally:
            self._busy_since_s = None

    def _fail(self, error: Exception, callbacks: int) -> None:
        self.failure = _reason_of(error)
        self._metrics.writable.set(0)
        self._metrics.commit_failures.inc()
        if self._failures.due():
            self._failure_said = True
            _log.error("commit failed: %s", error, extra={"callbacks": callbacks})
        self._close()

    def _succeed(self) -> None:
        if self.failure is not None:
            self.failure = None
            if self._failure_said:  # on a disk that is nearly full, large ones fail and small ones succeed in turn
                self._failure_said = False
                _log.warning("commits succeed again")
        self._metrics.writable.set(1)

    def _tell(self) -> None:
        try:
            self._on_commit()
        except Exception:  # noqa: BLE001  whoever listens, callbacks are taken on
            _log.exception("a commit could not be told")

    def _say_head(self) -> None:
        """Log the chain once a minute: kept elsewhere with the other logs, it shows a log that was rewritten."""
        now_s = time.monotonic()
        if now_s < self._say_head_at_s or self._store is None:
            return
        self._say_head_at_s = now_s + _SAY_HEAD_S
        try:
            head = self._store.head()
        except Exception as error:  # noqa: BLE001  callbacks are taken on
            _log.error("the log's head cannot be read: %s", error)
            return
        if head.position != self._head_said:
            self._head_said = head.position
            _log.info("head", extra={"position": head.position, "chain": head.chain})

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


class _Patience:
    """Ends the waiting of those whose sender is about to give up. For one event loop at a time."""

    def __init__(self) -> None:
        self._watched: deque[tuple[float, asyncio.Future[Appended | None]]] = deque()  # who came first stands first
        self._looking = False

    def watch(self, future: "asyncio.Future[Appended | None]", loop: asyncio.AbstractEventLoop) -> None:
        self._watched.append((loop.time(), future))
        if not self._looking:
            self._looking = True
            loop.call_later(_LOOK_S, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        # One timer for all who wait: one each would cost as much as the rest of submitting.
        latest_s = loop.time() - ANSWER_WITHIN_S
        watched = self._watched
        while watched and (watched[0][1].done() or watched[0][0] <= latest_s):
            _, future = watched.popleft()
            if not future.done():
                future.set_exception(DiskSlow(_SLOW))
        self._looking = bool(watched)
        if watched:
            loop.call_later(_LOOK_S, self._look, loop)


def _reason_of(error: Exception) -> str:
    return str(error) or type(error).__name__


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
            continue  # its connection was cut, or it has waited too long; what it sent is on disk all the same
        if isinstance(outcome, Exception):
            waiter.future.set_exception(outcome)
        else:
            waiter.future.set_result(outcome)
