"""The fold: saved states, going on from them, rows that are settled, and projections that raise."""

import pickle
import random
from collections.abc import Iterable
from typing import Any, ClassVar

import msgspec
import pytest

from app.event import BEFORE_ALL, Event, History
from app.infra.errors import ProjectionFailed
from app.projector.fold import STEP, Run, Saved, fold, row_key, start
from projections import ALL, Projection, visibility

UPDATE = "Live.CallbackAfterUpdateRoomInfo"


def event(at: int, id_: str, **fields: str) -> Event:
    return Event(id_, at, "r", UPDATE, '"bob"', fields, "{}")


def history_of(length: int) -> History:
    """A history in event order with ties, all kinds of values, and positions in another order."""
    pick = random.Random(7)
    positions = list(range(1, length + 1))
    pick.shuffle(positions)
    events = []
    for number in range(length):
        fields = {
            "IsPublicVisible": pick.choice(["true", "false", "null"]),
            "RoomName": pick.choice(['"a"', '"b"', "1", "1.0"]),
            "Category": pick.choice(["[]", "[1]"]),
        }
        names = pick.sample(sorted(fields), pick.randint(0, 3))
        at = 1000 + number // 3  # three events in each millisecond
        events.append(event(at, f"{number:04}", **{name: fields[name] for name in names}))
    return History(positions, events)


def part(history: History, begin: int, end: int | None = None) -> History:
    """The events of a history from number `begin` to before `end`, the first being number 0."""
    return History(history.positions[begin:end], history.events[begin:end])


HISTORY = history_of(250)


class Counted(msgspec.Struct, frozen=True):
    """Events seen."""

    events: int = 0


class CountRow(msgspec.Struct, frozen=True):
    """How many."""

    TABLE: ClassVar = "count"
    KEY: ClassVar = ("room_id",)
    GROWS: ClassVar = False

    room_id: str
    events: int


class Counting:
    """The smallest projection: it counts events, and raises where it is told to."""

    VERSION = 1
    Row: Any = CountRow
    initial: Any = Counted()

    def __init__(self, apply_fails_at: str = "", rows_fail: bool = False) -> None:
        self.apply_fails_at = apply_fails_at
        self.rows_fail = rows_fail

    def apply(self, state: Any, event: Event, /) -> Any:
        if event.event_id == self.apply_fails_at:
            raise KeyError("no such field")
        return Counted(state.events + 1)

    def rows(self, room_id: str, state: Any, /) -> Iterable[Any]:
        if self.rows_fail:
            raise ValueError("no rows")
        return [CountRow(room_id, state.events)]


class LogRow(msgspec.Struct, frozen=True):
    """One event."""

    TABLE: ClassVar = "log"
    KEY: ClassVar = ("room_id", "number")
    GROWS: ClassVar = True

    room_id: str
    number: int
    event_id: str


class LogState(msgspec.Struct, frozen=True):
    """The last event and its number."""

    number: int = 0
    event_id: str = ""


class Logging:
    """A projection whose table grows by a row with each event that has fields."""

    VERSION = 1
    Row: Any = LogRow
    initial: Any = LogState()

    def apply(self, state: Any, event: Event, /) -> Any:
        return LogState(state.number + 1, event.event_id) if event.room_info else state

    def rows(self, room_id: str, state: Any, /) -> Iterable[Any]:
        return [LogRow(room_id, state.number, state.event_id)] if state.number else []


COUNTING: Projection = Counting()
LOGGING: Projection = Logging()


def numbered(begin: int, end: int) -> History:
    """Events of numbers begin ... end - 1, each at the position of its number."""
    numbers = list(range(begin, end))
    return History(numbers, [event(number, f"{number:04}", F="1") for number in numbers])


# ---- saved states ----


def test_no_question_folds_more_than_a_hundred_events() -> None:
    assert 1 < STEP <= 100


def test_a_room_starts_before_all_events() -> None:
    assert start(COUNTING) == Saved(0, BEFORE_ALL, 0, 0, Counted(0))


@pytest.mark.parametrize(
    ("length", "steps"),
    [
        (1, 0),
        (2, 0),
        (STEP - 1, 0),
        (STEP, 1),
        (STEP + 1, 1),
        (2 * STEP - 1, 1),
        (2 * STEP, 2),
        (2 * STEP + 1, 2),
        (7 * STEP - 1, 6),
    ],
)
def test_a_state_is_saved_every_so_many_events_and_the_last_is_given_besides(length: int, steps: int) -> None:
    run = fold("counting", COUNTING, "r", start(COUNTING), numbered(1, length + 1))
    assert len(run.saves) == steps
    for number, saved in enumerate(run.saves, start=1):
        events = number * STEP
        assert saved == Saved(events, (events, f"{events:04}"), events, events - STEP + 1, Counted(events))
    first = (length - 1) // STEP * STEP + 1
    assert run.last == Saved(length, (length, f"{length:04}"), length, first, Counted(length))
    assert run.rows == [CountRow("r", length)]


def test_steps_are_counted_from_the_rooms_first_event() -> None:
    first = fold("counting", COUNTING, "r", start(COUNTING), numbered(1, STEP + 11))
    assert ([save.events for save in first.saves], first.last.events) == ([STEP], STEP + 10)
    second = fold("counting", COUNTING, "r", first.last, numbered(STEP + 11, 2 * STEP + 6))
    assert ([save.events for save in second.saves], second.last.events) == ([2 * STEP], 2 * STEP + 5)
    third = fold("counting", COUNTING, "r", second.saves[0], numbered(2 * STEP + 1, 3 * STEP + 1))
    assert ([save.events for save in third.saves], third.last.events) == ([3 * STEP], 3 * STEP)
    fourth = fold("counting", COUNTING, "r", second.last, numbered(2 * STEP + 6, 3 * STEP))
    assert ([save.events for save in fourth.saves], fourth.last.events) == ([], 3 * STEP - 1)


def test_no_events_leave_the_state_as_it_was() -> None:
    nothing = History([], [])
    begin = start(COUNTING)
    assert fold("counting", COUNTING, "r", begin, nothing) == Run(None, [CountRow("r", 0)], [], begin)
    for events in (STEP, STEP + 1):
        saved = Saved(events, (5, "x"), 9, 2, Counted(events))
        run = fold("counting", COUNTING, "r", saved, nothing)
        assert run == Run(None, [CountRow("r", events)], [], saved)
        assert run.last is saved


def test_max_position_is_the_highest_so_far_and_not_the_last() -> None:
    positions = [7, 3, 12, 5, *range(2 * STEP, STEP, -1)]
    history = History(positions, [event(number, "x", F="1") for number in range(len(positions))])
    run = fold("counting", COUNTING, "r", start(COUNTING), history)
    assert [(save.events, save.max_position) for save in run.saves] == [(STEP, 2 * STEP)]
    assert (run.last.events, run.last.max_position) == (STEP + 4, 2 * STEP)
    run = fold("counting", COUNTING, "r", start(COUNTING), part(history, 0, 4))
    assert (run.last.events, run.last.max_position) == (4, 12)
    run = fold("counting", COUNTING, "r", Saved(STEP - 3, (-1, ""), 50, 1, Counted(STEP - 3)), part(history, 0, 5))
    assert [(save.events, save.max_position) for save in run.saves] == [(STEP, 50)]
    assert (run.last.events, run.last.max_position) == (STEP + 2, max(50, 2 * STEP))


def test_min_position_is_the_lowest_since_the_saved_state_before() -> None:
    positions = [7, 3, *range(100, 98 + STEP), *range(500, 500 + STEP)]
    history = History(positions, [event(number, "x", F="1") for number in range(len(positions))])
    run = fold("counting", COUNTING, "r", start(COUNTING), history)
    assert [(save.events, save.min_position) for save in run.saves] == [(STEP, 3), (2 * STEP, 500)]
    first = fold("counting", COUNTING, "r", start(COUNTING), part(history, 0, STEP + 4)).last
    assert (first.events, first.min_position) == (STEP + 4, 500)
    assert fold("counting", COUNTING, "r", first, part(history, STEP + 4, 2 * STEP)).last.min_position == 500
    second = fold("counting", COUNTING, "r", run.saves[0], part(history, STEP, 2 * STEP)).last
    assert second == run.last


# ---- going on ----


@pytest.mark.parametrize("name", sorted(ALL))
def test_folding_on_from_any_cut_equals_folding_from_the_start(name: str) -> None:
    projection = ALL[name]
    whole = fold(name, projection, "r", start(projection), HISTORY)
    assert len(whole.rows) > (10 if projection.Row.GROWS else 0)
    assert [save.events for save in whole.saves] == list(range(STEP, len(HISTORY.events) + 1, STEP))
    for cut in range(len(HISTORY.events) + 1):
        before = fold(name, projection, "r", start(projection), part(HISTORY, 0, cut))
        after = fold(name, projection, "r", before.last, part(HISTORY, cut))
        assert settled(before, after) + after.rows == whole.rows, cut
        assert after.last == whole.last, cut
        assert before.saves + after.saves == whole.saves, cut


@pytest.mark.parametrize("name", sorted(ALL))
def test_a_state_that_was_written_and_read_goes_on_the_same(name: str) -> None:
    projection = ALL[name]
    whole = fold(name, projection, "r", start(projection), HISTORY)
    for save in whole.saves:
        packed = msgspec.msgpack.encode(save.state)
        state = msgspec.msgpack.decode(packed, type=type(projection.initial))
        assert state == save.state
        before = fold(name, projection, "r", start(projection), part(HISTORY, 0, save.events))
        after = fold(name, projection, "r", msgspec.structs.replace(save, state=state), part(HISTORY, save.events))
        assert settled(before, after) + after.rows == whole.rows
        assert after.last == whole.last


def settled(before: Run, after: Run) -> list[Any]:
    """The rows of a run that stay when another one goes on from its end."""
    return [row for row in before.rows if after.first is not None and row_key(row) < after.first]


# ---- rows that grow ----


def test_a_growing_row_keeps_settled_rows() -> None:
    history = numbered(1, 6)
    run = fold("logging", LOGGING, "r", start(LOGGING), history)
    assert run.first is None
    assert [(row.number, row.event_id) for row in run.rows] == [
        (1, "0001"),
        (2, "0002"),
        (3, "0003"),
        (4, "0004"),
        (5, "0005"),
    ]


def test_folding_on_leaves_out_what_was_settled() -> None:
    first = fold("logging", LOGGING, "r", start(LOGGING), numbered(1, 4))
    on = fold("logging", LOGGING, "r", first.last, numbered(4, 6))
    assert on.first == (3,)
    assert [(row.number, row.event_id) for row in on.rows] == [(3, "0003"), (4, "0004"), (5, "0005")]


def test_events_that_do_not_touch_a_growing_row_leave_it() -> None:
    quiet = History([9], [event(9, "0009")])
    first = fold("logging", LOGGING, "r", start(LOGGING), numbered(1, 3))
    on = fold("logging", LOGGING, "r", first.last, quiet)
    assert (on.first, on.rows) == ((2,), [LogRow("r", 2, "0002")])
    assert (on.saves, on.last) == ([], Saved(3, (9, "0009"), 9, 1, LogState(2, "0002")))
    assert on.last.state is first.last.state
    assert fold("logging", LOGGING, "r", start(LOGGING), quiet).rows == []


def test_the_timeline_goes_on_from_its_last_two_intervals() -> None:
    flips = [event(at, f"{at}", IsPublicVisible="true" if at % 2 else "false") for at in range(1, 8)]
    first = fold("visibility", ALL["visibility"], "r", start(ALL["visibility"]), History(list(range(1, 8)), flips))
    assert [row.from_ms for row in first.rows] == [1, 2, 3, 4, 5, 6, 7]
    # Back to hidden within the millisecond that made it public: the last two intervals become one.
    back = History([8], [event(7, "8", IsPublicVisible="false")])
    on = fold("visibility", ALL["visibility"], "r", first.last, back)
    assert on.first == (6,)
    assert on.rows == [visibility.Row("r", 6, None, False)]


# ---- what must not happen ----


def test_a_history_that_begins_before_the_saved_state_trips_the_assert() -> None:
    saved = Saved(1, (10, "b"), 1, 1, Counted(1))
    for at, id_ in ((9, "z"), (10, "a"), (10, "b")):
        for history in (History([2], [event(at, id_)]), History([2, 3], [event(at, id_), event(11, "c")])):
            with pytest.raises(AssertionError, match=f"event {id_} is out of event order"):
                fold("counting", COUNTING, "r", saved, history)
    assert fold("counting", COUNTING, "r", saved, History([2], [event(10, "c")])).rows == [CountRow("r", 2)]


def test_a_projection_that_raises_is_named_with_the_event_and_its_position() -> None:
    failing: Projection = Counting(apply_fails_at="0003")
    with pytest.raises(ProjectionFailed) as failed:
        fold("counting", failing, "r", start(failing), History([50, 10, 30, 20, 40], numbered(1, 6).events))
    assert (failed.value.name, failed.value.position, failed.value.event_id) == ("counting", 30, "0003")
    assert str(failed.value) == "counting stopped at position 30, event 0003: KeyError: 'no such field'"
    assert isinstance(failed.value.__cause__, KeyError)


def test_a_growing_projection_whose_rows_raise_is_named_too() -> None:
    class Failing(Logging):
        """Its rows cannot be made from the second on."""

        def rows(self, room_id: str, state: Any, /) -> Iterable[Any]:
            if state.number == 2:
                raise ZeroDivisionError("two")
            return super().rows(room_id, state)

    failing: Projection = Failing()
    with pytest.raises(ProjectionFailed, match="position 2, event 0002: ZeroDivisionError: two"):
        fold("logging", failing, "r", start(failing), numbered(1, 4))


def test_a_projection_whose_rows_raise_at_the_end_is_named_too() -> None:
    failing: Projection = Counting(rows_fail=True)
    with pytest.raises(ProjectionFailed, match="counting stopped at position 3, event 0003: ValueError: no rows"):
        fold("counting", failing, "r", start(failing), numbered(1, 4))


def test_an_interrupt_is_not_taken_for_a_failure_of_the_projection() -> None:
    class Interrupted(Counting):
        """Ctrl-C while it works."""

        def apply(self, state: Any, event: Event, /) -> Any:
            raise KeyboardInterrupt(state, event)

    interrupted: Projection = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        fold("counting", interrupted, "r", start(interrupted), numbered(1, 2))


def test_a_failure_can_cross_from_a_rebuilds_worker_to_its_parent() -> None:
    failing: Projection = Counting(apply_fails_at="0003")
    with pytest.raises(ProjectionFailed) as failed:
        fold("counting", failing, "r", start(failing), numbered(1, 6))
    crossed = pickle.loads(pickle.dumps(failed.value))
    assert isinstance(crossed, ProjectionFailed)
    assert str(crossed) == "counting stopped at position 3, event 0003: KeyError: 'no such field'"
    assert (crossed.name, crossed.position, crossed.event_id) == ("counting", 3, "0003")
