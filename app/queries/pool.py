"""The readers of a server: a few of them for all threads, and the wait until the projections have read enough."""

import queue
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import msgspec

from app.infra import sqlite
from app.infra.data_dir import DataDir, FileId
from app.infra.errors import Behind, NewerSchema, NoData, Unavailable
from app.projector.supervisor import ProjectorProcess
from app.queries.reader import Moment, Reader, open_reader

_READERS = 4
_WAIT_S = 5.0
_LOOK_AGAIN_S = 0.01

T = TypeVar("T")


class MustWait(Exception):
    """A question cannot be answered at once."""


class _Opened(msgspec.Struct):
    reader: Reader
    file: FileId | None
    """The file of read models that it has open: a corrupt one is replaced while the server runs."""


class ReaderPool:
    """Answers questions; each sees every event that was in the log when it came."""

    def __init__(self, data_dir: DataDir, projector: ProjectorProcess) -> None:
        self._data_dir = data_dir
        self._projector = projector
        self._stopping = False
        self._readers: queue.LifoQueue[_Opened | None] = queue.LifoQueue()

    def start(self) -> None:
        """Answer questions from now on; the readers are opened as they are needed."""
        for _ in range(_READERS):
            self._readers.put(None)

    def stop(self) -> None:
        """Close every reader. A question that waits for one is refused."""
        self._stopping = True
        for _ in range(_READERS):
            opened = self._readers.get()
            if opened is not None:
                opened.reader.close()
        for _ in range(_READERS):
            self._readers.put(None)

    def read(self, question: Callable[[Moment], T], *, wait: bool = True, asked_s: float | None = None) -> T:
        """Answer a question; with `wait`, after the projections have read every event now in the log.

        `asked_s`: when the question came, on the monotonic clock; it waits five seconds from then. Raises Unavailable.
        """
        if not wait:
            with self._reader() as reader, reader.moment() as moment:
                return question(moment)
        with self._reader() as reader:
            head = reader.log.head().position
        deadline = (time.monotonic() if asked_s is None else asked_s) + _WAIT_S
        while self._projector.wait_for(head, deadline - time.monotonic()):
            try:
                # No reader is held while waiting: others need it.
                with self._reader() as reader, reader.moment(head) as moment:
                    return question(moment)
            except Behind:
                pass  # a projection that had stopped went on, or its file was replaced
            self._projector.wake()
            time.sleep(_LOOK_AGAIN_S)
            if time.monotonic() > deadline:
                break
        reason = self._projector.waiting or "try again, or see /status"
        raise Unavailable(f"the read models are still behind position {head}: {reason}")

    def read_at_once(self, question: Callable[[Moment], T]) -> T:
        """Answer like `read`, on an event loop; raise MustWait where `read` would wait for anything.

        For questions that take less time than handing them to a thread.
        """
        try:
            with self._reader(block=False) as reader:
                head = reader.log.head().position
                if head > self._projector.position:
                    raise MustWait
                with reader.moment(head) as moment:
                    return question(moment)
        except Behind:
            raise MustWait from None

    @contextmanager
    def _reader(self, *, block: bool = True) -> Iterator[Reader]:
        try:
            opened = self._readers.get(block)
        except queue.Empty:
            raise MustWait from None
        try:
            if self._stopping:
                raise Unavailable("the server stops")
            file = self._data_dir.read_models_file()
            if not block and (opened is None or opened.file != file):
                raise MustWait  # opening a database takes too long for an event loop
            if opened is not None and opened.file != file:
                opened.reader.close()
                opened = None
            if opened is None:
                opened = _Opened(open_reader(self._data_dir, check=False), file)
            yield opened.reader
        except (*sqlite.UNREADABLE, NewerSchema, NoData, OSError) as error:
            if opened is not None:
                opened.reader.close()
            opened = None  # the next question opens it anew
            raise Unavailable(f"the database cannot be read now: {sqlite.text_of(error)}") from error
        finally:
            self._readers.put(opened)
