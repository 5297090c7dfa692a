"""The benchmark: every goal a row, all in one run, side by side with the peers.

Prints a table and writes JSON; a whole run at full scale also writes docs/speed.md.

`make bench`, or for a trial `make bench ROWS=cpu,storage SCALE=0.1`. Nothing here is asserted by a test.
"""

import argparse
import signal
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))  # run as a file, it does not know of its package

import msgspec
from docs.files import ROOT, with_block
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks import reads, rebuild, receiver, storage
from benchmarks.lib import ROUNDS, Bench, Line, describe_machine, say, working_folder

RESULTS = Path(__file__).parent / "results.json"
DOCUMENT = ROOT / "docs" / "speed.md"
ROWS: dict[str, Callable[[Bench], list[Line]]] = {
    "cpu": receiver.cpu,
    "throughput": receiver.throughput,
    "p99": receiver.p99,
    # Before the rebuilds: they leave free pages in read_models.db. What they are made of is prepared once for all.
    "import": rebuild.import_events,
    "storage": storage.storage,
    "rebuild-json": rebuild.over_json,
    "rebuild-eventsourcing": rebuild.over_eventsourcing,
    "second-job": rebuild.second_job,
    "memory": rebuild.memory,
    "in-order": reads.in_order,
    "late": reads.late,
    "as-of": reads.as_of,
    "get-room": reads.get_room,
    "rooms-page": reads.rooms_page,
    "page": reads.html_pages,
    "p99-rebuild": receiver.p99_rebuild,
}


class Results(msgspec.Struct):
    """What a run writes: the machine, the lines, and which rows failed with what."""

    started_at: str
    scale: float
    rounds: int
    machine: dict[str, Any]
    lines: list[Line] = []
    failed: dict[str, str] = {}
    seconds: dict[str, float] = {}


def main() -> int:
    """Run the rows; 1 if one of them could not be measured. A goal that is missed is no error."""
    args = _arguments()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # servers stopped, data removed
    begin = time.monotonic()
    with working_folder(args.folder, args.scale) as folder:
        results = Results(datetime.now(UTC).isoformat(timespec="seconds"), args.scale, ROUNDS, describe_machine(folder))
        bench = Bench(args.scale, folder)
        for name in args.rows:
            _measure(bench, name, results)
    results.seconds["all"] = round(time.monotonic() - begin, 1)
    args.json.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")
    _print(results)
    if args.scale == 1 and args.rows == list(ROWS) and not results.failed:  # a trial is no news
        DOCUMENT.write_text(with_block(DOCUMENT.read_text(), "speed", as_markdown(results)))
    say(f"{results.seconds['all']:.0f} s; written to {args.json}")
    return 1 if results.failed else 0


def _measure(bench: Bench, name: str, results: Results) -> None:
    begin = time.monotonic()
    say(f"--- {name}")
    try:
        for line in ROWS[name](bench):
            line.row = name
            results.lines.append(line)
            say(f"{line.what}: {line.measured}")
    except Exception as error:  # noqa: BLE001  the other rows can still be measured, and the table says so
        results.failed[name] = f"{type(error).__name__}: {error}"
        say(f"{name} failed: {results.failed[name]}")
    results.seconds[name] = round(time.monotonic() - begin, 1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=_rows, default=list(ROWS), metavar="ROW,ROW", help=f"some of {', '.join(ROWS)}")
    parser.add_argument("--scale", type=_scale, default=1.0, help="part of the counts, for a trial: 0.1")
    parser.add_argument("--json", type=Path, default=RESULTS, help="where to write the results")
    parser.add_argument(
        "--folder", type=Path, default=Path("/var/tmp"), help="where the data goes meanwhile: a real disk"
    )
    return parser.parse_args()


def _rows(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in ROWS]
    if unknown or not names:
        raise argparse.ArgumentTypeError(f"no row {', '.join(unknown)!r}: there are {', '.join(ROWS)}")
    return [name for name in ROWS if name in names]


def _scale(text: str) -> float:
    scale = float(text)
    if not 0 < scale <= 1:
        raise argparse.ArgumentTypeError("a scale is above 0 and at most 1")
    return scale


def as_markdown(results: Results) -> str:
    """The machine and the table, for docs/speed.md."""
    lines = [f"Medians of {results.rounds} rounds unless said. {_machine(results)}.", ""]
    lines += ["| what | measured | goal | |", "|---|---|---|---|"]
    lines += [
        f"| {line.what} | {line.measured} | {line.goal} | {'met' if line.met else 'missed'} |" for line in results.lines
    ]
    return "\n".join(lines)


def _machine(results: Results) -> str:
    machine = results.machine
    fsync = machine["fsync_ms"]
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB; Python {machine['python']},"
        f" SQLite {machine['sqlite']}, Linux {machine['kernel']}, {machine['filesystem']};"
        f" fsync of 4 KiB: median {fsync['p50']} ms, p99 {fsync['p99']} ms"
    )


def _print(results: Results) -> None:
    title = f"Roomlapse, medians of {results.rounds} rounds unless said"
    if results.scale != 1:
        title = f"A TRIAL at scale {results.scale:g}: its numbers are not those of the goals. {title}"
    table = Table(title=title, caption=_machine(results), title_justify="left", caption_justify="left", show_lines=True)
    for column in ("what", "measured", "goal", ""):
        table.add_column(column, no_wrap=column in ("goal", ""))
    for line in results.lines:
        verdict = Text("met", "green") if line.met else Text("MISSED", "bold red")
        table.add_row(Text(line.what), Text(line.measured), Text(line.goal), verdict)
    for name, error in results.failed.items():
        table.add_row(Text(name), Text(error[:200]), "", Text("FAILED", "bold red"))
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
