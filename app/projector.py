"""Keeps the read models of a running server at the end of the log, in a thread of its own."""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack

from app import db
from app.data_dir import DataDir
from app.metrics import Metrics
from app.read_models import Checkpoint, ReadModels
from app.replay import catch_up, going, stale_projections
from app.store import EventStore

_TICK_S = 0.5  # other processes append too (import, retry): look for their events now and then
_RETRY_S = 1.0
_GATHER_S = 0.1  # events that come together are cheaper together; a reader who waits for them ends this at once

_log = logging.getLogger(__name__)


class _Stopping(Exception):
    """The server stops while the read models are being rebuilt; the old ones stay."""


class Projector:
    """Catches up whenever it is woken; readers wait here for the events that they have to see."""

    def __init__(self, data_dir: DataDir, metrics: Metrics) -> None:
        self._data_dir = data_dir
        self._metrics = metrics
        self._changed = threading.Condition()
        self._woken = threading.Event()
        self._wanted = threading.Event()
        self._stopping = False
        self._position = 0
        self._stopped: set[str] = set()
        self.on_progress: Callable[[], None] = lambda: None
        """Called, in the projector's thread, after each step."""
        self._thread = threading.Thread(target=self._run, name="roomlapse-projector")

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread after its current batch."""
        self._stopping = True
        self._woken.set()
        self._wanted.set()
        self._thread.join()

    def wake(self) -> None:
        """Say that the log has grown."""
        self._woken.set()

    def wait_for(self, position: int, timeout_s: float) -> bool:
        """Wait until every projection that has not stopped has read up to a position; False if it takes too long."""
        if self._position >= position:
            return True
        self._woken.set()
        self._wanted.set()
        with self._changed:
            return self._changed.wait_for(lambda: self._position >= position, timeout_s)

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._follow()
            except _Stopping:
                return
            except (db.Error, db.NewerSchema) as error:
                _log.error("projections wait: %s", error)
                time.sleep(_RETRY_S)
            except Exception:  # noqa: BLE001  a bug of ours must not end them for good
                _log.exception("projections wait")
                time.sleep(_RETRY_S)

    def _follow(self) -> None:
        with ExitStack() as stack:
            log = self._data_dir.open_log_reader()
            stack.callback(log.close)
            models = self._data_dir.open_read_models()
            stack.callback(models.close)
            file = self._data_dir.read_models_file()
            self._report(log, models)

            def meanwhile(_done: int, _total: int) -> None:  # the others go on while one is rebuilt
                self._catch_up(log, models)

            self._data_dir.bring_up(log, models, meanwhile)
            while not self._stopping and file == self._data_dir.read_models_file():
                if self._woken.wait(_TICK_S):
                    self._wanted.wait(_GATHER_S)
                elif any(self._may_go_on(name) for name in stale_projections(log, models)):
                    self._data_dir.bring_up(log, models, meanwhile)
                self._woken.clear()
                self._wanted.clear()
                self._catch_up(log, models)

    def _may_go_on(self, name: str) -> bool:
        return name not in self._stopped

    def _catch_up(self, log: EventStore, models: ReadModels) -> None:
        more = True
        while more:
            if self._stopping:
                raise _Stopping
            step = catch_up(log, models)
            more = step.more
            self._metrics.late.inc(step.late)
            self._report(log, models)  # also without a step of ours: other processes catch up too

    def _report(self, log: EventStore, models: ReadModels) -> None:
        checkpoints = {name: models.checkpoint(name) for name in models.projections}
        head = log.head().position
        self._metrics.head.set(head)
        for name, checkpoint in checkpoints.items():
            self._metrics.lag.labels(name).set(head - checkpoint.position)
            self._metrics.stopped.labels(name).set(checkpoint.error is not None)
            self._report_stop(name, checkpoint)
        # Nobody waits for one that stopped, or that has to be rebuilt first: a question about it is refused.
        position = min((checkpoint.position for checkpoint in going(log, models).values()), default=head)
        if position != self._position:
            with self._changed:
                self._position = position
                self._changed.notify_all()
            self.on_progress()

    def _report_stop(self, name: str, checkpoint: Checkpoint) -> None:
        if checkpoint.error is None:
            self._stopped.discard(name)
        elif name not in self._stopped:
            self._stopped.add(name)
            _log.error("projection stopped: %s", checkpoint.error, extra={"projection": name})
