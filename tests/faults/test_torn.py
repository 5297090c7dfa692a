"""Row 3: the WAL of a server that was killed is cut short, or a byte of it is changed. Row 4: a byte of a database is
changed on the disk.

Both work on copies of what a real server has left behind.
"""

import random
import re
import shutil
import struct
from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path
from typing import Any

import msgspec
import pytest
from conftest import APP_ID

from app.infra import sqlite
from app.infra.data_dir import DataDir
from app.infra.errors import NewerSchema, NoData
from app.log.audit import Difference, verify_log
from app.log.files import check_log, open_log, open_log_reader
from app.ops.verify import verify
from app.projector.upkeep import bring_up, open_read_models
from app.queries.reader import open_reader
from faults.lib import Load, Victim, assert_exact, no_traceback, report, rounds, run_program

_WAL_HEADER = 32
_FRAME_HEADER = 24

Rows = list[tuple[Any, ...]]


def rows_of(conn: sqlite.Connection) -> dict[str, Rows]:
    """Every row of every table of a database."""
    names = [name for (name,) in conn.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")]
    rows = {name.lower(): conn.execute(f'SELECT * FROM "{name}"').fetchall() for name in names}
    rows.pop("_sqlite_migrations", None)  # what is in it is asked for by `check`; the date beside it by nobody
    return rows


def copied(data: Path, target: Path) -> DataDir:
    """A copy of a data directory that nobody has open."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for file in data.glob("*.db*"):
        if not file.name.endswith("-shm"):  # what a machine that starts again would make anew
            shutil.copyfile(file, target / file.name)
    return DataDir(target)


# ---- row 3 ----


class Killed(msgspec.Struct):
    """What a killed server has left: its files, the rows of its log, and where in the WAL each of its commits ends."""

    data: Path
    events: Rows
    commits: list[tuple[int, int]]
    """Offsets in the WAL, each with how many events the log has up to there; the first is that of an empty WAL."""

    def events_before(self, offset: int) -> int:
        """How many events the commits hold that end at or before an offset."""
        return max(events for end, events in self.commits if end <= offset)


def killed_server(tmp_path: Path, answers: int) -> Killed:
    """Kill a server that has taken callbacks in several commits."""
    data = tmp_path / "killed"
    with Victim(data) as victim, Load(victim.port, threads=16) as load:
        load.wait_for_answers(answers)
        victim.kill()
        victim.wait_for_projector()
    ends = _commit_ends(DataDir(data).log_path)
    commits = []
    for end in ends:
        copy = copied(data, tmp_path / "border")
        with _wal(copy).open("r+b") as wal:
            wal.truncate(end)
        commits.append((end, len(_events(copy))))
    return Killed(data, _events(copied(data, tmp_path / "border")), commits)


def _commit_ends(log_path: Path) -> list[int]:
    """Where the WAL's commits end: a frame that names the database's size closes a transaction."""
    wal = log_path.with_name(log_path.name + "-wal").read_bytes()
    page = struct.unpack_from(">I", wal, 8)[0]
    salt = wal[16:24]
    ends = [_WAL_HEADER]
    for begin in range(_WAL_HEADER, len(wal) - _FRAME_HEADER - page + 1, _FRAME_HEADER + page):
        if wal[begin + 8 : begin + 16] != salt:
            break  # left over from before the WAL was begun anew
        if struct.unpack_from(">I", wal, begin + 4)[0]:
            ends.append(begin + _FRAME_HEADER + page)
    return ends


def _wal(data_dir: DataDir) -> Path:
    return data_dir.log_path.with_name(data_dir.log_path.name + "-wal")


def _events(data_dir: DataDir) -> Rows:
    """The log's rows, as the program reads them."""
    log = open_log_reader(data_dir)
    try:
        return rows_of(log.conn)["events"]
    finally:
        log.close()


def cut_short(wal: Path, offset: int) -> None:
    """What a write leaves that was broken off."""
    with wal.open("r+b") as file:
        file.truncate(offset)


def filled_with_zeros(wal: Path, offset: int) -> None:
    """What a file system leaves that had written down a file's new length, not yet what is in it."""
    size = wal.stat().st_size
    cut_short(wal, offset)
    cut_short(wal, size)


def flip(file: Path, offset: int, mask: int = 0x10) -> None:
    """Change some bits of one byte."""
    with file.open("r+b") as opened:
        opened.seek(offset)
        byte = opened.read(1)[0]
        opened.seek(offset)
        opened.write(bytes([byte ^ mask]))


TEARS: list[Callable[[Path, int], None]] = [cut_short, flip, filled_with_zeros]


def test_a_torn_wal_leaves_whole_batches_and_nothing_else(tmp_path: Path) -> None:
    left = killed_server(tmp_path, rounds(300, 900))
    sizes = [after - before for (_, before), (_, after) in zip(left.commits, left.commits[1:], strict=False)]
    assert max(sizes) > 1, "no commit held several callbacks: half of one could not be seen"
    assert len(sizes) > 10
    pick = random.Random(3)
    end = left.commits[-1][0]
    offsets = [pick.randrange(end) for _ in range(rounds(40, 400))]
    lost = 0
    for number, offset in enumerate(offsets):
        torn = copied(left.data, tmp_path / "torn")
        tear = TEARS[number % len(TEARS)]
        tear(_wal(torn), offset)
        where = f"{tear.__name__} at {offset} of {end}"
        expected = left.events[: left.events_before(offset)]
        lost = max(lost, len(left.events) - len(expected))
        log = open_log(torn)  # as a server, which mends the file
        models = open_read_models(torn)
        try:
            assert rows_of(log.conn)["events"] == expected, where
            assert verify_log(log) is None, where
            bring_up(torn, log, models)  # those that had read further are made again
            assert verify(log, models) is None, where
            assert log.head().position == len(expected), where
        finally:
            models.close()
            log.close()
    assert lost > 0, "no tear was in the way of any commit"
    report(
        3,
        "torn WAL: cut short, a byte changed, or its tail zeros",
        f"{len(offsets)} offsets in a WAL of {len(sizes)} commits and {len(left.events)} callbacks",
        "the batches from the tear on, each as a whole; no half of one",
        "0",
    )


def test_a_server_goes_on_from_a_torn_wal_and_takes_what_was_lost_again(tmp_path: Path) -> None:
    left = killed_server(tmp_path, 200)
    pick = random.Random(4)
    middle = left.commits[len(left.commits) // 2][0]
    for number in range(rounds(1, 12)):
        torn = copied(left.data, tmp_path / f"torn-{number}")
        TEARS[number % len(TEARS)](_wal(torn), pick.randrange(_WAL_HEADER, middle))
        with Victim(torn.path) as victim, no_traceback(victim):
            before = msgspec.json.decode(victim.get("/status")[1])["head"]
            assert before < len(left.events)
            for row in left.events:
                assert victim.post(row[-1].encode())[0] == 200
            assert msgspec.json.decode(victim.get("/status")[1])["head"] == len(left.events)
            assert victim.stop() == 0
        assert sorted(row[1] for row in _events(torn)) == sorted(row[1] for row in left.events)
        for command in ("status", "verify"):
            done = run_program(command, "--data", str(torn.path))
            assert done.returncode == 0, done.stdout + done.stderr


# ---- row 4 ----


class Stopped(msgspec.Struct):
    """What a server has left that was stopped: two databases, and every row of both."""

    data: Path
    rows: dict[str, dict[str, Rows]]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Stopped:
    """A data directory with events, duplicates, quarantined bodies and read models."""
    data = tmp_path_factory.mktemp("flip") / "data"
    with Victim(data) as victim:
        with Load(victim.port) as load:
            load.wait_for_answers(600)
        for number in range(20):
            assert victim.post(b'{"CallbackCommand": %d}' % number)[0] == 400
        assert victim.post(b'{"CallbackCommand":"Live.CallbackAfterCreateRoomReachingThreshold"}')[0] == 200
        assert victim.get("/rooms")[0] == 200  # waits for the read models
        assert victim.stop() == 0
    assert_exact(data, load.sent)
    return Stopped(data, _all_rows(DataDir(data)))


def _all_rows(data_dir: DataDir) -> dict[str, dict[str, Rows]]:
    found = {}
    for path in (data_dir.log_path, data_dir.read_models_path):
        conn = sqlite.open_reader(path)
        try:
            found[path.name] = rows_of(conn)
            if path == data_dir.log_path:  # what keeps its rows from being changed
                triggers = "SELECT name, tbl_name, sql FROM sqlite_schema WHERE type = 'trigger' ORDER BY name"
                found[path.name]["its triggers"] = conn.execute(triggers).fetchall()
        finally:
            conn.close()
    return found


def said_of(data_dir: DataDir) -> Difference | str | None:
    """What `roomlapse verify` says; the errors are those that the command line makes a sentence of."""
    try:
        check_log(data_dir, APP_ID)
        with open_reader(data_dir) as reader:
            return verify(reader.log, reader.models)
    except (*sqlite.UNREADABLE, NewerSchema, NoData) as error:
        return f"{type(error).__name__}: {error}"


def test_a_changed_byte_is_reported_or_changes_nothing(stopped: Stopped, tmp_path: Path) -> None:
    pick = random.Random(5)
    files = [stopped.data / name for name in ("events.db", "read_models.db")]
    count, by_command = rounds(40, 500), rounds(4, 50)
    reported = slack = 0
    wrong = []
    for number in range(count):
        file = files[number % 2]
        offset, mask = pick.randrange(file.stat().st_size), pick.randrange(1, 256)
        flipped = copied(stopped.data, tmp_path / "flipped")
        flip(flipped.path / file.name, offset, mask)
        said = said_of(flipped)
        where = f"{file.name}, byte {offset} ^ {mask:#x}"
        if number < by_command:
            done = run_program("verify", "--data", str(flipped.path), env={"ROOMLAPSE_SDK_APP_ID": APP_ID})
            assert done.returncode == (0 if said is None else 1), f"{where}: {said}: {done.stdout}{done.stderr}"
            assert "Traceback" not in done.stderr, f"{where}: {done.stderr}"
        if said is not None:
            reported += 1
        elif (what := _difference(flipped, stopped.rows)) is None:
            slack += 1
        else:
            wrong.append(f"{where}: {what}")
    assert not wrong, "\n".join(wrong)
    assert reported > 0
    report(
        4,
        "a byte changed in a database",
        f"{count} places in both databases: {reported} reported by verify, {slack} where every row read the same",
        "no wrong answer unreported",
        "0",
    )


@pytest.mark.parametrize(
    "text",
    [
        "203.0.113.7",  # an event's client_ip
        '{"CallbackCommand": 7}',  # a body in quarantine
        "CallbackCommand is ",  # the reason of one
        APP_ID,  # whose log it is
        "$.Operator_Account",  # how a column is made of the body
        "RoomName",  # a body in the log, or a row of a read model
    ],
)
def test_a_byte_that_matters_is_reported_wherever_it_is(stopped: Stopped, tmp_path: Path, text: str) -> None:
    path = DataDir(stopped.data).log_path
    assert said_of(copied(stopped.data, tmp_path / "flipped")) is None
    for found in re.finditer(re.escape(text.encode()), path.read_bytes()):
        flipped = copied(stopped.data, tmp_path / "flipped")
        flip(flipped.path / path.name, found.start() + len(text) // 2, 1)
        if _difference(flipped, stopped.rows) is not None:  # else it is a copy: in an index, or left over in a page
            assert said_of(flipped) is not None
            return
    raise AssertionError(f"{text} is nowhere in a row")


def _difference(data_dir: DataDir, expected: dict[str, dict[str, Rows]]) -> str | None:
    """The first row that does not read as it did, whatever it belongs to; None if all do."""
    try:
        found = _all_rows(data_dir)
    except sqlite.UNREADABLE as error:
        return f"a row cannot be read: {error}"
    for file, tables in expected.items():
        for table, rows in tables.items():
            for mine, theirs in zip_longest(found[file].get(table, []), rows):
                if mine != theirs:
                    return f"{table}: {mine} was {theirs}"
    return None
