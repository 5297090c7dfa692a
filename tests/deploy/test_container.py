"""Dockerfile and compose.yaml: what they build, run and ask, done here step by step where there is no Docker."""

import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from kit.callbacks import APP_ID, T0, body_of
from kit.deploy import (
    ADMIN_TOKEN,
    API_TOKEN,
    TOKENS,
    TOP,
    bearer,
    deploy_file,
    output_of,
    signed_query,
    write_tokens,
)
from kit.program import PROGRAM, Launched, environment

DOCKERFILE = "Dockerfile"
COMPOSE = "compose.yaml"


def stages() -> list[list[tuple[str, str]]]:
    """The instructions of each stage of the Dockerfile, each with its arguments, without comments."""
    lines = [line for line in deploy_file(DOCKERFILE, {}).splitlines() if not line.startswith("#")]
    found: list[list[tuple[str, str]]] = []
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        name, _, rest = line.partition(" ")
        if name == "FROM":
            found.append([])
        if found and name:
            found[-1].append((name, rest.strip()))
    return found


def the(name: str) -> str:
    """The arguments of the image's only instruction of a kind."""
    (found,) = [rest for given, rest in stages()[-1] if given == name]
    return found


def image_env() -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in the("ENV").split())


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(deploy_file(COMPOSE, {}))
    return found


def health_check() -> list[str]:
    """The command of the health check."""
    command: list[str] = json.loads(the("HEALTHCHECK").partition(" CMD ")[2])
    return command


def is_healthy(port: int) -> bool:
    env = environment({"ROOMLAPSE_PORT": str(port), "http_proxy": "http://127.0.0.1:9"})
    program = str(Path(PROGRAM).with_name(health_check()[0]))
    done = subprocess.run([program, *health_check()[1:]], env=env, capture_output=True, timeout=20, check=False)
    return done.returncode == 0


@contextmanager
def service(tmp_path: Path, program: str = PROGRAM) -> Iterator[Launched]:
    """A server with the command and environment that it has in the container, but on a free port of the loopback."""
    write_tokens(tmp_path / "secrets")
    env = image_env() | compose()["services"]["roomlapse"]["environment"]
    env = {name: value.replace("/run/secrets/", f"{tmp_path}/secrets/") for name, value in env.items()}
    data = str(tmp_path / "data")
    own = {"ROOMLAPSE_HOST": "127.0.0.1", "ROOMLAPSE_PORT": "0", "ROOMLAPSE_SDK_APP_ID": APP_ID, "ROOMLAPSE_DATA": data}
    del env["PATH"]
    assert json.loads(the("ENTRYPOINT")) == ["roomlapse"]
    with Launched(
        [program, *json.loads(the("CMD"))], tmp_path / "server.log", env | own | {"SQLITE_TMPDIR": data}
    ) as it:
        yield it


def test_the_image_is_slim_and_runs_as_a_user_of_its_own_on_a_volume() -> None:
    assert re.search(r"^ARG PYTHON=3\.\d+-slim$", deploy_file(DOCKERFILE, {}), re.MULTILINE)
    assert [stage[0] for stage in stages()] == [("FROM", "python:${PYTHON} AS build"), ("FROM", "python:${PYTHON}")]
    assert the("USER") == "roomlapse"
    assert re.search(rf"useradd .*--uid [1-9]\d+ .*{the('USER')}\b", the("RUN"))
    assert the("VOLUME") == image_env()["ROOMLAPSE_DATA"] == "/data"
    assert f"-o {the('USER')} -g {the('USER')} -m 0700 /data" in the("RUN")
    assert the("EXPOSE") == image_env()["ROOMLAPSE_PORT"]


def test_no_secret_and_no_data_get_into_the_build(tmp_path: Path) -> None:
    copy_context(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        *(".locks", "app", "projections", "data", "pyproject.toml", "README.md", "LICENSE")
    }
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["sample-callbacks.jsonl"]
    names = {name for stage in stages() for kind, rest in stage if kind in ("ENV", "ARG") for name in rest.split()}
    assert not [name for name in names if "TOKEN" in name]


def test_the_image_installs_what_is_locked_and_nothing_else() -> None:
    installs = [rest for stage in stages() for kind, rest in stage if kind == "RUN" and " install " in rest]
    pip = [command for command in installs if "/pip install" in command]
    assert all("--require-hashes" in command or "--no-deps --no-index" in command for command in pip)
    project = tomllib.loads((TOP / "pyproject.toml").read_text())
    locked = {name: locks(TOP / ".locks" / f"{name}.txt") for name in ("run", "build", "dev")}
    assert locked["run"].items() | locked["build"].items() <= locked["dev"].items()
    assert needed(project["project"]["dependencies"]) <= set(locked["run"])
    assert needed(project["build-system"]["requires"]) <= set(locked["build"])


def locks(path: Path) -> dict[str, str]:
    return dict(re.findall(r"^([\w.-]+)==(\S+)", path.read_text(), re.MULTILINE))


def needed(requirements: list[str]) -> set[str]:
    return {re.split(r"[<>=; ]", requirement)[0] for requirement in requirements}


def test_the_health_check_follows_the_server(tmp_path: Path) -> None:
    with service(tmp_path) as server:
        assert is_healthy(server.port)
        server.stop()
        assert not is_healthy(server.port)


def test_the_composed_service_has_its_tokens_from_files(tmp_path: Path) -> None:
    composed = compose()
    names = composed["services"]["roomlapse"]["secrets"]
    assert set(names) == set(composed["secrets"]) == {name.removeprefix("ROOMLAPSE_").lower() for name in TOKENS}
    body = body_of("r", T0)
    with service(tmp_path) as server, httpx.Client(base_url=server.url) as client:
        assert client.post("/callbacks", params={"SdkAppid": APP_ID}, content=body).status_code == 401
        assert client.post("/callbacks", params=signed_query(), content=body).status_code == 200
        assert client.get("/rooms/r").status_code == 401
        assert client.get("/rooms/r", headers=bearer(API_TOKEN)).json()["events"] == 1
        assert client.get("/metrics", headers=bearer(API_TOKEN)).status_code == 403
        assert client.get("/metrics", headers=bearer(ADMIN_TOKEN)).status_code == 200


def test_the_composed_service_can_be_reached_from_its_host_alone_and_its_volumes_are_there() -> None:
    composed = compose()
    container = composed["services"]["roomlapse"]
    assert container["ports"] == [f"127.0.0.1:8000:{the('EXPOSE')}"]
    assert container["volumes"] == [f"data:{the('VOLUME')}"]
    assert container["build"] == {"context": "..", "dockerfile": "deploy/Dockerfile"}
    assert container["read_only"] is True
    assert container["cap_drop"] == ["ALL"]
    mounts = [volume for each in composed["services"].values() for volume in each["volumes"]]
    for source in (mount.split(":")[0] for mount in mounts):
        assert source in composed["volumes"] or (TOP / "deploy" / source).is_file()


def copy_context(folder: Path) -> None:
    """Copy what .dockerignore lets through: everything is ignored but what is named with a `!`."""
    lines = [line for line in (TOP / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "*"
    for line in lines[1:]:
        if not line.startswith("!"):
            assert line == "**/__pycache__"
            continue
        source, target = TOP / line[1:], folder / line[1:]
        target.parent.mkdir(exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)


@pytest.mark.slow
def test_the_steps_of_the_build_make_a_server_that_is_healthy(tmp_path: Path) -> None:
    """The first stage's commands, in folders of this test instead of /src and /opt."""
    copy_context(tmp_path / "src")
    for kind, rest in stages()[0]:
        assert kind in ("FROM", "WORKDIR", "COPY", "RUN")
        if kind == "RUN":
            output_of("sh", "-ec", rest.replace("/opt/", f"{tmp_path}/opt/"), cwd=tmp_path / "src")
    assert ("COPY", "--from=build /opt/roomlapse /opt/roomlapse") in stages()[1]
    assert image_env()["PATH"].split(":")[0] == "/opt/roomlapse/bin"
    with service(tmp_path, f"{tmp_path}/opt/roomlapse/bin/roomlapse") as server:
        assert is_healthy(server.port)


def docker(*asks: str, lacks: str) -> str:
    """Docker's command; the test is skipped if it, or what a question to it asks for, is not there."""
    program = shutil.which("docker")
    if program is None:
        pytest.skip("docker is not installed")
    if subprocess.run([program, *asks], capture_output=True, timeout=60, check=False).returncode != 0:
        pytest.skip(f"docker is installed, but {lacks}")
    return program


@pytest.mark.slow
def test_docker_builds_the_image() -> None:
    program = docker("info", lacks="its daemon is not running")
    output_of(program, "build", "-q", "-f", "deploy/Dockerfile", "-t", "roomlapse-test", ".", cwd=TOP)
    assert "roomlapse" in output_of(program, "run", "--rm", "roomlapse-test", "--version")


def test_docker_compose_takes_the_file() -> None:
    program = docker("compose", "version", lacks="not its plugin compose")
    command = [program, "compose", "-f", str(TOP / "deploy" / COMPOSE), "config", "-q"]
    env = environment({"ROOMLAPSE_SDK_APP_ID": APP_ID})
    done = subprocess.run(command, env=env, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
