"""The questions that the page asks beyond those of the API, held against the oracle over random histories."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import msgspec
import pytest
from conftest import T0, UPDATE, body_of
from hypothesis import example, given, settings
from hypothesis import strategies as st
from oracle import Oracle

import app.projector.fold
import app.projector.remembered
from app.event import Cut
from app.infra import sqlite
from app.infra.errors import BadQuestion, NotFound
from app.log import schema
from app.log.records import Arrival
from app.log.store import EventStore
from app.projector.catch_up import catch_up_all
from app.projector.read_models import ReadModels, connect_read_models
from app.queries.history import history as history_of
from app.queries.history import next_change, time_span
from app.queries.reader import Reader
from app.queries.rooms import latest_rooms, rooms
from app.tencent.body import decode
from projections import ALL

FOREVER_MS = T0 + 10**6
SPAN_MS = 6  # so short that events meet within a millisecond
ROOMS = ("a", "b?#% ü", "Ab", "straße")
NAMES: list[Any] = ["Tea", "tea & Milk", "STRASSE", "ſpoon", "50%_", 'say "b"', "back\\slash", "", None, 7, "\u212a"]
NEEDLES = ["a", "TEA", "ss", "ß", "s", "k", "%", "_", "50%_", '"', "\\", "name", "7", " ", "é", "!", "roomname", "]"]
OPERATORS: list[Any] = ["bob", "eve", "7", 7, 2**60 + 1, None, "null", ["a", 1], "", 1.5]


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short rooms have saved states too, and not all of them are remembered."""
    monkeypatch.setattr(app.projector.fold, "STEP", 3)
    monkeypatch.setattr(app.projector.remembered, "MAX_ROOMS", 2)


class World:
    """A log and its read models in memory, with the oracle beside them."""

    def __init__(self) -> None:
        self.log = EventStore(schema.open_log(sqlite.MEMORY))
        self.models = ReadModels(connect_read_models(sqlite.MEMORY), ALL)
        self.models.create()
        self.reader = Reader(self.log, self.models)
        self.oracle = Oracle()
        self.clock_ms = T0

    def ask(self, question: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with self.reader.moment() as moment:
            return question(moment, *args, **kwargs)

    def deliver(self, body: bytes, wait_ms: int = 1) -> None:
        self.clock_ms += wait_ms
        self.log.append([Arrival(decode(body, FOREVER_MS), self.clock_ms)])
        self.oracle.receive(body, self.clock_ms)
        catch_up_all(self.log, self.models)


def world_of(*bodies: bytes) -> World:
    world = World()
    for body in bodies:
        world.deliver(body)
    return world


def sibling(room_id: str, event_time_ms: int) -> bytes:
    """Another callback about a room: it is in the log, but changes nothing."""
    content = {"CallbackCommand": "Live.CallbackAfterSetMetadata", "RoomId": room_id, "EventTime": event_time_ms}
    return json.dumps(content).encode()


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[bytes, int]]:
    """Up to 20 callbacks of a few rooms in no order, some twice, some siblings; each with a wait before it."""
    made: list[tuple[bytes, int]] = []
    for _ in range(draw(st.integers(1, 20))):
        kind, at = draw(st.integers(0, 9)), T0 + draw(st.integers(0, SPAN_MS))
        room_id = draw(st.sampled_from(ROOMS))
        if kind == 0 and made:
            body = draw(st.sampled_from(made))[0]
        elif kind == 1:
            body = sibling(room_id, at)
        else:
            fields = {}
            if draw(st.booleans()):
                fields["RoomName"] = draw(st.sampled_from(NAMES))
            if draw(st.booleans()):
                fields["IsPublicVisible"] = draw(st.sampled_from([True, False, "true", None]))
            if draw(st.booleans()):
                fields["N"] = draw(st.sampled_from([1, 1.0, True, "1"]))
            body = body_of(room_id, at, operator=draw(st.sampled_from(OPERATORS)), **fields)
        made.append((body, draw(st.integers(0, 2))))
    return made


def told(history: list[tuple[bytes, int]]) -> World:
    world = World()
    for body, wait_ms in history:
        world.deliver(body, wait_ms)
    return world


times = st.none() | st.integers(T0 - 1, T0 + SPAN_MS + 1)
known = st.none() | st.integers(T0 - 1, T0 + 30)


def cut_of(as_of_ms: int | None, known_at_ms: int | None) -> Cut:
    return Cut(as_of_ms=as_of_ms, known_at_ms=known_at_ms)


def as_json(answer: Any) -> Any:
    return json.loads(msgspec.json.encode(answer))


def texts(values: list[Any]) -> list[str]:
    """Each value as JSON: to Python 1 == 1.0 == True."""
    return [json.dumps(value, sort_keys=True) for value in values]


def pages(question: Any, items: str, *args: Any, **kwargs: Any) -> Iterator[list[Any]]:
    """Page after page; what each holds."""
    cursor = None
    while True:
        page = question(*args, cursor=cursor, **kwargs)
        yield getattr(page, items)
        cursor = page.next_cursor
        if cursor is None:
            return


def all_of(question: Any, items: str, *args: Any, **kwargs: Any) -> list[Any]:
    """What the pages hold together; only the last may hold less than asked for, and only the first nothing."""
    found = list(pages(question, items, *args, **kwargs))
    assert all(len(page) == kwargs["limit"] for page in found[:-1])
    assert found[-1] or len(found) == 1
    return [item for page in found for item in page]


# ---- latest_rooms ----


def latest(
    oracle: Oracle, as_of: int | None, known_at: int | None, public: bool | None, q: str | None
) -> list[dict[str, Any]]:
    """The rooms of a cut, those whose last update is the latest first, from all events received."""
    found = []
    for room_id in oracle.rooms(as_of, known_at):
        room = oracle.room(room_id, as_of, known_at)
        spells = oracle.intervals(room_id, as_of, known_at)
        assert room is not None
        if public is not None and (not spells or spells[-1]["public"] is not public):
            continue
        name = room["room_info"].get("RoomName")
        words = [room_id, *([name] if isinstance(name, str) else [])]
        if q and not any(q.casefold() in word.casefold() for word in words):
            continue
        found.append(room)
    return sorted(found, key=lambda room: (room["event_time_ms"], room["room_id"]), reverse=True)


@settings(max_examples=120)
@given(histories(), times, known, st.sampled_from([None, None, True, False]), st.none() | st.sampled_from(NEEDLES))
def test_the_latest_rooms_are_those_of_the_oracle_whatever_arrived_when(
    history: list[tuple[bytes, int]], as_of: int | None, known_at: int | None, public: bool | None, q: str | None
) -> None:
    world = told(history)
    for cut in ((None, None), (as_of, known_at)):
        expected = texts(latest(world.oracle, *cut, public, q))
        whole = world.ask(latest_rooms, cut_of(*cut), public=public, q=q)
        assert texts(as_json(whole.rooms)) == expected
        assert whole.next_cursor is None
        for limit in (1, 2):
            paged = all_of(partial(world.ask, latest_rooms), "rooms", cut_of(*cut), public=public, q=q, limit=limit)
            assert texts(as_json(paged)) == expected
        # Sorted by name instead, they are the same rooms.
        by_name = world.ask(rooms, cut_of(*cut), public=public, q=q)
        assert sorted(texts(as_json(by_name.rooms))) == sorted(expected)
    world.reader.close()


@pytest.mark.parametrize("q", NEEDLES)
def test_searching_finds_the_same_rooms_in_either_order(q: str) -> None:
    """Names in which another letter stands for the one asked for: ß for ss, a Kelvin sign for k."""
    world = world_of(*(body_of(f"room {i}", T0 + i, RoomName=name) for i, name in enumerate(NAMES)))
    by_name = [room.room_id for room in world.ask(rooms, Cut(), q=q).rooms]
    by_activity = [room.room_id for room in world.ask(latest_rooms, Cut(), q=q).rooms]
    assert sorted(by_activity) == by_name
    assert by_name == sorted(room["room_id"] for room in latest(world.oracle, None, None, None, q))
    world.reader.close()


def test_every_letter_that_another_character_stands_for_finds_it() -> None:
    odd = [char for char in map(chr, range(128, 0x110000)) if any(it.isascii() for it in char.casefold())]
    world = world_of(*(body_of(f"{i}", T0 + i, RoomName=f"<{char}>") for i, char in enumerate(odd)))
    for i, char in enumerate(odd):
        for letter in filter(str.isascii, char.casefold()):
            assert str(i) in [room.room_id for room in world.ask(latest_rooms, Cut(), q=letter).rooms], (char, letter)
    world.reader.close()


def test_what_is_no_update_does_not_move_a_room_up() -> None:
    world = world_of(body_of("a", T0, N=1), body_of("b", T0 + 1, N=1), sibling("a", T0 + 5), sibling("only", T0 + 9))
    for cut in ((None, None), (T0 + 9, None), (None, T0 + 9), (T0 + 9, T0 + 9)):
        assert [room.room_id for room in world.ask(latest_rooms, cut_of(*cut)).rooms] == ["b", "a"], cut
    world.reader.close()


def test_rooms_with_updates_in_one_millisecond_come_by_id_and_each_once() -> None:
    names = [f"room {number:03}" for number in range(25)]
    world = world_of(*(body_of(name, T0, N=1) for name in names))
    found = all_of(partial(world.ask, latest_rooms), "rooms", Cut(), limit=4)
    assert [room.room_id for room in found] == names[::-1]
    world.reader.close()


def test_a_room_that_moves_up_while_somebody_turns_pages_pushes_no_other_out() -> None:
    world = world_of(*(body_of(name, T0 + i, N=1) for i, name in enumerate("abcdef")))
    first = world.ask(latest_rooms, Cut(), limit=2)
    world.deliver(body_of("a", T0 + 90, N=2))
    rest = world.ask(latest_rooms, Cut(), limit=9, cursor=first.next_cursor)
    assert [room.room_id for room in first.rooms + rest.rooms] == ["f", "e", "d", "c", "b"]
    world.reader.close()


@pytest.mark.parametrize("limit", [0, -1, 501])
def test_a_page_has_from_1_to_500_rooms(limit: int) -> None:
    world = world_of(body_of("a", T0, N=1))
    with pytest.raises(BadQuestion, match="limit must be from 1 to 500"):
        world.ask(latest_rooms, Cut(), limit=limit)
    world.reader.close()


@settings(max_examples=80)
@given(st.text(max_size=30))
@example("W10")  # []
@example("WzEsMl0")  # [1,2]
@example("WzEuNSwiYSJd")  # [1.5,"a"]
@example("Wzk5OTk5OTk5OTk5OTk5OTk5OTk5LCJhIl0")  # [99999999999999999999,"a"]
@example("ImEi")  # "a", which is a cursor of the list by name
def test_a_cursor_of_another_kind_is_refused_and_never_a_crash(cursor: str) -> None:
    world = world_of(body_of("a", T0, N=1))
    asked: list[Callable[[], object]] = [
        lambda: world.ask(latest_rooms, Cut(), cursor=cursor or "?"),
        lambda: world.ask(history_of, "a", Cut(), cursor=cursor or "?", late=True, operator="bob"),
    ]
    for ask in asked:
        with pytest.raises(BadQuestion, match="cursor"):
            ask()
    world.reader.close()


# ---- next_change ----


@settings(max_examples=120)
@given(histories(), times, known)
def test_the_next_change_is_the_first_of_the_history_behind_that_time(
    history: list[tuple[bytes, int]], as_of: int | None, known_at: int | None
) -> None:
    world = told(history)
    for cut in ((None, None), (as_of, known_at)):
        for room_id in ROOMS:
            changes = world.oracle.history(room_id, *cut) or []
            for after_ms in range(T0 - 2, T0 + SPAN_MS + 2):
                later = [change["event_time_ms"] for change in changes if change["event_time_ms"] > after_ms]
                assert world.ask(next_change, room_id, after_ms, cut_of(*cut)) == min(later, default=None)
    world.reader.close()


def test_an_update_that_changes_nothing_is_no_next_change() -> None:
    world = world_of(body_of("r", T0, N=1), body_of("r", T0 + 1, N=1), body_of("r", T0 + 2), body_of("r", T0 + 3, N=2))
    assert [world.ask(next_change, "r", T0 + after, Cut()) for after in range(-1, 4)] == [T0, *[T0 + 3] * 3, None]
    assert world.ask(next_change, "nobody", T0, Cut()) is None
    world.reader.close()


# ---- history of an operator, late or not ----


def made_by(operator: Any, asked: str) -> bool:
    """Whether an operator is the one asked for: as a text, or as JSON."""
    return operator == asked if isinstance(operator, str) and operator == asked else json.dumps(operator) == asked


@settings(max_examples=120)
@given(
    histories(),
    times,
    known,
    st.none() | st.sampled_from(OPERATORS),
    st.sampled_from([None, True, False]),
    st.sampled_from([None, "N"]),
)
def test_the_history_of_an_operator_late_or_not_is_that_of_the_oracle(
    history: list[tuple[bytes, int]],
    as_of: int | None,
    known_at: int | None,
    operator: Any,
    late: bool | None,
    field: str | None,
) -> None:
    world = told(history)
    asked = operator if operator is None or isinstance(operator, str) else json.dumps(operator)
    for cut in ((None, None), (as_of, known_at)):
        for room_id in ROOMS:
            changes = world.oracle.history(room_id, *cut, field=field)
            more: dict[str, Any] = {"operator": asked, "late": late, "field": field}
            if changes is None:
                with pytest.raises(NotFound):
                    world.ask(history_of, room_id, cut_of(*cut), **more)
                continue
            expected = texts(
                [
                    change
                    for change in changes
                    if (asked is None or made_by(change["operator"], asked))
                    and (late is None or change["late"] is late)
                ]
            )
            assert texts(as_json(world.ask(history_of, room_id, cut_of(*cut), **more).changes)) == expected
            paged = all_of(partial(world.ask, history_of), "changes", room_id, cut_of(*cut), **more, limit=1)
            assert texts(as_json(paged)) == expected
    world.reader.close()


def test_an_operator_is_asked_for_as_text_or_as_json() -> None:
    operators = ["7", 7, None, "null", 2**60 + 1]
    world = world_of(*(body_of("r", T0 + i, operator=who, N=i) for i, who in enumerate(operators)))

    def found(asked: str) -> list[Any]:
        return [
            json.loads(bytes(change.operator)) for change in world.ask(history_of, "r", Cut(), operator=asked).changes
        ]

    assert found("7") == [7, "7"]
    assert found('"7"') == ["7"]
    assert found("null") == ["null", None]
    assert found(str(2**60 + 1)) == [2**60 + 1]
    assert found(str(2**60)) == []
    assert found("nobody") == []
    world.reader.close()


def test_late_changes_far_apart_are_found_over_many_pages() -> None:
    bodies = [body_of("r", T0 + 10 * number, N=number) for number in range(1, 40)]
    late = [body_of("r", T0 + 10 * number + 5, operator="eve", N=-number) for number in (3, 17, 31)]
    world = world_of(*bodies, *late)
    expected = [T0 + 315, T0 + 175, T0 + 35]
    found = all_of(partial(world.ask, history_of), "changes", "r", Cut(), late=True, limit=1)
    assert [change.event_time_ms for change in found] == expected
    assert len(all_of(partial(world.ask, history_of), "changes", "r", Cut(), late=False, limit=7)) == 39
    # Before they came, nothing was late.
    known_at = world.oracle.events[38].received_at_ms
    assert world.ask(history_of, "r", Cut(known_at_ms=known_at), late=True).changes == []
    world.reader.close()


# ---- time_span ----


@settings(max_examples=50)
@given(histories())
def test_a_time_span_reaches_from_the_first_to_the_last_event_in_time_and_in_receipt(
    history: list[tuple[bytes, int]],
) -> None:
    world = told(history)
    for room_id in ROOMS:
        mine = [
            event
            for event in world.oracle.events
            if room_id in (event.body.get("RoomId"), event.body.get("RoomInfo", {}).get("RoomId"))
        ]
        if not mine:
            with pytest.raises(NotFound):
                world.ask(time_span, room_id)
            continue
        happened, received = [e.event_time_ms for e in mine], [e.received_at_ms for e in mine]
        span = world.ask(time_span, room_id)
        assert (span.first_ms, span.last_ms) == (min(happened), max(happened))
        assert (span.first_received_ms, span.last_received_ms) == (min(received), max(received))
    world.reader.close()


def test_updates_are_what_the_histories_are_made_of() -> None:
    """The generator is worth something: it makes late updates, ties, duplicates, siblings and changes."""
    seen = {"late": 0, "ties": 0, "duplicates": 0, "siblings": 0}

    @settings(max_examples=60)
    @given(histories())
    def look(history: list[tuple[bytes, int]]) -> None:
        world = told(history)
        events = world.oracle.events
        seen["duplicates"] += len(history) - len(events)
        seen["siblings"] += sum(event.body["CallbackCommand"] != UPDATE for event in events)
        for room_id in world.oracle.rooms():
            changes = world.oracle.history(room_id) or []
            seen["late"] += sum(change["late"] for change in changes)
            seen["ties"] += len(changes) - len({change["event_time_ms"] for change in changes})
        world.reader.close()

    look()
    assert all(seen.values()), seen


def steps_of(connections: list[sqlite.Connection], question: Callable[[], Any]) -> int:
    """How far SQLite's machine has to go for an answer, in steps of some hundred."""
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    for conn in connections:
        conn.set_progress_handler(count, 100)
    question()
    for conn in connections:
        conn.set_progress_handler(None, 0)
    return steps


def test_a_page_of_a_long_past_costs_hardly_more_than_one_of_a_short_past(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.projector.fold, "STEP", 33)
    found: dict[int, list[int]] = {}
    for events in (500, 5000):
        world = World()
        bodies = [body_of("r", T0 + 10 * number, N=number) for number in range(events)]
        bodies += [body_of("r", T0 + 10 * number + 5, N=-number) for number in range(0, events, 50)]
        world.log.append([Arrival(decode(body, FOREVER_MS), T0 + events) for body in bodies])
        catch_up_all(world.log, world.models)
        asked = partial(world.ask, history_of, "r", limit=20)
        questions = [
            partial(asked, Cut()),
            partial(asked, Cut(as_of_ms=T0 + 2000)),
            partial(asked, Cut(), to_ms=T0 + 2000),
        ]
        found[events] = [steps_of([world.log.conn, world.models.conn], question) for question in questions]
        world.reader.close()
    assert all(long < 2 * short for short, long in zip(found[500], found[5000], strict=True)), found
