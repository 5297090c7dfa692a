"""Commands that write a file: never over one of a data directory, by whatever name; else whole, or not at all."""

import os
import shutil
import subprocess
import threading
from pathlib import Path

import pytest
from conftest import PROGRAM, environment, run

from cli.commands import Result, command, fingerprints, roomlapse

FILES = ["events.db", "events.db-wal", "events.db-shm", "events.db-journal", "read_models.db", "read_models.db-wal"]
LOCKS = [".rebuild.lock", ".writer.lock", "read_models.unreadable"]


@pytest.fixture
def data(copied: Path) -> Path:
    return copied


@pytest.fixture
def lines(evening: Path) -> bytes:
    return command(evening, "export", "-").stdout


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.endswith("-shm")}


def write(data: Path, name: str, target: Path | str) -> Result:
    """Run a command that writes a file, with all that it has to overwrite one."""
    return command(data, name, str(target), *(["--force"] if name == "export" else []))


def assert_refused(done: Result, words: bytes = b"data directory") -> None:
    assert (done.returncode, done.stdout) == (1, b""), done
    assert done.stderr.startswith(b"Error: ")
    assert any(each in done.stderr for each in (words, b"is there already", b"is a database")), done
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["export", "backup"])
def test_no_file_of_a_data_directory_is_written_whatever_its_name(
    data: Path, evening: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data)
    other = Path(shutil.copytree(evening, tmp_path / "other"))
    (data / "sub").mkdir()
    (tmp_path / "folder").symlink_to(other)
    for folder in (data, other):
        for file in (*FILES, *LOCKS):
            (tmp_path / f"to-{folder.name}-{file}").symlink_to(folder / file)
    (tmp_path / "twice").symlink_to(tmp_path / "to-other-events.db")
    os.link(data / "events.db", tmp_path / "hard")
    os.link(other / "events.db", tmp_path / "hard-other.jsonl")
    os.link(data / "events.db", data / "copy-inside")
    before = {other: contents(other)}
    log = (data / "events.db").read_bytes()
    names = sorted(str(path) for path in data.iterdir())
    targets: list[Path | str] = [
        *(folder / file for folder in (data, other) for file in (*FILES, *LOCKS)),
        *(tmp_path / f"to-{folder.name}-{file}" for folder in (data, other) for file in (*FILES, *LOCKS)),
        tmp_path / "folder" / "read_models.db-wal",
        tmp_path / "folder" / "events.db",
        tmp_path / "twice",
        tmp_path / "hard",
        tmp_path / "hard-other.jsonl",
        data / "copy-inside",
        f"{data}/sub/../events.db",
        f"{data}/./events.db",
        f"{data}//events.db",
        "/proc/self/cwd/events.db",
        "events.db",
        "../copied/events.db",
    ]
    for target in targets:
        assert_refused(write(data, name, target))
        assert (data / "events.db").read_bytes() == log, target
        assert contents(other) == before[other], target
    assert sorted(str(path) for path in data.iterdir() if not path.name.endswith(("-wal", "-shm"))) == [
        path for path in names if not path.endswith(("-wal", "-shm"))
    ]
    assert command(data, "verify").returncode == 0


def test_stdout_that_leads_into_the_log_is_refused(data: Path) -> None:
    log = (data / "events.db").read_bytes()
    for target in ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"):
        with (data / "events.db").open("ab") as stdout:
            done = subprocess.run(
                [PROGRAM, "export", target, "--force", "--data", str(data)],
                stdout=stdout,
                stderr=subprocess.PIPE,
                env=environment(),
                check=False,
            )
        assert (done.returncode, b"data directory" in done.stderr) == (1, True)
        assert (data / "events.db").read_bytes() == log


def test_export_refuses_a_file_that_is_there_and_replaces_it_when_told_to(
    data: Path, tmp_path: Path, lines: bytes
) -> None:
    file = tmp_path / "out.jsonl"
    file.write_bytes(b"precious")
    file.chmod(0o640)
    number = file.stat().st_ino
    done = command(data, "export", str(file))
    assert (done.returncode, b"--force" in done.stderr) == (1, True)
    assert file.read_bytes() == b"precious"
    assert command(data, "export", str(file), "--force").returncode == 0
    assert file.read_bytes() == lines
    assert file.stat().st_ino != number, "written beside and renamed"
    assert file.stat().st_mode & 0o777 == 0o640
    assert command(data, "export", str(tmp_path / "new.jsonl")).returncode == 0
    assert (tmp_path / "new.jsonl").stat().st_mode & 0o777 == 0o600
    assert command(data, "export", str(tmp_path / ("n" * 255))).returncode == 0
    assert not list(tmp_path.glob(".*"))


def test_a_symbolic_link_stays_and_what_it_leads_to_is_replaced(data: Path, tmp_path: Path, lines: bytes) -> None:
    real, link, loose = tmp_path / "real.jsonl", tmp_path / "link.jsonl", tmp_path / "loose.jsonl"
    real.write_bytes(b"old")
    link.symlink_to(real)
    loose.symlink_to(tmp_path / "to-come.jsonl")
    assert command(data, "export", str(link)).returncode == 1
    assert command(data, "export", str(link), "--force").returncode == 0
    assert command(data, "export", str(loose)).returncode == 0
    assert link.is_symlink()
    assert loose.is_symlink()
    assert real.read_bytes() == (tmp_path / "to-come.jsonl").read_bytes() == lines


def test_a_database_is_replaced_by_no_export(data: Path, tmp_path: Path) -> None:
    backup = tmp_path / "copy.db"
    assert command(data, "backup", str(backup)).returncode == 0
    before = backup.read_bytes()
    assert_refused(command(data, "export", str(backup), "--force"), b"is a database")
    assert backup.read_bytes() == before


def test_pipes_and_devices_are_written_as_they_are(data: Path, tmp_path: Path, lines: bytes) -> None:
    for target in ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"):
        done = run("export", target, "--data", str(data))
        assert (done.returncode, done.stdout) == (0, lines), target
    with (tmp_path / "redirected").open("wb") as stdout:
        stdout.write(b"before\n")
        stdout.flush()
        subprocess.run(
            [PROGRAM, "export", "/dev/stdout", "--data", str(data)], stdout=stdout, env=environment(), check=True
        )
    assert (tmp_path / "redirected").read_bytes() == b"before\n" + lines
    assert run("export", "/dev/null", "--data", str(data)).returncode == 0
    full = run("export", "/dev/full", "--data", str(data))
    assert (full.returncode, full.stderr) == (1, b"Error: /dev/full: No space left on device\n")
    script = f'"{PROGRAM}" export /dev/fd/7 --data "{data}" 7>"{tmp_path / "seventh"}"'
    subprocess.run(["bash", "-c", script], env=environment(), check=True)
    assert (tmp_path / "seventh").read_bytes() == lines
    script = f'"{PROGRAM}" export >(cat >"{tmp_path / "substituted"}"; sync) --data "{data}"; wait $!'
    subprocess.run(["bash", "-c", script], env=environment(), check=True)
    assert (tmp_path / "substituted").read_bytes() == lines


def test_a_named_pipe_stays_one(data: Path, tmp_path: Path, lines: bytes) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    assert run("export", str(pipe), "--data", str(data)).returncode == 0
    reader.join(30)
    assert got == [lines]
    assert pipe.is_fifo()


def test_a_folder_that_is_missing_is_named(data: Path, tmp_path: Path) -> None:
    done = command(data, "export", str(tmp_path / "no" / "file"))
    assert (done.returncode, done.stderr) == (
        1,
        f"Error: {tmp_path}/no/file: No such file or directory\n".encode(),
    )
    assert not (tmp_path / "no").exists()


def test_a_partial_file_that_is_a_trap_is_not_written_through(data: Path, tmp_path: Path, lines: bytes) -> None:
    victim, file = tmp_path / "victim", tmp_path / "out.jsonl"
    victim.write_bytes(b"precious")
    partial = tmp_path / ".out.jsonl.partial"
    partial.symlink_to(victim)
    assert command(data, "export", str(file)).returncode == 1
    assert not file.exists()
    partial.unlink()
    os.link(victim, partial)
    assert command(data, "export", str(file)).returncode == 0
    assert victim.read_bytes() == b"precious"
    assert file.read_bytes() == lines


def test_a_backup_into_an_empty_directory_restores_it(data: Path, tmp_path: Path) -> None:
    (tmp_path / "restored").mkdir()
    assert command(data, "backup", str(tmp_path / "restored" / "events.db")).returncode == 0
    assert fingerprints(tmp_path / "restored") == fingerprints(data)


NAMES = [
    *(
        "file:y",
        ":memory:",
        "file::memory:",
        "a b",
        "q?mode=ro",
        "h#x",
        "100%41",
        "%",
        "é房😀",
        "'\"$`",
        "a\nb",
        "-",
        "~",
    ),
    os.fsdecode(b"\xff\xfe"),
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_any_name_is_one_of_a_data_directory(
    evening: Path, tmp_path: Path, lines: bytes, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def do(*args: str) -> bytes:
        done = (run if args[0] == "rebuild" else roomlapse)(*args)  # that one is run by a process that is elsewhere
        assert done.returncode == 0, (args, done)
        return done.stdout

    (tmp_path / "lines").write_bytes(lines)
    at = ["--data", name]
    do("import", "lines", *at)
    assert do("export", "-", *at) == lines
    do("status", *at)
    do("rebuild", "--jobs", "2", *at)
    do("verify", *at)
    do("backup", f"./{Path(name).name}.copy", *at, "--json")
    do("export", f"./{Path(name).name}.lines", *at)
    assert do("rooms", *at) == do("rooms", "--data", str(evening))
    top = Path(name).parts[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        {top, "lines", f"{Path(name).name}.copy", f"{Path(name).name}.lines"}
    )
    assert (tmp_path / name / "events.db").is_file()
