"""The row about the disk."""

from benchmarks.data import imported, prepared
from benchmarks.lib import Bench, Goal, Line, number, value_line


def storage(bench: Bench) -> list[Line]:
    """Both databases after an import, closed, over the bodies that they keep."""
    data, body_bytes = imported(bench), prepared(bench).body_bytes
    total = sum(data.file_bytes.values())
    each = {name: size / data.events for name, size in data.file_bytes.items()}
    files = ", ".join(f"{name} {number(size)}" for name, size in each.items())
    return [
        value_line(
            "events.db + read_models.db per event, over the body's bytes",
            total / body_bytes,
            Goal(2.2, "x"),
            f"bytes an event: {files}, body {number(body_bytes / data.events)}; {data.events:,} events",
            {"bytes": data.file_bytes, "body_bytes": body_bytes, "events": data.events},
        )
    ]
