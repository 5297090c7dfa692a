"""The properties bite: each of these bugs, put in the place of a function of the program, makes one of them fail."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import test_crashes
import test_properties
from histories import make_steps_small
from hypothesis import given, settings
from msgspec.structs import replace

from app.event import MAX_POSITION, MAX_TIME_MS, Event, History
from app.infra import sqlite
from app.log import append, records, room_index, schema
from app.log.store import EventStore
from app.projector import batches, catch_up, columns, runs, states
from app.projector import fold as folding
from app.projector.read_models import ReadModels
from app.projector.remembered import Remembered
from app.queries import late
from projections import change_counts, visibility

pytestmark = pytest.mark.slow

HISTORIES = 800
Patch = pytest.MonkeyPatch
Seed = Callable[[Patch], None]
BUGS: dict[str, Seed] = {}
LAWS = {
    "answers": (
        test_properties.test_answers_equal_the_oracle_and_any_order_of_arrival_equals_a_rebuild,
        test_properties.ANSWERS,
        HISTORIES,
    ),
    "crashes": (
        test_crashes.test_a_crash_between_any_two_statements_then_catching_up_equals_a_rebuild,
        test_crashes.CRASHES,
        HISTORIES,
    ),
}


def bug(name: str) -> Callable[[Seed], Seed]:
    """Name what a function puts into the program."""

    def add(seed: Seed) -> Seed:
        BUGS[name] = seed
        return seed

    return add


def put(patch: Patch, right: Any, wrong: Any) -> None:
    """Put something in the place of a function or class, in every module that knows it."""
    places = [
        (module, name)
        for module_name, module in list(sys.modules.items())
        if module_name.partition(".")[0] in ("app", "projections", "test_properties", "test_crashes")
        for name, value in vars(module).items()
        if value is right
    ]
    assert places, f"no module knows {right}: seed this bug in another way"
    for module, name in places:
        patch.setattr(module, name, wrong)


# ---- order ----


class AnyOrder(History, frozen=True):
    """A history that does not look at the order of its events."""

    def __post_init__(self) -> None:
        pass


def with_last_key(patch: Patch, key: Callable[[tuple[int, str]], tuple[int, str]]) -> None:
    """Let every fold say that its last event stands elsewhere in event order."""
    fold = folding.fold

    def fold_to_there(*args: Any) -> folding.Run:
        run = fold(*args)
        return folding.Run(run.first, run.rows, run.saves, replace(run.last, key=key(run.last.key)))

    put(patch, fold, fold_to_there)


class BeforeItsMillisecond(tuple[int, str]):
    """A place in event order that is before every other one of its millisecond."""

    __slots__ = ()

    def __lt__(self, other: tuple[Any, ...]) -> bool:
        return bool(self[0] <= other[0])


class BeforeEverything(tuple[int, str]):
    """A place in event order that is before every other."""

    __slots__ = ()

    def __lt__(self, _: object) -> bool:
        return True


@bug("ties are broken by arrival")
def _(patch: Patch) -> None:
    history_of = records.history_of

    def by_arrival(pairs: Sequence[tuple[int, Event]]) -> History:
        pairs = sorted(pairs, key=lambda pair: (pair[1].event_time_ms, pair[0]))
        return AnyOrder([position for position, _ in pairs], [event for _, event in pairs])

    def history_by_arrival(rows: Any) -> History:
        history = history_of(rows)
        return by_arrival(list(zip(history.positions, history.events, strict=True)))

    put(patch, history_of, history_by_arrival)
    put(patch, batches._in_event_order, by_arrival)
    with_last_key(patch, BeforeItsMillisecond)


class Forgetful(dict[str, int]):
    """Knows of no event that it is there."""

    def get(self, *_: object) -> Any:
        return None


@bug("duplicates are stored")
def _(patch: Patch) -> None:
    open_log = schema.open_log

    def open_unguarded(*args: Any, **kwargs: Any) -> sqlite.Connection:
        conn = open_log(*args, **kwargs)
        (guard,) = conn.execute("SELECT sql FROM sqlite_schema WHERE name = 'events_no_replace'").fetchone()
        conn.execute("DROP TRIGGER events_no_replace")
        conn.execute(guard.replace("event_id = NEW.event_id", "event_id = NEW.event_id AND 0"))
        return conn

    put(patch, open_log, open_unguarded)
    put(patch, append._positions_of, lambda *_: Forgetful())
    put(patch, History, AnyOrder)


@bug("a late event is skipped")
def _(patch: Patch) -> None:
    batch = batches.Batch
    history_of = batch.history

    def without_late_ones(self: Any, room_id: str, *args: Any) -> History:
        history = history_of(self, room_id, *args)
        unread = set(self.rooms[room_id].positions)
        last_read = max((i for i, at in enumerate(history.positions) if at not in unread), default=-1)
        kept = [i for i, at in enumerate(history.positions) if at not in unread or i > last_read]
        return History([history.positions[i] for i in kept], [history.events[i] for i in kept])

    patch.setattr(batch, "history", without_late_ones)


@bug("a late event is folded at the end")
def _(patch: Patch) -> None:
    with_last_key(patch, BeforeEverything)


# ---- transactions ----


@bug("the checkpoint is written before the rows")
def _(patch: Patch) -> None:
    right, transaction, savepoint = catch_up.catch_up, sqlite.transaction, sqlite.savepoint
    write, move_checkpoint = runs.write_runs, ReadModels.move_checkpoint
    catching_up: list[bool] = []

    def one_by_one(begin: Callable[..., AbstractContextManager[None]]) -> Callable[..., AbstractContextManager[None]]:
        return lambda *args: nullcontext() if catching_up else begin(*args)

    def catch_up_one_by_one(*args: Any) -> catch_up.CaughtUp:
        catching_up.append(True)
        try:
            return right(*args)
        finally:
            catching_up.pop()

    def write_later(models: Any, name: str, waiting: Any) -> None:
        models.waiting = waiting

    def move_first(self: Any, name: str, checkpoint: Any) -> None:
        move_checkpoint(self, name, checkpoint)
        write(self, name, self.__dict__.pop("waiting", ()))

    put(patch, right, catch_up_one_by_one)
    put(patch, transaction, one_by_one(transaction))
    put(patch, savepoint, one_by_one(savepoint))
    put(patch, write, write_later)
    patch.setattr(ReadModels, "move_checkpoint", move_first)


@bug("a batch is not one transaction")
def _(patch: Patch) -> None:
    append_batch, transaction = EventStore.append, sqlite.transaction
    appending: list[bool] = []

    @contextmanager
    def nothing_while_appending(conn: sqlite.Connection) -> Iterator[None]:
        with nullcontext() if appending else transaction(conn):
            yield

    def append_one_by_one(*args: Any) -> Any:
        appending.append(True)
        try:
            return append_batch(*args)
        finally:
            appending.pop()

    put(patch, transaction, nothing_while_appending)
    patch.setattr(EventStore, "append", append_one_by_one)


# ---- saved and remembered states ----


@bug("states from before a late event are kept")
def _(patch: Patch) -> None:
    table = columns.Table
    make = table.__init__

    def make_keeping(self: Any, *args: Any) -> None:
        make(self, *args)
        self.delete_states += " AND 0"

    patch.setattr(table, "__init__", make_keeping)


@bug("a room is gone on with from a state that it has left behind")
def _(patch: Patch) -> None:
    saved = Remembered.saved

    def first_saved(self: Any, name: str, room_id: str) -> Any:
        found = saved(self, name, room_id)
        return found and self.__dict__.setdefault("first", {}).setdefault((name, room_id), found)

    patch.setattr(Remembered, "saved", first_saved)


@bug("what was remembered outlives another writer")
def _(patch: Patch) -> None:
    patch.setattr(Remembered, "check", lambda *_: None)


@bug("known_at goes on from a state that knew more")
def _(patch: Patch) -> None:
    saved_at, saved_before = states.saved_at, states.saved_before

    def saved_at_any(models: ReadModels, name: str, room_id: str, as_of_ms: int, _: int) -> folding.Saved:
        return saved_at(models, name, room_id, as_of_ms, MAX_POSITION)

    def saved_before_any(
        models: ReadModels, name: str, room_id: str, key: Any, as_of_ms: int = MAX_TIME_MS, _: int = 0
    ) -> folding.Saved:
        return saved_before(models, name, room_id, key, as_of_ms)

    put(patch, saved_at, saved_at_any)
    put(patch, saved_before, saved_before_any)


@bug("a part of the past in which something came earlier is passed over")
def _(patch: Patch) -> None:
    fold = folding.fold

    def passed_over(saved: folding.Saved) -> folding.Saved:
        return replace(saved, min_position=saved.max_position)

    def fold_latest(*args: Any) -> folding.Run:
        run = fold(*args)
        return folding.Run(run.first, run.rows, list(map(passed_over, run.saves)), passed_over(run.last))

    put(patch, fold, fold_latest)


# ---- questions ----


@bug("an event that came later is taken for one that overtook")
def _(patch: Patch) -> None:
    overtakers, parts = room_index.overtakers, late.parts_from_before

    def parts_from_all(models: ReadModels, room_id: str, behind: Any, _: int) -> Any:
        return parts(models, room_id, behind, MAX_POSITION)

    put(patch, overtakers, lambda *args, before, **bounds: overtakers(*args, before=MAX_POSITION, **bounds))
    put(patch, parts, parts_from_all)


@bug("as_of leaves out its own millisecond")
def _(patch: Patch) -> None:
    for read in (room_index.history, room_index.records):

        def read_before(*args: Any, read: Any = read, as_of_ms: int = MAX_TIME_MS, **bounds: Any) -> Any:
            return read(*args, as_of_ms=as_of_ms if as_of_ms == MAX_TIME_MS else as_of_ms - 1, **bounds)

        put(patch, read, read_before)


# ---- projections ----


@bug("the first value counts as a change")
def _(patch: Patch) -> None:
    apply = change_counts.apply

    def count_first(state: change_counts.State, event: Event) -> change_counts.State:
        after = apply(state, event)
        first = after.fields.keys() - state.fields.keys()
        now = event.event_time_ms
        counted = {name: replace(after.fields[name], changes=1, last_changed_ms=now) for name in first}
        return change_counts.State(after.fields | counted) if counted else after

    patch.setattr(change_counts, "apply", count_first)


@bug("a flip within a millisecond leaves an empty interval")
def _(patch: Patch) -> None:
    def apply(state: visibility.State, event: Event) -> visibility.State:
        public = {"true": True, "false": False}.get((event.room_info or {}).get("IsPublicVisible", ""))
        if public is None or (state.last and state.last[-1].public == public):
            return state
        return visibility.State((*state.last[-1:], visibility.Start(event.event_time_ms, public)))

    patch.setattr(visibility, "apply", apply)


# ---- the tests ----


def check(law: str) -> None:
    """Hold the program against one of the laws, as the tests of the properties do."""
    test, strategies, histories = LAWS[law]
    body: Any = getattr(test, "hypothesis").inner_test  # noqa: B009  it has no type
    settings(settings.get_profile("find"), max_examples=histories)(given(*strategies)(body))()


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: Patch) -> None:
    make_steps_small(monkeypatch)


FOUND_BY_CRASHES = {"the checkpoint is written before the rows", "a batch is not one transaction"}


@pytest.mark.parametrize("name", BUGS)
def test_a_seeded_bug_is_caught(name: str, monkeypatch: Patch) -> None:
    BUGS[name](monkeypatch)
    with pytest.raises(AssertionError) as caught:
        check("crashes" if name in FOUND_BY_CRASHES else "answers")
    assert Path(caught.traceback[-1].path).name in {"test_properties.py", "test_crashes.py"}, (
        "an assertion of the program found it first"
    )


def test_the_same_properties_hold_without_a_bug() -> None:
    for law in LAWS:
        check(law)
