"""What many tests share: bodies of callbacks, and a real server in a process of its own."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Self

import httpx
import pytest

UPDATE = "Live.CallbackAfterUpdateRoomInfo"
APP_ID = "1400000001"
T0 = 1_670_574_414_123
PROGRAM = str(Path(sys.executable).parent / "roomlapse")


def body_of(room_id: str, event_time_ms: int, operator: Any = "bob", **fields: Any) -> bytes:
    """The body of a room update."""
    content = {
        "CallbackCommand": UPDATE,
        "Operator_Account": operator,
        "RoomInfo": {"RoomId": room_id, **fields},
        "EventTime": event_time_ms,
    }
    return json.dumps(content, ensure_ascii=False).encode()


def run(*args: str, stdin: bytes = b"", env: dict[str, str] | None = None) -> subprocess.CompletedProcess[bytes]:
    """Run `roomlapse` with some arguments to its end."""
    return subprocess.run(
        [PROGRAM, *args], input=stdin, capture_output=True, env=environment(env), timeout=120, check=False
    )


def environment(more: dict[str, str] | None = None) -> dict[str, str]:
    """This environment without anything of Roomlapse's, and with what is given."""
    return {name: value for name, value in os.environ.items() if not name.startswith("ROOMLAPSE_")} | (more or {})


def projectors_of(data: Path) -> list[int]:
    """The ids of the processes that project for a server of this data directory; one that has ended is none."""
    found = []
    for process in Path("/proc").iterdir():
        with suppress(OSError):
            if process.name.isdigit():
                arguments = (process / "cmdline").read_bytes().split(b"\0")
                if b"app.projector.process" in arguments and os.fsencode(data) in arguments:
                    found.append(int(process.name))
    return found


class Server:
    """`roomlapse serve` in a process of its own, on a free port of the loopback."""

    def __init__(self, data: Path, *args: str, env: dict[str, str] | None = None) -> None:
        self.data = data
        self.log_path = data.parent / f"{data.name}.log"
        self._log: IO[bytes] = self.log_path.open("wb")
        self.process = subprocess.Popen(
            [PROGRAM, "serve", "--sdk-app-id", APP_ID, "--port", "0", "--data", str(data), *args],
            stdout=self._log,
            stderr=subprocess.PIPE,
            env=environment(env),
        )
        self.url = self._wait_until_it_listens()
        self.client = httpx.Client(base_url=self.url, timeout=30)

    def _wait_until_it_listens(self) -> str:
        assert self.process.stderr is not None
        seen = []
        for line in self.process.stderr:
            seen.append(line)
            record = json.loads(line)
            if record["message"] == "listening":
                # From here on somebody has to empty the pipe: a thread copies it to the log file.
                self._copier = subprocess.Popen(["cat"], stdin=self.process.stderr, stdout=self._log)
                self.process.stderr.close()
                url: str = record["url"]
                return url
        raise AssertionError(f"the server did not start: {b''.join(seen)!r}")

    def post(self, body: bytes, **query: str) -> httpx.Response:
        """Send a callback."""
        params = {"SdkAppid": APP_ID, "CallbackCommand": UPDATE, "contenttype": "json", **query}
        return self.client.post("/callbacks", params=params, content=body)

    def get(self, path: str, **params: Any) -> Any:
        """Ask, and give the answer's JSON; it has to be 200."""
        response = self.client.get(path, params=params)
        assert response.status_code == 200, response.text
        return response.json()

    def logs(self) -> str:
        """What the server has logged so far, since it listens."""
        return self.log_path.read_text()

    def kill(self) -> None:
        """End it like a crash."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """End it like an operator; its exit code."""
        return self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> int:
        self.client.close()
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(20)
        self._copier.wait(20)
        self._log.close()
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


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
