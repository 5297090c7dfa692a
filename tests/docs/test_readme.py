"""The README does what it says: its commands run in its order and print what it shows.

ROOMLAPSE_WRITE_README=1 puts what they print now into the README instead; read the difference before committing it.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROGRAM, StartServer, environment, run

ROOT = Path(__file__).parent.parent.parent
README = ROOT / "README.md"
DEMO_APP_ID = "1400000000"
ADDRESS = "http://127.0.0.1:8000"
_CONSOLE = re.compile(r"(?<=```console\n).*?(?=```\n)", re.DOTALL)
_PYTHON = re.compile(r"(?<=```python\n).*?(?=```\n)", re.DOTALL)
# These are run by other means: the fixtures start the server and set the environment, CI runs the gate.
NOT_RUN = ("make ", "export PATH=", "roomlapse serve")

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="the README's requests need curl")


def commands_of(block: str) -> list[tuple[str, str]]:
    """The commands of a console block, each with the output shown below it."""
    pairs: list[tuple[str, str]] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            pairs.append((line[2:], ""))
        else:
            command, output = pairs[-1]
            pairs[-1] = (command, output + line + "\n")
    return pairs


def trimmed(text: str) -> str:
    return "".join(line.rstrip() + "\n" for line in text.splitlines())


@pytest.mark.slow
def test_the_commands_print_what_the_readme_shows(tmp_path: Path, start_server: StartServer) -> None:
    (tmp_path / "data").mkdir()
    shutil.copy(ROOT / "data" / "sample-callbacks.jsonl", tmp_path / "data")
    live = {"ROOMLAPSE_DATA": str(tmp_path / "data"), "ROOMLAPSE_SDK_APP_ID": DEMO_APP_ID}
    env = environment(live | {"PATH": f"{Path(PROGRAM).parent}{os.pathsep}{os.environ['PATH']}"})
    server = start_server("--sdk-app-id", DEMO_APP_ID)

    def output_of(command: str) -> str:
        if command.startswith(NOT_RUN):
            return ""
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command.replace(ADDRESS, server.url)],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        text = done.stdout
        return trimmed(text)

    text = README.read_text()
    for block in _CONSOLE.findall(text):
        printed = [(command, output_of(command)) for command, _ in commands_of(block)]
        shown = "".join(f"$ {command}\n{output}" for command, output in printed)
        if os.environ.get("ROOMLAPSE_WRITE_README"):
            text = text.replace(f"```console\n{block}```", f"```console\n{shown}```")
        else:
            assert shown == trimmed(block)
    README.write_text(text)


def test_the_simulated_sender_of_the_readme_got_an_ok_for_everything(start_server: StartServer) -> None:
    server = start_server()
    command = next(line[2:] for line in README.read_text().splitlines() if line.startswith("$ roomlapse simulate"))
    args = command.replace(ADDRESS, server.url).split(" > ")[0].split()[1:]
    done = run(*args, env={"ROOMLAPSE_SDK_APP_ID": "1400000001"})
    assert json.loads(done.stdout)["answers"] == {"200": 40}


def test_the_table_of_commands_is_what_help_says() -> None:
    table = dict(re.findall(r"^\| `roomlapse (\w+)` \| (.*) \|$", README.read_text(), re.MULTILINE))
    listed = run("--help", env={"COLUMNS": "300", "TERMINAL_WIDTH": "300"}).stdout.decode()
    helps = dict(re.findall(r"^│ (\w+) +(\S.*?) *│$", listed, re.MULTILINE))
    assert table == helps


def test_the_variables_and_make_targets_of_the_readme_exist() -> None:
    text = README.read_text()
    sources = "".join(path.read_text() for path in (ROOT / "app").rglob("*.py"))
    for variable in set(re.findall(r"ROOMLAPSE_[A-Z_]+[A-Z]", text)):
        name = variable.removesuffix("_FILE").removeprefix("ROOMLAPSE_")
        assert name in sources, variable
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z]+)", text)) <= targets


@pytest.mark.slow
def test_the_projection_of_the_readme_works_as_it_says(tmp_path: Path) -> None:
    module, test = _PYTHON.findall(README.read_text())
    for name in ("app", "projections", "tests", "data"):
        ignore = shutil.ignore_patterns("__pycache__", "*.db*", ".rebuild.lock")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "projections" / "seat_modes.py").write_text(module)
    (tmp_path / "tests" / "test_seat_modes.py").write_text(test)
    init = tmp_path / "projections" / "__init__.py"
    text = init.read_text()
    text = text.replace(
        "import change_counts, current_room, visibility", "import change_counts, current_room, seat_modes, visibility"
    )
    init.write_text(
        text.replace(
            '    "visibility": visibility,\n', '    "visibility": visibility,\n    "seat_modes": seat_modes,\n'
        )
    )

    def python(*args: str) -> str:
        env = environment({"PYTHONPATH": str(tmp_path), "ROOMLAPSE_DATA": str(tmp_path / "run")})
        done = subprocess.run(
            [sys.executable, *args], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    python("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_seat_modes.py")
    # Data that the three projections have read before the fourth came: it fills itself at the next command.
    assert (
        run(
            "import", str(ROOT / "data" / "sample-callbacks.jsonl"), env={"ROOMLAPSE_DATA": str(tmp_path / "run")}
        ).returncode
        == 0
    )
    roomlapse = ("-c", "from app.cli.main import main; main()")
    status = json.loads(python(*roomlapse, "status", "--fingerprint", "--json"))
    assert status["projections"]["seat_modes"]["lag"] == 0
    before = status["projections"]["seat_modes"]["fingerprint"]
    python(*roomlapse, "rebuild", "--projection", "seat_modes")
    assert (
        json.loads(python(*roomlapse, "status", "--fingerprint", "--json"))["projections"]["seat_modes"]["fingerprint"]
        == before
    )
    assert "everything agrees" in python(*roomlapse, "verify")
