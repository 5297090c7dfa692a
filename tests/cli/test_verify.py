"""verify: whatever is changed in either database is found and named."""

import json
import unicodedata
from pathlib import Path

import pytest

from app.projector.fold import STEP
from cli.commands import ask, command, sql
from cli.evening import BODIES, NUMBER

LOG_CASES = {
    "a changed body": ("UPDATE events SET body = replace(body, 'host-', 'hast-') WHERE position = 5", 5),
    "white space in a body": ("UPDATE events SET body = body || ' ' WHERE position = 5", 5),
    "a body that is none": ("UPDATE events SET body = '{}' WHERE position = 5", 5),
    "a body that is no object": ("UPDATE events SET body = '5' WHERE position = 5", 5),
    "a wrong event_id": (f"UPDATE events SET event_id = '{'ab' * 32}' WHERE position = 5", 5),
    "another time of receipt": ("UPDATE events SET received_at_ms = received_at_ms - 1 WHERE position = 5", 5),
    "a broken chain": (f"UPDATE events SET chain = '{'ab' * 32}' WHERE position = 5", 5),
    "a broken chain at the end": (f"UPDATE events SET chain = '{'ab' * 32}' WHERE position = {NUMBER}", NUMBER),
    "another room": ("UPDATE events SET room_id = 'quiet ?#%' WHERE position = 5", 5),
    "another time": ("UPDATE events SET event_time_ms = event_time_ms + 1 WHERE position = 5", 5),
    "another operator in the body": ("UPDATE events SET body = replace(body, 'host-', 'eve-') WHERE position = 5", 5),
    "another command in the body": ("UPDATE events SET body = replace(body, 'AfterUpdate', 'X') WHERE position = 5", 5),
    "no room": ("UPDATE events SET room_id = NULL WHERE position = 5", 5),
    "a removed row": ("DELETE FROM events WHERE position = 5", 6),
    "the first row removed": ("DELETE FROM events WHERE position = 1", 2),
    "the last row removed": (f"DELETE FROM events WHERE position = {NUMBER}", None),
    "a row put behind itself": ("UPDATE events SET position = 100000 WHERE position = 5", 6),
}
MODEL_CASES = {
    "a changed room": ("UPDATE rooms SET room_info = '{}' WHERE room_id = 'busy'", "rooms", "busy"),
    "a removed room": ("DELETE FROM rooms WHERE room_id = 'quiet ?#%'", "rooms", "quiet ?#%"),
    "an added room": (
        "INSERT INTO rooms SELECT 'ghost', room_info, fields, event_id, event_time_ms, events FROM rooms LIMIT 1",
        "rooms",
        "ghost",
    ),
    "a changed count": (
        "UPDATE change_counts SET changes = changes + 1 WHERE room_id = 'busy' AND field = 'RoomName'",
        "change_counts",
        "busy",
    ),
    "a removed count": ("DELETE FROM change_counts WHERE field = 'CustomInfo'", "change_counts", "quiet ?#%"),
    "an added count": ("INSERT INTO change_counts VALUES ('busy', 'Ghost', 1, 0, 5, NULL)", "change_counts", "busy"),
    "a count of no room": ("INSERT INTO change_counts VALUES ('zzz', 'X', 1, 0, 5, NULL)", "change_counts", "zzz"),
    "a changed interval": (
        "UPDATE visibility SET to_ms = to_ms + 1 WHERE to_ms = (SELECT min(to_ms) FROM visibility)",
        "visibility",
        "busy",
    ),
    "a removed interval": (
        "DELETE FROM visibility WHERE room_id = 'busy' AND to_ms IS NULL",
        "visibility",
        "busy",
    ),
    "an added interval": ("INSERT INTO visibility VALUES ('quiet ?#%', 5, 6, 1)", "visibility", "quiet ?#%"),
    "a changed saved state": (
        f"UPDATE rooms_states SET state = (SELECT state FROM rooms_states WHERE events > {STEP}) WHERE events = {STEP}",
        "rooms",
        "busy",
    ),
    "a saved state for another cut": (
        f"UPDATE visibility_states SET max_position = 1 WHERE room_id = 'busy' AND events = {2 * STEP}",
        "visibility",
        "busy",
    ),
    "a removed saved state": (
        f"DELETE FROM change_counts_states WHERE room_id = 'busy' AND events = {STEP}",
        "change_counts",
        "busy",
    ),
    "the last saved state removed": (
        "DELETE FROM visibility_states WHERE events = (SELECT max(events) FROM visibility_states)",
        "visibility",
        "busy",
    ),
    "a saved state too many": (
        "INSERT INTO rooms_states SELECT room_id, event_time_ms + 1, event_id, events, 1, 1, state FROM rooms_states",
        "rooms",
        "busy",
    ),
    "a saved state of a room that is too short for one": (
        (
            "INSERT INTO rooms_states SELECT 'quiet ?#%', event_time_ms, event_id, 7, 1, 1, state"
            " FROM rooms_states LIMIT 1"
        ),
        "rooms",
        "quiet ?#%",
    ),
    "a saved state that is cut short": (
        f"UPDATE rooms_states SET state = substr(state, 1, length(state) - 9) WHERE events = {STEP}",
        "rooms",
        "busy",
    ),
    "a saved state that is none": (
        f"UPDATE rooms_states SET state = x'00' WHERE events = {STEP}",
        "rooms",
        "busy",
    ),
    "a saved state of no room": (
        "INSERT INTO rooms_states SELECT 'ghost', event_time_ms, event_id, 1, 1, 1, state FROM rooms_states LIMIT 1",
        "rooms",
        "ghost",
    ),
}


def test_verify_of_what_nobody_touched_is_clean(evening: Path) -> None:
    answer = ask(evening, "verify")
    assert (answer["ok"], answer["difference"], answer["head"]) == (True, None, NUMBER)
    assert answer["chain"] == ask(evening, "status")["chain"]


@pytest.mark.parametrize("case", list(LOG_CASES))
def test_verify_names_the_first_difference_in_the_log(copied: Path, case: str) -> None:
    statement, position = LOG_CASES[case]
    triggers = [f"DROP TRIGGER events_no_{verb}" for verb in ("update", "delete", "replace")]
    done = sql(copied / "events.db", *triggers, statement)
    assert done.returncode == 0, done.stderr
    result = command(copied, "verify", "--json")
    assert result.returncode == 1, result.stdout
    answer = json.loads(result.stdout)
    assert answer["ok"] is False
    assert answer["difference"]["what"]
    if position is not None:
        assert answer["difference"]["where"] == f"events, position {position}"


@pytest.mark.parametrize("damage", [b"x", b"\0", b"["])
def test_verify_names_a_body_that_went_bad_on_the_disk(copied: Path, damage: bytes) -> None:
    assert sql(copied / "events.db", "PRAGMA wal_checkpoint(TRUNCATE)").returncode == 0
    whole = (copied / "events.db").read_bytes()
    (copied / "events.db").write_bytes(whole.replace(BODIES[4], damage + BODIES[4][1:]))
    result = command(copied, "verify", "--json")
    assert result.returncode == 1, result.stderr
    assert json.loads(result.stdout)["difference"]["where"] == "events, position 5"


def test_verify_names_the_log_whose_end_cannot_be_read(copied: Path) -> None:
    assert sql(copied / "events.db", "PRAGMA wal_checkpoint(TRUNCATE)").returncode == 0
    content = bytearray((copied / "events.db").read_bytes())
    size = int.from_bytes(content[16:18])
    page = content.index(ask(copied, "status")["chain"].encode()) // size * size  # where the last event is
    content[page : page + size] = b"\xff" * size
    (copied / "events.db").write_bytes(content)
    result = command(copied, "verify", "--json")
    assert result.returncode == 1, result.stderr
    answer = json.loads(result.stdout)
    assert (answer["ok"], answer["difference"]["file"], answer["head"]) == (False, "events.db", None)


@pytest.mark.parametrize("case", list(MODEL_CASES))
def test_verify_names_the_first_difference_in_the_read_models(copied: Path, case: str) -> None:
    statement, table, room_id = MODEL_CASES[case]
    done = sql(copied / "read_models.db", statement)
    assert done.returncode == 0, done.stderr
    result = command(copied, "verify", "--json")
    assert result.returncode == 1, result.stdout + result.stderr
    answer = json.loads(result.stdout)
    assert answer["ok"] is False
    assert answer["difference"]["where"] == f"{table}, room {room_id!r}"
    assert answer["difference"]["what"]


@pytest.mark.parametrize(
    ("content", "words"),
    [("notes", "the log agrees: "), ("a newer layout", "the log agrees: "), ("both", "events, position 5")],
)
def test_verify_checks_the_log_whatever_is_in_the_place_of_the_read_models(
    copied: Path, content: str, words: str
) -> None:
    for file in copied.glob("read_models.db-*"):
        file.unlink()
    if content == "a newer layout":
        assert sql(copied / "read_models.db", "PRAGMA user_version = 99").returncode == 0
    else:
        (copied / "read_models.db").write_bytes(b"somebody's notes\n" * 1000)
    if content == "both":
        changes = ["DROP TRIGGER events_no_update", "UPDATE events SET body = '{' WHERE position = 5"]
        assert sql(copied / "events.db", *changes).returncode == 0
    result = command(copied, "verify")
    assert result.returncode == 1, result
    assert words in result.stdout.decode()
    answer = json.loads(command(copied, "verify", "--json").stdout)
    assert answer["difference"]["file"] == ("events.db" if content == "both" else "read_models.db")
    assert answer["head"] == NUMBER


def test_verify_tells_people_too_without_touching_their_terminal(copied: Path) -> None:
    assert sql(copied / "read_models.db", "UPDATE rooms SET events = 9 WHERE room_id LIKE 'tricky%'").returncode == 0
    result = command(copied, "verify")
    assert result.returncode == 1
    assert "tricky" in result.stdout.decode()
    assert [
        char for char in result.stdout.decode() if char != "\n" and unicodedata.category(char) in {"Cc", "Cf"}
    ] == []
    assert command(copied, "rebuild").returncode == 0
    assert command(copied, "verify").returncode == 0


OTHER_COLUMNS = "room_id, event_time_ms, received_at_ms, client_ip, platform, chain, body"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET body = '{}' WHERE position = 5",
        "UPDATE events SET client_ip = '198.51.100.1'",
        "DELETE FROM events WHERE position = 5",
        "DELETE FROM events",
        f"INSERT OR REPLACE INTO events SELECT position, event_id, {OTHER_COLUMNS} FROM events WHERE position = 5",
        f"INSERT INTO events SELECT {NUMBER + 1}, event_id, {OTHER_COLUMNS} FROM events WHERE position = 5",
        f"INSERT OR REPLACE INTO events SELECT 5, 'other', {OTHER_COLUMNS} FROM events WHERE position = 6",
        f"INSERT OR IGNORE INTO events SELECT 100000, 'other', {OTHER_COLUMNS} FROM events WHERE position = 6",
        f"REPLACE INTO events SELECT position, event_id, {OTHER_COLUMNS} FROM events",
    ],
)
def test_a_plain_sqlite_shell_cannot_change_the_log(copied: Path, statement: str) -> None:
    result = sql(copied / "events.db", statement)
    assert result.returncode != 0
    assert b"only grows" in result.stderr
    assert ask(copied, "status")["events"] == NUMBER


@pytest.mark.parametrize("column", ["command", "operator"])
def test_what_the_body_says_cannot_be_written_beside_it(copied: Path, column: str) -> None:
    assert sql(copied / "events.db", "DROP TRIGGER events_no_update", "PRAGMA user_version = 0").returncode == 0
    for value in ("'x'", "NULL", column):
        result = sql(copied / "events.db", f"UPDATE events SET {column} = {value} WHERE position = 5")
        assert result.returncode != 0
        assert b"generated column" in result.stderr
    verified = command(copied, "verify")
    assert verified.returncode == 1  # the guard that had to go first is missed
    assert b"its trigger events_no_update is not as it was made" in verified.stdout
