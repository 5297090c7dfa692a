"""Keeps the read models of a running server at the end of the log. Run as a process of its own, by `ProjectorProcess`.

Folding is work for a processor: in the server's process it would hold up the answers to callbacks. A line on stdin says
that the log has grown (`WAKE`) or that a reader waits (`WANT`); its end says stop, also when the server is gone without
a word. Each step is reported as a line of JSON on stdout.
"""

import logging
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from app.infra import sqlite
from app.infra.data_dir import DataDir
from app.infra.errors import NewerSchema, NoData, reason_of
from app.infra.json_logs import set_up_logging
from app.infra.processes import settle_memory
from app.infra.throttle import Throttle
from app.log.files import open_log_reader
from app.log.store import EventStore
from app.projector.catch_up import catch_up
from app.projector.checkpoints import running_projections, stale_projections
from app.projector.read_models import ReadModels
from app.projector.upkeep import drop_corrupt_read_models, mend, open_read_models

WAKE, WANT = b"wake\n", b"want\n"
_TICK_S = 0.5  # other processes append too (import, retry): look for their events now and then
_RETRY_S = 1.0
_EVERY_S = 0.5  # events of one room are cheaper when read together; a waiting reader ends this pause

_log = logging.getLogger("app.projector.process")  # and not __main__, which it is run as


class Report(msgspec.Struct):
    """Where a step led to."""

    position: int
    """What every projection that can go on has read up to."""
    head: int
    positions: dict[str, int]
    stopped: dict[str, str]
    """The projections that stopped, each with the reason."""
    late: int
    """How many events of the step were late."""
    waiting: str = ""
    """Why there is no step; the other fields say nothing then."""


class _Stopping(Exception):
    """The server stops while the read models are being rebuilt; the old ones stay."""


class Projector:
    """Catches up whenever it is woken, until it is stopped."""

    def __init__(self, data_dir: DataDir, report: Callable[[Report], None]) -> None:
        self._data_dir = data_dir
        self._report_to = report
        self._woken = threading.Event()
        self._wanted = threading.Event()
        self._stopping = False
        self._stopped: set[str] = set()
        self._reason = ""
        self._repeated = Throttle()
        self._unchecked = True  # whether the file of the read models may be corrupt: after a crash, say

    def wake(self, *, wanted: bool = False) -> None:
        """Say that the log has grown, or that somebody waits for what is in it."""
        self._woken.set()
        if wanted:
            self._wanted.set()

    def stop(self) -> None:
        """Let `run` end after the batch at hand."""
        self._stopping = True
        self.wake(wanted=True)

    def run(self) -> None:
        """Follow the log until stopped, whatever goes wrong meanwhile."""
        while not self._stopping:
            try:
                self._follow()
            except _Stopping:
                return
            except (*sqlite.UNREADABLE, NewerSchema, NoData, OSError) as error:
                self._unchecked |= sqlite.is_of_corrupt_file(error)
                self._wait(sqlite.text_of(error), None)
            except Exception as error:  # noqa: BLE001  a bug, or a log that was tampered with, must not end the process
                self._wait(reason_of(error), error)

    def _wait(self, reason: str, bug: Exception | None) -> None:
        """Report and log why no step is taken, then wait before the next try."""
        is_new, self._reason = reason != self._reason, reason
        self._report_to(Report(0, 0, {}, {}, 0, reason))
        if is_new or self._repeated.due():
            _log.error("projections wait: %s", reason, exc_info=bug)
        time.sleep(_RETRY_S)

    def _follow(self) -> None:
        if self._unchecked:  # before anything is reported: questions wait for that
            drop_corrupt_read_models(self._data_dir)
            self._unchecked = False
        with open_log_reader(self._data_dir) as log, open_read_models(self._data_dir) as models:
            file = self._data_dir.read_models_file()
            self._report(log, models, 0)

            def meanwhile(_done: int, _total: int) -> None:  # the others go on while one is rebuilt
                self._catch_up(log, models)

            mend(self._data_dir, log, models, meanwhile)
            self._catch_up(log, models)
            next_s = 0.0
            while not self._stopping and file == self._data_dir.read_models_file():
                if self._woken.wait(_TICK_S):
                    self._wanted.wait(max(0.0, next_s - time.monotonic()))
                elif stale_projections(log, models).keys() - self._stopped:
                    mend(self._data_dir, log, models, meanwhile)
                self._woken.clear()
                self._wanted.clear()
                next_s = time.monotonic() + _EVERY_S
                self._catch_up(log, models)

    def _catch_up(self, log: EventStore, models: ReadModels) -> None:
        more = True
        while more:
            if self._stopping:
                raise _Stopping
            step = catch_up(log, models)
            more = step.more
            self._reason = ""
            self._report(log, models, step.late)  # also when nothing was read: other processes catch up too

    def _report(self, log: EventStore, models: ReadModels, late: int) -> None:
        checkpoints = {name: models.checkpoint(name) for name in models.projections}
        stopped = {name: checkpoint.error for name, checkpoint in checkpoints.items() if checkpoint.error is not None}
        for name in stopped.keys() - self._stopped:
            _log.error("projection stopped: %s", stopped[name], extra={"projection": name})
        self._stopped = set(stopped)
        head = log.head().position
        positions = {name: checkpoint.position for name, checkpoint in checkpoints.items()}
        # Nobody waits for one that stopped, or that has to be rebuilt first: a question about it is refused.
        position = min((checkpoint.position for checkpoint in running_projections(log, models).values()), default=head)
        self._report_to(Report(position, head, positions, stopped, late, self._reason))


def main() -> None:
    """Run the projector of the data directory that is given, with stdin and stdout as the module's docstring says."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the server says when to stop
    set_up_logging()
    settle_memory()
    (path,) = sys.argv[1:]
    out, sys.stdout = sys.stdout.buffer, sys.stderr  # a print in somebody's projection must not end up in a report

    def report(report: Report) -> None:
        try:
            out.write(msgspec.json.encode(report) + b"\n")
            out.flush()
        except BrokenPipeError:
            projector.stop()

    def obey() -> None:
        for line in sys.stdin.buffer:
            projector.wake(wanted=line == WANT)
        projector.stop()

    projector = Projector(DataDir(Path(path)), report)
    threading.Thread(target=obey, daemon=True).start()
    projector.run()


if __name__ == "__main__":
    main()
