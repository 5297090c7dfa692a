"""A moment is one look at both databases, whatever is written meanwhile, and asks no more of them than it needs."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import APP_ID, T0, body_of

from app.event import Cut
from app.infra import sqlite
from app.infra.data_dir import DataDir
from app.infra.errors import Behind, NotFound, Unavailable
from app.log.files import create_log, open_log
from app.log.records import Arrival
from app.projector.catch_up import catch_up_all
from app.projector.upkeep import create_read_models, open_read_models
from app.queries import history, log, rooms, visibility
from app.queries.reader import Moment, Reader, open_reader
from app.tencent.body import decode


@pytest.fixture
def data_dir(tmp_path: Path) -> DataDir:
    found = DataDir(tmp_path / "data")
    create_log(found, APP_ID)
    create_read_models(found)
    return found


@pytest.fixture
def reader(data_dir: DataDir) -> Iterator[Reader]:
    add(data_dir, 1)
    with open_reader(data_dir) as opened:
        yield opened


def add(data_dir: DataDir, number: int, *, project: bool = True) -> None:
    body = body_of("r", T0 + number, N=number, IsPublicVisible=bool(number % 2))
    with open_log(data_dir) as store, open_read_models(data_dir) as models:
        store.append([Arrival(decode(body, T0 + 10**6), T0 + number)])
        if project:
            catch_up_all(store, models)


def seen(moment: Moment) -> list[int]:
    """How many events each of some answers knows of."""
    return [
        rooms.room(moment, "r", Cut()).events,
        rooms.room(moment, "r", Cut(as_of_ms=T0 + 9)).events,
        len(history.history(moment, "r", Cut(known_at_ms=T0 + 9)).changes),
        len(visibility.visibility(moment, "r", Cut()).intervals),
    ]


def test_all_answers_of_a_moment_know_the_same_events(data_dir: DataDir, reader: Reader) -> None:
    with reader.moment() as moment:
        assert rooms.room(moment, "r", Cut()).events == 1
        add(data_dir, 2)
        assert seen(moment) == [1, 1, 1, 1]
    with reader.moment() as moment:
        assert seen(moment) == [2, 2, 2, 2]


def test_events_that_are_not_read_yet_are_in_no_answer(data_dir: DataDir, reader: Reader) -> None:
    add(data_dir, 2, project=False)
    with reader.moment() as moment:
        assert seen(moment) == [1, 1, 1, 1]
        assert log.events(moment).head == 2
    with reader.moment(2) as moment, pytest.raises(Behind):
        rooms.room(moment, "r", Cut())


def test_a_projection_that_stopped_refuses_the_questions_that_need_it_only(data_dir: DataDir, reader: Reader) -> None:
    with open_read_models(data_dir) as models, sqlite.transaction(models.conn):
        models.conn.execute("UPDATE projections SET error = 'it raised' WHERE name = 'visibility'")
    with reader.moment(1) as moment:
        assert rooms.room(moment, "r", Cut()).events == 1
        assert len(history.history(moment, "r", Cut()).changes) == 1
        for question in (rooms.latest_rooms, lambda it, cut: visibility.visibility(it, "r", cut)):
            with pytest.raises(Unavailable, match="it raised"):
                question(moment, Cut())
        assert log.status(moment).projections["visibility"].error == "it raised"


def test_the_log_is_read_where_the_read_models_cannot_be(data_dir: DataDir, reader: Reader) -> None:
    with open_read_models(data_dir) as models:
        models.conn.execute("DROP TABLE projections")
    with reader.moment(1) as moment:
        (event,) = log.events(moment).events
        assert log.event(moment, event.event_id).room_id == "r"
        assert log.rejected(moment).rejected == []
        with pytest.raises(NotFound):
            log.event(moment, "0" * 64)
