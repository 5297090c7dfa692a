"""The fixtures that many tests share, and the Hypothesis profiles."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from kit.callbacks import APP_ID, T0, UPDATE, body_of
from kit.program import PROGRAM, Server, environment, projectors_of, run

__all__ = ["APP_ID", "PROGRAM", "T0", "UPDATE", "Server", "body_of", "environment", "projectors_of", "run"]
HISTORIES = int(os.environ.get("HISTORIES", "300"))
"""How many examples a property is tried with that does not say how many."""

settings.register_profile(
    "properties",
    deadline=None,
    database=None,
    max_examples=HISTORIES,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
# What is found only has to be found, not made small and pretty.
settings.register_profile("find", settings.get_profile("properties"), phases=[Phase.generate])
# For requests made from a schema: the same ones in each run.
settings.register_profile(
    "fuzz",
    settings.get_profile("find"),
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("properties")

StartServer = Callable[..., Server]


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[StartServer]:
    """Starts servers, in `tmp_path/data` unless told otherwise; ends those that still run."""
    servers: list[Server] = []

    def start(*args: str, data: Path | None = None, env: dict[str, str] | None = None) -> Server:
        servers.append(Server(data or tmp_path / "data", *args, env=env))
        return servers[-1]

    yield start
    for server in servers:
        if server.process.poll() is None:
            server.stop()
