"""roomlapse.service: systemd takes it, finds it hardened, and a server that is run as it says ends in its time."""

import os
import re
import signal
import time
from pathlib import Path

import httpx
import pytest
from kit.callbacks import APP_ID, T0, body_of
from kit.deploy import ADMIN_TOKEN, API_TOKEN, bearer, deploy_file, output_of, signed_query, tool, write_tokens
from kit.program import PROGRAM, Launched, projectors_of

UNIT = "roomlapse.service"
INSTALLED = "/opt/roomlapse/bin/roomlapse"


@pytest.fixture
def unit_path(tmp_path: Path) -> Path:
    """The unit, for the program that stands here."""
    path = tmp_path / UNIT
    path.write_text(deploy_file(UNIT, {f"ExecStart={INSTALLED}": f"ExecStart={PROGRAM}"}))
    return path


def settings(name: str) -> list[str]:
    """The values of a setting, in the order of the file."""
    return re.findall(rf"^{name}=(.*)$", deploy_file(UNIT, {}), re.MULTILINE)


def test_systemd_finds_nothing_wrong_with_the_unit(unit_path: Path) -> None:
    found = output_of(tool("systemd-analyze"), "verify", "--man=no", "--recursive-errors=no", str(unit_path))
    assert found == ""


def test_systemd_finds_the_unit_hardened(unit_path: Path) -> None:
    program = tool("systemd-analyze")
    found = output_of(program, "security", "--offline=true", "--no-pager", "--threshold=20", str(unit_path))
    exposure = re.search(r"Overall exposure level for \S+: ([\d.]+)", found)
    assert exposure is not None
    assert float(exposure[1]) <= 2.0  # of 10; what a service without any of it has is 9.6


def test_a_server_that_is_run_as_the_unit_says_reads_its_credentials_and_ends_by_itself(tmp_path: Path) -> None:
    write_tokens(tmp_path / "credentials")
    credentials = dict(value.split(":") for value in settings("LoadCredential"))
    assert set(credentials) == {path.name for path in (tmp_path / "credentials").iterdir()}
    assert all(path == f"/etc/roomlapse/{name}" for name, path in credentials.items())
    specifiers = {"%S": str(tmp_path), "%d": str(tmp_path / "credentials")}
    env = dict(value.split("=", 1) for value in settings("Environment"))
    for specifier, path in specifiers.items():
        env = {name: value.replace(specifier, path) for name, value in env.items()}
    assert env["ROOMLAPSE_HOST"] == "127.0.0.1"
    assert settings("StateDirectory") == [Path(env["ROOMLAPSE_DATA"]).name]
    env |= {"ROOMLAPSE_PORT": "0", "ROOMLAPSE_SDK_APP_ID": APP_ID}

    (command,) = settings("ExecStart")
    with Launched([PROGRAM, *command.removeprefix(INSTALLED).split()], tmp_path / "server.log", env) as server:
        with httpx.Client(base_url=server.url) as client:
            assert client.post("/callbacks", params={"SdkAppid": APP_ID}, content=body_of("r", T0)).status_code == 401
            assert client.post("/callbacks", params=signed_query(), content=body_of("r", T0)).status_code == 200
            assert client.get("/rooms/r", headers=bearer(API_TOKEN)).json()["events"] == 1
            assert client.get("/metrics", headers=bearer(API_TOKEN)).status_code == 403
            assert client.get("/metrics", headers=bearer(ADMIN_TOKEN)).status_code == 200
        data = tmp_path / "roomlapse"
        assert projectors_of(data)
        assert settings("KillMode") == ["mixed"]  # so that SIGTERM goes to this process alone, as here
        began_s = time.monotonic()
        os.kill(server.process.pid, signal.SIGTERM)
        assert server.process.wait(int(settings("TimeoutStopSec")[0])) == 0
        assert time.monotonic() - began_s < 10
        assert not projectors_of(data)


@pytest.fixture
def trace(tmp_path: Path) -> str:
    """The system calls of a server and its projector: a start, a callback, some questions, an end."""
    path = tmp_path / "trace"
    command = [tool("strace"), "-f", "--quiet=all", "-o", str(path), "-e", "signal=none", PROGRAM, "serve"]
    env = {"ROOMLAPSE_SDK_APP_ID": APP_ID, "ROOMLAPSE_PORT": "0", "ROOMLAPSE_DATA": str(tmp_path / "data")}
    server = Launched(command, tmp_path / "server.log", env)
    try:
        with httpx.Client(base_url=server.url, timeout=30) as client:
            assert client.post("/callbacks", params={"SdkAppid": APP_ID}, content=body_of("r", T0)).status_code == 200
            assert client.get("/rooms/r").json()["events"] == 1
            assert client.get("/").status_code == client.get("/metrics").status_code == 200
        traced = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text()
        os.kill(int(traced.split()[0]), signal.SIGTERM)
        assert server.process.wait(30) == 0
    finally:
        server.kill()
    return path.read_text()


def test_a_server_needs_nothing_that_the_unit_forbids(trace: str, tmp_path: Path) -> None:
    called = set(re.findall(r"^\d+ +(?:<... )?(\w+)(?:\(| resumed)", trace, re.MULTILINE))
    assert {"execve", "openat", "bind"} <= called
    program, allowed = tool("systemd-analyze"), set[str]()
    for value in settings("SystemCallFilter"):
        refused = value.startswith("~")
        calls = {call for group in value.removeprefix("~").split() for call in system_calls(program, group)}
        allowed = allowed - calls if refused else allowed | calls
    if os.geteuid() == 0:
        called.discard("fchown")  # SQLite gives its files to the database's owner, as root alone
    assert called - allowed == set()

    assert settings("MemoryDenyWriteExecute") == ["yes"]
    assert not re.findall(r"mmap\(.*PROT_WRITE\|PROT_EXEC|mprotect\(.*PROT_EXEC", trace)
    families = set(re.findall(r"\bsocket(?:pair)?\((AF_\w+)", trace))
    assert families
    assert families <= set(settings("RestrictAddressFamilies")[0].split())

    assert settings("ProtectSystem") == ["strict"]
    written = set(re.findall(r'openat\(AT_FDCWD, "([^"]+)", \S*(?:O_WRONLY|O_RDWR|O_CREAT)', trace))
    assert written
    assert {str(Path(path).parent) for path in written} <= {str(tmp_path / "data"), "/dev"}


def system_calls(program: str, group: str) -> set[str]:
    """The calls of a group, and of the groups in it."""
    found = set()
    for line in output_of(program, "--no-pager", "syscall-filter", group).splitlines()[1:]:
        name = line.strip()
        if name.startswith("@"):
            found |= system_calls(program, name)
        elif name and not name.startswith("#"):
            found.add(name)
    return found
