"""Projections of a folder: found by name, run everywhere the built-in ones are, refused with the reason."""

import json
from pathlib import Path

import msgspec
import pytest
from conftest import APP_ID, T0, StartServer, body_of, run
from kit.wait import wait_until

from app.infra.data_dir import DataDir
from app.infra.errors import BadProjection, BadSettings
from app.infra.settings import PROJECTIONS
from app.log import schema
from app.log.records import Arrival
from app.log.store import EventStore
from app.ops.verify import verify
from app.projector.fold import STEP
from app.projector.registry import known_projections
from app.projector.upkeep import bring_up, open_read_models
from app.tencent.body import decode
from projections import ALL

SEAT_MODES = '''
"""How often each seat mode was chosen in a room."""

from collections.abc import Iterable
from typing import ClassVar

import msgspec

from app.event import Event

VERSION = 1


class State(msgspec.Struct, frozen=True):
    times: dict[str, int] = {}


class Row(msgspec.Struct, frozen=True):
    TABLE: ClassVar = "seat_modes"
    KEY: ClassVar = ("room_id", "mode")
    GROWS: ClassVar = False

    room_id: str
    mode: str
    times: int


initial = State()


def apply(state: State, event: Event) -> State:
    mode = (event.room_info or {}).get("TakeSeatMode")
    return state if mode is None else State(state.times | {mode: state.times.get(mode, 0) + 1})


def rows(room_id: str, state: State) -> Iterable["Row"]:
    for mode, times in sorted(state.times.items()):
        yield Row(room_id, mode, times)
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that ROOMLAPSE_PROJECTIONS names."""
    found = tmp_path / "mine"
    found.mkdir()
    monkeypatch.setenv(PROJECTIONS, str(found))
    return found


def name_folder_with(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ROOMLAPSE_PROJECTIONS name a new folder that holds this projection as seat_modes.py."""
    folder.mkdir()
    (folder / "seat_modes.py").write_text(text)
    monkeypatch.setenv(PROJECTIONS, str(folder))


def test_without_the_setting_there_are_the_built_in_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PROJECTIONS, raising=False)
    assert known_projections() == ALL


def test_a_folder_that_is_none_is_bad_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PROJECTIONS, str(tmp_path / "nowhere"))
    with pytest.raises(BadSettings, match="is no folder"):
        known_projections()


def test_the_files_of_the_folder_stand_behind_the_built_in_ones_by_name(folder: Path) -> None:
    # Neither name may hide a module that something else imports later.
    (folder / "json.py").write_text(SEAT_MODES.replace("seat_modes", "of_json"))
    (folder / "a_first.py").write_text(SEAT_MODES)
    (folder / "_helper.py").write_text("raise AssertionError")
    (folder / "notes.txt").write_text("not Python")
    assert list(known_projections()) == [*ALL, "a_first", "json"]
    assert json.loads("[]") == []
    assert not (folder / "__pycache__").exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("VERSION = 1", ""), "VERSION is missing"),
        (("initial = State()", "initial = State()\nLine = Row\ndel Row"), "Row is missing"),
        (("initial = State()", ""), "initial is missing"),
        (("def apply(", "def fold("), "apply is missing"),
        (("def rows(", "def lines("), "rows is missing"),
        (("VERSION = 1", "VERSION = 0"), "VERSION is not a whole number"),
        (("VERSION = 1", "VERSION = True"), "VERSION is not a whole number"),
        (("initial = State()", "initial = {}"), "initial is not an instance"),
        (("def rows(", "rows = 5\n\ndef lines("), "rows is not a function"),
        (("class Row(msgspec.Struct, frozen=True)", "class Row(msgspec.Struct)"), "Row is not a frozen"),
        (("    GROWS: ClassVar = False\n", ""), "Row.GROWS is missing"),
        (('"seat_modes"', '"seat modes"'), "make a table's name"),
        (('"seat_modes"', '"rooms"'), "the table rooms is taken by current_room"),
        (('"seat_modes"', '"projections"'), "is kept for Roomlapse itself"),
        (('"seat_modes"', '"mine_states"'), "is kept for Roomlapse itself"),
        (('"seat_modes"', '"rebuild_mine"'), "is kept for Roomlapse itself"),
        (('"seat_modes"', '"sqlite_mine"'), "is kept for Roomlapse itself"),
        (("class Row(msgspec.Struct, frozen=True)", "class Row(msgspec.Struct, frozen=True, kw_only=True)"), "by name"),
        (('("room_id", "mode")', '("mode",)'), "Row.KEY is not a tuple"),
        (('("room_id", "mode")', "()"), "Row.KEY is not a tuple"),
        (('("room_id", "mode")', '"room_id"'), "Row.KEY is not a tuple"),
        (('("room_id", "mode")', '("room_id", "times")'), "Row.KEY is not a tuple"),
        (("    room_id: str\n", "    room_id: int\n"), "Row.KEY is not a tuple"),
        (
            ('("room_id", "mode")\n    GROWS: ClassVar = False', '("room_id",)\n    GROWS: ClassVar = True'),
            "Row.GROWS is",
        ),
        (("GROWS: ClassVar = False", "GROWS: ClassVar = None"), "Row.GROWS is neither"),
        (("    times: int\n", '    times: "NoSuchType"\n'), "cannot be looked up: .*NoSuchType"),
        (("times: dict[str, int] = {}", "times: object = object()"), "initial cannot be saved"),
        (('"seat_modes"', '"Rooms"'), "make a table's name"),
        (("    times: int\n", "    times: list[int]\n"), "no table can be made of Row"),
        (("    times: int\n", "    order: int\n"), "no table can be made of Row"),
        (("import msgspec\n", "import no_such_module_of_mine\n"), "cannot be imported: ModuleNotFoundError"),
        (("VERSION = 1", "VERSION = "), "cannot be imported: SyntaxError"),
        (("VERSION = 1", "raise SystemExit(0)"), "cannot be imported: SystemExit"),
        (("VERSION = 1", 'raise ValueError("one\\ntwo")'), "cannot be imported: ValueError: one two"),
    ],
)
def test_what_is_no_projection_is_refused_by_name_with_the_reason(
    folder: Path, change: tuple[str, str], reason: str
) -> None:
    right, wrong = change
    assert right in SEAT_MODES
    (folder / "seat_modes.py").write_text(SEAT_MODES.replace(right, wrong))
    with pytest.raises(BadProjection, match=reason) as refused:
        known_projections()
    assert str(folder / "seat_modes.py") in str(refused.value)


def test_a_file_whose_name_is_none_of_a_projection_is_refused(folder: Path) -> None:
    (folder / "Seat-Modes.py").write_text(SEAT_MODES)
    with pytest.raises(BadProjection, match="'Seat-Modes' is no name of a projection"):
        known_projections()


def test_a_process_goes_on_with_what_it_began_with(folder: Path) -> None:
    (folder / "seat_modes.py").write_text(SEAT_MODES)
    known = known_projections()
    (folder / "seat_modes.py").unlink()
    folder.rmdir()
    assert known_projections() == known


OPTIONAL = SEAT_MODES.replace(
    "times: int\n", "times: int\n    note: msgspec.Raw | None\n    even: bool | None\n"
).replace("mode, times)", 'mode, times, None if times == 1 else msgspec.Raw(b"[2]"), None if times == 1 else True)')
NULLABLE = SEAT_MODES.replace("times: int\n", "times: int | None\n").replace(
    "mode, times)", "mode, None if times == 1 else times)"
)
TWICE = SEAT_MODES.replace("VERSION = 1", "VERSION = 2").replace("get(mode, 0) + 1", "get(mode, 0) + 2")


@pytest.mark.parametrize(
    ("first", "then", "rows"),
    [
        pytest.param(SEAT_MODES, TWICE, [(2,), (4,)], id="a higher VERSION"),
        pytest.param(SEAT_MODES, OPTIONAL, [(1, None, None), (2, b"[2]", True)], id="columns more, VERSION the same"),
        pytest.param(OPTIONAL, SEAT_MODES, [(1,), (2,)], id="columns less, VERSION the same"),
        pytest.param(SEAT_MODES, NULLABLE, [(None,), (2,)], id="a column that may be null, VERSION the same"),
        pytest.param(NULLABLE, SEAT_MODES, [(1,), (2,)], id="one that may not be, VERSION the same"),
    ],
)
def test_a_projection_that_changed_is_filled_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str, then: str, rows: list[tuple[object, ...]]
) -> None:
    data_dir = DataDir(tmp_path)
    with EventStore(schema.open_log(data_dir.log_path)) as log:
        bodies = [body_of("r", T0 + i, TakeSeatMode=mode) for i, mode in enumerate(("a", "b", "b"))]
        log.append([Arrival(decode(body, T0 + 10), T0 + i) for i, body in enumerate(bodies)])
        found = []
        for number, text in enumerate((first, then)):
            name_folder_with(text, tmp_path / str(number), monkeypatch)
            with open_read_models(data_dir) as models:
                bring_up(data_dir, log, models)
                found = [msgspec.structs.astuple(row)[2:] for row in models.all_rows("seat_modes")]
                assert verify(log, models) is None
        assert [tuple(bytes(it) if isinstance(it, msgspec.Raw) else it for it in row) for row in found] == rows


def test_names_that_are_taken_are_refused(folder: Path) -> None:
    (folder / "visibility.py").write_text(SEAT_MODES)
    with pytest.raises(BadProjection, match="the name visibility is taken"):
        known_projections()


def test_two_files_of_one_table_are_refused(folder: Path) -> None:
    (folder / "one.py").write_text(SEAT_MODES)
    (folder / "two.py").write_text(SEAT_MODES)
    with pytest.raises(BadProjection, match=r"two.py: the table seat_modes is taken by one"):
        known_projections()


def test_commands_and_serve_refuse_a_bad_one_with_a_line_and_exit_2(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "broken.py").write_text("VERSION = 1\n")
    env = {PROJECTIONS: str(tmp_path / "mine"), "ROOMLAPSE_DATA": str(tmp_path / "data")}
    sample = Path(__file__).parent.parent.parent / "data" / "sample-callbacks.jsonl"
    for args in (("import", str(sample)), ("serve", "--sdk-app-id", APP_ID, "--port", "0")):
        done = run(*args, env=env)
        assert done.returncode == 2
        (line,) = [line for line in done.stderr.decode().splitlines() if line.startswith("Error: ")]
        assert "broken.py: Row is missing" in line
        assert b"Traceback" not in done.stderr
        assert not (tmp_path / "data").exists(), "it is said before anything is stored"


def test_a_state_that_was_changed_without_a_version_stops_its_projection_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_dir = DataDir(tmp_path)
    stricter = SEAT_MODES.replace("times: dict[str, int] = {}", "times: dict[str, int]\n    last: str").replace(
        "State()", 'State({}, "")'
    )
    stricter = stricter.replace("+ 1})", "+ 1}, mode)")
    with EventStore(schema.open_log(data_dir.log_path)) as log:
        for number, text in enumerate((SEAT_MODES, stricter)):
            bodies = [body_of("r", T0 + 100 * number + i, TakeSeatMode="a") for i in range(STEP + 1)]
            log.append([Arrival(decode(body, T0 + 1000), T0 + 1000) for body in bodies])
            name_folder_with(text, tmp_path / str(number), monkeypatch)
            with open_read_models(data_dir) as models:
                bring_up(data_dir, log, models)
                checkpoints = {name: models.checkpoint(name) for name in models.projections}
        stopped = checkpoints.pop("seat_modes")
        assert stopped.position == STEP + 1
        assert "holds a state that cannot be read" in (stopped.error or "")
        assert {(it.position, it.error) for it in checkpoints.values()} == {(2 * STEP + 2, None)}


@pytest.mark.slow
def test_what_a_projection_prints_ends_up_in_no_report(tmp_path: Path, start_server: StartServer) -> None:
    (tmp_path / "mine").mkdir()
    loud = SEAT_MODES.replace("    mode = ", '    print("{" * 5000, end="")\n    mode = ', 1)
    (tmp_path / "mine" / "seat_modes.py").write_text(loud)
    server = start_server(env={PROJECTIONS: str(tmp_path / "mine")})
    for number in range(5):
        assert server.post(body_of("r", T0 + number, TakeSeatMode="None")).status_code == 200
        assert server.get("/rooms/r")["events"] == number + 1
    assert "no report" not in server.logs()
    assert "{" * 5000 in server.logs()


@pytest.mark.slow
def test_a_projection_of_the_folder_is_filled_by_a_server_rebuilt_and_verified(
    tmp_path: Path, start_server: StartServer
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "seat_modes.py").write_text(SEAT_MODES)
    env = {PROJECTIONS: str(tmp_path / "mine")}
    data = {"ROOMLAPSE_DATA": str(tmp_path / "data")}

    def fingerprints(env: dict[str, str]) -> dict[str, str]:
        done = run("status", "--fingerprint", "--json", env=env | data)
        assert done.returncode == 0, done.stderr
        return {name: it["fingerprint"] for name, it in json.loads(done.stdout)["projections"].items()}

    server = start_server()  # the folder is new to a data directory that is in use
    assert server.post(body_of("r", T0, TakeSeatMode="None")).status_code == 200
    server.stop()
    server = start_server(env=env)
    assert server.post(body_of("r", T0 + 1, TakeSeatMode="FreeToTake")).status_code == 200
    wait_until(lambda: server.get("/status")["projections"]["seat_modes"]["lag"] == 0)
    assert server.get("/rooms/r")["events"] == 2
    server.stop()

    before = fingerprints(env)
    assert list(before) == [*ALL, "seat_modes"]
    assert run("rebuild", "--jobs", "2", env=env | data).returncode == 0
    assert run("rebuild", "--projection", "seat_modes", env=env | data).returncode == 0
    assert fingerprints(env) == before
    assert run("verify", env=env | data).returncode == 0
    # Taken out of the folder again, it does no harm and is not shown.
    assert run("rebuild", "--projection", "seat_modes", env=data).returncode == 2
    assert fingerprints({}) == {name: before[name] for name in ALL}
    assert run("verify", env=data).returncode == 0
