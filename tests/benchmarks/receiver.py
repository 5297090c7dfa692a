"""The rows about the receiver: what a callback costs, how many fit in a second, and how long the answer takes."""

import statistics
import threading
from pathlib import Path

from benchmarks.data import Supply, arrivals_of, fill, prepared
from benchmarks.lib import (
    ROUNDS,
    Bench,
    Goal,
    Line,
    Loaded,
    Server,
    cpu_per_request_us,
    load,
    posts,
    ratio_line,
    run_program,
    say,
    serve,
    serve_peer,
    value_line,
)

CONNECTIONS = 64
AT_RATE_CONNECTIONS = 256  # so many that a callback does not wait for one
ROOMS = 1000
RATE = 2000
ROUND_S = 5.0


def cpu(bench: Bench) -> list[Line]:
    """CPU time of a callback, from the socket to the read models, over that of a handler that only answers."""
    supply, count = Supply(11, ROOMS), bench.n(10_000, least=500)
    ours, bare = [], []
    with serve(bench, bench.new_folder("cpu")) as server, serve_peer(bench, "bare-post") as peer:
        for each in (server, peer):
            load(bench, each, posts(supply.take(bench.n(2000, least=200))))  # warm
        server.wait_until_projected()
        for number in range(ROUNDS):
            say(f"cpu: round {number + 1} of {ROUNDS}, {count:,} callbacks to each")
            requests = posts(supply.take(count))
            ours.append(cpu_per_request_us(bench, server, requests, projected=True)[0])
            bare.append(cpu_per_request_us(bench, peer, requests)[0])
    return [
        ratio_line(
            "CPU per callback accepted, checked, deduplicated, chained, synced and projected,"
            " over a bare Litestar POST",
            Goal(1.0, "x"),
            ("ours", ours),
            ("bare POST", bare),
            " µs",
            f"{CONNECTIONS} connections, Sign checked",
        )
    ]


def throughput(bench: Bench) -> list[Line]:
    """Callbacks a second over those of FastAPI with a commit a request."""
    supply = Supply(12, ROOMS)
    ours, theirs = [], []
    with serve(bench, bench.new_folder("throughput")) as server, serve_peer(bench, "fastapi-sqlite") as peer:
        for each in (server, peer):
            load(bench, each, posts(supply.take(bench.n(1000, least=200))))  # warm
        for number in range(ROUNDS):
            say(f"throughput: round {number + 1} of {ROUNDS}")
            ours.append(_per_second(bench, server, supply, bench.n(10_000, least=500)))
            theirs.append(_per_second(bench, peer, supply, bench.n(4000, least=200)))
    return [
        ratio_line(
            "callbacks/s over FastAPI with one SQLite commit a request",
            Goal(6.0, "x", at_most=False),
            ("ours", ours),
            ("FastAPI", theirs),
            "/s",
            f"{CONNECTIONS} connections",
        )
    ]


def _per_second(bench: Bench, server: Server, supply: Supply, count: int) -> float:
    loaded = load(bench, server, posts(supply.take(count)), connections=CONNECTIONS)
    if server.name == "roomlapse":
        server.wait_until_projected()  # what is left to do is not left to the other's round
    return count / loaded.seconds


def p99(bench: Bench) -> list[Line]:
    """The answer's 99th percentile at a fixed rate; an answer's time counts from when its callback was due."""
    supply = Supply(13, ROOMS)
    rounds = []
    with serve(bench, bench.new_folder("p99")) as server:
        load(bench, server, posts(supply.take(bench.n(2000, least=200))))  # warm
        for number in range(ROUNDS):
            say(f"p99: round {number + 1} of {ROUNDS}")
            rounds.append(_at_rate(bench, server, supply))
    value = statistics.median(loaded.p99_ms for loaded in rounds)
    p50 = statistics.median(loaded.p50_ms for loaded in rounds)
    lag = statistics.median(loaded.lag_p99_ms for loaded in rounds)
    return [
        value_line(
            f"p99 of the answer at {RATE:,} callbacks/s offered",
            value,
            Goal(25.0, " ms"),
            f"p50 {p50:.1f} ms; p99 of the wait for the sender, a part of it, {lag:.1f} ms",
            {"p99_ms": [loaded.p99_ms for loaded in rounds], "p50_ms": [loaded.p50_ms for loaded in rounds]},
        )
    ]


def p99_rebuild(bench: Bench) -> list[Line]:
    """The same percentile while `roomlapse rebuild` runs again and again, over without."""
    supply = Supply(14, ROOMS)
    data = bench.new_folder("p99-rebuild")
    count = bench.n(100_000)
    say(f"p99-rebuild: {count:,} events to rebuild from")
    fill(data, arrivals_of(prepared(bench).bodies[:count]))
    calm, busy, rebuilds = [], [], 0
    with serve(bench, data) as server:
        load(bench, server, posts(supply.take(bench.n(2000, least=200))))  # warm
        for number in range(ROUNDS):
            say(f"p99-rebuild: round {number + 1} of {ROUNDS}")
            calm.append(_at_rate(bench, server, supply))
            with _Rebuilding(data) as rebuilding:
                busy.append(_at_rate(bench, server, supply))
            rebuilds += rebuilding.finished
    return [
        ratio_line(
            "receiver's p99 while a rebuild runs, over without",
            Goal(2.0, "x"),
            ("with", [loaded.p99_ms for loaded in busy]),
            ("without", [loaded.p99_ms for loaded in calm]),
            " ms",
            f"{RATE:,}/s offered, {rebuilds} rebuilds of {count:,} events and more, 1 job",
        )
    ]


def _at_rate(bench: Bench, server: Server, supply: Supply) -> Loaded:
    server.wait_until_projected()
    requests = posts(supply.take(round(RATE * bench.seconds(ROUND_S))))
    return load(bench, server, requests, connections=AT_RATE_CONNECTIONS, rate=RATE)


class _Rebuilding:
    """Runs `roomlapse rebuild` in a loop, in a thread; the last one is let to its end."""

    def __init__(self, data: Path) -> None:
        self.finished = 0
        self._data = data
        self._stop = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._loop)

    def _loop(self) -> None:
        try:
            while not self._stop.is_set():
                run_program("rebuild", "--data", str(self._data))
                self.finished += 1
        except Exception as error:  # noqa: BLE001  it is raised again where it is waited for
            self._error = error

    def __enter__(self) -> "_Rebuilding":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._error is not None:
            raise self._error
