"""The fold: saved states, going on from them, rows that are settled, and projections that raise."""

import pickle
import random
from collections.abc import Iterable
from typing import Any, ClassVar

import msgspec
import pytest

from app.event import BEFORE_ALL, Event
from app.fold import STEP, ProjectionFailed, Run, Saved, fold, row_key, start
from projections import ALL, Projection, visibility

UPDATE = "Live.CallbackAfterUpdateRoomInfo"
History = list[tuple[int, Event]]


def event(at: int, id_: str, **fields: str) -> Event:
    return Event(id_, at, "r", UPDATE, '"bob"', fields, "{}")


def history_of(length: int) -> History:
    """A history in event order with ties, all kinds of values, and positions in another order."""
    pick = random.Random(7)
    positions = list(range(1, length + 1))
    pick.shuffle(positions)
    history: History = []
    for number, position in enumerate(positions):
        fields = {
            "IsPublicVisible": pick.choice(["true", "false", "null"]),
            "RoomName": pick.choice(['"a"', '"b"', "1", "1.0"]),
            "Category": pick.choice(["[]", "[1]"]),
        }
        names = pick.sample(sorted(fields), pick.randint(0, 3))
        at = 1000 + number // 3  # three events in each millisecond
        history.append((position, event(at, f"{number:04}", **{name: fields[name] for name in names})))
    return history


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
    return [(number, event(number, f"{number:04}", F="1")) for number in range(begin, end)]


# ---- saved states ----


def test_the_step_is_100() -> None:
    assert STEP == 100


def test_a_room_starts_before_all_events() -> None:
    assert start(COUNTING) == Saved(0, BEFORE_ALL, 0, Counted(0))


@pytest.mark.parametrize(
    ("length", "saved_after"),
    [
        (1, [1]),
        (2, [2]),
        (99, [99]),
        (100, [100]),
        (101, [100, 101]),
        (199, [100, 199]),
        (200, [100, 200]),
        (250, [100, 200, 250]),
    ],
)
def test_a_state_is_saved_every_100_events_and_at_the_end(length: int, saved_after: list[int]) -> None:
    run = fold("counting", COUNTING, "r", start(COUNTING), numbered(1, length + 1))
    assert [save.events for save in run.saves] == saved_after
    assert [save.state for save in run.saves] == [Counted(events) for events in saved_after]
    assert [save.key for save in run.saves] == [(events, f"{events:04}") for events in saved_after]
    assert run.rows == [CountRow("r", length)]
    assert run.state == Counted(length)


def test_steps_are_counted_from_the_rooms_first_event() -> None:
    first = fold("counting", COUNTING, "r", start(COUNTING), numbered(1, 151))
    assert [save.events for save in first.saves] == [100, 150]
    second = fold("counting", COUNTING, "r", first.saves[-1], numbered(151, 211))
    assert [save.events for save in second.saves] == [200, 210]
    third = fold("counting", COUNTING, "r", second.saves[0], numbered(201, 301))
    assert [save.events for save in third.saves] == [300]


def test_no_events_leave_the_state_as_it_was() -> None:
    run = fold("counting", COUNTING, "r", start(COUNTING), [])
    assert run == Run(None, [CountRow("r", 0)], [Saved(0, BEFORE_ALL, 0, Counted(0))])
    saved = Saved(100, (5, "x"), 9, Counted(100))
    assert fold("counting", COUNTING, "r", saved, []) == Run(None, [CountRow("r", 100)], [saved])


def test_max_position_is_the_highest_so_far_and_not_the_last() -> None:
    positions = [7, 3, 12, 5, *range(100, 4, -1)]
    history = [(position, event(number, "x", F="1")) for number, position in enumerate(positions)]
    run = fold("counting", COUNTING, "r", start(COUNTING), history)
    assert [(save.events, save.max_position) for save in run.saves] == [(100, 100)]
    run = fold("counting", COUNTING, "r", start(COUNTING), history[:4])
    assert [(save.events, save.max_position) for save in run.saves] == [(4, 12)]
    run = fold("counting", COUNTING, "r", Saved(1, (-1, ""), 50, Counted(1)), history[:4])
    assert [(save.events, save.max_position) for save in run.saves] == [(5, 50)]


# ---- going on ----


@pytest.mark.parametrize("name", sorted(ALL))
def test_folding_on_from_any_cut_equals_folding_from_the_start(name: str) -> None:
    projection = ALL[name]
    whole = fold(name, projection, "r", start(projection), HISTORY)
    assert len(whole.rows) > (10 if projection.Row.GROWS else 0)
    for cut in range(len(HISTORY) + 1):
        before = fold(name, projection, "r", start(projection), HISTORY[:cut])
        after = fold(name, projection, "r", before.saves[-1], HISTORY[cut:])
        assert settled(before, after) + after.rows == whole.rows, cut
        assert after.saves[-1] == whole.saves[-1], cut
        assert [save for save in after.saves if save.events % 100 == 0 and save.events > cut] == [
            save for save in whole.saves if save.events % 100 == 0 and save.events > cut
        ]


@pytest.mark.parametrize("name", sorted(ALL))
def test_a_state_that_was_written_and_read_goes_on_the_same(name: str) -> None:
    projection = ALL[name]
    whole = fold(name, projection, "r", start(projection), HISTORY)
    for save in whole.saves[:-1]:
        packed = msgspec.msgpack.encode(save.state)
        state = msgspec.msgpack.decode(packed, type=type(projection.initial))
        assert state == save.state
        before = fold(name, projection, "r", start(projection), HISTORY[: save.events])
        after = fold(name, projection, "r", msgspec.structs.replace(save, state=state), HISTORY[save.events :])
        assert settled(before, after) + after.rows == whole.rows
        assert after.state == whole.state


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
    on = fold("logging", LOGGING, "r", first.saves[-1], numbered(4, 6))
    assert on.first == (3,)
    assert [(row.number, row.event_id) for row in on.rows] == [(3, "0003"), (4, "0004"), (5, "0005")]


def test_events_that_do_not_touch_a_growing_row_leave_it() -> None:
    quiet = [(9, event(9, "0009"))]
    first = fold("logging", LOGGING, "r", start(LOGGING), numbered(1, 3))
    on = fold("logging", LOGGING, "r", first.saves[-1], quiet)
    assert (on.first, on.rows) == ((2,), [LogRow("r", 2, "0002")])
    assert on.saves == [Saved(3, (9, "0009"), 9, LogState(2, "0002"))]
    assert fold("logging", LOGGING, "r", start(LOGGING), quiet).rows == []


def test_the_timeline_goes_on_from_its_last_two_intervals() -> None:
    flips = [(at, event(at, f"{at}", IsPublicVisible="true" if at % 2 else "false")) for at in range(1, 8)]
    first = fold("visibility", ALL["visibility"], "r", start(ALL["visibility"]), flips)
    assert [row.from_ms for row in first.rows] == [1, 2, 3, 4, 5, 6, 7]
    # Back to hidden within the millisecond that made it public: the last two intervals become one.
    on = fold("visibility", ALL["visibility"], "r", first.saves[-1], [(8, event(7, "8", IsPublicVisible="false"))])
    assert on.first == (6,)
    assert on.rows == [visibility.Row("r", 6, None, False)]


# ---- what must not happen ----


@pytest.mark.parametrize(
    "keys",
    [
        [(20, "a"), (10, "b")],
        [(10, "b"), (10, "a")],
        [(10, "a"), (10, "a")],
        [(10, "a"), (20, "a"), (15, "a"), (30, "a")],
    ],
)
def test_a_history_out_of_event_order_trips_the_assert(keys: list[tuple[int, str]]) -> None:
    history = [(position, event(at, id_, F="1")) for position, (at, id_) in enumerate(keys, start=1)]
    with pytest.raises(AssertionError, match="out of event order"):
        fold("counting", COUNTING, "r", start(COUNTING), history)


def test_a_history_that_begins_before_the_saved_state_trips_the_assert() -> None:
    saved = Saved(1, (10, "b"), 1, Counted(1))
    for at, id_ in ((9, "z"), (10, "a"), (10, "b")):
        with pytest.raises(AssertionError, match="position 2 is out of event order"):
            fold("counting", COUNTING, "r", saved, [(2, event(at, id_, F="1"))])
    assert fold("counting", COUNTING, "r", saved, [(2, event(10, "c", F="1"))]).rows == [CountRow("r", 2)]


def test_a_projection_that_raises_is_named_with_the_event_and_its_position() -> None:
    failing: Projection = Counting(apply_fails_at="0003")
    with pytest.raises(ProjectionFailed) as failed:
        fold("counting", failing, "r", start(failing), [(position * 10, one) for position, one in numbered(1, 6)])
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
