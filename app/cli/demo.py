"""The demo: a sample evening in a fresh data directory, the server on it, and a simulated sender over real HTTP."""

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from app.infra.data_dir import DataDir
from app.infra.settings import Settings
from app.infra.times import now_ms
from app.log.files import create_log, open_log
from app.ops.import_export import RejectedLine, import_lines
from app.ops.import_files import read_lines
from app.ops.simulator import Callbacks, Sender
from app.projector.upkeep import bring_up, open_read_models
from app.server.node import Service
from app.server.running import Running

_NAME = "sample-callbacks.jsonl"
_IN_WHEEL = Path(__file__).parent / _NAME
_IN_CHECKOUT = Path(__file__).parent.parent.parent / "data" / _NAME
SAMPLE = _IN_WHEEL if _IN_WHEEL.exists() else _IN_CHECKOUT
SDK_APP_ID = "1400000000"
_RATE = 5.0  # callbacks a second
_ENDED_AGO_MS = 5 * 60_000
_TIME_MS = re.compile(r"(:\s*)([0-9]{13})(?=[,}\s])")  # the only numbers of that length are times
_ROOMS = 12


def run_demo(port: int, for_s: float | None) -> None:
    """Run until Ctrl-C, or for some seconds. Raises OSError when the port is taken."""
    with TemporaryDirectory(prefix="roomlapse-demo-") as folder:
        settings = Settings(SDK_APP_ID, data=Path(folder), port=port, demo=True)
        running = Running(Service(settings))
        lines = load_sample(settings.data)
        sender = Sender(running.url, SDK_APP_ID, None, _RATE)
        threads = [threading.Thread(target=sender.send, args=(iter(Callbacks(7, _ROOMS, 0.05, 0.1, now_ms)),))]
        if for_s is not None:
            threads.append(threading.Timer(for_s, running.stop))

        def on_started() -> None:
            print(_introduce(running.url, settings.data, lines, for_s), flush=True)
            for thread in threads:
                thread.start()

        try:
            running.run(on_started)
        finally:
            sender.stop()
            for thread in threads:
                if isinstance(thread, threading.Timer):
                    thread.cancel()
                if thread.is_alive():
                    thread.join()
    print("demo ended")


def load_sample(data: Path) -> int:
    """Import the sample evening into a data directory, as if it had just ended; return its number of events."""

    def refuse(rejected: RejectedLine) -> None:
        raise AssertionError(f"{SAMPLE}, line {rejected.line}: {rejected.reason}")

    data_dir = DataDir(data)
    create_log(data_dir, SDK_APP_ID)
    with SAMPLE.open("rb") as file:
        lines = list(read_lines(file))
    with open_log(data_dir) as log, open_read_models(data_dir) as models:
        accepted = import_lines(log, _shifted(lines, now_ms() - _ENDED_AGO_MS), now_ms, refuse).accepted
        bring_up(data_dir, log, models)
    return accepted


class _Line(msgspec.Struct):
    received_at_ms: int
    body: str
    client_ip: str | None = None
    platform: str | None = None


def _shifted(lines: list[bytes], end_ms: int) -> Iterator[bytes]:
    """Lines as `export` writes them, moved in time so that the last was received at `end_ms`."""
    decoded = [msgspec.json.decode(line, type=_Line) for line in lines]
    by_ms = end_ms - max(line.received_at_ms for line in decoded)
    for line in decoded:
        body = _TIME_MS.sub(lambda match: f"{match[1]}{int(match[2]) + by_ms}", line.body)
        moved = msgspec.structs.replace(line, received_at_ms=line.received_at_ms + by_ms, body=body)
        yield msgspec.json.encode(moved) + b"\n"


def _introduce(url: str, data: Path, lines: int, for_s: float | None) -> str:
    end = "Ctrl-C ends it." if for_s is None else f"It ends by itself after {for_s:g} s."
    return f"""\
Roomlapse is running on a sample evening of {lines} events, and a simulated sender adds {_RATE:g} a second.

  Open   {url}/
  Try    curl '{url}/rooms?public=true&limit=3'
         curl '{url}/rooms/late-show/history?field=IsPublicVisible'
         curl '{url}/rooms/late-show/visibility'

The data is in {data} while the demo runs. {end}"""
