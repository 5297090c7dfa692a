"""Row 27: files of root beside another user's server, a read-only mount, no hard links, a variable of Kubernetes.
Row 28: an export onto the log, onto a full disk, killed half-way."""

import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import APP_ID, PROGRAM, body_of, environment
from kit.wait import wait_until

from faults.batches import Batches, need, run_tool, skipping_where_it_cannot_be, unmount
from faults.lib import Victim, assert_exact, no_traceback, now_ms, report, rounds, run_program

_UID = 65_534
_ROOT = Path(__file__).parents[2]


class Place:
    """A folder that another user can reach, with a data directory of theirs, and the program as they run it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        folder.chmod(0o755)
        self.data.mkdir(mode=0o700)
        os.chown(self.data, _UID, _UID)
        self._program = folder / "roomlapse"
        minor = f"python3.{sys.version_info.minor}"
        # The one that runs this may be in root's own home.
        for python in (os.path.realpath(sys.executable), shutil.which(minor, path="/usr/bin:/usr/local/bin")):
            if python is not None and self._can_start(python):
                self._program.write_text(
                    "#!/bin/sh\nshift\n"
                    f'PYTHONPATH="{_ROOT}:{sysconfig.get_path("purelib")}"; export PYTHONPATH\n'
                    f'exec setpriv --reuid={_UID} --regid={_UID} --clear-groups {python} -m app "$@"\n'
                )
                self._program.chmod(0o755)
                if self.run("--version").returncode == 0:
                    return
        pytest.skip("another user cannot run the program from where it is")

    @staticmethod
    def _can_start(python: str) -> bool:
        """Whether the other user can start it: the program starts processes of its own."""
        command = [f"--reuid={_UID}", f"--regid={_UID}", "--clear-groups", "test", "-x", python]
        return subprocess.run(["setpriv", *command], check=False).returncode == 0

    @property
    def wrap(self) -> tuple[str, ...]:
        """What a server is started with."""
        return (str(self._program),)

    def run(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Run `roomlapse` as the other user."""
        return subprocess.run(
            [*self.wrap, PROGRAM, *args],
            capture_output=True,
            text=True,
            env=environment(),
            cwd=self.folder,
            timeout=120,
            check=False,
        )


def sentence(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that a command ended with, which is no traceback and not what SQLite says."""
    assert "Traceback" not in done.stderr, done.stderr
    assert "unable to open" not in done.stdout + done.stderr
    assert done.returncode == 1, done
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert line.startswith("Error: ")
    return line


@pytest.fixture
def place() -> Iterator[Place]:
    need("setpriv", root=True)
    folder = Path(tempfile.mkdtemp(prefix="roomlapse-faults-"))
    try:
        yield Place(folder)
    finally:
        unmount(folder / "mounted")
        shutil.rmtree(folder)


def owners(data: Path) -> set[int]:
    return {path.lstat().st_uid for path in data.iterdir()}


def test_what_root_makes_beside_the_server_of_another_user_stops_nothing(place: Place) -> None:
    data = place.data
    (place.folder / "lines").write_bytes(b"".join(body_of("r", now_ms() - 10_000 + n) + b"\n" for n in range(50)))
    commands = [
        ("rebuild",),
        ("import", str(place.folder / "lines")),
        ("rejected", "retry"),
        ("verify",),
        ("export", str(data / "lines.jsonl"), "--force"),
    ]
    assert run_program("import", os.devnull, "--data", str(data), "--sdk-app-id", APP_ID).returncode == 0
    assert owners(data) == {_UID}
    sent = None
    for number in range(rounds(2, 10)):
        with Victim(data, wrap=place.wrap) as victim, no_traceback(victim):
            batches = Batches(victim)
            assert set(batches.send(40)) == {200}
            for command in commands:
                assert run_program(*command, "--data", str(data)).returncode == 0, command
                assert owners(data) == {_UID}, command
                assert set(batches.send(10)) == {200}
            wait_until(lambda victim=victim: victim.get("/readyz")[0] == 200, "it is ready")  # type: ignore[misc]
            assert victim.stop() == 0
            sent = batches.sent
        for path in data.glob("read_models*" if number % 2 else ".*"):
            path.unlink()
        assert run_program("rebuild", "--data", str(data)).returncode == 0
        assert owners(data) == {_UID}
    assert sent is not None
    found = assert_exact(data, sent)
    assert {stat.S_IMODE(path.stat().st_mode) for path in data.iterdir()} == {0o600}

    backup = place.folder / "copy.db"
    assert run_program("backup", str(backup), "--data", str(data)).returncode == 0
    for path in data.iterdir():
        path.unlink()
    shutil.copy(backup, data / "events.db")  # as root: it is root's
    assert "belongs to root" in sentence(place.run("rooms", "--data", str(data)))
    assert run_program("status", "--data", str(data)).returncode == 0  # any command of root's gives it away
    with Victim(data, wrap=place.wrap) as victim:
        assert victim.post(body_of("again", now_ms()))[0] == 200
    report(
        27,
        "commands of root's beside the server of another user",
        f"{rounds(2, 10)} rounds of {', '.join(command[0] for command in commands)}, read models and locks made again,"
        " a log restored: every file is the directory's owner's",
        str(found.lost),
        "0",
    )


def of_root(path: Path) -> None:
    os.chown(path, 0, 0)
    path.chmod(0o600)


def directory_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


UNUSABLE: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "the log is root's": (
        lambda data: of_root(data / "events.db"),
        ("events.db cannot be read: it belongs to root, and this is nobody", "chown nobody"),
    ),
    "the read models are root's": (
        lambda data: of_root(data / "read_models.db"),
        ("read_models.db cannot be read: it belongs to root, and this is nobody", "chown nobody"),
    ),
    "the directory is root's": (
        lambda data: of_root(data),
        ("data cannot be entered: it belongs to root, and this is nobody", "run this as root"),
    ),
    "the log may only be read": (
        lambda data: (data / "events.db").chmod(0o400),
        ("events.db cannot be written: its mode forbids it", "chmod u+w"),
    ),
    "the directory may only be read": (
        lambda data: data.chmod(0o500),
        ("data cannot be written: its mode forbids it", "chmod u+w"),
    ),
    "a directory in the log's place": (
        lambda data: directory_instead(data / "events.db"),
        ("events.db is a directory", "move it away"),
    ),
    "a directory in the read models' place": (
        lambda data: directory_instead(data / "read_models.db"),
        ("read_models.db is a directory", "move it away"),
    ),
}


@pytest.mark.parametrize("what", UNUSABLE)
def test_a_file_that_cannot_be_used_is_named_with_its_owner_and_the_remedy(place: Place, what: str) -> None:
    data = place.data
    break_it, words = UNUSABLE[what]
    (place.folder / "line").write_bytes(body_of("r", now_ms()))
    with Victim(data, wrap=place.wrap) as victim:
        assert set(Batches(victim).send(10)) == {200}
        wait_until(lambda: victim.get("/readyz")[0] == 200, "it is ready")
    break_it(data)
    tried = 0
    for command in (
        ("serve", "--sdk-app-id", APP_ID, "--port", "0"),
        ("import", str(place.folder / "line")),
        ("rooms",),
        ("status",),
        ("verify",),
        ("rebuild",),
        ("backup", "/dev/shm/roomlapse-never.db"),
    ):
        done = place.run(*command, "--data", str(data))
        if done.returncode == 0:  # it does not need that file
            assert command[0] in ("backup", "rooms", "status", "verify", "rebuild"), done
            Path("/dev/shm/roomlapse-never.db").unlink(missing_ok=True)
            continue
        line = sentence(done) if command[0] != "verify" or done.stderr else done.stdout
        for word in words:
            assert word in line, (command, line)
        tried += 1
    assert tried >= 2
    done = place.run("doctor", "--json", "--data", str(data))
    assert done.stdout, done.stderr
    told = json.loads(done.stdout)
    assert "unable to open" not in json.dumps(told)
    report(27, what, f"{tried} commands: a sentence with owner and remedy, exit 1", "0", "-")


def test_read_models_of_root_s_while_a_server_runs_are_named_in_readiness_and_log(place: Place) -> None:
    data = place.data
    with Victim(data, wrap=place.wrap) as victim:
        assert set(Batches(victim).send(10)) == {200}
        wait_until(lambda: victim.get("/readyz")[0] == 200, "it is ready")
        for path in data.glob("read_models*"):
            path.unlink()
        (data / "read_models.db").touch(mode=0o600)  # as something of root's may do it that is not ours
        wait_until(lambda: victim.get("/readyz")[0] == 503, "it says so")
        wait_until(lambda: b"belongs to root" in victim.get("/readyz")[1], "it says why")
        assert victim.post(body_of("r", now_ms()))[0] == 200
        sentence_of_it = "read_models.db cannot be read: it belongs to root, and this is nobody"
        wait_until(lambda: sentence_of_it in victim.logs(), "it is logged")
        status, said = victim.get("/rooms")
        assert (status, b"belongs to root" in said) == (503, True)
        os.chown(data / "read_models.db", _UID, _UID)
        wait_until(lambda: victim.get("/readyz")[0] == 200, "it goes on")
        assert "unable to open" not in victim.logs()
    report(
        27,
        "read models of root's come up under a running server",
        "callbacks are taken, readiness, answers and log name file and owner; given away, it goes on",
        "0",
        "0",
    )


def test_a_path_that_is_too_long_is_named(tmp_path: Path) -> None:
    long = tmp_path.joinpath(*["d" * 100] * 5)
    done = run_program("serve", "--sdk-app-id", APP_ID, "--port", "0", "--data", str(long))
    assert "is too long" in sentence(done)
    assert not (tmp_path / ("d" * 100)).exists()
    for command in (("import", os.devnull), ("rooms",), ("verify",)):
        assert "is too long" in sentence(run_program(*command, "--data", str(long)))
        assert "is too long" in sentence(run_program(*command, "--data", str(tmp_path / ("n" * 256))))
    at_most = tmp_path / ("e" * 250)
    at_most = at_most / ("e" * (480 - len(str(at_most)) - 1))
    assert run_program("import", os.devnull, "--data", str(at_most)).returncode == 0
    assert run_program("status", "--data", str(at_most)).returncode == 0
    report(
        27, "a path that is too long for SQLite", "a sentence, exit 1; one that is as long as it may be works", "0", "-"
    )


def test_a_mount_that_is_read_only_is_named(place: Place) -> None:
    need("mount", "umount", root=True)
    data = place.folder / "mounted" / "data"
    assert run_program("import", os.devnull, "--data", str(place.data)).returncode == 0
    (place.folder / "mounted").mkdir()
    with skipping_where_it_cannot_be("nothing can be mounted read-only"):
        run_tool("mount", "--bind", str(place.folder), str(place.folder / "mounted"))
        run_tool("mount", "-o", "remount,bind,ro", str(place.folder / "mounted"))
    commands = [("serve", "--sdk-app-id", APP_ID, "--port", "0"), ("import", os.devnull), ("rooms",), ("rebuild",)]
    for command in commands:
        for run in (run_program, place.run):
            line = sentence(run(*command, "--data", str(data)))
            assert "is on a read-only file system: mount it read-write" in line, (command, line)
    report(27, "a read-only mount", f"{len(commands)} commands: a sentence, exit 1", "0", "-")


@pytest.mark.parametrize("error", ["EPERM", "EOPNOTSUPP", "ENOSYS", "EMLINK", "EXDEV"])
def test_a_backup_where_hard_links_fail_is_made_all_the_same_and_replaces_nothing(tmp_path: Path, error: str) -> None:
    need("strace")
    data, trace = tmp_path / "data", ["strace", "-f", "-qq", "-o", str(tmp_path / "trace")]
    (tmp_path / "lines").write_bytes(b"".join(body_of("r", now_ms() - 1000 + n) + b"\n" for n in range(20)))
    assert run_program("import", str(tmp_path / "lines"), "--data", str(data)).returncode == 0
    assert run_program("backup", str(tmp_path / "linked.db"), "--data", str(data)).returncode == 0
    inject = ["-e", "trace=link,linkat", "-e", f"inject=link,linkat:error={error}"]

    def back_up(name: str, more: list[str]) -> subprocess.CompletedProcess[bytes]:
        command = [*trace, *more, PROGRAM, "backup", name, "--data", str(data)]
        return subprocess.run(command, capture_output=True, env=environment(), timeout=120, check=False)

    done = back_up(str(tmp_path / "copy.db"), inject)
    if b"ptrace" in done.stderr or b"PTRACE" in done.stderr:
        pytest.skip(f"nothing can be traced here: {done.stderr.decode()}")
    assert done.returncode == 0, done
    assert error in (tmp_path / "trace").read_text()
    assert (tmp_path / "copy.db").read_bytes() == (tmp_path / "linked.db").read_bytes()
    assert not list(tmp_path.glob(".*"))
    again = back_up(str(tmp_path / "copy.db"), inject)
    assert (again.returncode, b"is there already" in again.stderr) == (1, True)
    # A file that comes up between the check and the link: the link is held up for a second.
    come_up = tmp_path / "come-up.db"
    slow = ["-e", "trace=link,linkat", "-e", f"inject=link,linkat:error={error}:delay_enter=1500000"]
    command = [*trace, *slow, PROGRAM, "backup", str(come_up), "--data", str(data)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, env=environment()) as process:
        wait_until(lambda: "link" in (tmp_path / "trace").read_text(), "it links", every_s=0.01)
        come_up.write_bytes(b"precious")
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    assert come_up.read_bytes() == b"precious"
    report(27, f"no hard links ({error})", "backup falls back to an exclusive create; replaces nothing", "0", "0")


def test_a_variable_of_kubernetes_is_ignored(tmp_path: Path) -> None:
    with Victim(tmp_path / "data", env={"ROOMLAPSE_PORT": "tcp://10.96.0.12:8000"}) as victim:
        assert Batches(victim).send_one() == 200
    report(27, "ROOMLAPSE_PORT is what Kubernetes sets", "the server starts", "0", "0")


# ---- row 28 ----


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A data directory with some thousand events, and its export."""
    folder = tmp_path_factory.mktemp("export")
    begin_ms = now_ms() - 10**7
    (folder / "lines").write_bytes(
        b"".join(body_of(f"r{n % 40}", begin_ms + n, CustomInfo="c" * 300) + b"\n" for n in range(rounds(5000, 20_000)))
    )
    assert run_program("import", str(folder / "lines"), "--data", str(folder / "data")).returncode == 0
    done = subprocess.run(
        [PROGRAM, "export", "-", "--data", str(folder / "data")], capture_output=True, env=environment(), check=True
    )
    return folder / "data", done.stdout


def test_an_export_onto_the_log_is_refused(exported: tuple[Path, bytes], tmp_path: Path) -> None:
    data, _ = exported
    before = (data / "events.db").read_bytes()
    (tmp_path / "link").symlink_to(data / "events.db")
    os.link(data / "events.db", tmp_path / "hard")
    (tmp_path / "folder").symlink_to(data)
    targets = [
        data / "events.db",
        data / "events.db-wal",
        data / "read_models.db",
        data / ".rebuild.lock",
        tmp_path / "link",
        tmp_path / "hard",
        tmp_path / "folder" / "events.db",
        Path(f"{data}/../{data.name}/events.db"),
    ]
    for target in targets:
        for command in (["export", "--force"], ["export"], ["backup"]):
            assert sentence(run_program(*command, str(target), "--data", str(data)))
            assert (data / "events.db").read_bytes() == before
    assert run_program("verify", "--data", str(data)).returncode == 0
    (tmp_path / "hard").unlink()
    report(
        28, "export and backup onto a file of the data directory", f"{len(targets)} names, links: exit 1", "0", "all"
    )


def test_an_export_onto_a_full_disk_leaves_what_was_there(exported: tuple[Path, bytes], tmp_path: Path) -> None:
    need("mount", "umount", root=True)
    data, lines = exported
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        with skipping_where_it_cannot_be("no file system can be mounted"):
            run_tool("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk))
        old, new = disk / "old.jsonl", disk / "new.jsonl"
        old.write_bytes(b"old\n")
        for command in (["export", str(new)], ["export", str(old), "--force"], ["backup", str(disk / "copy.db")]):
            line = sentence(run_program(*command, "--data", str(data)))
            assert "No space left" in line or "full" in line, line
            assert command[1] in line
            assert os.listdir(disk) == ["old.jsonl"]
            assert old.read_bytes() == b"old\n"
        run_tool("mount", "-o", "remount,size=256m", str(disk))
        assert run_program("export", str(old), "--force", "--data", str(data)).returncode == 0
        assert old.read_bytes() == lines
    finally:
        unmount(disk)
    report(28, "export and backup onto a full disk", "no file of the name, or the old one; then whole", "0", "3")


def test_an_export_that_is_killed_leaves_no_file_or_the_old_one(exported: tuple[Path, bytes], tmp_path: Path) -> None:
    data, lines = exported
    pick = random.Random(28)
    count = rounds(8, 60)
    killed = partial = 0
    for number in range(count):
        file = tmp_path / f"{number}.jsonl"
        old = b"old\n" if number % 2 else None
        if old is not None:
            file.write_bytes(old)
        process = subprocess.Popen(
            [PROGRAM, "export", str(file), "--data", str(data), *(["--force"] if old else [])],
            env=environment(),
            stderr=subprocess.DEVNULL,
        )
        hidden = tmp_path / f".{file.name}.partial"
        wait_until(lambda: hidden.exists() or process.poll() is not None, "it begins", every_s=0.001)  # noqa: B023
        time.sleep(pick.random() * 0.05)
        process.send_signal(pick.choice([signal.SIGKILL, signal.SIGTERM]))
        killed += process.wait(30) != 0
        partial += hidden.exists()
        assert not file.exists() if old is None and hidden.exists() else file.read_bytes() in (old, lines)
        assert run_program("export", str(file), "--force", "--data", str(data)).returncode == 0
        assert file.read_bytes() == lines
        assert not hidden.exists()
        file.unlink()
    assert partial >= count // 4, "hardly ever in the middle: this shows little"
    report(
        28,
        "an export that is killed",
        f"{killed} of {count} killed, {partial} half-way: no file of the name or the old one; the next is whole",
        "0",
        "0",
    )


def test_two_exports_to_one_name_do_not_mix(exported: tuple[Path, bytes], tmp_path: Path) -> None:
    data, lines = exported
    file = tmp_path / "both.jsonl"
    command = [PROGRAM, "export", str(file), "--force", "--data", str(data)]
    for _ in range(rounds(2, 10)):
        both = [subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE) for _ in range(2)]
        ended = [(process.communicate(timeout=60)[1], process.returncode) for process in both]
        assert any(code == 0 for _, code in ended), ended
        assert all(code == 0 or b"another process writes" in said for said, code in ended), ended
        assert file.read_bytes() == lines
    report(28, "two exports to one name at a time", "one of them, or one behind the other; whole", "0", "-")
