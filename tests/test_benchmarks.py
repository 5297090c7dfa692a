"""The benchmark can be run: its rows are listed, its help is there, its smallest row writes what it measured."""

import inspect
import json
import subprocess
import sys
from pathlib import Path

from benchmarks import reads, rebuild, receiver, run, storage
from benchmarks.lib import Goal, Line, number
from conftest import environment

SCRIPT = Path(__file__).parent / "benchmarks" / "run.py"


ONE_LINE = {"COLUMNS": "1000"}  # argparse breaks names at their hyphens


def bench(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *args],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=environment(ONE_LINE),
    )


def test_every_row_function_is_listed_once() -> None:
    functions = [
        function
        for module in (receiver, rebuild, reads, storage)
        for _, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__ and inspect.signature(function).return_annotation == list[Line]
    ]
    assert len(functions) == 16
    assert sorted(run.ROWS.values(), key=repr) == sorted(functions, key=repr)
    assert all([*inspect.get_annotations(function)] == ["bench", "return"] for function in functions)


def test_help_names_the_rows() -> None:
    done = bench("--help")
    assert done.returncode == 0, done.stderr
    told = done.stdout.split()
    assert all(name in [word.strip(",") for word in told] for name in run.ROWS)


def test_an_unknown_row_is_wrong_usage() -> None:
    done = bench("--rows", "storage,speed")
    assert done.returncode == 2
    assert "no row 'speed'" in done.stderr


def test_the_smallest_row_is_measured_printed_and_written(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    done = bench("--rows", "storage", "--scale", "0.002", "--json", str(path), "--folder", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "A TRIAL at scale 0.002" in done.stdout
    assert "events.db + read_models.db per event" in done.stdout
    results = json.loads(path.read_text())
    assert results["machine"].keys() >= {"cpu", "cores", "python", "sqlite", "kernel", "fsync_ms"}
    assert results["failed"] == {}
    (line,) = results["lines"]
    assert line.keys() == {"row", "what", "value", "measured", "goal", "met", "numbers"}
    assert (line["row"], line["goal"], line["met"]) == ("storage", "<= 2.20x", line["value"] <= 2.2)
    assert line["numbers"]["events"] == 2000
    assert sum(line["numbers"]["bytes"].values()) / line["numbers"]["body_bytes"] == line["value"]
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"], "the data was left behind"


def test_goals_and_numbers_read_well() -> None:
    assert Goal(1.2, "x").met(1.2)
    assert not Goal(1.2, "x").met(1.21)
    assert Goal(40_000, "/s", at_most=False).met(40_000)
    assert str(Goal(40_000, "/s", at_most=False)) == ">= 40,000/s"
    assert [number(value) for value in (0, 0.0123, 0.6, 1.7, 12.34, 123.4, 1234567.8)] == [
        "0", "0.0123", "0.600", "1.70", "12.3", "123", "1,234,568",
    ]  # fmt: skip


def test_the_document_of_speed_shows_each_line_and_the_machine() -> None:
    machine = {
        "cpu": "CPU",
        "cores": 2,
        "memory_gb": 8,
        "python": "3.11",
        "sqlite": "3.53",
        "kernel": "6",
        "filesystem": "ext4",
    }
    results = run.Results("", 1.0, 5, machine | {"fsync_ms": {"p50": 0.2, "p99": 0.4}})
    results.lines = [Line("a", 1.0, "1.0x", "<= 2x", True, {}), Line("b", 3.0, "3.0x", "<= 2x", False, {})]
    written = run.as_markdown(results)
    assert "| a | 1.0x | <= 2x | met |\n| b | 3.0x | <= 2x | missed |" in written
    assert (
        "CPU, 2 cores, 8 GB; Python 3.11, SQLite 3.53, Linux 6, ext4; fsync of 4 KiB: median 0.2 ms, p99 0.4 ms"
        in written
    )
