"""A projection that fails harms nobody else: not the others, not the log, not its own past; and goes on when mended."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import msgspec
import pytest
from conftest import T0, body_of

from app import db
from app.data_dir import DataDir
from app.event import Event
from app.fold import ProjectionFailed
from app.queries import Behind, Queries, Unavailable
from app.read_models import ReadModels
from app.replay import catch_up, catch_up_all, rebuild, resume
from app.store import Arrival, EventStore
from app.tencent import decode
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
    """A projection as a reader of the README might write it, which fails when told to."""

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
    store = EventStore(db.open_log(tmp_path / "events.db"))
    yield store
    store.close()


@pytest.fixture
def open_models(tmp_path: Path) -> Iterator[Open]:
    """Opens read models with the three projections and one more."""
    opened: list[ReadModels] = []

    def open_(more: Projection) -> ReadModels:
        conn = db.open_read_models(tmp_path / "read_models.db")
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
    assert Queries(log, models).room("r").events == 3
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


def test_states_of_a_batch_that_was_taken_back_are_not_remembered(log: EventStore, open_models: Open) -> None:
    models = open_models(members())
    add(log, 1, room_id="a")
    add(log, 10**20)
    add(log, 3, room_id="a")
    assert catch_up(log, models).late == 0  # the first of `a` is read again, and is not behind the second
    assert models.checkpoint("members").position == 1
    assert models.head("members", "a").events == 1
    assert models.head("members", "r").events == 0


def test_a_newer_version_that_fails_on_the_past_does_not_stop_the_others(tmp_path: Path, log: EventStore) -> None:
    add(log, 1, 7, 3)
    data_dir = DataDir(tmp_path)
    old = ReadModels(db.open_read_models(tmp_path / "read_models.db"), {"members": members(), **ALL})
    old.create()
    catch_up_all(log, old)
    old.close()
    add(log, 4)
    new = ReadModels(db.open_read_models(tmp_path / "read_models.db"), {"members": members(2, "7"), **ALL})
    data_dir.bring_up(log, new)
    assert positions(new) == {"members": 3, "current_room": 4, "change_counts": 4, "visibility": 4}
    assert "no such room size" in (new.checkpoint("members").error or "")
    assert Queries(log, new).room("r").events == 4
    new.close()
    mended = ReadModels(db.open_read_models(tmp_path / "read_models.db"), {"members": members(2), **ALL})
    data_dir.bring_up(log, mended)
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


def test_a_read_never_answers_from_before_what_it_has_to_see(log: EventStore, open_models: Open) -> None:
    models = open_models(members())
    add(log, 1)
    catch_up_all(log, models)
    add(log, 2)
    reader = Queries(log, models)
    reader.required = 2
    with pytest.raises(Behind):
        reader.room("r")
    catch_up_all(log, models)
    assert reader.room("r").events == 2


def test_read_models_of_another_log_are_refused_and_rebuilt(tmp_path: Path, log: EventStore, open_models: Open) -> None:
    models = open_models(members())
    add(log, 1, 2, 3)
    catch_up_all(log, models)
    other = EventStore(db.open_log(tmp_path / "other.db"))
    add(other, 9, 8, 7, 6)
    with pytest.raises(Unavailable, match="rebuilt"):
        Queries(other, models).room("r")
    assert not catch_up(other, models).events
    DataDir(tmp_path).bring_up(other, models)
    assert Queries(other, models).room("r").events == 4
    other.close()
