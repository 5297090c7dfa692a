"""The wheel holds what running needs, and runs where nothing of the checkout is."""

import json
import shutil
import subprocess
import sys
import tarfile
import venv
from pathlib import Path
from zipfile import ZipFile

import httpx
import pytest
from kit.callbacks import APP_ID, T0, body_of
from kit.program import Launched, environment

ROOT = Path(__file__).parent.parent.parent
RUN_LOCK = ROOT / ".locks" / "run.txt"
SAMPLE = ROOT / "data" / "sample-callbacks.jsonl"
SAMPLE_APP_ID = "1400000000"

slow = pytest.mark.slow


def call(*command: str | Path, cwd: Path, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
    """Run a command that knows neither this checkout nor this interpreter's environment; it has to end well."""
    env = {name: value for name, value in environment().items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout_s, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done


def build(kind: str, source: Path, folder: Path) -> Path:
    call(sys.executable, "-m", "hatchling", "build", "--target", kind, "--directory", folder, cwd=source)
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """The `bin` of a fresh environment with the locked requirements and the wheel, nothing else."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    pip = (python, "-m", "pip", "--quiet", "--disable-pip-version-check")
    call(*pip, "install", "--require-hashes", "--requirement", RUN_LOCK, cwd=folder)
    call(*pip, "install", "--no-deps", wheel, cwd=folder)
    call(*pip, "check", cwd=folder)
    return python.parent


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """An empty working directory."""
    folder = tmp_path / "empty"
    folder.mkdir()
    return folder


@slow
def test_the_wheel_holds_the_program_and_no_tests(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        names = set(archive.namelist())
        assert archive.read("app/cli/sample-callbacks.jsonl") == SAMPLE.read_bytes()
        (license_file,) = (name for name in names if name.endswith("/licenses/LICENSE"))
        assert archive.read(license_file) == (ROOT / "LICENSE").read_bytes()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"app", "projections"}
    here = {
        str(path.relative_to(ROOT))
        for folder in ("app", "projections")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert {name for name in names if ".dist-info/" not in name} == here | {"app/cli/sample-callbacks.jsonl"}


@slow
def test_the_source_archive_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    archive = build("sdist", ROOT, tmp_path / "sdist")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    again = build("wheel", tmp_path / archive.name.removesuffix(".tar.gz"), tmp_path / "wheel")
    assert again.read_bytes() == wheel.read_bytes()


@slow
def test_the_installed_program_is_not_that_of_the_checkout(installed: Path, empty: Path) -> None:
    where = "import app, projections; print(app.__file__); print(projections.__file__)"
    said = call(installed / "python", "-c", where, cwd=empty).stdout.splitlines()
    assert [Path(path).is_relative_to(installed.parent) for path in said] == [True, True]
    assert call(installed / "roomlapse", "--version", cwd=empty).stdout.strip().endswith("0.1.0")


@slow
def test_the_demo_runs(installed: Path, empty: Path) -> None:
    done = call(installed / "roomlapse", "demo", "--port", "0", "--for", "3", cwd=empty)
    assert "on a sample evening of 145 events" in done.stdout
    assert done.stdout.endswith("demo ended\n")
    records = [json.loads(line) for line in done.stderr.splitlines()]
    assert "listening" in {record["message"] for record in records}
    assert not [record for record in records if record["level"] in {"warning", "error"}]
    assert list(empty.iterdir()) == []


@slow
def test_the_commands_run(installed: Path, empty: Path) -> None:
    def run(*args: str) -> str:
        return call(installed / "roomlapse", *args, cwd=empty).stdout

    assert run("import", str(SAMPLE), "--sdk-app-id", SAMPLE_APP_ID) == "accepted 145, duplicates 6, rejected 0\n"
    assert [path.name for path in empty.iterdir()] == ["roomlapse-data"]
    room = json.loads(run("room", "late-show", "--json"))
    assert room["room_info"]["RoomName"] in run("room", "late-show")
    before = json.loads(run("status", "--fingerprint", "--json"))["projections"]
    assert run("rebuild", "--jobs", "2").endswith("from 145 events\n")
    assert json.loads(run("status", "--fingerprint", "--json"))["projections"] == before
    assert run("verify").startswith("everything agrees: 145 events")
    assert json.loads(run("room", "late-show", "--json")) == room


@slow
def test_the_server_runs_with_its_page(installed: Path, empty: Path, tmp_path: Path) -> None:
    command = [str(installed / "roomlapse"), "serve", "--sdk-app-id", APP_ID, "--port", "0"]
    with (
        Launched(command, tmp_path / "server.log", cwd=empty) as server,
        httpx.Client(base_url=server.url) as client,
    ):
        answer = client.post("/callbacks", params={"SdkAppid": APP_ID}, content=body_of("r", T0, RoomName="installed"))
        assert answer.json()["ActionStatus"] == "OK"
        assert client.get("/rooms/r").json()["room_info"] == {"RoomName": "installed"}
        assert client.get("/readyz").status_code == 200
        page = client.get("/")
        assert "installed" in page.text
        files = {part.split('"')[0] for part in page.text.split('"/static/')[1:]}
        assert {name.split("?")[0] for name in files} == {"icon.svg", "page.css", "page.js"}
        assert [client.get(f"/static/{name}").status_code for name in files] == [200] * 3
    assert not [record for record in server.records() if record["level"] == "error"]
    assert [path.name for path in empty.iterdir()] == ["roomlapse-data"]


@slow
def test_make_demo_installs_what_running_needs(tmp_path: Path) -> None:
    for name in ("app", "projections", "data", ".locks"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    done = call("make", "--silent", "demo", "FOR=3", "PORT=0", f"PYTHON={Path(sys.executable).resolve()}", cwd=tmp_path)
    assert done.stdout.endswith("demo ended\n")
    assert "the projector ended" not in done.stderr
    there = call(".venv/bin/python", "-m", "pip", "list", "--format", "freeze", cwd=tmp_path).stdout.splitlines()
    needed = {name for name, _ in pins(RUN_LOCK)}
    assert {line.split("==")[0].lower().replace("_", "-") for line in there} <= needed | {"pip", "setuptools"}


def pins(lock: Path) -> set[tuple[str, str]]:
    """Names and versions of a lock file."""
    lines = [line.split() for line in lock.read_text().splitlines() if line[:1].isalpha()]
    return {(name, version) for name, version in (words[0].split("==") for words in lines)}


def test_what_runs_is_what_is_tested() -> None:
    run, dev = pins(RUN_LOCK), pins(RUN_LOCK.with_name("dev.txt"))
    assert run < dev, run - dev


def test_locks_name_no_index() -> None:
    for lock in RUN_LOCK.parent.iterdir():
        assert "://" not in lock.read_text(), lock
