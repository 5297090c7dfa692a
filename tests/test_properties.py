"""The laws, held against an independent oracle over histories that nobody thought of.

HISTORIES says how many (300 unless told otherwise); STEP is made small, so that short rooms have saved states too.
"""

import json
import random
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from conftest import T0
from histories import FOREVER_MS, ROOMS, SPAN_MS, Delivery, deliveries, make_steps_small
from hypothesis import given
from hypothesis import strategies as st
from oracle import Oracle

from app.event import Cut
from app.infra import sqlite
from app.infra.errors import NotFound
from app.log import schema
from app.log.records import Arrival
from app.log.store import EventStore
from app.ops.verify import verify
from app.projector.catch_up import catch_up
from app.projector.read_models import ReadModels, connect_read_models
from app.projector.rebuild import rebuild
from app.queries import counts, rooms
from app.queries import history as history_queries
from app.queries import visibility as visibility_queries
from app.queries.reader import Moment, Reader
from app.tencent.body import decode
from projections import ALL


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    make_steps_small(monkeypatch)


class World:
    """A log and its read models in memory, with the oracle beside them."""

    def __init__(self) -> None:
        self.log = EventStore(schema.open_log(sqlite.MEMORY))
        self.models = ReadModels(connect_read_models(sqlite.MEMORY), ALL)
        self.models.create()
        self.others = ReadModels(self.models.conn, ALL)
        self.reader = Reader(self.log, self.models)
        self.oracle = Oracle()
        self.clock_ms = T0

    def deliver(self, delivery: Delivery) -> None:
        self.clock_ms += delivery.wait_ms
        arrival = Arrival(decode(delivery.body, FOREVER_MS), self.clock_ms, "10.0.0.1", "Web")
        (appended,) = self.log.append([arrival])
        assert self.oracle.receive(delivery.body, self.clock_ms, "10.0.0.1", "Web") is not appended.duplicate
        if delivery.elsewhere:
            self.models, self.others = self.others, self.models
        if delivery.batch is not None:
            self.catch_up(delivery.batch)

    def catch_up(self, limit: int = 500) -> None:
        while catch_up(self.log, self.models, limit).more:
            pass

    def fingerprints(self) -> dict[str, str]:
        return {name: self.models.fingerprint(name) for name in ALL}

    def close(self) -> None:
        self.reader.close()


def delivered(history: list[Delivery]) -> World:
    world = World()
    for delivery in history:
        world.deliver(delivery)
    world.catch_up()
    return world


def same(mine: Any, theirs: Any) -> None:
    """Compare as JSON text: to Python 1 == 1.0 == True, to the laws they differ."""
    assert json.dumps(as_json(mine), sort_keys=True) == json.dumps(theirs, sort_keys=True)


def as_json(answer: Any) -> Any:
    return json.loads(msgspec.json.encode(answer))


def answer(question: Any, *args: Any, **kwargs: Any) -> Any:
    try:
        return question(*args, **kwargs)
    except NotFound:
        return None


times = st.none() | st.integers(T0 - 1, T0 + SPAN_MS + 1)
known = st.none() | st.integers(T0 - 1, T0 + 40)


ANSWERS = (deliveries(), times, known, times, times, st.randoms(use_true_random=False))


@given(*ANSWERS)
def test_answers_equal_the_oracle_and_any_order_of_arrival_equals_a_rebuild(
    history: list[Delivery],
    as_of: int | None,
    known_at: int | None,
    one: int | None,
    other: int | None,
    pick: random.Random,
) -> None:
    world = delivered(history)
    shuffled = history[:]
    pick.shuffle(shuffled)
    elsewhere = delivered(shuffled)
    try:
        fingerprints = world.fingerprints()
        assert elsewhere.fingerprints() == fingerprints
        check_answers(world, as_of, known_at, one, other)
        rebuild(world.log, world.models)
        assert world.fingerprints() == fingerprints
        assert verify(world.log, world.models) is None
        assert verify(elsewhere.log, elsewhere.models) is None
    finally:
        world.close()
        elsewhere.close()


def check_answers(world: World, as_of: int | None, known_at: int | None, one: int | None, other: int | None) -> None:
    with world.reader.moment() as moment:
        check_answers_of(moment, world.oracle, Cut(as_of_ms=as_of, known_at_ms=known_at), one, other)


def check_answers_of(moment: Moment, oracle: Oracle, cut: Cut, one: int | None, other: int | None) -> None:
    as_of, known_at = cut.as_of_ms, cut.known_at_ms
    now_ms = T0 + 5
    from_ms, to_ms = (min(one, other), max(one, other)) if one is not None and other is not None else (one, None)
    page = rooms.rooms(moment, cut)
    same([room.room_id for room in page.rooms], oracle.rooms(as_of, known_at))
    for public in (True, False):
        expected = [
            room_id
            for room_id in oracle.rooms(as_of, known_at)
            if (spells := oracle.intervals(room_id, as_of, known_at)) and spells[-1]["public"] == public
        ]
        same([room.room_id for room in rooms.rooms(moment, cut, public=public).rooms], expected)
    for room_id in ROOMS:
        same(answer(rooms.room, moment, room_id, cut), oracle.room(room_id, as_of, known_at))
        same(answer(counts.change_counts, moment, room_id, cut), oracle.counts(room_id, as_of, known_at))
        if one is not None and other is not None:
            same(
                answer(rooms.diff, moment, room_id, one, other, cut),
                oracle.diff(room_id, one, other, as_of, known_at),
            )
        timeline = answer(
            visibility_queries.visibility, moment, room_id, cut, from_ms=from_ms, to_ms=to_ms, now_ms=now_ms
        )
        same(timeline, oracle.visibility(room_id, now_ms, from_ms, to_ms, as_of, known_at))
        whole = answer(visibility_queries.visibility, moment, room_id, cut, now_ms=now_ms)
        if whole is not None:
            check_tiling(whole.intervals)
            for field in (None, "A"):
                mine = pages_of(moment, room_id, cut, from_ms, to_ms, field)
                same(mine, oracle.history(room_id, as_of, known_at, from_ms, to_ms, field))
    totals = counts.change_totals(moment)
    same(totals.counts, oracle.total_counts())
    for total in totals.rooms:
        counted = oracle.counts(total.room_id)
        assert counted is not None
        assert total.changes == sum(count["changes"] for count in counted["counts"].values())


def pages_of(
    moment: Moment, room_id: str, cut: Cut, from_ms: int | None, to_ms: int | None, field: str | None
) -> list[Any]:
    changes: list[Any] = []
    cursor = None
    while True:
        page = history_queries.history(
            moment, room_id, cut, from_ms=from_ms, to_ms=to_ms, field=field, limit=3, cursor=cursor
        )
        changes += page.changes
        cursor = page.next_cursor
        if cursor is None:
            return changes


def check_tiling(intervals: list[Any]) -> None:
    """No gap, no overlap, no empty one, no equal neighbours, the last one open."""
    for before, after in pairwise(intervals):
        assert before.from_ms < before.to_ms == after.from_ms
        assert before.public is not after.public
    if intervals:
        assert intervals[-1].to_ms is None
