"""What the rows share: goals and lines, processes with their CPU time and memory, servers, and the load on them."""

import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from kit.callbacks import APP_ID
from kit.program import PROGRAM, Launched, environment, serve_command
from kit.wait import wait_until

from app.infra import sqlite
from app.tencent.sender import signed_query

ROUNDS = 5
TOKEN = "benchmark-token"
CLIENT_IP = "203.0.113.77"
HERE = Path(__file__).parent
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_SAMPLE_S = 0.05
_LONGEST_S = 1800.0  # no program of the benchmark runs longer

T = TypeVar("T")


# ---- goals, and the lines of the table ----


class Goal(msgspec.Struct, frozen=True):
    """What a value should be at the most, or at the least."""

    limit: float
    unit: str
    at_most: bool = True

    def met(self, value: float) -> bool:
        return value <= self.limit if self.at_most else value >= self.limit

    def __str__(self) -> str:
        return f"{'<=' if self.at_most else '>='} {number(self.limit)}{self.unit}"


class Line(msgspec.Struct):
    """A line of the table. `numbers` holds what the value was made of, all rounds of it."""

    what: str
    value: float
    measured: str
    goal: str
    met: bool
    numbers: dict[str, Any]
    row: str = ""


def value_line(what: str, value: float, goal: Goal, made_of: str, numbers: dict[str, Any]) -> Line:
    """A line of one value; `made_of` says from what."""
    return Line(what, value, f"{number(value)}{goal.unit} ({made_of})", str(goal), goal.met(value), numbers)


def ratio_line(
    what: str, goal: Goal, over: tuple[str, Sequence[float]], under: tuple[str, Sequence[float]], unit: str, note: str
) -> Line:
    """A line of one median over another."""
    upper, lower = statistics.median(over[1]), statistics.median(under[1])
    value = upper / lower if lower else math.nan
    made_of = f"{over[0]} {number(upper)}{unit}, {under[0]} {number(lower)}{unit}; {note}"
    return value_line(
        what, value, goal, made_of, {"unit": unit.strip(), over[0]: list(over[1]), under[0]: list(under[1])}
    )


def number(value: float) -> str:
    """Three digits that matter, or all of a larger number."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def say(text: str) -> None:
    """A line of progress, on stderr."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


# ---- one run ----


class Bench:
    """One run of the benchmark: its scale, its folder on disk, and what has been prepared for more than one row."""

    def __init__(self, scale: float, folder: Path) -> None:
        self.scale = scale
        self.folder = folder
        self.prepared: dict[str, Any] = {}
        self._folders = 0

    def n(self, count: int, least: int = 1) -> int:
        """A count at the scale of this run."""
        return max(least, round(count * self.scale))

    def seconds(self, full: float) -> float:
        """How long a round at a fixed rate is: a trial has shorter ones, but none of less than half a second."""
        return min(full, max(0.5, full * self.scale))

    def new_folder(self, name: str) -> Path:
        self._folders += 1
        path = self.folder / f"{name}-{self._folders}"
        path.mkdir()
        return path


def once(prepare: Callable[[Bench], T]) -> Callable[[Bench], T]:
    """Prepare or measure something at most once a run, for all the rows that want it."""

    @wraps(prepare)
    def get(bench: Bench) -> T:
        if prepare.__qualname__ not in bench.prepared:
            bench.prepared[prepare.__qualname__] = prepare(bench)
        found: T = bench.prepared[prepare.__qualname__]
        return found

    return get


@contextmanager
def working_folder(parent: Path, scale: float) -> Iterator[Path]:
    """A folder on the real disk, removed at the end."""
    needed = int(12e9 * scale)
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise OSError(f"{parent} has {free / 1e9:.1f} GB free and the run needs {needed / 1e9:.1f}: try --folder")
    folder = Path(tempfile.mkdtemp(prefix="roomlapse-benchmark-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


# ---- processes ----


def _stat(pid: int | str) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None  # it has ended
    return text.rpartition(")")[2].split()  # the name may hold anything; behind it: state, ppid ...


def tree_of(pid: int) -> list[int]:
    """A process and everything it started that still runs."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (stat := _stat(entry)) is not None:
            children.setdefault(int(stat[1]), []).append(int(entry))
    found = [pid]
    for parent in found:
        found += children.get(parent, [])
    return found


def cpu_seconds(pid: int) -> float:
    """User and system time of a process tree, of its ended children too."""
    stats = (_stat(member) for member in tree_of(pid))
    return sum(sum(int(ticks) for ticks in stat[11:15]) for stat in stats if stat is not None) / _TICKS


def _memory(pid: int) -> tuple[int, int]:
    """Resident bytes of a process tree, and those of them that no file backs."""
    resident = anonymous = 0
    for member in tree_of(pid):
        try:
            fields = Path(f"/proc/{member}/statm").read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        resident += int(fields[1]) * _PAGE
        anonymous += (int(fields[1]) - int(fields[2])) * _PAGE
    return resident, anonymous


class Ran(msgspec.Struct):
    """How a program ran. The peaks are of its whole process tree, every 50 ms, if they were asked for."""

    seconds: float
    output: bytes
    peak_bytes: int = 0
    peak_anonymous_bytes: int = 0


def run_program(*args: str, sample_memory: bool = False) -> Ran:
    """Run `roomlapse` to its end. Raises RuntimeError with what it said if it fails."""
    with tempfile.TemporaryFile() as errors:
        begin = time.perf_counter()
        process = subprocess.Popen([PROGRAM, *args], stdout=subprocess.PIPE, stderr=errors, env=environment())
        peaks = _Peaks(process.pid) if sample_memory else None
        try:
            output, _ = process.communicate(timeout=_LONGEST_S)
        finally:
            seconds = time.perf_counter() - begin
            if process.poll() is None:
                process.kill()
                process.wait()
            if peaks is not None:
                peaks.stop()
        if process.returncode != 0:
            errors.seek(0)
            raise RuntimeError(f"roomlapse {' '.join(args)}: exit {process.returncode}: {errors.read()[-2000:]!r}")
    return Ran(seconds, output, *(peaks.found if peaks else ()))


class _Peaks:
    """Watches a process tree's memory in a thread."""

    def __init__(self, pid: int) -> None:
        self.found = (0, 0)
        self._pid = pid
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._ended.wait(_SAMPLE_S):
            resident, anonymous = _memory(self._pid)
            self.found = (max(self.found[0], resident), max(self.found[1], anonymous))

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()


class Server(Launched):
    """A server in a process of its own, on a free port of the loopback."""

    def __init__(self, bench: Bench, name: str, args: Sequence[str], env: dict[str, str] | None = None) -> None:
        self.name = name
        super().__init__(args, bench.new_folder(f"server-{name}") / "log", env)

    def cpu_seconds(self) -> float:
        return cpu_seconds(self.process.pid)

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return json.load(answer)

    def wait_until_projected(self) -> None:
        """Wait until no projection lags."""
        wait_until(self._is_projected, "the projections catch up", timeout_s=120, every_s=0.01)

    def _is_projected(self) -> bool:
        return not any(projection["lag"] for projection in self.get("/status")["projections"].values())


def serve(bench: Bench, data: Path) -> Server:
    """Roomlapse itself, with a callback token, so that it checks Sign."""
    return Server(bench, "roomlapse", serve_command(data), {"ROOMLAPSE_CALLBACK_TOKENS": TOKEN})


def serve_peer(bench: Bench, name: str) -> Server:
    """One of the servers of peers.py."""
    folder = bench.new_folder(f"peer-{name}")
    return Server(bench, name, [sys.executable, str(HERE / "peers.py"), name, str(folder)])


# ---- load ----


class Loaded(msgspec.Struct):
    """What the load generator saw. `lag_p99_ms`: how late it sent, for want of a connection too; part of the others."""

    seconds: float
    answers: dict[str, int]
    p50_ms: float
    p99_ms: float
    lag_p99_ms: float


def load(
    bench: Bench, server: Server, requests: Sequence[bytes], *, connections: int = 64, rate: float | None = None
) -> Loaded:
    """Send requests from a process of its own: one after the other on each connection, or at a rate."""
    path = bench.new_folder("load") / "requests"
    path.write_bytes(msgspec.msgpack.encode(list(requests)))
    args = [sys.executable, str(HERE / "load.py"), str(server.port), str(path), str(connections), str(rate or 0)]
    done = subprocess.run(args, capture_output=True, timeout=_LONGEST_S, check=False, env=environment())
    shutil.rmtree(path.parent)
    if done.returncode != 0:
        raise RuntimeError(f"the load on {server.name} failed: {done.stderr[-2000:]!r}")
    loaded = msgspec.json.decode(done.stdout, type=Loaded)
    if loaded.answers != {"200": len(requests)}:
        raise RuntimeError(f"{server.name} did not answer all {len(requests)} with 200: {loaded.answers}")
    return loaded


def posts(callbacks: Sequence[tuple[str, str]]) -> list[bytes]:
    """Requests with callbacks, given as (body, platform), signed now."""
    now_s = time.time()
    heads: dict[str, str] = {}
    requests = []
    for text, sent_from in callbacks:
        if sent_from not in heads:
            query = signed_query(APP_ID, TOKEN, now_s, CLIENT_IP, sent_from)
            heads[sent_from] = (
                f"POST /callbacks?{query} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            )
        body = text.encode()
        requests.append(f"{heads[sent_from]}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return requests


def gets(paths: Sequence[str]) -> list[bytes]:
    """Requests for paths."""
    return [f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode() for path in paths]


def cpu_per_request_us(
    bench: Bench, server: Server, requests: Sequence[bytes], *, connections: int = 64, projected: bool = False
) -> tuple[float, Loaded]:
    """The server's CPU time for each request, in microseconds; `projected`: what the projections take included."""
    before = server.cpu_seconds()
    loaded = load(bench, server, requests, connections=connections)
    if projected:
        server.wait_until_projected()
    return (server.cpu_seconds() - before) / len(requests) * 1e6, loaded


# ---- the machine ----


def describe_machine(folder: Path) -> dict[str, Any]:
    """What the numbers were measured on."""
    cpu = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.machine(),
    )
    memory = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    fsync = _fsync_ms(folder)
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_gb": round(memory / 1e6, 1),
        "python": platform.python_version(),
        "sqlite": sqlite.LIBRARY_VERSION,
        "kernel": platform.release(),
        "filesystem": _filesystem(folder),
        "fsync_ms": {"p50": round(statistics.median(fsync), 3), "p99": round(sorted(fsync)[-2], 3)},
        "load_1min_at_start": os.getloadavg()[0],
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def _filesystem(folder: Path) -> str:
    mounts = [line.split()[1:3] for line in _lines("/proc/mounts")]
    holding = [(point, kind) for point, kind in mounts if folder.resolve().is_relative_to(point)]
    return max(holding, key=lambda mount: len(mount[0]))[1]


def _fsync_ms(folder: Path) -> list[float]:
    """How long it takes to sync 4 KiB appended to a file, a hundred times."""
    times = []
    with (folder / "fsync").open("wb", buffering=0) as file:
        for _ in range(100):
            file.write(b"." * 4096)
            begin = time.perf_counter()
            os.fsync(file.fileno())
            times.append((time.perf_counter() - begin) * 1000)
    return times
