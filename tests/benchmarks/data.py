"""The events that the rows are measured with: the simulator's, from a fixed seed, each body unlike all others."""

import time
from collections.abc import Iterable
from pathlib import Path

import msgspec
from kit.callbacks import APP_ID

from app.infra.data_dir import DataDir
from app.log.files import create_log, open_log
from app.log.records import Arrival
from app.ops.simulator import Callbacks
from app.projector.upkeep import bring_up, open_read_models
from app.queries import log
from app.queries.reader import open_reader
from app.tencent.body import decode
from benchmarks.lib import CLIENT_IP, Bench, Ran, once, run_program, say

T0 = 1_760_000_000_000
STEP_MS = 10
EVENTS = 1_000_000
ROOMS = 10_000
LATE = 0.02
_BATCH = 1000


class Supply:
    """The simulator's callbacks at times that we choose; by itself the clock goes on by ten milliseconds each."""

    def __init__(self, seed: int, rooms: int, late: float = LATE) -> None:
        self.time_ms = T0
        self._callbacks = iter(Callbacks(seed, rooms, 0.0, late, lambda: self.time_ms))

    def take(self, count: int) -> list[tuple[str, str]]:
        """Bodies with the platforms they come from."""
        return [self.next() for _ in range(count)]

    def next(self) -> tuple[str, str]:
        self.time_ms += STEP_MS
        body, sent_from = next(self._callbacks)
        return body.decode(), sent_from

    def at(self, time_ms: int, room_id: str) -> Arrival:
        """An update of a room of that name at a time; for a supply of a single room."""
        self.time_ms = time_ms
        body, sent_from = next(self._callbacks)
        body = body.replace(b'"room-0001"', b'"%s"' % room_id.encode(), 1)
        return Arrival(decode(body, now_ms()), now_ms(), CLIENT_IP, sent_from)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Prepared(msgspec.Struct):
    """The bodies, in order, and a file with them as `roomlapse export` writes lines."""

    bodies: list[str]
    file: Path
    rooms: int
    last_ms: int

    @property
    def body_bytes(self) -> int:
        return sum(len(body.encode()) for body in self.bodies)


@once
def prepared(bench: Bench) -> Prepared:
    """A million events of ten thousand rooms, at the scale of the run."""
    events, rooms = bench.n(EVENTS), bench.n(ROOMS)
    say(f"preparing {events:,} events of {rooms:,} rooms")
    supply = Supply(3, rooms)
    file = bench.new_folder("prepared") / "events.jsonl"
    bodies = []
    with file.open("wb") as out:
        for _ in range(events):
            body, sent_from = supply.next()
            bodies.append(body)
            line = {"received_at_ms": supply.time_ms, "client_ip": CLIENT_IP, "platform": sent_from, "body": body}
            out.write(msgspec.json.encode(line) + b"\n")
    return Prepared(bodies, file, rooms, supply.time_ms)


class Imported(msgspec.Struct):
    """A data directory that `roomlapse import` has filled, how long that took, and how large it was then."""

    data: Path
    events: int
    seconds: float
    file_bytes: dict[str, int]


@once
def imported(bench: Bench) -> Imported:
    """The prepared events, imported into a fresh directory: stored, synced, chained and projected."""
    source = prepared(bench)
    data = bench.new_folder("imported")
    say(f"importing {len(source.bodies):,} events")
    ran: Ran = run_program("import", str(source.file), "--data", str(data), "--sdk-app-id", APP_ID, "--json")
    accepted = msgspec.json.decode(ran.output)["accepted"]
    assert accepted == len(source.bodies), f"{accepted} of {len(source.bodies)} events were accepted"
    # A WAL that was left behind counts; the -shm beside it is memory that the processes share.
    sizes = {path.name: path.stat().st_size for path in sorted(data.glob("*.db*")) if not path.match("*-shm")}
    assert_projected(data)
    return Imported(data, accepted, ran.seconds, sizes)


def assert_projected(data: Path) -> None:
    """Whatever was timed has done its work: the projections have read everything."""
    with open_reader(DataDir(data)) as reader, reader.moment() as moment:
        status = log.status(moment)
    lags = {name: projection.lag for name, projection in status.projections.items()}
    assert status.head, "the log is empty"
    assert not any(lags.values()), f"the projections lag: {lags}"


def fill(data: Path, arrivals: Iterable[Arrival], batch: int = _BATCH, *, project: bool = True) -> int:
    """Append arrivals to a data directory, from inside this process; return how many."""
    data_dir = DataDir(data)
    create_log(data_dir, APP_ID)
    log = open_log(data_dir)
    waiting: list[Arrival] = []
    count = 0
    try:
        for arrival in arrivals:
            waiting.append(arrival)
            count += 1
            if len(waiting) == batch:
                log.append(waiting)
                waiting.clear()
        if waiting:
            log.append(waiting)
        if project:
            models = open_read_models(data_dir)
            try:
                bring_up(data_dir, log, models)
            finally:
                models.close()
    finally:
        log.close()
    return count


def arrivals_of(bodies: Iterable[str]) -> Iterable[Arrival]:
    """Bodies, decoded, as if they came now."""
    for body in bodies:
        yield Arrival(decode(body.encode(), now_ms()), now_ms(), CLIENT_IP, "Web")
