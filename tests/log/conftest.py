"""A log in memory and one in a file, for the tests that hold both."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.infra import sqlite
from app.log import schema
from app.log.store import EventStore
from log.lib import arrival


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EventStore]:
    """An empty log, open for writing."""
    log = EventStore(schema.open_log(sqlite.MEMORY if request.param == "memory" else tmp_path / "events.db"))
    yield log
    log.close()


@pytest.fixture
def events_db(tmp_path: Path) -> Path:
    """Where a log in a file is."""
    return tmp_path / "events.db"


@pytest.fixture
def open_store(events_db: Path) -> Iterator[Callable[[], EventStore]]:
    """Opens the log in the file, again and again; all are closed at the end."""
    stores: list[EventStore] = []

    def open_() -> EventStore:
        stores.append(EventStore(schema.open_log(events_db)))
        return stores[-1]

    yield open_
    for store in stores:
        store.close()


@pytest.fixture
def history(store: EventStore) -> EventStore:
    """Room r: in log order 30d 10b 20z 20a 10a 30c, with other rooms between them."""
    store.append(
        [
            arrival("d", 30),
            arrival("b", 10),
            arrival("x1", 15, "q"),
            arrival("z", 20),
            arrival("a", 20),
            arrival("x2", 15, None),
            arrival("a0", 10),
            arrival("x3", 15, "s"),
            arrival("c", 30),
        ]
    )
    return store
