"""The rows about rebuilding from the log, and about the import that fills it."""

import hashlib
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from app.log.records import Arrival
from app.tencent.body import decode
from benchmarks.data import assert_projected, fill, imported, now_ms, prepared
from benchmarks.lib import (
    CLIENT_IP,
    ROUNDS,
    Bench,
    Goal,
    Line,
    Ran,
    number,
    once,
    ratio_line,
    run_program,
    say,
    value_line,
)
from benchmarks.peers import EventSourced

_SAMPLE = 50_000  # events for the library `eventsourcing`: saving them takes long, and the speed of reading is the same
_SMALL, _LARGE = 500_000, 5_000_000
_MEMORY_ROUNDS = 3  # of the small one
_GOAL_JSON_PER_S, _GOAL_REBUILD_PER_S = 200_000, 300_000


class Rounds(msgspec.Struct):
    """Seconds of each round, side by side."""

    events: int
    one_job: list[float] = []
    two_jobs: list[float] = []
    json_loads: list[float] = []


@once
def rounds(bench: Bench) -> Rounds:
    """Rebuild with one job and with two, and parse the same bodies once, in turns."""
    data, bodies = imported(bench), prepared(bench).bodies
    found = Rounds(data.events)
    for turn in range(ROUNDS):
        say(f"rebuild: round {turn + 1} of {ROUNDS}, {data.events:,} events")
        found.json_loads.append(_parse(bodies))
        found.two_jobs.append(_rebuild(data.data, 2).seconds)
        found.one_job.append(_rebuild(data.data, 1).seconds)
    assert_projected(data.data)
    return found


def _rebuild(data: Path, jobs: int, *, sample_memory: bool = False) -> Ran:
    return run_program("rebuild", "--jobs", str(jobs), "--data", str(data), sample_memory=sample_memory)


def _parse(bodies: list[str]) -> float:
    loads = json.loads
    begin = time.perf_counter()
    for body in bodies:
        loads(body)
    return time.perf_counter() - begin


def over_json(bench: Bench) -> list[Line]:
    """A rebuild with two jobs over one pass of the standard library's parser."""
    found = rounds(bench)
    rebuild_per_s = found.events / statistics.median(found.two_jobs)
    json_per_s = found.events / statistics.median(found.json_loads)
    ratio = ratio_line(
        "rebuild of 1,000,000 events in 10,000 rooms, 2 jobs, over one pass of json.loads over the same bodies",
        Goal(0.6, "x"),
        ("rebuild", found.two_jobs),
        ("json.loads", found.json_loads),
        " s",
        f"{found.events:,} events",
    )
    speed = value_line(
        f"rebuild, 2 jobs, events/s where json.loads does {_GOAL_JSON_PER_S:,}/s",
        rebuild_per_s * _GOAL_JSON_PER_S / json_per_s,
        Goal(_GOAL_REBUILD_PER_S, "/s", at_most=False),
        f"here rebuild {number(rebuild_per_s)}/s, json.loads {number(json_per_s)}/s",
        {"rebuild_per_s": rebuild_per_s, "json_loads_per_s": json_per_s},
    )
    return [ratio, speed]


def over_eventsourcing(bench: Bench) -> list[Line]:
    """Events a second of a rebuild over those that `eventsourcing` reads and folds in memory."""
    found = rounds(bench)
    peer = EventSourced(_some_rooms(bench))
    theirs = []
    for turn in range(ROUNDS):
        say(f"rebuild-eventsourcing: round {turn + 1} of {ROUNDS}, {peer.events:,} events")
        theirs.append(peer.events / peer.read_and_fold())
    return [
        ratio_line(
            "rebuild over eventsourcing reading and folding the same events in memory",
            Goal(5.0, "x", at_most=False),
            ("rebuild, 2 jobs", [found.events / seconds for seconds in found.two_jobs]),
            ("eventsourcing", theirs),
            "/s",
            f"theirs on {peer.events:,} of the events: whole rooms",
        )
    ]


def _some_rooms(bench: Bench) -> list[list[str]]:
    """Rooms as lists of their bodies in event order, so many that they hold the sample."""
    rooms: dict[str, list[tuple[int, str, str]]] = {}
    for body in prepared(bench).bodies:
        content = msgspec.json.decode(body)
        place = (content["EventTime"], hashlib.sha256(body.encode()).hexdigest(), body)
        rooms.setdefault(content["RoomInfo"]["RoomId"], []).append(place)
    chosen: list[list[str]] = []
    events = 0
    for room in rooms.values():
        if events >= bench.n(_SAMPLE):
            break
        chosen.append([body for *_, body in sorted(room)])
        events += len(room)
    return chosen


def second_job(bench: Bench) -> list[Line]:
    """What a second process brings."""
    found = rounds(bench)
    return [
        ratio_line(
            "second job's gain",
            Goal(1.7, "x", at_most=False),
            ("1 job", found.one_job),
            ("2 jobs", found.two_jobs),
            " s",
            f"{found.events:,} events",
        )
    ]


def import_events(bench: Bench) -> list[Line]:
    """`roomlapse import` of the events into a fresh directory, from its start to its exit."""
    found = imported(bench)
    return [
        value_line(
            "import of those events, synced, chained, projected",
            found.events / found.seconds,
            Goal(40_000, "/s", at_most=False),
            f"{found.events:,} events in {number(found.seconds)} s, once",
            {"seconds": [found.seconds], "events": found.events},
        )
    ]


def memory(bench: Bench) -> list[Line]:
    """Peak memory and time of a rebuild of ten times the events, in ten times the rooms."""
    small, large = bench.n(_SMALL), bench.n(_LARGE)
    folders = {}
    for events in (small, large):
        say(f"memory: preparing a log of {events:,} events")
        folders[events] = bench.new_folder("memory")
        fill(folders[events], _enlarged(bench, small, events // small), 5000, project=False)
    runs: dict[int, list[Ran]] = {small: [], large: []}
    for turn in range(_MEMORY_ROUNDS):
        say(f"memory: rebuild of {small:,} events, round {turn + 1} of {_MEMORY_ROUNDS}")
        runs[small].append(_rebuild(folders[small], 2, sample_memory=True))
        if turn == _MEMORY_ROUNDS // 2:  # once, in the middle of the others: it is the longest step of all
            say(f"memory: rebuild of {large:,} events")
            runs[large].append(_rebuild(folders[large], 2, sample_memory=True))
    assert_projected(folders[large])
    resident = [number(statistics.median(ran.peak_bytes for ran in runs[events]) / 1e6) for events in (large, small)]
    note = f"2 jobs, all processes; with the pages of the log that they map, {resident[0]} and {resident[1]} MB"
    names = (f"{large:,} events (once)", f"{small:,} events (median of {_MEMORY_ROUNDS})")
    # What is mapped from the log is the system's cache of a file: it gives it back as soon as somebody needs memory.
    peaks = [[ran.peak_anonymous_bytes / 1e6 for ran in runs[events]] for events in (large, small)]
    times = [[ran.seconds for ran in runs[events]] for events in (large, small)]
    return [
        ratio_line(
            "peak memory of a rebuild, 5,000,000 events over 500,000",
            Goal(1.2, "x"),
            (names[0], peaks[0]),
            (names[1], peaks[1]),
            " MB",
            note,
        ),
        ratio_line(
            "time of a rebuild, 5,000,000 events over 500,000",
            Goal(11.0, "x"),
            (names[0], times[0]),
            (names[1], times[1]),
            " s",
            "2 jobs",
        ),
    ]


def _enlarged(bench: Bench, count: int, times: int) -> Iterator[Arrival]:
    """Each of `count` events in so many rooms instead of one, next to each other in the log.

    The bodies are good ones; their event_id is a hash of the bytes, which is as good for a rebuild and made faster.
    """
    for body in prepared(bench).bodies[:count]:
        callback = decode(body.encode(), now_ms())
        for copy in range(times):
            room_id = f"{callback.room_id}-{copy}"
            text = body.replace(f'"{callback.room_id}"', f'"{room_id}"', 1)
            event_id = hashlib.sha256(text.encode()).hexdigest()
            yield Arrival(
                msgspec.structs.replace(callback, event_id=event_id, room_id=room_id, body=text),
                now_ms(),
                CLIENT_IP,
                "Web",
            )
