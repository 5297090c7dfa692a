"""Opens a data directory for questions, and gives them moments: one consistent look at both databases."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

from app.event import Cut
from app.infra import sqlite
from app.infra.data_dir import DataDir
from app.infra.errors import Behind, Unavailable
from app.log.files import open_log_reader
from app.log.store import EventStore
from app.projector.read_models import Checkpoint, ReadModels
from app.projector.time_travel import rows_at
from app.projector.upkeep import open_read_models_reader


class Reader:
    """Two read-only connections. Not for use by two threads at a time."""

    def __init__(self, log: EventStore, models: ReadModels) -> None:
        self.log = log
        self.models = models
        self._found_in_log: tuple[int, str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close both connections."""
        self.log.close()
        self.models.close()

    @contextmanager
    def moment(self, required: int = 0) -> Iterator["Moment"]:
        """Look at both databases; `required`: the position that a projection has to have read for an answer.

        End it with the answer: while it is open, the WAL of the read models grows.
        """
        with sqlite.snapshot(self.models.conn):
            yield Moment(self, required)

    def is_of_this_log(self, checkpoint: Checkpoint) -> bool:
        """Whether a checkpoint was written for this log, not for another one that stood in its place."""
        place = (checkpoint.position, checkpoint.chain)
        if place != self._found_in_log:
            if checkpoint.chain != self.log.chain_at(checkpoint.position):
                return False
            self._found_in_log = place  # and stays there: the log only grows
        return True


class Moment:
    """What one answer sees: the read models in one snapshot, and the log up to what they have read.

    The log is in no snapshot: it only grows, and every cut ends at a position. A question that needs no read model
    does not look at one, so it is answered whatever their state.
    """

    def __init__(self, reader: Reader, required: int) -> None:
        self.log = reader.log
        self.models = reader.models
        self._reader = reader
        self._required = required
        self._positions: dict[str, int] = {}
        self._known: dict[int, int] = {}

    def position(self, name: str) -> int:
        """The position that a projection has read.

        Raises Unavailable if it stopped, or has read another log or with another version; Behind if it has not read
        the required position.
        """
        position = self._positions.get(name)
        if position is None:
            position = self._positions[name] = self._checked_position(name)
        return position

    def cut(self, asked: Cut, *names: str) -> Cut:
        """The cut that is asked for, ending at what all of these projections have read. Raises like `position`."""
        upto = min([self.position(name) for name in names])
        if asked.known_at_ms is not None:
            upto = min(upto, self._known_position(asked.known_at_ms))
        return asked.upto_position(upto)

    def rows(self, name: str, room_id: str, cut: Cut) -> list[Any]:
        """A room's rows when only the events of a cut count."""
        if cut.holds_all_upto(self.position(name)):
            return self.models.rows(name, room_id)
        return rows_at(self.log, self.models, name, room_id, cut)

    def _checked_position(self, name: str) -> int:
        checkpoint = self.models.checkpoint(name)
        if checkpoint.error is not None:
            raise Unavailable(checkpoint.error)
        if checkpoint.version != self.models.projections[name].VERSION or not self._reader.is_of_this_log(checkpoint):
            raise Unavailable(f"{name} has to be rebuilt for this version or this log, and will be: try again")
        if checkpoint.position < self._required:
            raise Behind(f"{name} has read up to position {checkpoint.position} of {self._required}")
        return checkpoint.position

    def _known_position(self, known_at_ms: int) -> int:
        position = self._known.get(known_at_ms)
        if position is None:
            position = self._known[known_at_ms] = self.log.position_at(known_at_ms)
        return position


def open_reader(data_dir: DataDir, *, check: bool = True) -> Reader:
    """Open both databases for reading; see `open_read_models_reader` for what is checked."""
    log = open_log_reader(data_dir)
    with sqlite.closed_on_error(log.conn):
        return Reader(log, open_read_models_reader(data_dir, check=check))
