"""What Roomlapse is measured against: servers, each run as `peers.py NAME FOLDER`, and a library's aggregates."""

import hashlib
import json
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

ANSWER = b'{"ActionStatus":"OK","ErrorInfo":"","ErrorCode":0}'


# ---- servers ----


def bare_post(_: Path) -> Any:
    """A Litestar handler that reads the body and gives the receiver's answer, and nothing else."""
    from litestar import Litestar, Request, Response, post

    @post("/callbacks", status_code=200)
    async def receive(request: Request[Any, Any, Any]) -> Response[bytes]:
        await request.body()
        return Response(ANSWER, media_type="application/json")

    return Litestar([receive], openapi_config=None, logging_config=None)


def bare_get(_: Path) -> Any:
    """A Litestar handler that gives a small dict."""
    from litestar import Litestar, get

    @get("/rooms/{room_id:str}", sync_to_thread=False)
    def room(room_id: str) -> dict[str, Any]:
        return {"room_id": room_id, "room_info": {"RoomName": "Late set", "IsPublicVisible": True}, "events": 10}

    return Litestar([room], openapi_config=None, logging_config=None)


def fastapi_sqlite(folder: Path) -> Any:
    """A FastAPI handler that stores each callback with a commit of its own, as durable as ours: WAL, synced."""
    from fastapi import FastAPI
    from sqlite_utils.utils import sqlite3  # type: ignore[attr-defined]  # the library that Roomlapse takes

    conn = sqlite3.connect(str(folder / "callbacks.db"), check_same_thread=False)
    conn.execute("PRAGMA journal_mode = WAL")
    conn.execute("PRAGMA synchronous = FULL")
    conn.execute("CREATE TABLE callbacks (id TEXT PRIMARY KEY, received_at REAL, body TEXT)")
    app = FastAPI(openapi_url=None)

    @app.post("/callbacks")
    async def receive(callback: dict[str, Any]) -> dict[str, Any]:
        body = json.dumps(callback, sort_keys=True)
        row = (hashlib.sha256(body.encode()).hexdigest(), time.time(), body)
        conn.execute("INSERT OR IGNORE INTO callbacks VALUES (?, ?, ?)", row)
        conn.commit()
        return {"ActionStatus": "OK", "ErrorInfo": "", "ErrorCode": 0}

    return app


SERVERS: dict[str, Callable[[Path], Any]] = {
    "bare-post": bare_post,
    "bare-get": bare_get,
    "fastapi-sqlite": fastapi_sqlite,
}


def serve(name: str, folder: Path) -> None:
    """Run one on uvicorn with the settings of `app.server.running`, on a free port of the loopback."""
    import uvicorn

    app = SERVERS[name](folder)
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    config = uvicorn.Config(
        app,
        http="httptools",
        loop="uvloop",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        backlog=2048,
        timeout_graceful_shutdown=5,
    )
    print(json.dumps({"message": "listening", "url": url}), file=sys.stderr, flush=True)
    uvicorn.Server(config).run([listener])


# ---- the library `eventsourcing` ----


class _Body(msgspec.Struct):
    room_info: dict[str, Any] = msgspec.field(name="RoomInfo")
    event_time_ms: int = msgspec.field(name="EventTime")


class EventSourced:
    """Rooms as aggregates of the library `eventsourcing`, in its in-memory recorder: an event an update.

    They fold what our three projections do: the values, the counts of changes, and when the room was public.
    """

    def __init__(self, rooms: Sequence[Sequence[str]]) -> None:
        """Save rooms, each given by its bodies in event order."""
        from eventsourcing.application import Application
        from eventsourcing.domain import Aggregate, event

        class Room(Aggregate):
            def __init__(self) -> None:
                self.room_info: dict[str, Any] = {}
                self.changes: dict[str, int] = {}
                self.intervals: list[tuple[int, bool]] = []

            @event("Updated")
            def update(self, room_info: dict[str, Any], event_time_ms: int) -> None:
                for name, value in room_info.items():
                    if name in self.room_info and self.room_info[name] != value:
                        self.changes[name] = self.changes.get(name, 0) + 1
                    self.room_info[name] = value
                public = room_info.get("IsPublicVisible")
                if isinstance(public, bool) and (not self.intervals or self.intervals[-1][1] != public):
                    self.intervals.append((event_time_ms, public))

        self._application: Any = Application()
        self._ids = []
        self.events = 0
        decoder = msgspec.json.Decoder(_Body)
        for bodies in rooms:
            room = Room()
            for body in map(decoder.decode, bodies):
                room.update(body.room_info, body.event_time_ms)
            self._application.save(room)
            self._ids.append(room.id)
            self.events += len(bodies)

    def read_and_fold(self) -> float:
        """Read every room back; return the seconds that took."""
        begin = time.perf_counter()
        for room_id in self._ids:
            self._application.repository.get(room_id)
        return time.perf_counter() - begin


if __name__ == "__main__":
    serve(sys.argv[1], Path(sys.argv[2]))
