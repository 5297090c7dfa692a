"""A running Roomlapse: the receiver's writer, the projector and the readers, started and stopped together."""

import shutil
from functools import partial
from pathlib import Path

from app.infra.data_dir import DataDir
from app.infra.metrics import Metrics
from app.infra.rate_limit import RateLimit
from app.infra.settings import DEFAULT_RATE_LIMIT_PER_S, Settings
from app.log.files import check_before_commit, create_log, open_log_reader, open_own_log
from app.projector.supervisor import ProjectorProcess
from app.projector.upkeep import create_read_models
from app.queries.answers import Health, Status
from app.queries.health import health
from app.queries.pool import ReaderPool
from app.receiver.callbacks import Receiver
from app.receiver.group_commit import GroupCommit


class Service:
    """Everything behind the routes."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.data_dir = DataDir(settings.data)
        self.projector = ProjectorProcess(self.data_dir, self.metrics)
        self.commits = GroupCommit(
            lambda: open_own_log(self.data_dir, settings.sdk_app_id),
            self.metrics,
            self.projector.wake,
            partial(check_before_commit, self.data_dir),
        )
        per_s = settings.rate_limit_per_s
        limit = RateLimit(DEFAULT_RATE_LIMIT_PER_S if per_s is None else per_s, everyone=per_s is not None)
        self.rate_limit = limit
        self.receiver = Receiver(
            settings.sdk_app_id, settings.secrets.callback_tokens, self.commits, self.metrics, limit
        )
        self.readers = ReaderPool(self.data_dir, self.projector)

    def start(self) -> None:
        """Open the data directory and start the threads. Raises WrongOwner, OSError and sqlite.Error."""
        create_log(self.data_dir, self.settings.sdk_app_id)
        create_read_models(self.data_dir)
        self.readers.start()
        self.commits.start()
        with open_log_reader(self.data_dir) as log:
            self.metrics.see_received(log.head().received_at_ms)
        self.projector.start()

    def stop(self) -> None:
        """End the threads and close every file. Requests have been answered by then.

        The writers close last: the last connection to close a database tidies its WAL away, and a reader cannot.
        """
        self.readers.stop()
        self.projector.stop()
        self.commits.stop()

    def health(self, status: Status | None, *, unreadable: str | None = None, caught_up: bool = True) -> Health:
        """How the server is, with what the databases say or why they cannot be read."""
        return health(
            status,
            stopped=self.projector.stopped,
            waiting=self.projector.waiting,
            failure=self.commits.trouble(),
            disk=_disk_bytes(self.settings.data),
            unsigned=not self.settings.secrets.callback_tokens and not self.settings.demo,
            unreadable=unreadable,
            caught_up=caught_up,
        )


def _disk_bytes(data: Path) -> tuple[int, int]:
    """The free and all bytes of the disk with the data; zeros if it is gone."""
    try:
        usage = shutil.disk_usage(data)
    except OSError:
        return 0, 0
    return usage.free, usage.total
