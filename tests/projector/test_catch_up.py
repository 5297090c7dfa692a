"""A projection that fails harms nobody else: not the others, not the log, not its own past; and goes on when mended."""

import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import msgspec
import pytest
from conftest import T0, body_of

from app.event import Cut, Event
from app.infra import sqlite
from app.infra.data_dir import DataDir
from app.infra.errors import Behind, NewerSchema, NoData, ProjectionFailed, Unavailable
from app.log import schema
from app.log.records import Arrival
from app.log.store import EventStore
from app.ops.verify import verify
from app.projector import remembered as remembered_states
from app.projector import states
from app.projector.catch_up import catch_up, catch_up_all
from app.projector.checkpoints import resume
from app.projector.fold import STEP
from app.projector.read_models import Checkpoint, ReadModels, connect_read_models
from app.projector.rebuild import has_leftovers, rebuild
from app.projector.upkeep import bring_up
from app.queries import rooms
from app.queries.answers import Room
from app.queries.late import parts_from_before
from app.queries.reader import Reader
from app.tencent.body import decode
from projections import ALL, Projection


class Members(msgspec.Struct, frozen=True):
    """The state of the projection below."""

    limit: int = 0


class MembersRow(msgspec.Struct, frozen=True):
    """A row with a column that not every accepted number fits into."""

    TABLE: ClassVar = "members"
    KEY: ClassVar = ("room_id",)
    GROWS: ClassVar = False

    room_id: str
    limit_: int


def members(version: int = 1, fail_on: str = "", fail_rows: bool = False) -> Projection:
    """A projection as a reader of the guide might write it, which fails when told to."""

    def apply(state: Members, event: Event) -> Members:
        text = (event.room_info or {}).get("MaxMemberCount")
        if text is not None and text == fail_on:
            raise ValueError("no such room size")
        return state if text is None else Members(int(text))

    def rows(room_id: str, state: Members) -> Iterable[MembersRow]:
        if fail_rows:
            raise KeyError("rows")
        return [MembersRow(room_id, state.limit)]

    made: Any = SimpleNamespace(VERSION=version, Row=MembersRow, initial=Members(), apply=apply, rows=rows)
    return made  # type: ignore[no-any-return]


Open = Callable[[Projection], ReadModels]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EventStore]:
    store = EventStore(schema.open_log(tmp_path / "events.db"))
    yield store
    store.close()


@pytest.fixture
def open_models(tmp_path: Path) -> Iterator[Open]:
    """Opens read models with the three projections and one more."""
    opened: list[ReadModels] = []

    def open_(more: Projection) -> ReadModels:
        conn = connect_read_models(tmp_path / "read_models.db")
        opened.append(ReadModels(conn, {"members": more, **ALL}))
        opened[-1].create()
        return opened[-1]

    yield open_
    for models in opened:
        models.close()


def add(log: EventStore, *limits: int, room_id: str = "r") -> None:
    begin = log.head().position
    bodies = [body_of(room_id, T0 + begin + i, MaxMemberCount=limit) for i, limit in enumerate(limits)]
    log.append([Arrival(decode(body, T0 + 10**6), T0 + begin) for body in bodies])


def room_of(log: EventStore, models: ReadModels, required: int = 0) -> Room:
    with Reader(log, models).moment(required) as moment:
        return rooms.room(moment, "r", Cut())


def positions(models: ReadModels) -> dict[str, int]:
    return {name: models.checkpoint(name).position for name in models.projections}


@pytest.mark.parametrize(
    ("projection", "bad"),
    [
        pytest.param(members(fail_on="7"), 7, id="apply raises"),
        pytest.param(members(), 10**20, id="a row does not fit into its column"),
    ],
)
def test_one_bad_event_stops_its_projection_right_before_it_and_nobody_else(
    log: EventStore, open_models: Open, projection: Projection, bad: int
) -> None:
    models = open_models(projection)
    add(log, 1, 2, bad)
    add(log, 5, room_id="other")
    catch_up_all(log, models)
    assert positions(models) == {"members": 2, "current_room": 4, "change_counts": 4, "visibility": 4}
    error = models.checkpoint("members").error
    assert error is not None
    assert "position 3" in error
    assert [row.limit_ for row in models.all_rows("members")] == [2]
    assert room_of(log, models).events == 3
    mended = open_models(members() if bad == 7 else clamped())
    resume(mended)
    catch_up_all(log, mended)
    assert set(positions(mended).values()) == {4}
    assert [row.room_id for row in mended.all_rows("members")] == ["other", "r"]


def clamped() -> Projection:
    """The projection with the overflow mended."""
    made: Any = members()
    apply = made.apply
    made.apply = lambda state, event: Members(min(apply(state, event).limit, 2**62))
    return made  # type: ignore[no-any-return]


def test_rows_that_raise_stop_their_projection_too(log: EventStore, open_models: Open) -> None:
    models = open_models(members(fail_rows=True))
    add(log, 1)
    catch_up_all(log, models)
    assert positions(models) == {"members": 0, "current_room": 1, "change_counts": 1, "visibility": 1}
    assert "KeyError: 'rows'" in (models.checkpoint("members").error or "")


@pytest.mark.parametrize("bad", [7, 10**20])
def test_a_rebuild_that_fails_leaves_the_old_read_models(log: EventStore, open_models: Open, bad: int) -> None:
    models = open_models(clamped())
    add(log, 1, 3, bad)
    catch_up_all(log, models)
    before = {name: models.fingerprint(name) for name in models.projections}
    failing = open_models(members(fail_on="7"))
    with pytest.raises(ProjectionFailed, match="members stopped"):
        rebuild(log, failing)
    assert {name: models.fingerprint(name) for name in models.projections} == before


def remembered(models: ReadModels, room_id: str) -> dict[str, int | None]:
    """After how many events each projection remembers a room."""
    heads = {name: models.remembered.saved(name, room_id) for name in models.projections}
    return {name: None if head is None else head.events for name, head in heads.items()}


def test_states_of_a_batch_that_was_taken_back_are_not_remembered(log: EventStore, open_models: Open) -> None:
    models = open_models(members())
    add(log, 1, room_id="a")
    add(log, 10**20)
    add(log, 3, room_id="a")
    assert catch_up(log, models).late == 0  # the first of `a` is read again, and is not behind the second
    assert positions(models) == {"members": 1, "current_room": 3, "change_counts": 3, "visibility": 3}
    for room_id in ("a", "r"):
        head = models.remembered.saved("members", room_id)
        assert head is None or head.max_position <= 1
    mended = {**models.projections, "members": clamped()}
    models.projections = mended
    resume(models)
    catch_up_all(log, models)
    assert [(row.room_id, row.limit_) for row in models.all_rows("members")] == [("a", 3), ("r", 2**62)]
    assert verify(log, models) is None


def test_a_transaction_that_is_rolled_back_leaves_nothing_remembered(
    log: EventStore, open_models: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = open_models(members())
    add(log, *range(1, STEP))
    catch_up_all(log, models)
    assert set(remembered(models, "r").values()) == {STEP - 1}
    add(log, 7, 8)

    def out_of_disk(name: str, checkpoint: Checkpoint) -> None:
        save(name, checkpoint)
        if name == "visibility":  # the last one: all others have written
            raise sqlite.Error("disk I/O error")

    save = models.save_checkpoint
    monkeypatch.setattr(models, "save_checkpoint", out_of_disk)
    with pytest.raises(sqlite.Error, match="disk I/O"):
        catch_up(log, models)
    monkeypatch.undo()
    assert set(remembered(models, "r").values()) == {None}
    assert set(positions(models).values()) == {STEP - 1}
    catch_up_all(log, models)
    assert set(remembered(models, "r").values()) == {STEP + 1}
    assert verify(log, models) is None


def test_what_another_process_has_written_is_not_what_is_remembered(log: EventStore, open_models: Open) -> None:
    mine, theirs = open_models(members()), open_models(members())
    add(log, 1, 2)
    catch_up_all(log, mine)
    add(log, 3)
    catch_up_all(log, theirs)
    add(log, 4)
    catch_up_all(log, mine)
    assert set(remembered(mine, "r").values()) == {4}
    assert room_of(log, mine).events == 4
    assert verify(log, mine) is None


def meddled_with(meanwhile: Callable[[], None], times: int) -> Projection:
    """The projection, with something that happens while it folds a room for 999, so many times."""
    made: Any = members()
    apply, left = made.apply, iter(range(times))

    def apply_and_meddle(state: Members, event: Event) -> Members:
        result: Members = apply(state, event)
        if result.limit == 999 and next(left, None) is not None:
            meanwhile()
        return result

    made.apply = apply_and_meddle
    return made  # type: ignore[no-any-return]


def test_who_is_overtaken_while_folding_takes_nothing_back(log: EventStore, open_models: Open) -> None:
    theirs = open_models(members())

    def overtake() -> None:
        add(log, 6, 7)
        catch_up_all(log, theirs)

    mine = open_models(meddled_with(overtake, 1))
    add(log, 4, 999)
    done = catch_up(log, mine)
    assert (done.events, done.more) == (0, False), "all of it had been read"
    assert set(positions(mine).values()) == {4}
    assert [row.limit_ for row in mine.all_rows("members")] == [7]
    assert room_of(log, mine).events == 4
    add(log, 8)
    catch_up_all(log, mine)
    assert verify(log, mine) is None


def test_who_is_overtaken_while_folding_folds_the_rest_while_nobody_else_can(
    log: EventStore, open_models: Open
) -> None:
    theirs = open_models(members())

    def overtake() -> None:
        catch_up(log, theirs, limit=1)

    mine = open_models(meddled_with(overtake, 1))
    add(log, 4, 999)
    assert catch_up(log, mine).events == 1
    assert set(positions(mine).values()) == {2}
    assert verify(log, mine) is None


@pytest.mark.parametrize("times", [0, 1, 2, 3, 4])
def test_a_rebuild_beside_a_faster_projector_takes_nothing_back(log: EventStore, open_models: Open, times: int) -> None:
    live = open_models(members())
    add(log, *range(1, STEP + 4), 999)
    catch_up_all(log, live)

    def go_on() -> None:
        add(log, 1, 2, 999)
        catch_up_all(log, live)

    # Each time that the rebuild has caught up, somebody else is further. Then they have to wait.
    other = open_models(meddled_with(go_on, times))
    rebuild(log, other)
    assert set(positions(live).values()) == {log.head().position} == {STEP + 4 + 3 * times}
    assert verify(log, live) is None
    assert not has_leftovers(live)


def test_a_rebuild_beside_a_projector_that_is_always_faster_makes_it_wait(log: EventStore, open_models: Open) -> None:
    live = open_models(members())
    live.conn.execute("PRAGMA busy_timeout = 0")
    add(log, 1, 999)
    catch_up_all(log, live)
    waits = 0

    def go_on() -> None:
        nonlocal waits
        add(log, 999)
        try:
            catch_up_all(log, live)
        except sqlite.Error:
            waits += 1

    rebuild(log, open_models(meddled_with(go_on, 100)))
    assert waits > 0, "nobody was kept waiting"
    assert set(positions(live).values()) == {log.head().position - waits}
    catch_up_all(log, live)
    assert verify(log, live) is None


def test_who_lets_a_projection_try_again_forgets_what_others_have_overtaken(log: EventStore, open_models: Open) -> None:
    mine = open_models(members())
    add(log, 1, 2)
    catch_up_all(log, mine)
    theirs = open_models(members(fail_on="4"))
    add(log, 3, 4)
    catch_up_all(log, theirs)
    assert theirs.checkpoint("members").position == 3
    resume(mine)
    add(log, 5)
    catch_up_all(log, mine)
    head = mine.remembered.saved("members", "r")
    assert head is not None
    assert head.events == 5
    assert verify(log, mine) is None


def test_a_newer_version_that_fails_on_the_past_does_not_stop_the_others(tmp_path: Path, log: EventStore) -> None:
    add(log, 1, 7, 3)
    data_dir = DataDir(tmp_path)
    old = ReadModels(connect_read_models(tmp_path / "read_models.db"), {"members": members(), **ALL})
    old.create()
    catch_up_all(log, old)
    old.close()
    add(log, 4)
    new = ReadModels(connect_read_models(tmp_path / "read_models.db"), {"members": members(2, "7"), **ALL})
    bring_up(data_dir, log, new)
    assert positions(new) == {"members": 3, "current_room": 4, "change_counts": 4, "visibility": 4}
    assert "no such room size" in (new.checkpoint("members").error or "")
    assert room_of(log, new).events == 4
    new.close()
    mended = ReadModels(connect_read_models(tmp_path / "read_models.db"), {"members": members(2), **ALL})
    bring_up(data_dir, log, mended)
    assert set(positions(mended).values()) == {4}
    assert mended.checkpoint("members").version == 2
    mended.close()


def test_an_older_program_leaves_the_rows_of_a_newer_one_alone(log: EventStore, open_models: Open) -> None:
    add(log, 1)
    new, old = open_models(members(2)), open_models(members(1))
    catch_up_all(log, new)
    add(log, 2)
    catch_up_all(log, old)
    assert (new.checkpoint("members").version, new.checkpoint("members").position) == (2, 1)
    assert old.checkpoint("current_room").position == 2
    catch_up_all(log, new)
    assert [row.limit_ for row in new.all_rows("members")] == [2]


def test_read_models_of_an_older_layout_are_begun_anew(log: EventStore, open_models: Open) -> None:
    models = open_models(members())
    add(log, 1, 2)
    catch_up_all(log, models)
    models.conn.execute("ALTER TABLE rooms_states DROP COLUMN min_position")
    models.conn.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY AUTOINCREMENT, text TEXT)")
    models.conn.execute("INSERT INTO notes (text) VALUES ('an analyst was here')")
    models.conn.execute("PRAGMA user_version = 0")
    with pytest.raises(NoData, match="roomlapse rebuild"):
        models.check_layout()
    again = open_models(members())
    again.check_layout()
    assert again.conn.execute("SELECT text FROM notes").fetchall() == [("an analyst was here",)]
    assert set(positions(again).values()) == {0}
    catch_up_all(log, again)
    assert room_of(log, again).events == 2
    again.conn.execute("PRAGMA user_version = 99")
    with pytest.raises(NewerSchema, match="layout 99"):
        open_models(members())
    assert set(positions(again).values()) == {2}


def test_only_the_parts_in_which_something_came_before_are_given_and_what_has_no_saved_state_yet(
    log: EventStore, open_models: Open
) -> None:
    models = open_models(members())
    first, second = T0 + STEP - 1, T0 + 2 * STEP - 1  # when the last event before each saved state happened
    add(log, *range(2 * STEP + 5))
    catch_up_all(log, models)

    def parts(behind_ms: int, position: int) -> list[tuple[int, int]]:
        return list(parts_from_before(models, "r", (behind_ms, ""), position))

    begin, end = -(2**63) + 1, 2**63 - 1
    assert parts(T0 + 3, 4) == [(begin, first), (second, end)]
    assert parts(T0, 1) == [(second, end)]
    assert parts(T0 + STEP, STEP + 1) == [(second, end)]
    assert parts(T0 + STEP, STEP + 2) == [(first, second), (second, end)]
    assert parts(T0, 10**6) == [(begin, first), (first, second), (second, end)]
    assert parts(second + 1, 10**6) == [(second, end)]
    assert list(parts_from_before(models, "other", (T0, ""), 9)) == [(begin, end)]


def test_a_read_never_answers_from_before_what_it_has_to_see(log: EventStore, open_models: Open) -> None:
    models = open_models(members())
    add(log, 1)
    catch_up_all(log, models)
    add(log, 2)
    with pytest.raises(Behind):
        room_of(log, models, required=2)
    catch_up_all(log, models)
    assert room_of(log, models, required=2).events == 2


def test_read_models_of_another_log_are_refused_and_rebuilt(tmp_path: Path, log: EventStore, open_models: Open) -> None:
    models = open_models(members())
    add(log, 1, 2, 3)
    catch_up_all(log, models)
    other = EventStore(schema.open_log(tmp_path / "other.db"))
    add(other, 9, 8, 7, 6)
    with pytest.raises(Unavailable, match="rebuilt"):
        room_of(other, models)
    assert not catch_up(other, models).events
    bring_up(DataDir(tmp_path), other, models)
    assert room_of(other, models).events == 4
    other.close()


# ---- going on, whatever is remembered ----


def updates(room_id: str, begin: int, end: int) -> list[bytes]:
    """A room's updates of numbers begin ... end - 1: two in each millisecond, and some that change nothing."""
    return [
        body_of(
            room_id,
            T0 + number // 2,
            RoomName=f"n{number % 5}",
            IsPublicVisible=number % 3 == 0,
            MaxMemberCount=number // 4,
            **({} if number % 7 else {f"Rare{number // 20}": number}),
        )
        for number in range(begin, end)
    ]


def append(log: EventStore, bodies: Iterable[bytes]) -> None:
    log.append([Arrival(decode(body, T0 + 10**6), T0) for body in bodies])


def all_rows(models: ReadModels) -> dict[str, list[Any]]:
    return {name: list(models.all_rows(name)) for name in models.projections}


def saved_after(models: ReadModels, room_id: str) -> dict[str, list[int]]:
    return {name: [saved.events for saved in states.states_of(models, name, room_id)] for name in models.projections}


def check_against_a_rebuild(log: EventStore, models: ReadModels) -> None:
    rows = all_rows(models)
    assert verify(log, models) is None
    rebuild(log, models)
    assert all_rows(models) == rows
    assert verify(log, models) is None


LENGTHS = [1, 2, STEP - 1, STEP, STEP + 1, 2 * STEP - 1, 2 * STEP, 2 * STEP + 1]


@pytest.mark.parametrize("more", [1, 2, STEP - 1, STEP, STEP + 1])
@pytest.mark.parametrize("length", LENGTHS)
def test_after_a_restart_a_room_goes_on_from_its_last_saved_state(
    log: EventStore, open_models: Open, length: int, more: int
) -> None:
    before = open_models(members())
    append(log, updates("r", 0, length))
    catch_up_all(log, before)
    steps = list(range(STEP, length + 1, STEP))
    assert saved_after(before, "r") == dict.fromkeys(before.projections, steps)
    after = open_models(members())
    assert set(remembered(after, "r").values()) == {None}
    append(log, updates("r", length, length + more))
    assert catch_up(log, after).late == late_among(log, length)
    assert set(remembered(after, "r").values()) == {length + more}
    steps = list(range(STEP, length + more + 1, STEP))
    assert saved_after(after, "r") == dict.fromkeys(after.projections, steps)
    check_against_a_rebuild(log, after)


def late_among(log: EventStore, behind: int) -> int:
    """How many events behind a position came after one that sorts behind them."""
    keys = [record.key for record in log.tail(0, 10_000)]
    return sum(keys[at] < max(keys[:at]) for at in range(behind, len(keys)))


@pytest.mark.parametrize("length", LENGTHS)
def test_after_a_restart_events_that_were_read_one_by_one_give_the_same(
    log: EventStore, open_models: Open, length: int
) -> None:
    bodies = updates("r", 0, length)
    middle = length // 2
    for body in (*bodies[:middle], *updates("other", 0, 1)):
        append(log, [body])
        catch_up_all(log, open_models(members()))  # never remembers anything
    models = open_models(members())
    for body in bodies[middle:]:
        append(log, [body])
        catch_up_all(log, models)  # always remembers
    assert set(remembered(models, "r").values()) == {length}
    check_against_a_rebuild(log, models)


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("at", [0, STEP - 1, STEP, STEP + 1, 2 * STEP])
def test_a_late_event_is_put_in_its_place_and_all_steps_behind_it_move(
    log: EventStore, open_models: Open, length: int, at: int, restart: bool
) -> None:
    bodies = updates("r", 0, length + 1)
    late = bodies.pop(min(at, length))
    models = open_models(members())
    append(log, bodies)
    catch_up_all(log, models)
    if restart:
        models = open_models(members())
    append(log, [late])
    catch_up_all(log, models)
    steps = list(range(STEP, length + 2, STEP))
    assert saved_after(models, "r") == dict.fromkeys(models.projections, steps)
    check_against_a_rebuild(log, models)


@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_how_many_rooms_are_remembered_changes_nothing_in_the_rows(
    log: EventStore, tmp_path: Path, open_models: Open, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    rooms = ["a", "b", "c", "d"]
    bodies = [body for room_id in rooms for body in updates(room_id, 0, STEP + rooms.index(room_id) - 1)]
    random.Random(batch).shuffle(bodies)
    append(log, bodies)
    many = ReadModels(connect_read_models(tmp_path / "many.db"), {"members": members(), **ALL})
    many.create()
    while catch_up(log, many, batch).more:
        pass
    assert all(set(remembered(many, room_id).values()) != {None} for room_id in rooms)
    monkeypatch.setattr(remembered_states, "MAX_ROOMS", 2)
    few = open_models(members())
    while catch_up(log, few, batch).more:
        for name in few.projections:
            assert sum(few.remembered.saved(name, room_id) is not None for room_id in rooms) <= 2
    for name in few.projections:
        assert sum(few.remembered.saved(name, room_id) is not None for room_id in rooms) == 2
    assert all_rows(few) == all_rows(many)
    for room_id in rooms:
        assert saved_after(few, room_id) == saved_after(many, room_id)
    many.close()
    check_against_a_rebuild(log, few)


def test_the_rooms_that_were_last_written_are_the_ones_remembered(
    log: EventStore, open_models: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remembered_states, "MAX_ROOMS", 2)
    models = open_models(members())
    for room_id in ("a", "b", "a", "c"):
        add(log, 1, room_id=room_id)
        catch_up_all(log, models)
    for room_id, events in (("a", 2), ("b", None), ("c", 1)):
        assert set(remembered(models, room_id).values()) == {events}
