"""`roomlapse` as a program: run to its end, or as a server in a process group of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import httpx

from kit.callbacks import APP_ID, UPDATE
from kit.wait import wait_until

PROGRAM = str(Path(sys.executable).parent / "roomlapse")
_ENDS_WITHIN_S = 30.0


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """This environment without anything of Roomlapse's, and with what is given."""
    return {name: value for name, value in os.environ.items() if not name.startswith("ROOMLAPSE_")} | dict(more or {})


def run(*args: str, stdin: bytes = b"", env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[bytes]:
    """Run `roomlapse` with some arguments to its end."""
    return subprocess.run(
        [PROGRAM, *args], input=stdin, capture_output=True, env=environment(env), timeout=120, check=False
    )


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


class Launched:
    """A program that listens on a port and logs a line of JSON with its `url` then; in a process group of its own.

    All that it prints goes to `log_path`. Raises AssertionError if it ends, or is silent for too long, instead.
    """

    def __init__(
        self,
        command: Sequence[str],
        log_path: Path,
        env: Mapping[str, str] | None = None,
        *,
        cwd: Path | None = None,
    ) -> None:
        self.log_path = log_path
        with log_path.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment(env), cwd=cwd, start_new_session=True
            )
        try:
            self.url = wait_until(self._url, f"{command[0]} listens")
        except BaseException:
            Launched.kill(self)
            raise
        self.port = int(self.url.rpartition(":")[2])

    def _url(self) -> str:
        ended = self.process.poll() is not None
        for line in self.logs().split("\n")[:-1]:
            if '"listening"' in line:
                return str(json.loads(line)["url"])
        assert not ended, f"it did not start: {self.logs()}"
        return ""

    def logs(self) -> str:
        """Everything it has logged so far, the projector's process included."""
        return self.log_path.read_text(errors="replace")

    def records(self) -> list[dict[str, Any]]:
        """The log's lines that are whole, each one JSON object."""
        return [json.loads(line) for line in self.logs().split("\n")[:-1]]

    def kill(self) -> None:
        """End the whole group as a crash would."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self._wait_for_end()

    def terminate(self) -> None:
        """Ask it to end, like an operator; does not wait."""
        self.process.send_signal(signal.SIGTERM)

    def stop(self) -> int:
        """Ask it to end, and wait; its exit code. If it does not end it is killed, and that is an error."""
        if self.process.poll() is None:
            self.terminate()
        try:
            return self._wait_for_end()
        except BaseException:
            self.kill()
            raise

    def _wait_for_end(self) -> int:
        code = self.process.wait(_ENDS_WITHIN_S)
        wait_until(self._group_has_ended, "its process group ends", every_s=0.01)
        return code

    def _group_has_ended(self) -> bool:
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return True
        return False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def serve_command(data: Path, *args: str) -> list[str]:
    """The command of a server on a free port of the loopback."""
    return [PROGRAM, "serve", "--sdk-app-id", APP_ID, "--port", "0", "--data", str(data), *args]


def log_path_beside(data: Path) -> Path:
    """Where a server of this data directory logs; each start has a file of its own."""
    return data.parent / f"{data.name}-{time.monotonic_ns()}.log"


class Server(Launched):
    """`roomlapse serve`, with a client that keeps its connections."""

    def __init__(self, data: Path, *args: str, env: Mapping[str, str] | None = None) -> None:
        self.data = data
        super().__init__(serve_command(data, *args), log_path_beside(data), env)
        self.client = httpx.Client(base_url=self.url, timeout=30)

    def post(self, body: bytes, **query: str) -> httpx.Response:
        """Send a callback."""
        params = {"SdkAppid": APP_ID, "CallbackCommand": UPDATE, "contenttype": "json", **query}
        return self.client.post("/callbacks", params=params, content=body)

    def get(self, path: str, **params: Any) -> Any:
        """Ask, and give the answer's JSON; it has to be 200."""
        response = self.client.get(path, params=params)
        assert response.status_code == 200, response.text
        return response.json()

    def kill(self) -> None:
        """End the whole group as a crash would."""
        self.client.close()
        super().kill()

    def stop(self) -> int:
        """Ask it to end, and wait; its exit code."""
        self.client.close()
        return super().stop()
