"""What the log's writer does between commits: it moves the WAL, logs the head, and remembers whether the disk fails."""

import logging
import time

from app.infra import sqlite
from app.infra.metrics import Metrics
from app.infra.throttle import Throttle
from app.log import wal
from app.log.store import EventStore

_LONG_WAL_PAGES = 1000
"""At this length SQLite would move the WAL into the database within a commit, which then syncs three times instead of
once. Here it is moved behind the answers."""
_MAX_WAL_PAGES = 8192
_SLOW_COMMIT_S = 0.25
"""Where commits take so long, a callback that comes while the WAL is moved would wait longer than its sender does: the
WAL is moved when no callback comes, or when it has _MAX_WAL_PAGES."""
_IDLE_S = 0.2
_RETRY_S = 10.0
_LOG_HEAD_S = 60.0

_log = logging.getLogger(__name__)


class WalMover:
    """Moves the WAL into the database when it is long and that delays no answer."""

    def __init__(self) -> None:
        self._is_long = False
        self._next_at_s = 0.0

    @property
    def idle_after_s(self) -> float:
        """How long no callback has to come for the writer to be idle."""
        return _IDLE_S if self._is_long else _LOG_HEAD_S

    def is_due(self) -> bool:
        """Whether it may be looked at: not so soon after it could not be moved."""
        return time.monotonic() >= self._next_at_s

    def move_if_long(self, store: EventStore, *, idle: bool, commit_s: float) -> None:
        """Move it, or leave it for later. `commit_s`: what the last commit took."""
        now_s = time.monotonic()
        try:
            pages = wal.wal_pages(store.conn)
            if pages >= _LONG_WAL_PAGES and (idle or commit_s < _SLOW_COMMIT_S or pages >= _MAX_WAL_PAGES):
                wal.move_wal(store.conn)
                pages = wal.wal_pages(store.conn)
                if pages >= _LONG_WAL_PAGES:  # a reader holds it up: trying at each commit would not help
                    self._next_at_s = now_s + _IDLE_S
            self._is_long = pages >= _LONG_WAL_PAGES
        except Exception as error:  # noqa: BLE001  what was answered OK is safe in the WAL, and the next ones are too
            self._is_long = False
            self._next_at_s = now_s + _RETRY_S
            _log.error("the WAL cannot be moved into the database: %s", _reason_of(error))


class HeadLog:
    """Logs position and chain once a minute: kept with other logs elsewhere, they show a log that was rewritten."""

    def __init__(self) -> None:
        self._position = 0
        self._next_at_s = 0.0

    def write(self, store: EventStore) -> None:
        """Log the head if a minute has passed and it is another one."""
        now_s = time.monotonic()
        if now_s < self._next_at_s:
            return
        self._next_at_s = now_s + _LOG_HEAD_S
        try:
            head = store.head()
        except Exception as error:  # noqa: BLE001  callbacks are taken on
            _log.error("the log's head cannot be read: %s", error)
            return
        if head.position != self._position:
            self._position = head.position
            _log.info("head", extra={"position": head.position, "chain": head.chain})


class Disk:
    """Whether the disk took the last commit, or the last probe."""

    def __init__(self, metrics: Metrics) -> None:
        self.failure: str | None = None
        """Why not; None if it did."""
        self._metrics = metrics
        self._failures = Throttle()
        self._is_logged = False

    def failed(self, error: Exception, callbacks: int) -> None:
        """A commit of so many callbacks failed, or a probe."""
        self.failure = _reason_of(error)
        self._metrics.writable.set(0)
        self._metrics.commit_failures.inc()
        if self._failures.due():
            self._is_logged = True
            _log.error("commit failed: %s", self.failure, extra={"callbacks": callbacks})

    def succeeded(self) -> None:
        """A commit or a probe succeeded."""
        if self.failure is not None:
            self.failure = None
            if self._is_logged:  # on a disk that is nearly full, large ones fail and small ones succeed in turn
                self._is_logged = False
                _log.warning("commits succeed again")
        self._metrics.writable.set(1)


def _reason_of(error: Exception) -> str:
    return sqlite.text_of(error)
