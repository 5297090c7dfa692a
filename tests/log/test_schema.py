"""What the tables and triggers of the log hold, also against those who come with plain SQL."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.infra import sqlite
from app.log.records import Appended, Arrival
from app.log.store import EventStore
from app.tencent.body import Callback
from log.lib import FORBIDDEN, TWINS, UPDATE, VALUES, arrival, body_of, ids, rows


@pytest.mark.parametrize(
    ("operator", "text"),
    [
        ('"bob"', '"bob"'),
        ("null", "null"),
        (None, None),
        ("9007199254740993", "9007199254740993"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
        ("1E2", "1E2"),
        ("12345678901234567890.250", "12345678901234567890.250"),
        ("true", "true"),
    ],
)
def test_plain_sql_finds_the_command_and_the_operator(
    store: EventStore, operator: str | None, text: str | None
) -> None:
    command = "Live.CallbackAfterDestroyRoom"
    store.append([arrival("other"), Arrival(Callback("id", "r", 10, body_of("id", command, operator)), 100)])
    rows_of = "SELECT command, operator, typeof(command) FROM events WHERE"
    assert store.conn.execute(f"{rows_of} position = 2").fetchall() == [(command, text, "text")]
    assert store.conn.execute(f"{rows_of} command = ?", (command,)).fetchall() == [(command, text, "text")]
    assert store.conn.execute(f"{rows_of} operator IS ? AND position = 2", (text,)).fetchone() is not None
    record = store.get("id")
    assert record is not None
    assert (record.command, record.operator) == (command, "null" if text is None else text)


@pytest.mark.parametrize("column", ["command", "operator"])
def test_what_the_body_says_cannot_be_written_beside_it(store: EventStore, column: str) -> None:
    store.append([arrival("a")])
    store.conn.execute("DROP TRIGGER events_no_update")
    store.conn.execute("DROP TRIGGER events_no_replace")
    columns = f"position, event_id, event_time_ms, received_at_ms, chain, body, {column}"
    for statement in (
        f"UPDATE events SET {column} = 'x'",
        f"INSERT INTO events ({columns}) VALUES (2, 'b', 1, 1, 'x', '{{}}', 'x')",
    ):
        with pytest.raises(sqlite.Error, match="generated column"):
            store.conn.execute(statement)
    assert store.conn.execute("SELECT command, operator FROM events").fetchall() == [(UPDATE, '"bob"')]


@pytest.mark.parametrize("statement", FORBIDDEN.values(), ids=FORBIDDEN.keys())
def test_rows_are_never_changed_removed_replaced_or_skipped(store: EventStore, statement: str) -> None:
    store.append([arrival("a"), arrival("b"), arrival("c")])
    before = rows(store)
    assert len(before) == 3
    with pytest.raises(sqlite.Error, match="events only grows"):
        store.conn.execute(statement)
    assert rows(store) == before
    assert store.append([arrival("d")]) == [Appended(4, duplicate=False)]


@pytest.mark.parametrize("body", ["x", "", "{", "[1", '{"CallbackCommand":'])
def test_a_row_whose_body_is_no_json_can_still_be_read(store: EventStore, body: str) -> None:
    store.append([arrival("a")])
    store.conn.execute("INSERT INTO events VALUES (2, 'b', 'r', 1, 1, NULL, NULL, 'x', ?)", (body,))
    assert store.conn.execute("SELECT command, operator, body FROM events WHERE position = 2").fetchone() == (
        None,
        None,
        body,
    )


@pytest.mark.parametrize("verb", ["INSERT", "INSERT OR REPLACE", "INSERT OR IGNORE", "REPLACE"])
def test_a_second_row_with_an_id_is_refused_among_many_that_begin_like_it(store: EventStore, verb: str) -> None:
    store.append([arrival(id_) for id_ in TWINS[:-1]])
    before = rows(store)
    for id_ in TWINS[:-1]:
        with pytest.raises(sqlite.Error, match="a new event_id"):
            store.conn.execute(f"{verb} INTO events VALUES (5, '{id_}', {VALUES})")
    assert rows(store) == before
    store.conn.execute(f"{verb} INTO events VALUES (5, '{TWINS[-1]}', {VALUES})")
    assert ids(store.tail(0, 10)) == TWINS


# Two SQLite libraries on one file in one process would break its locks, so the other one gets a process of its own.
_PLAIN_SQLITE = """
import json, sqlite3, sys
outcomes = []
for statement in json.load(sys.stdin):
    conn = sqlite3.connect(sys.argv[1], isolation_level=None)
    try:
        found = conn.execute(statement).fetchall()
        outcomes.append(["done", found])
    except sqlite3.Error as error:
        outcomes.append(["failed", str(error)])
    conn.close()
json.dump(outcomes, sys.stdout)
"""


def plain_sqlite(path: Path, statements: list[str]) -> list[list[Any]]:
    """Run statements with the standard library's SQLite, each on a connection of its own, in another process."""
    done = subprocess.run(
        [sys.executable, "-c", _PLAIN_SQLITE, str(path)],
        input=json.dumps(statements),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    outcomes: list[list[Any]] = json.loads(done.stdout)
    return outcomes


@pytest.mark.parametrize("still_open", [True, False], ids=["while we have it open", "after we closed it"])
def test_a_plain_sqlite_shell_cannot_change_rows_either(
    events_db: Path, open_store: Callable[[], EventStore], still_open: bool
) -> None:
    store = open_store()
    store.append([arrival("a"), arrival("b"), arrival("c")])
    before = rows(store)
    if not still_open:
        store.close()
    count = "SELECT count(*) FROM events"
    outcomes = plain_sqlite(events_db, [step for statement in FORBIDDEN.values() for step in (statement, count)])
    for name, outcome, counted in zip(FORBIDDEN, outcomes[::2], outcomes[1::2], strict=True):
        assert outcome[0] == "failed", name
        assert "events only grows" in outcome[1], name
        assert counted == ["done", [[3]]], name
    assert rows(open_store()) == before


def test_a_plain_sqlite_shell_reads_the_columns_of_the_contract(
    events_db: Path, open_store: Callable[[], EventStore]
) -> None:
    whole = Arrival(Callback("b", "r", 20, body_of("b", operator="1.50")), 30, "::1", "iOS")
    without = Arrival(Callback("c", None, 20, body_of("c", "x", None)), 30)
    open_store().append([arrival("a"), whole, without])
    columns, read = plain_sqlite(
        events_db,
        [
            "SELECT name FROM pragma_table_xinfo('events') ORDER BY cid",
            "SELECT command, operator, client_ip, platform FROM events ORDER BY position",
        ],
    )
    assert read[1] == [[UPDATE, '"bob"', None, None], [UPDATE, "1.50", "::1", "iOS"], ["x", None, None, None]]
    names = {name for (name,) in columns[1]}
    assert names == {
        "position",
        "event_id",
        "room_id",
        "command",
        "event_time_ms",
        "received_at_ms",
        "operator",
        "client_ip",
        "platform",
        "chain",
        "body",
    }
