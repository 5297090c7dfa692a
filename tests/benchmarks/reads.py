"""The rows about a hot room and about reading: appending to it, going back in it, asking about the past."""

import random
import time
from bisect import insort
from collections.abc import Callable
from pathlib import Path
from statistics import median

import msgspec

from app.event import Cut
from app.infra.data_dir import DataDir
from app.log.files import open_log
from app.log.records import Arrival
from app.log.store import EventStore
from app.projector.catch_up import catch_up
from app.projector.read_models import ReadModels
from app.projector.upkeep import open_read_models
from app.queries import rooms
from app.queries.reader import Reader, open_reader
from benchmarks.data import STEP_MS, T0, Supply, fill, imported, prepared
from benchmarks.lib import (
    ROUNDS,
    Bench,
    Goal,
    Line,
    Server,
    cpu_per_request_us,
    gets,
    load,
    number,
    once,
    ratio_line,
    say,
    serve,
    serve_peer,
    value_line,
)

HOT = "hot"
_HOT_EVENTS = 100_000
_SMALL_EVENTS = 10
_BACK = 300
_EACH = 60  # of one kind, in a round
_PAGE = 50


class HotRoom(msgspec.Struct):
    """A data directory with one large room and many small ones, each of which is used once."""

    data: Path
    times_ms: list[int]
    small: list[str]

    @property
    def last_ms(self) -> int:
        return self.times_ms[-1]


@once
def hot_room(bench: Bench) -> HotRoom:
    """A room of 100,000 events at the scale of the run, and small ones of ten."""
    events, each = bench.n(_HOT_EVENTS, least=2 * _BACK), bench.n(_EACH, least=5)
    small = [f"small-{i:04d}" for i in range(ROUNDS * each)]
    say(f"hot room: {events:,} events, and {len(small)} rooms of {_SMALL_EVENTS}")
    supply = Supply(21, 1, late=0.0)
    times_ms = [T0 + i * STEP_MS for i in range(events)]
    data = bench.new_folder("hot")
    fill(data, (supply.at(time_ms, HOT) for time_ms in times_ms))
    few = [(room, T0 + i * STEP_MS) for room in small for i in range(_SMALL_EVENTS)]
    fill(data, (supply.at(time_ms, room) for room, time_ms in few))
    return HotRoom(data, times_ms, small)


class Costs(msgspec.Struct):
    """What appending an event and catching up took, in microseconds: the median of each round."""

    cpu: dict[str, list[float]]
    wall: dict[str, list[float]]


_IN_SMALL, _IN_HOT, _LATE = "room of 10", "hot room", "late"


@once
def costs(bench: Bench) -> Costs:
    """One event appended and projected: in a room of ten, in the hot room, and 300 events back in that; in turns."""
    room = hot_room(bench)
    each = len(room.small) // ROUNDS
    supply = Supply(22, 1, late=0.0)
    found = Costs({}, {})
    data_dir = DataDir(room.data)
    log, models = open_log(data_dir), open_read_models(data_dir)
    try:
        for turn in range(ROUNDS):
            say(f"in-order and late: round {turn + 1} of {ROUNDS}")
            taken: dict[str, list[tuple[float, float]]] = {_IN_SMALL: [], _IN_HOT: [], _LATE: []}
            for small in room.small[turn * each : (turn + 1) * each]:
                taken[_IN_SMALL].append(_take(log, models, supply.at(T0 + _SMALL_EVENTS * STEP_MS, small)))
                room.times_ms.append(room.last_ms + STEP_MS)
                taken[_IN_HOT].append(_take(log, models, supply.at(room.last_ms, HOT)))
                back_ms = room.times_ms[-_BACK] - 1  # 300 events sort behind it
                insort(room.times_ms, back_ms)
                taken[_LATE].append(_take(log, models, supply.at(back_ms, HOT)))
            for kind, pairs in taken.items():
                found.cpu.setdefault(kind, []).append(median(cpu for cpu, _ in pairs))
                found.wall.setdefault(kind, []).append(median(wall for _, wall in pairs))
    finally:
        models.close()
        log.close()
    return found


def _take(log: EventStore, models: ReadModels, arrival: Arrival) -> tuple[float, float]:
    """Append and project an event; return CPU and wall microseconds."""
    cpu, wall = time.process_time_ns(), time.perf_counter_ns()
    (appended,) = log.append([arrival])
    step = catch_up(log, models)
    taken = ((time.process_time_ns() - cpu) / 1000, (time.perf_counter_ns() - wall) / 1000)
    assert not appended.duplicate
    assert step.events == 1
    return taken


def in_order(bench: Bench) -> list[Line]:
    """An event in order costs the same in a room of any age."""
    return [_cost_line(bench, "an in-order event in a room of 100,000 events over one in a room of 10", _IN_HOT, 1.5)]


def late(bench: Bench) -> list[Line]:
    """A late event costs what sorts behind it."""
    return [_cost_line(bench, "a late event that sorts 300 events back in that room, likewise", _LATE, 3.0)]


def _cost_line(bench: Bench, what: str, kind: str, limit: float) -> Line:
    found = costs(bench)
    wall = [number(median(found.wall[name])) for name in (kind, _IN_SMALL)]
    note = f"CPU, append and catch up; with the disk's sync {wall[0]} and {wall[1]} µs"
    return ratio_line(what, Goal(limit, "x"), (kind, found.cpu[kind]), (_IN_SMALL, found.cpu[_IN_SMALL]), " µs", note)


def as_of(bench: Bench) -> list[Line]:
    """A room as of a random time of its past, in this process, over the same in a small room."""
    room, each = hot_room(bench), bench.n(500, least=50)
    pick = random.Random(5)
    hot: list[float] = []
    small: list[float] = []
    with open_reader(DataDir(room.data)) as reader:
        for turn in range(ROUNDS):
            say(f"as-of: round {turn + 1} of {ROUNDS}")
            hot_us, small_us = [], []
            for i in range(each):
                small_ms = pick.randint(T0, T0 + _SMALL_EVENTS * STEP_MS)
                hot_ms = pick.randint(T0, room.last_ms)
                name = room.small[i % len(room.small)]
                small_us.append(_time_us(reader, name, small_ms))
                hot_us.append(_time_us(reader, HOT, hot_ms))
            hot.append(median(hot_us))
            small.append(median(small_us))
    return [
        ratio_line(
            "`as_of` in that room over one in a small room",
            Goal(2.0, "x"),
            ("hot room", hot),
            ("small room", small),
            " µs",
            "in process, random times, one connection",
        )
    ]


def _time_us(reader: Reader, room_id: str, at_ms: int) -> float:
    begin = time.perf_counter_ns()
    with reader.moment() as moment:
        rooms.room(moment, room_id, Cut(as_of_ms=at_ms))
    return (time.perf_counter_ns() - begin) / 1000


def get_room(bench: Bench) -> list[Line]:
    """The same over HTTP, over a bare Litestar GET: CPU time of a request."""
    room, count, connections = hot_room(bench), bench.n(3000, least=100), 8
    pick = random.Random(6)
    ours, bare, p50s = [], [], []
    with serve(bench, room.data) as server, serve_peer(bench, "bare-get") as peer:

        def requests(of: int) -> list[bytes]:
            return gets([f"/rooms/{HOT}?as_of={pick.randint(T0, room.last_ms)}" for _ in range(of)])

        for each in (server, peer):
            load(bench, each, requests(bench.n(500, least=50)), connections=connections)  # warm
        for turn in range(ROUNDS):
            say(f"get-room: round {turn + 1} of {ROUNDS}")
            asked = requests(count)
            cpu_us, loaded = cpu_per_request_us(bench, server, asked, connections=connections)
            ours.append(cpu_us)
            p50s.append(loaded.p50_ms)
            bare.append(cpu_per_request_us(bench, peer, asked, connections=connections)[0])
    return [
        ratio_line(
            "GET /rooms/{id}?as_of= over a bare Litestar GET",
            Goal(1.5, "x"),
            ("ours", ours),
            ("bare GET", bare),
            " µs",
            f"CPU per request, that room, random times, {connections} connections (ours p50 {median(p50s):.1f} ms)",
        )
    ]


def rooms_page(bench: Bench) -> list[Line]:
    """A page of the rooms that were public at a time, of ten thousand: median over one connection."""
    source, data = prepared(bench), imported(bench)
    pick = random.Random(7)
    rounds: list[float] = []
    with serve(bench, data.data) as server:
        _check_page(server, (T0 + source.last_ms) // 2)
        for turn in range(ROUNDS):
            say(f"rooms-page: round {turn + 1} of {ROUNDS}")
            times = [pick.randint(T0 + (source.last_ms - T0) // 4, source.last_ms) for _ in range(bench.n(50, least=5))]
            asked = gets([f"/rooms?as_of={at}&public=true&limit={_PAGE}" for at in times])
            rounds.append(load(bench, server, asked, connections=1).p50_ms)
    return [
        value_line(
            f"GET /rooms?as_of=T&public=true, 10,000 rooms, a page of {_PAGE}",
            median(rounds),
            Goal(20.0, " ms"),
            f"{source.rooms:,} rooms, {data.events:,} events, random times, 1 connection",
            {"p50_ms": rounds},
        )
    ]


def html_pages(bench: Bench) -> list[Line]:
    """The pages that people open, on the same data: median over one connection."""
    source, data = prepared(bench), imported(bench)
    pick = random.Random(8)

    def at() -> str:
        return f"?at={pick.randint((T0 + source.last_ms) // 2, source.last_ms)}"

    names: dict[str, Callable[[], str]] = {
        "the page's list of rooms": lambda: "/",
        "the list at a past moment": lambda: f"/{at()}",
        "a room's page, at a past moment": lambda: f"/room/room-{pick.randint(1, source.rooms):04d}{at()}",
    }
    rounds: dict[str, list[float]] = {name: [] for name in names}
    with serve(bench, data.data) as server:
        for turn in range(ROUNDS):
            say(f"page: round {turn + 1} of {ROUNDS}")
            for name, path in names.items():
                asked = gets([path() for _ in range(bench.n(20, least=3))])
                rounds[name].append(load(bench, server, asked, connections=1).p50_ms)
    note = f"{source.rooms:,} rooms, {data.events:,} events, 1 connection"
    return [
        value_line(name, median(found), Goal(100.0, " ms"), note, {"p50_ms": found}) for name, found in rounds.items()
    ]


def _check_page(server: Server, at_ms: int) -> None:
    page = server.get(f"/rooms?as_of={at_ms}&public=true&limit={_PAGE}")["rooms"]
    assert page, "no room was public then: nothing is measured"
    assert all(room["room_info"]["IsPublicVisible"] is True for room in page)
