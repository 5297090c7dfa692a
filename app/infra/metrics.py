"""What Prometheus can ask for: one registry a server."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from app.infra.versions import read_versions

OUTCOMES = (
    "accepted",
    "duplicate",
    "blocking",  # answered OK before it is stored
    "quarantined",
    "too_large",
    "forbidden",
    "unsigned",
    "too_many",
    "misdirected",
    "incomplete",
    "unavailable",
)

disable_created_metrics()  # type: ignore[no-untyped-call]  # nothing asks when a counter began


class Metrics:
    """The server's metrics. Any thread may count."""

    def __init__(self) -> None:  # long, and one list: a part of it would say no more than the whole
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.build = Info("roomlapse_build", "Versions of Roomlapse, Python and SQLite.", registry=self.registry)
        self.build.info(read_versions())
        self.callbacks = Counter(
            "roomlapse_callbacks", "Callbacks answered, by outcome.", ["outcome"], registry=self.registry
        )
        self.outcomes = {outcome: self.callbacks.labels(outcome) for outcome in OUTCOMES}
        self.duplicates = Counter(
            "roomlapse_duplicates", "Callbacks whose event is in the log already.", registry=self.registry
        )
        self.quarantined = Counter(
            "roomlapse_quarantined", "Bodies that broke a rule, refused and kept in quarantine.", registry=self.registry
        )
        self.late = Counter(
            "roomlapse_late_events", "Late events: projected after one that sorts behind them.", registry=self.registry
        )
        self.commit_size = Histogram(
            "roomlapse_commit_callbacks",
            "Callbacks that shared one synced commit.",
            buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500),
            registry=self.registry,
        )
        self.commit_seconds = Histogram(
            "roomlapse_commit_seconds",
            "Time from the beginning of a commit until it was synced to disk.",
            buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 2),
            registry=self.registry,
        )
        self.commit_failures = Counter(
            "roomlapse_commit_failures", "Commits that failed; every callback in them got 503.", registry=self.registry
        )
        self.unstored = Counter(
            "roomlapse_unstored_blocking_callbacks",
            "Blocking callbacks that were answered OK at once and then not stored.",
            registry=self.registry,
        )
        self.answer_seconds = Histogram(
            "roomlapse_answer_seconds",
            "Time from a callback's last byte until its answer; the sender waits 2 s.",
            buckets=(0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 1.5, 2),
            registry=self.registry,
        )
        self.clock_skew = Gauge(
            "roomlapse_clock_skew_seconds",
            "Server clock minus RequestTime, the median of the recent signed callbacks.",
            registry=self.registry,
        )
        self.signed_recent = Gauge(
            "roomlapse_signed_callbacks_recent",
            "How many signed callbacks that median is taken over.",
            registry=self.registry,
        )
        self.writable = Gauge(
            "roomlapse_log_writable",
            "1 while the log takes commits, 0 after one failed: callbacks get 503.",
            registry=self.registry,
        )
        self.writable.set(1)
        self._received_ms = 0
        self.last_callback = Gauge(
            "roomlapse_last_callback_timestamp_seconds",
            "When the last callback came that was answered OK, or the last event in the log; 0: none did.",
            registry=self.registry,
        )
        self._head, self._projected = 0, dict[str, int]()
        self.head = Gauge("roomlapse_log_head", "Position of the last event in the log.", registry=self.registry)
        self.lag = Gauge(
            "roomlapse_projection_lag",
            "Events in the log that a projection has not applied yet.",
            ["projection"],
            registry=self.registry,
        )
        self.stopped = Gauge(
            "roomlapse_projection_stopped",
            "1 while a projection is stopped on an error.",
            ["projection"],
            registry=self.registry,
        )
        self.projection_error = Gauge(
            "roomlapse_projection_error",
            "1 while a projection is stopped, with the event and the error that stopped it.",
            ["projection", "error"],
            registry=self.registry,
        )
        self.wal_bytes = Gauge(
            "roomlapse_wal_bytes", "Size of a database's write-ahead log (WAL).", ["database"], registry=self.registry
        )

    def see_head(self, position: int) -> None:
        """Note the position of an event in the log."""
        if position > self._head:
            self._head = position
            self.head.set(position)

    def see_received(self, at_ms: int) -> None:
        """Note when a callback came that was answered OK."""
        self._received_ms = at_ms

    def see_projected(self, positions: dict[str, int]) -> None:
        """Note the position up to which each projection has read."""
        self._projected = positions

    def expose(self, data: Path, skews_s: Sequence[float] = ()) -> bytes:
        """Write all metrics in Prometheus' text format. `skews_s`: how far ahead our clock was at recent callbacks."""
        self.last_callback.set(self._received_ms / 1000)
        self.signed_recent.set(len(skews_s))
        self.clock_skew.set(median(skews_s) if skews_s else 0)
        for name, position in self._projected.items():
            self.lag.labels(name).set(max(0, self._head - position))  # also while the projector says nothing
        for database in ("events", "read_models"):
            self.wal_bytes.labels(database).set(_size_of(data / f"{database}.db-wal"))
        return generate_latest(self.registry)


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # no WAL, or no permission, which other checks report
