"""What only a log in a file can show: opened again, read beside its writer, odd paths, newer versions, locks."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from app.infra import sqlite
from app.infra.errors import CorruptFile, NewerSchema, NoData
from app.log import quarantine, schema
from app.log.records import Appended
from app.log.store import EventStore
from log.lib import VALUES, arrival, ids, rejection, rows


def test_every_commit_is_synced_and_readers_do_not_wait(open_store: Callable[[], EventStore]) -> None:
    conn = open_store().conn
    assert conn.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    assert conn.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_path_is_the_file_and_empty_in_memory(events_db: Path, open_store: Callable[[], EventStore]) -> None:
    assert Path(open_store().path).samefile(events_db)
    memory = EventStore(schema.open_log(sqlite.MEMORY))
    assert memory.path == ""
    memory.close()


def test_reopening_twice_keeps_everything(open_store: Callable[[], EventStore]) -> None:
    store = open_store()
    store.append([arrival("a"), arrival("b"), arrival("a")], [rejection(1), rejection(2)])
    store.claim("0014")
    before = (rows(store), store.head(), store.duplicates(), quarantine.page(store.conn, None, 10), store.owner())
    assert before[2:] == (1, quarantine.page(store.conn, None, 10), "0014")
    store.close()
    for _ in range(2):
        store = open_store()
        assert (
            rows(store),
            store.head(),
            store.duplicates(),
            quarantine.page(store.conn, None, 10),
            store.owner(),
        ) == before
        store.close()
    store = open_store()
    assert store.append([arrival("b"), arrival("c")]) == [Appended(2, duplicate=True), Appended(3, duplicate=False)]
    assert store.duplicates() == 2


def test_the_count_of_duplicates_survives_reopening(open_store: Callable[[], EventStore]) -> None:
    for _ in range(3):
        store = open_store()
        store.append([arrival("a")])
        store.close()
    assert open_store().duplicates() == 2


def test_a_reader_sees_what_is_committed_while_the_writer_goes_on(
    events_db: Path, open_store: Callable[[], EventStore]
) -> None:
    writer = open_store()
    writer.append([arrival("a")])
    reader = EventStore(sqlite.open_reader(events_db))
    assert ids(reader.tail(0, 10)) == ["a"]
    with sqlite.snapshot(reader.conn):
        assert reader.head().position == 1
        writer.append([arrival("b")])
        assert ids(reader.tail(0, 10)) == ["a"]
    assert ids(reader.tail(0, 10)) == ["a", "b"]
    reader.close()


@pytest.mark.parametrize(
    "statement",
    [
        f"INSERT INTO events VALUES (2, 'b', {VALUES})",
        "INSERT INTO meta VALUES ('x', 1)",
        "DELETE FROM rejected",
        "CREATE TABLE t (x)",
        "DROP TRIGGER events_no_update",
        "PRAGMA user_version = 5",
    ],
)
@pytest.mark.parametrize("query_only", ["ON", "OFF"])
def test_a_reader_cannot_write(
    events_db: Path, open_store: Callable[[], EventStore], statement: str, query_only: str
) -> None:
    writer = open_store()
    writer.append([arrival("a")], [rejection(1)])
    reader = sqlite.open_reader(events_db)
    reader.execute(f"PRAGMA query_only = {query_only}")  # even without it the file is open for reading only
    with pytest.raises(sqlite.Error, match="readonly"):
        reader.execute(statement)
    reader.close()
    assert (writer.head().position, quarantine.count(writer.conn)) == (1, 1)


def test_a_reader_of_nothing_says_so_and_makes_nothing(events_db: Path) -> None:
    with pytest.raises(NoData, match=r"events\.db"):
        sqlite.open_reader(events_db)
    with pytest.raises(NoData):
        sqlite.open_reader(events_db.parent)
    assert list(events_db.parent.iterdir()) == []


@pytest.mark.parametrize("name", ["a b", "q?mode=rw", "h#x", "100%41", "é房", "'quote\"", "a&b=c"])
def test_odd_paths_lead_to_the_same_file_for_writers_and_readers(tmp_path: Path, name: str) -> None:
    path = tmp_path / name / "events.db"
    path.parent.mkdir()
    writer = EventStore(schema.open_log(path))
    writer.append([arrival("a")])
    reader = EventStore(sqlite.open_reader(path))
    assert ids(reader.tail(0, 10)) == ["a"]
    reader.close()
    writer.close()
    assert path.is_file()
    assert [one.name for one in tmp_path.iterdir()] == [name]


def test_a_database_of_a_newer_version_is_refused_and_left_alone(
    events_db: Path, open_store: Callable[[], EventStore]
) -> None:
    store = open_store()
    store.append([arrival("a")])
    store.conn.execute(
        "INSERT INTO _sqlite_migrations (migration_set, name, applied_at)"
        " VALUES ('roomlapse.events', 'split_body', '2030-01-01 00:00:00+00:00')"
    )
    tables = "SELECT type, name, sql FROM sqlite_schema ORDER BY type, name"
    before = (rows(store), store.conn.execute(tables).fetchall())
    with pytest.raises(NewerSchema, match="newer"):
        schema.open_log(events_db)
    assert (rows(store), store.conn.execute(tables).fetchall()) == before


def test_migrations_of_others_in_the_same_file_are_none_of_ours(open_store: Callable[[], EventStore]) -> None:
    store = open_store()
    store.conn.execute(
        "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES ('other', 'x', '2030-01-01 00:00:00')"
    )
    store.close()
    assert open_store().head().position == 0


def test_a_file_that_is_no_database_is_an_error(events_db: Path) -> None:
    content = b"this is not a database, " * 100
    events_db.write_bytes(content)
    with pytest.raises(CorruptFile):
        schema.open_log(events_db)
    assert events_db.read_bytes() == content


_LOCK_IT_ALL = """
import fcntl, sys
with open(sys.argv[1], "r+b") as file:
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 510, 0x40000002)  # what SQLite's readers share
"""


def test_opening_a_log_again_leaves_the_locks_that_this_process_has_on_it(tmp_path: Path) -> None:
    def is_locked() -> bool:
        done = subprocess.run(
            [sys.executable, "-c", _LOCK_IT_ALL, str(path)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0 or "BlockingIOError" in done.stderr, done.stderr
        return done.returncode != 0

    path = tmp_path / "events.db"
    first = schema.open_log(path)
    first.execute("SELECT count(*) FROM events").fetchone()
    assert is_locked()
    for open_ in (schema.open_log, sqlite.open_reader):
        open_(path).close()
        assert is_locked(), open_.__name__
    first.close()
    assert not is_locked()
