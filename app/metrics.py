"""What Prometheus can ask for: one registry a server."""

from pathlib import Path

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

OUTCOMES = ("accepted", "duplicate", "quarantined", "too_large", "forbidden", "unsigned", "unavailable")

disable_created_metrics()  # type: ignore[no-untyped-call]  # when a counter began is noise here


class Metrics:
    """The server's metrics. Any thread may count."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.callbacks = Counter(
            "roomlapse_callbacks", "Callbacks answered, by outcome.", ["outcome"], registry=self.registry
        )
        self.outcomes = {outcome: self.callbacks.labels(outcome) for outcome in OUTCOMES}
        self.duplicates = Counter(
            "roomlapse_duplicates", "Callbacks that were in the log already.", registry=self.registry
        )
        self.quarantined = Counter(
            "roomlapse_quarantined", "Bodies refused and kept in quarantine.", registry=self.registry
        )
        self.late = Counter(
            "roomlapse_late_events", "Events projected after one that sorts behind them.", registry=self.registry
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
        self.head = Gauge("roomlapse_log_head", "Position of the last event in the log.", registry=self.registry)
        self.lag = Gauge(
            "roomlapse_projection_lag", "Events that a projection has not read.", ["projection"], registry=self.registry
        )
        self.stopped = Gauge(
            "roomlapse_projection_stopped",
            "1 if a projection stopped on an error.",
            ["projection"],
            registry=self.registry,
        )
        self.wal_bytes = Gauge(
            "roomlapse_wal_bytes", "Size of a database's write-ahead log.", ["database"], registry=self.registry
        )

    def expose(self, data: Path) -> bytes:
        """Write all metrics in Prometheus' text format."""
        for database in ("events", "read_models"):
            wal = data / f"{database}.db-wal"
            self.wal_bytes.labels(database).set(wal.stat().st_size if wal.exists() else 0)
        return generate_latest(self.registry)
