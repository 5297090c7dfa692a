"""Callbacks that wait for a commit: queued within bounds, refused when they wait too long, answered when it is done."""

import asyncio
import logging
import queue
import time
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from app.infra.errors import DiskSlow, Overloaded
from app.log.records import Appended, Arrival, Rejection

MAX_BATCH = 512
MAX_WAITING = 8192
MAX_WAITING_BYTES = 64 * 2**20
"""Beyond these the receiver refuses: memory stays flat, whatever comes and however slow the disk is."""
ANSWER_WITHIN_S = 1.5
"""The sender gives up after 2 s. A callback that waits so long is refused; so is one that comes during a commit that
takes so long."""
_CHECK_S = 0.1
SLOW = "the disk is slow"

_log = logging.getLogger(__name__)


class Waiter(NamedTuple):
    """One callback."""

    item: Arrival | Rejection
    size: int
    future: "asyncio.Future[Appended | None]"
    loop: asyncio.AbstractEventLoop


class Busy:
    """Since when the writer has been waiting for the disk."""

    since_s: float | None = None

    def __enter__(self) -> None:
        self.since_s = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self.since_s = None

    def is_slow(self) -> bool:
        """Whether that is longer than a sender waits."""
        since_s = self.since_s  # another thread sets it
        return since_s is not None and time.monotonic() - since_s > ANSWER_WITHIN_S


class Queue:
    """The callbacks that wait. Event loops put them in, the writer's thread takes them out."""

    def __init__(self, busy: Busy) -> None:
        self._busy = busy
        self._waiting: queue.SimpleQueue[Waiter | None] = queue.SimpleQueue()  # None: stop behind those before it
        self._patience = _Patience()
        self._submitted_bytes = 0
        self.taken_bytes = 0
        """Bytes of the items that have been answered; the writer adds to it."""
        self._stopping = False
        self._ended = False

    def put(self, item: Arrival | Rejection, *, patient: bool) -> "asyncio.Future[Appended | None]":
        """Queue an item; see `GroupCommit.submit`."""
        size = item.size
        if self._stopping or self._waiting.qsize() >= MAX_WAITING:
            raise Overloaded("too many callbacks wait")
        if self._submitted_bytes - self.taken_bytes + size > MAX_WAITING_BYTES:
            raise Overloaded("too many callbacks wait")
        if self._busy.is_slow():
            raise Overloaded(SLOW)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Appended | None] = loop.create_future()
        self._submitted_bytes += size
        self._waiting.put(Waiter(item, size, future, loop))
        if not patient:
            self._patience.watch(future, loop)
        return future

    def stop(self) -> None:
        """Refuse items from now on."""
        self._stopping = True
        self._waiting.put(None)

    def next_batch(self, timeout_s: float) -> list[Waiter] | None:
        """Next batch (at most MAX_BATCH items); [] on timeout; None when stopping."""
        if self._ended:
            return None
        batch: list[Waiter] = []
        try:
            waiter = self._waiting.get(timeout=timeout_s)
            while waiter is not None:
                batch.append(waiter)
                if len(batch) == MAX_BATCH:
                    return batch
                waiter = self._waiting.get_nowait()
        except queue.Empty:
            return batch
        self._ended = True
        return batch

    def left_over(self) -> list[Waiter]:
        """Take the items that came while the thread ended."""
        return [waiter for _ in range(self._waiting.qsize()) if (waiter := self._waiting.get()) is not None]


class _Patience:
    """Refuses callbacks whose sender is about to give up. For one event loop at a time."""

    def __init__(self) -> None:
        self._watched: deque[tuple[float, asyncio.Future[Appended | None]]] = deque()  # oldest first
        self._checking = False

    def watch(self, future: "asyncio.Future[Appended | None]", loop: asyncio.AbstractEventLoop) -> None:
        self._watched.append((loop.time(), future))
        if not self._checking:
            self._checking = True
            loop.call_later(_CHECK_S, self._check, loop)

    def _check(self, loop: asyncio.AbstractEventLoop) -> None:
        # One timer for all of them: one each would cost as much as the rest of submitting.
        latest_s = loop.time() - ANSWER_WITHIN_S
        watched = self._watched
        while watched and (watched[0][1].done() or watched[0][0] <= latest_s):
            _, future = watched.popleft()
            if not future.done():
                future.set_exception(DiskSlow(SLOW))
        self._checking = bool(watched)
        if watched:
            loop.call_later(_CHECK_S, self._check, loop)


def resolve(batch: list[Waiter], outcomes: "Sequence[Appended | Exception | None]") -> None:
    """Wake the waiters: one call into each event loop for the whole batch."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Waiter, Appended | Exception | None]]] = {}
    for waiter, outcome in zip(batch, outcomes, strict=True):
        by_loop.setdefault(waiter.loop, []).append((waiter, outcome))
    for loop, woken in by_loop.items():
        try:
            loop.call_soon_threadsafe(_wake, woken)
        except RuntimeError:
            _log.warning("the event loop closed before %d answers", len(woken))


def _wake(woken: "list[tuple[Waiter, Appended | Exception | None]]") -> None:
    for waiter, outcome in woken:
        if waiter.future.done():
            continue  # its connection was cut, or it has waited too long; what it sent is on disk all the same
        if isinstance(outcome, Exception):
            waiter.future.set_exception(outcome)
        else:
            waiter.future.set_result(outcome)
