"""Logs: one JSON object a line, whatever is in it."""

import io
import json
import logging
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from app.infra.json_logs import JsonFormatter

Log = Callable[[logging.Logger], None]


def logged(log: Log) -> str:
    """What a logger of its own writes."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger = logging.Logger("room.lapse", logging.DEBUG)
    logger.addHandler(handler)
    log(logger)
    return stream.getvalue()


def line_of(log: Log) -> dict[str, Any]:
    """The object of the one line, which nothing but its end can break."""
    text = logged(log)
    assert text.endswith("\n")
    assert text.count("\n") == 1
    assert "\r" not in text
    assert "\x1b" not in text
    assert "\0" not in text
    line: dict[str, Any] = json.loads(text)
    return line


def test_a_line_says_when_how_bad_who_and_what() -> None:
    line = line_of(lambda logger: logger.warning("%d callbacks from %s", 3, "é房"))
    assert line.keys() == {"time", "level", "logger", "message"}
    assert (line["level"], line["logger"], line["message"]) == ("warning", "room.lapse", "3 callbacks from é房")


def test_the_time_is_utc_with_milliseconds() -> None:
    record = logging.makeLogRecord({"msg": "x", "name": "n", "created": 1670574414.123, "levelname": "INFO"})
    assert json.loads(JsonFormatter().format(record)) == {
        "time": "2022-12-09T08:26:54.123+00:00",
        "level": "info",
        "logger": "n",
        "message": "x",
    }


def test_the_time_is_that_of_the_record() -> None:
    time = datetime.fromisoformat(line_of(lambda logger: logger.info("x"))["time"])
    assert abs(datetime.now(UTC) - time) < timedelta(minutes=1)


def test_extras_are_fields_of_the_line() -> None:
    line = line_of(
        lambda logger: logger.info("x", extra={"callbacks": 3, "url": "http://h/", "more": {"a": [None, True]}})
    )
    assert (line["callbacks"], line["url"], line["more"]) == (3, "http://h/", {"a": [None, True]})


NASTY = [
    "two\nlines",
    "two\r\nlines\r",
    '"}\n{"level":"error","message":"forged"}',
    "\x1b[31mred\x1b[0m\x1b]0;title\x07",
    "\0\x01\x08\x0b\x0c\x1f",
    'back\\slash "quotes"',
    "%s %d %",
    "{}",
    "",
    "é房\U0001f600",
    "x" * 100_000,
]


@pytest.mark.parametrize("text", NASTY)
def test_whatever_the_message_it_is_one_line_and_comes_back(text: str) -> None:
    assert line_of(lambda logger: logger.info("%s", text))["message"] == text


@pytest.mark.parametrize("text", NASTY)
def test_whatever_an_extra_holds_it_is_one_line_and_comes_back(text: str) -> None:
    line = line_of(lambda logger: logger.info("x", extra={"value": text, "deep": [{"k": text}]}))
    assert (line["value"], line["deep"]) == (text, [{"k": text}])


@pytest.mark.parametrize("name", ["na\nme", "\x1b[31m", 'quo"te', "é"])
def test_whatever_an_extra_is_called_it_is_one_line(name: str) -> None:
    assert line_of(lambda logger: logger.info("x", extra={name: 1}))[name] == 1


@pytest.mark.parametrize(
    "text",
    ["\x9b31mred\x9b0m", "a\x85b", "a\u2028b\u2029c", "\x7f", "\x80\x9f"],
    ids=["8-bit escape codes", "next line", "line separators", "delete", "C1"],
)
def test_control_characters_beyond_ascii_are_escaped_too(text: str) -> None:
    written = logged(lambda logger: logger.info("%s", text, extra={"value": text}))
    assert json.loads(written)["message"] == json.loads(written)["value"] == text
    assert len(written.splitlines()) == 1
    assert not any("\x7f" <= char <= "\x9f" for char in written)


def test_a_name_that_is_not_utf_8_is_logged_all_the_same() -> None:
    path = b"/data/\xff".decode(errors="surrogateescape")  # how Python gives such a file's name
    line = line_of(lambda logger: logger.info("no log at %s", path, extra={"path": path}))
    assert line["message"].startswith("no log at /data/")


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (Path("/data"), "/data"),
        (ValueError("two\nlines"), "two\nlines"),
        (Decimal("1.50"), "1.50"),
        (float("nan"), None),
        (10**30, 10**30),
        ((1, "a"), [1, "a"]),
        ({1: "a"}, {"1": "a"}),
        (type, "<class 'type'>"),
    ],
)
def test_extras_of_any_type_are_written_somehow(value: Any, written: Any) -> None:
    assert line_of(lambda logger: logger.info("x", extra={"value": value}))["value"] == written


def test_a_traceback_is_one_line_too() -> None:
    def log(logger: logging.Logger) -> None:
        try:
            int("bad\nthing")
        except ValueError:
            logger.exception("it failed")

    line = line_of(log)
    assert (line["level"], line["message"]) == ("error", "it failed")
    assert line["error"].startswith("Traceback (most recent call last):\n")
    assert line["error"].endswith("ValueError: invalid literal for int() with base 10: 'bad\\nthing'")


def stderr_lines(statements: str) -> list[str]:
    """What a process writes after `set_up_logging`: all of it has to be on stderr."""
    program = f"import logging\nfrom app.infra.json_logs import set_up_logging\nset_up_logging()\n{statements}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_in_a_process_every_logger_writes_json_lines_on_stderr() -> None:
    lines = stderr_lines(
        "set_up_logging()\n"  # twice is as good as once
        "logging.getLogger('app.receiver.group_commit').info('stored', extra={'callbacks': 2})\n"
        "logging.getLogger('app.receiver.group_commit').debug('too much')\n"
        "logging.getLogger('uvicorn.error').info('Started')\n"
        "logging.getLogger('uvicorn.error').warning('a malformed request: anybody can send as many as he likes')\n"
        "logging.getLogger('uvicorn.error').error('odd\\nerror')\n"
        "logging.error('from the root')\n"
    )
    found = [json.loads(line) for line in lines]
    assert [(line["level"], line["logger"], line["message"], line.get("callbacks")) for line in found] == [
        ("info", "app.receiver.group_commit", "stored", 2),
        ("error", "uvicorn.error", "odd\nerror", None),
        ("error", "root", "from the root", None),
    ]


@pytest.mark.parametrize("level", ["INFO", "WARNING", "ERROR"])
def test_the_access_log_which_would_hold_each_sign_is_silent_at_every_level(level: str) -> None:
    assert stderr_lines(f"logging.getLogger('uvicorn.access').log(logging.{level}, 'POST /callbacks?Sign=abc')") == []


def test_names_of_ours_stay_whatever_the_secrets_are() -> None:
    record = logging.makeLogRecord({"msg": "it is time", "name": "info", "levelname": "INFO", "url": "info"})
    line = json.loads(JsonFormatter(["time", "info", "message"]).format(record))
    assert line.keys() == {"time", "level", "logger", "message", "url"}
    assert (line["level"], line["logger"], line["url"]) == ("info", "info", "[redacted]")
    assert line["message"] == "it is [redacted]"
