"""A running Roomlapse: the receiver's writer, the projector and the readers, started and stopped together."""

import queue
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

from app.infra import sqlite
from app.infra.data_dir import DataDir
from app.infra.errors import Behind, NewerSchema, NoData, Unavailable
from app.infra.metrics import Metrics
from app.infra.rate_limit import RateLimit
from app.infra.settings import DEFAULT_RATE_LIMIT_PER_S, Settings
from app.log.files import check_before_commit, create_log, open_own_log
from app.projector.supervisor import ProjectorProcess
from app.projector.upkeep import create_read_models
from app.queries.reader import open_queries
from app.queries.rooms import Queries
from app.receiver.callbacks import Receiver
from app.receiver.group_commit import GroupCommit

_READERS = 4
_WAIT_S = 5.0
_LOOK_AGAIN_S = 0.01

T = TypeVar("T")


class MustWait(Exception):
    """A question cannot be answered at once."""


class Service:
    """Everything behind the routes. Reads wait until the projections have seen what was answered OK before them."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.data_dir = DataDir(settings.data)
        self.projector = ProjectorProcess(self.data_dir, self.metrics)
        self.commits = GroupCommit(
            lambda: open_own_log(self.data_dir, settings.sdk_app_id),
            self.metrics,
            self.projector.wake,
            partial(check_before_commit, self.data_dir),
        )
        per_s = settings.rate_limit_per_s
        limit = RateLimit(DEFAULT_RATE_LIMIT_PER_S if per_s is None else per_s, everyone=per_s is not None)
        self.rate_limit = limit
        self.receiver = Receiver(
            settings.sdk_app_id, settings.secrets.callback_tokens, self.commits, self.metrics, limit
        )
        self._stopping = False
        self._readers: queue.LifoQueue[tuple[Queries, tuple[int, int] | None] | None] = queue.LifoQueue()

    def start(self) -> None:
        """Open the data directory and start the threads. Raises WrongOwner, OSError and sqlite.Error."""
        create_log(self.data_dir, self.settings.sdk_app_id)
        create_read_models(self.data_dir)
        for _ in range(_READERS):
            self._readers.put(None)
        self.commits.start()
        self.projector.start()

    def stop(self) -> None:
        """End the threads and close every file. Requests have been answered by then.

        The writers close last: the last connection to close a database tidies its WAL away, and a reader cannot.
        """
        self._stopping = True
        for _ in range(_READERS):
            reader = self._readers.get()
            if reader is not None:
                reader[0].close()
        for _ in range(_READERS):
            self._readers.put(None)  # who waits for one is told that the server stops
        self.projector.stop()
        self.commits.stop()

    def read(self, question: Callable[[Queries], T], *, wait: bool = True, asked_s: float | None = None) -> T:
        """Ask the read models; with `wait`, after they have seen every event now in the log. Raises Unavailable.

        `asked_s`: when the question came, on the monotonic clock; it waits five seconds from then.
        """
        if not wait:
            with self._reader() as queries:
                return question(queries)
        with self._reader() as queries:
            head = queries.log.head().position
        deadline = (time.monotonic() if asked_s is None else asked_s) + _WAIT_S
        while self.projector.wait_for(head, deadline - time.monotonic()):
            with self._reader() as queries:  # none is held while waiting: others do not have to wait
                queries.required = head
                try:
                    return question(queries)
                except Behind:
                    pass  # a projection that had stopped went on, or its file was replaced
                finally:
                    queries.required = 0
            self.projector.wake()
            time.sleep(_LOOK_AGAIN_S)
            if time.monotonic() > deadline:
                break
        reason = self.projector.waiting or "try again, or see /status"
        raise Unavailable(f"the read models are still behind position {head}: {reason}")

    def read_at_once(self, question: Callable[[Queries], T]) -> T:
        """Ask like `read`, on an event loop; raise MustWait where `read` would wait for whatever it may be.

        For questions that take less than the way to a thread and back.
        """
        with self._reader(block=False) as queries:
            queries.required = queries.log.head().position
            try:
                if queries.required > self.projector.position:
                    raise MustWait
                return question(queries)
            except Behind:
                raise MustWait from None
            finally:
                queries.required = 0

    def wait_for(self, position: int, timeout_s: float) -> bool:
        """Wait until the projections have read up to a position."""
        return self.projector.wait_for(position, timeout_s)

    @contextmanager
    def _reader(self, *, block: bool = True) -> Iterator[Queries]:
        try:
            reader = self._readers.get(block)
        except queue.Empty:
            raise MustWait from None
        try:
            if self._stopping:
                raise Unavailable("the server stops")
            file = self.data_dir.read_models_file()
            if not block and (reader is None or reader[1] != file):
                raise MustWait  # opening a database is no work for an event loop
            if reader is not None and reader[1] != file:
                reader[0].close()
                reader = None
            if reader is None:
                reader = (open_queries(self.data_dir, check=False), file)
            yield reader[0]
        except (*sqlite.UNREADABLE, NewerSchema, NoData, OSError) as error:
            if reader is not None:
                reader[0].close()
            reader = None  # the next one opens it anew
            raise Unavailable(f"the database cannot be read now: {error}") from error
        finally:
            self._readers.put(reader)
