"""Given events, then rows: the rows that a projection has after some events, however those were delivered."""

import json
import random
from collections.abc import Sequence
from typing import Any

import msgspec

from app.event import Event, History
from app.infra import sqlite
from app.log import schema
from app.log.records import Arrival
from app.log.store import EventStore
from app.projector.catch_up import catch_up_all
from app.projector.fold import fold, start
from app.projector.read_models import ReadModels, connect_read_models
from app.projector.rebuild import rebuild
from app.tencent.body import Callback
from projections import ALL

UPDATE = "Live.CallbackAfterUpdateRoomInfo"
ORDERS = 4
"""How many shuffles each batch size is tried with."""


class Given(msgspec.Struct, frozen=True):
    """An event written by hand; `id` is its event_id, so that a test decides how ties are broken."""

    at: int
    id: str
    room_id: str | None
    command: str
    operator: str | None
    room_info: dict[str, str] | None
    body: str

    @property
    def event(self) -> Event:
        """The event as projections see it."""
        assert self.room_id is not None
        operator = self.operator or "null"
        return Event(self.id, self.at, self.room_id, self.command, operator, self.room_info, self.body)

    @property
    def arrival(self) -> Arrival:
        """The event as the log takes it."""
        return Arrival(Callback(self.id, self.room_id, self.at, self.body), self.at)


def update(at: int, id_: str, room_id: str = "r", operator: str | None = '"bob"', **fields: str) -> Given:
    """A room update; operator and values are JSON text in canonical form."""
    return update_of(at, id_, fields, room_id, operator)


def update_of(at: int, id_: str, fields: dict[str, str], room_id: str = "r", operator: str | None = '"bob"') -> Given:
    """A room update whose fields have names that no keyword can have."""
    info = "".join(f",{json.dumps(name)}:{text}" for name, text in fields.items())
    who = "" if operator is None else f'"Operator_Account":{operator},'
    body = (
        f'{{"CallbackCommand":"{UPDATE}",{who}"RoomInfo":{{"RoomId":{json.dumps(room_id)}{info}}},'
        f'"EventTime":{at},"Id":"{id_}"}}'
    )
    return Given(at, id_, room_id, UPDATE, operator, fields, body)


def sibling(at: int, id_: str, command: str, room_id: str | None = "r", inside: str = "") -> Given:
    """A callback of another command; `inside` is what its body says besides, JSON text behind a comma."""
    body = f'{{"CallbackCommand":"{command}","EventTime":{at},"Id":"{id_}"{inside}}}'
    return Given(at, id_, room_id, command, None, None, body)


def rows_of(name: str, *given: Given) -> list[dict[str, Any]]:
    """All rows of a projection after the events, by room; JSON columns as text.

    Folds them in event order, and asserts that the read models on a real log come to the same: with every event
    delivered twice, in several orders of arrival, in batches of every size, and rebuilt.
    """
    expected = _folded(name, given)
    for label, deliveries in _twice(given):
        assert _delivered(name, deliveries) == expected, f"each event twice, {label}"
    for size in range(1, max(2, len(given) + 1)):
        for seed in range(ORDERS):
            shuffled = list(given)
            random.Random(seed * 1000 + size).shuffle(shuffled)
            assert _delivered(name, _batches(shuffled, size)) == expected, f"seed {seed}, batches of {size}"
    return expected


def _folded(name: str, given: Sequence[Given]) -> list[dict[str, Any]]:
    projection = ALL[name]
    rows: list[dict[str, Any]] = []
    for room_id in sorted({one.room_id for one in given if one.room_id is not None}):
        events = sorted((one.event for one in given if one.room_id == room_id), key=lambda event: event.key)
        history = History(list(range(1, len(events) + 1)), events)
        run = fold(name, projection, room_id, start(projection), history)
        rows += [_as_dict(row) for row in run.rows]
    return rows


def _twice(given: Sequence[Given]) -> list[tuple[str, list[list[Given]]]]:
    return [
        ("at once, in one batch", [[one for event in given for one in (event, event)]]),
        ("at once, one by one", [[event] for event in given for _ in range(2)]),
        ("all of them, then all again", [list(given), list(given)]),
        ("backwards the second time", [list(given), list(given)[::-1]]),
    ]


def _batches(given: list[Given], size: int) -> list[list[Given]]:
    return [given[begin : begin + size] for begin in range(0, len(given), size)]


def _delivered(name: str, batches: list[list[Given]]) -> list[dict[str, Any]]:
    """The rows on disk after the batches arrived and were read, one after the other; the same after a rebuild."""
    log = EventStore(schema.open_log(sqlite.MEMORY))
    models = ReadModels(connect_read_models(sqlite.MEMORY), {name: ALL[name]})
    try:
        models.create()
        for batch in batches:
            log.append([one.arrival for one in batch])
            catch_up_all(log, models)
        rows = [_as_dict(row) for row in models.all_rows(name)]
        checkpoint = models.checkpoint(name)
        assert (checkpoint.position, checkpoint.error) == (log.head().position, None)
        rebuild(log, models)
        assert [_as_dict(row) for row in models.all_rows(name)] == rows, "a rebuild gives other rows"
    finally:
        models.close()
        log.close()
    return rows


def _as_dict(row: Any) -> dict[str, Any]:
    return {
        field: bytes(value).decode() if isinstance(value, msgspec.Raw) else value
        for field, value in msgspec.structs.asdict(row).items()
    }
