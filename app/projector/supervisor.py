"""The server's side of the projector: starts its process, wakes it, and waits for what it reports."""

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import msgspec

from app.infra.data_dir import DataDir
from app.infra.metrics import Metrics
from app.infra.settings import PREFIX, PROJECTIONS
from app.projector.process import WAKE, WANT, Report

_RETRY_S = 1.0
_STOP_S = 5.0
_SILENT_S = 10.0  # it reports at least every second, but for a large batch

_log = logging.getLogger(__name__)


class ProjectorProcess:
    """The projector in a process of its own, started again if it ends; readers wait here for the events they need."""

    def __init__(self, data_dir: DataDir, metrics: Metrics) -> None:
        self._data_dir = data_dir
        self._metrics = metrics
        self._changed = threading.Condition()
        self._sending = threading.Lock()
        self._stopping = False
        self._position = 0
        self._stopped: dict[str, str] = {}
        self._waiting = ""
        self._heard_at_s = time.monotonic()
        self._process: subprocess.Popen[bytes] | None = None
        self.on_progress: Callable[[], None] = lambda: None
        """Called in the listening thread after each step that read something."""
        self._thread = threading.Thread(target=self._run, name="roomlapse-projector")

    @property
    def position(self) -> int:
        """The position up to which every projection that has not stopped has read."""
        return self._position

    @property
    def waiting(self) -> str | None:
        """Why the projector takes no step at all, None if it does."""
        silent_s = time.monotonic() - self._heard_at_s
        if silent_s > _SILENT_S:
            return f"the projector's process has said nothing for {silent_s:.0f} s: it may be stopped, or very busy"
        return self._waiting or None

    @property
    def stopped(self) -> dict[str, str]:
        """The projections that stopped, each with the event and the error."""
        return self._stopped

    def start(self) -> None:
        """Start the process, and the thread that listens to it."""
        self._heard_at_s = time.monotonic()
        self._process = self._start()
        self._thread.start()

    def stop(self) -> None:
        """End the process after its current batch."""
        with self._sending:
            self._stopping = True
            if self._process is not None and self._process.stdin is not None:
                self._process.stdin.close()
        self._thread.join(_STOP_S)
        if (
            self._thread.is_alive() and self._process is not None
        ):  # it does not react; what it had not written is read again
            self._process.kill()
            self._thread.join()

    def wake(self) -> None:
        """Say that the log has grown."""
        self._send(WAKE)

    def wait_for(self, position: int, timeout_s: float) -> bool:
        """Wait until every projection that has not stopped has read up to a position; False if it takes too long."""
        if self._position >= position:
            return True
        self._send(WANT)
        with self._changed:
            return self._changed.wait_for(lambda: self._position >= position, timeout_s)

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(  # noqa: S603  our own program, no shell
            # -P: a folder `app` in the working directory must not be taken for this program.
            [sys.executable, "-P", "-m", "app.projector.process", str(self._data_dir.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the server, which ends this one when its own work is done
            env=_environment(),
        )
        assert process.stdin is not None
        # A stopped projector must not block the thread that wakes it; a full pipe wakes it as well when it continues.
        os.set_blocking(process.stdin.fileno(), False)
        return process

    def _send(self, line: bytes) -> None:
        with self._sending:
            if self._process is None or self._process.stdin is None or self._stopping:
                return
            # It may have ended: the thread starts another, which looks at the log first.
            with suppress(OSError, ValueError):
                os.write(self._process.stdin.fileno(), line)

    def _run(self) -> None:
        process = self._process
        while process is not None:
            self._listen(process)
            process = self._start_again(process.returncode)

    def _start_again(self, exit_code: int | None) -> subprocess.Popen[bytes] | None:
        """Start the process that has ended; None if it was to end."""
        while not self._stopping:
            _log.error("the projector ended with exit code %s: starting it again", exit_code)
            time.sleep(_RETRY_S)
            with self._sending, suppress(OSError):
                if not self._stopping:
                    self._process = self._start()
                    return self._process
        return None

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        with process:
            assert process.stdout is not None
            for line in process.stdout:
                try:
                    report = msgspec.json.decode(line, type=Report)
                except msgspec.MsgspecError:
                    _log.error("the projector said something that is no report")  # it died in the middle of one
                    continue
                self._take(report)
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()

    def _take(self, report: Report) -> None:
        self._heard_at_s = time.monotonic()
        self._waiting = report.waiting
        if report.waiting:
            return
        self._metrics.see_head(report.head)
        self._metrics.see_projected(report.positions)
        self._metrics.late.inc(report.late)
        for name in report.positions:
            self._metrics.stopped.labels(name).set(name in report.stopped)
        if report.stopped != self._stopped:
            self._stopped = report.stopped
            self._metrics.projection_error.clear()
            for name, error in report.stopped.items():
                self._metrics.projection_error.labels(name, error).set(1)
        if report.position != self._position:
            with self._changed:
                self._position = report.position
                self._changed.notify_all()
            self.on_progress()


def _environment() -> dict[str, str]:
    """The environment of the projector's process: of our variables only the folder of projections, so no secrets."""
    return {name: value for name, value in os.environ.items() if not name.startswith(PREFIX) or name == PROJECTIONS}
