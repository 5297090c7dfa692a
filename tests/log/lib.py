"""What the tests of the log share."""

from collections.abc import Iterator, Sequence
from typing import Any

from app.log.records import Arrival, Rejection
from app.log.store import EventStore
from app.tencent.body import Callback

UPDATE = "Live.CallbackAfterUpdateRoomInfo"


ZEROS = "0000000000000000000000000000000000000000000000000000000000000000"


def body_of(id_: str, command: str = UPDATE, operator: str | None = '"bob"') -> str:
    who = "" if operator is None else f'"Operator_Account":{operator},'
    return f'{{"CallbackCommand":"{command}",{who}"RoomInfo":{{"RoomId":"r","F":1}},"Id":"{id_}","é":1}}'


def callback(id_: str, at: int | None = 10, room_id: str | None = "r", command: str = UPDATE) -> Callback:
    return Callback(id_, room_id, at, body_of(id_, command))


def arrival(
    id_: str, at: int | None = 10, room_id: str | None = "r", *, received: int = 100, command: str = UPDATE
) -> Arrival:
    return Arrival(callback(id_, at, room_id, command), received)


def rejection(number: int) -> Rejection:
    return Rejection(b"\xff%d" % number, f"reason {number}", 1000 + number, "1.2.3.4", "iOS")


def ids(records: Iterator[Any] | Sequence[Any]) -> list[str]:
    return [record.event_id for record in records]


def digest(prefix: str) -> str:
    """An event_id as they are, which begins so."""
    return prefix.ljust(64, "0")


def rows(store: EventStore) -> list[tuple[Any, ...]]:
    return store.conn.execute("SELECT * FROM events ORDER BY position").fetchall()


BAD = Arrival(Callback("bad", "r", 10, None), 100)  # type: ignore[arg-type]  # a body that NOT NULL refuses


TWINS = [digest("ab" * 4 + end) for end in ("", "0" * 55 + "1", "cd" * 28, "cd" * 27 + "ce", "f" * 56)]


VALUES = "'r', 1, 1, NULL, NULL, 'x', '{}'"


FORBIDDEN = {
    "update a body": "UPDATE events SET body = '{}' WHERE position = 2",
    "update to the same": "UPDATE events SET body = body",
    "update the chain": "UPDATE events SET chain = 'x' WHERE position = 3",
    "move rows": "UPDATE events SET position = position + 10",
    "update or ignore": "UPDATE OR IGNORE events SET body = '{}'",
    "update or replace": "UPDATE OR REPLACE events SET event_id = 'a' WHERE position = 3",
    "delete all": "DELETE FROM events",
    "delete the last": "DELETE FROM events WHERE position = 3",
    "delete the first": "DELETE FROM events WHERE event_id = 'a'",
    "insert at a taken position": f"INSERT INTO events VALUES (2, 'new', {VALUES})",
    "insert a taken id": f"INSERT INTO events VALUES (4, 'b', {VALUES})",
    "insert with a hole": f"INSERT INTO events VALUES (5, 'new', {VALUES})",
    "insert far away": f"INSERT INTO events VALUES (9223372036854775807, 'new', {VALUES})",
    "insert at zero": f"INSERT INTO events VALUES (0, 'new', {VALUES})",
    "insert below zero": f"INSERT INTO events VALUES (-1, 'new', {VALUES})",
    "insert or replace the position": f"INSERT OR REPLACE INTO events VALUES (2, 'new', {VALUES})",
    "insert or replace the last": f"INSERT OR REPLACE INTO events VALUES (3, 'c', {VALUES})",
    "insert or replace the id": f"INSERT OR REPLACE INTO events VALUES (4, 'b', {VALUES})",
    "insert or ignore": f"INSERT OR IGNORE INTO events VALUES (2, 'new', {VALUES})",
    "insert or ignore with a hole": f"INSERT OR IGNORE INTO events VALUES (7, 'new', {VALUES})",
    "replace the position": f"REPLACE INTO events VALUES (1, 'new', {VALUES})",
    "replace the id": f"REPLACE INTO events VALUES (4, 'a', {VALUES})",
    "replace all": "REPLACE INTO events SELECT position, event_id, 'x', 0, 0, '', '', '', '{}' FROM events",
    "upsert": f"INSERT INTO events VALUES (2, 'b', {VALUES}) ON CONFLICT (position) DO UPDATE SET body = 'x'",
    "upsert of a taken id": f"INSERT INTO events VALUES (4, 'b', {VALUES}) ON CONFLICT DO UPDATE SET body = 'x'",
    "insert or ignore a taken id": f"INSERT OR IGNORE INTO events VALUES (4, 'b', {VALUES})",
    "insert a new and a taken id": f"INSERT INTO events VALUES (4, 'd', {VALUES}), (5, 'b', {VALUES})",
    "insert a new id twice": f"INSERT INTO events VALUES (4, 'd', {VALUES}), (5, 'd', {VALUES})",
    "insert two with a hole": f"INSERT INTO events VALUES (4, 'd', {VALUES}), (6, 'f', {VALUES})",
}
