"""Checks the program, the data directory and a running server: what it found, and what to do about it."""

import statistics
from itertools import pairwise
from pathlib import Path

import msgspec

from app.infra import sqlite
from app.infra.data_dir import DataDir
from app.infra.errors import BadSettings, Corrupt, NoData
from app.infra.settings import Settings, is_loopback
from app.infra.times import format_duration, now_ms
from app.log.files import open_log_reader
from app.log.records import Record
from app.ops.data_checks import check_data
from app.ops.findings import BAD, OK, WARNING, Finding
from app.ops.probe import Probe, probe
from app.tencent.request import sign

_RECENT_EVENTS = 200
_SKEW_WARN_S, _SKEW_BAD_S = 10, 45  # at 60 s off, callbacks are refused
_SILENCE_WARN_S = 15 * 60.0
_ANSWER_WARN_S, _ANSWER_BAD_S = 0.5, 1.5
# Published by the vendor ("Webhooks Overview"): what Sign has to be for this token and RequestTime.
_VECTOR = ("xxxxyyyy", "1669872112", "17773bc39a671d7b9aa835458704d2a6db81360a5940292b587d6d760d484061")


class Diagnosis(msgspec.Struct, frozen=True):
    """All findings, and whether none of them is bad."""

    ok: bool
    findings: list[Finding]


def diagnose(settings: Settings, url: str) -> Diagnosis:
    """Check the program, the data directory, and the server at `url` if one runs there.

    Measuring the disk writes a small file without a name into the data directory; nothing else is written.
    """
    server = probe(url, settings.secrets)
    findings = [_check_library(), _check_vector(), _check_bind(settings), _check_server(server)]
    findings += check_data(DataDir(settings.data), settings.sdk_app_id or None, server)
    recent = _recent_events(settings.data)
    findings += [_check_clock(server, recent), _check_silence(server, recent)]
    findings += [_check_answers(server), _check_refusals(server)]
    return Diagnosis(all(finding.state != BAD for finding in findings), findings)


# ---- the program ----


def _check_library() -> Finding:
    if sqlite.LIBRARY_IS_SOUND:
        return Finding("SQLite", OK, f"{sqlite.LIBRARY_VERSION}")
    return Finding(
        "SQLite",
        WARNING,
        f"{sqlite.LIBRARY_VERSION} can corrupt a database in WAL mode that two processes write (fixed in 3.51.3)",
        "install the package pysqlite3; until then only one process at a time may write the log, and the others refuse",
    )


def _check_vector() -> Finding:
    token, request_time, expected = _VECTOR
    if sign(token, request_time) == expected:
        return Finding("signature", OK, "Sign of the vendor's published example comes out right")
    return Finding("signature", BAD, "Sign of the vendor's published example comes out wrong", "install it anew")


def _check_bind(settings: Settings) -> Finding:
    secrets = settings.secrets
    try:
        settings.check()
    except BadSettings as error:
        return Finding("tokens", BAD, f"the server would not start: {error}", "set the tokens that it names")
    missing = [
        name
        for name, value in (
            ("ROOMLAPSE_CALLBACK_TOKENS", secrets.callback_tokens),
            ("ROOMLAPSE_API_TOKEN", secrets.api_token),
        )
        if not value
    ]
    where = "this machine only" if is_loopback(settings.host) else settings.host
    if missing:
        return Finding(
            "tokens",
            WARNING,
            f"{' and '.join(missing)} not set here; the address is for {where}",
            "set them, also behind a proxy: without them, anyone who reaches the address can send callbacks or read"
            " rooms (if the server has them from elsewhere, run this with the same environment)",
        )
    return Finding("tokens", OK, f"{len(secrets.callback_tokens)} for callbacks, one to read, address for {where}")


# ---- the server ----


def _check_server(server: Probe) -> Finding:
    if server.metrics is None:
        return Finding("server", WARNING, server.problem, server.advice)
    if not server.value("roomlapse_log_writable"):
        found = f"its last commit failed, callbacks get 503: {server.unready}".removesuffix(": ")
        return Finding("server", BAD, found, "see its log; make room on the disk, or put back what was moved")
    if server.unready:
        advice = "mend that; /readyz, /status and the server's log say more"
        return Finding("server", BAD, f"it takes callbacks but is not ready: {server.unready}", advice)
    return Finding("server", OK, f"{server.url}, log head {server.head}")


def _check_clock(server: Probe, recent: list[Record]) -> Finding:
    signed = server.value("roomlapse_signed_callbacks_recent")
    if signed:
        skew_s, against = server.value("roomlapse_clock_skew_seconds"), f"RequestTime of {signed:.0f} recent callbacks"
    else:
        delays_s = [(it.received_at_ms - it.event_time_ms) / 1000 for it in recent]
        if not delays_s:
            return Finding("clock", WARNING, "nothing to compare it with yet", "run this again after some callbacks")
        # Callbacks arrive after EventTime, so that a positive delay may be the way: only a clock that is behind shows.
        skew_s, against = min(0.0, statistics.median(delays_s)), f"EventTime of the last {len(delays_s)} events"
    found = f"{skew_s:+.1f} s against {against}"
    if abs(skew_s) > _SKEW_BAD_S:
        return Finding("clock", BAD, found, "set it (chrony, systemd-timesyncd): 60 s off, every callback is refused")
    if abs(skew_s) > _SKEW_WARN_S:
        return Finding("clock", WARNING, found, "set it (chrony, systemd-timesyncd) before it is 60 s off")
    return Finding("clock", OK, found)


def _recent_events(data: Path) -> list[Record]:
    try:
        with open_log_reader(DataDir(data)) as log:
            return log.tail(max(0, log.head().position - _RECENT_EVENTS), _RECENT_EVENTS)
    except (sqlite.Error, Corrupt, NoData, OSError):
        return []


def _check_silence(server: Probe, recent: list[Record]) -> Finding:
    """A wrong URL, a lost DNS name and a callback that was switched off look like a quiet evening."""
    times_ms = [record.received_at_ms for record in recent]
    last_ms = max([server.value("roomlapse_last_callback_timestamp_seconds") * 1000, *times_ms[-1:]])
    if not last_ms:
        return Finding("silence", WARNING, "no callback has come yet", _WHEN_SILENT)
    silent_ms = max(0, int(now_ms() - last_ms))
    pauses_ms = [after - before for before, after in pairwise(times_ms)]
    found = f"the last callback came {format_duration(silent_ms)} ago"
    if pauses_ms:
        found += f", the longest pause among the {len(times_ms)} before was {format_duration(max(pauses_ms))}"
    if silent_ms > max(_SILENCE_WARN_S * 1000, *pauses_ms, 0):
        return Finding("silence", WARNING, found, _WHEN_SILENT)
    return Finding("silence", OK, found)


def _check_answers(server: Probe) -> Finding:
    if server.metrics is None:
        return Finding("answers", WARNING, "not known: the server did not say", "see the line about the server")
    count = server.value("roomlapse_answer_seconds_count")
    if not count:
        return Finding("answers", WARNING, "no callback was answered yet", "run this again after some callbacks")
    p99_s = server.answered_within_s(0.99)
    found = f"99 of 100 within {p99_s:g} s, of {count:.0f}"
    if p99_s > _ANSWER_BAD_S:
        return Finding("answers", BAD, found, "the sender waits 2 s: look for a slow disk or a busy processor")
    if p99_s > _ANSWER_WARN_S:
        return Finding("answers", WARNING, found, "the sender waits 2 s: look for a slow disk or a busy processor")
    return Finding("answers", OK, found)


_WHEN_SILENT = (
    "if rooms change now, look at the callback URL and the switches in the console, at DNS and certificates, and at"
    " what stands in front of this server"
)
_REFUSED: dict[str, str] = {
    "unsigned": "compare the callback tokens with the console's, and the clock above",
    "forbidden": "compare --sdk-app-id with the SDKAppID of the console",
    "too_large": "bodies above 64 KiB are refused; ask who sends them",
    "misdirected": "the callback URL has to lead to /callbacks without a redirect: the log and the health page tell the"
    " paths that were called",
    "incomplete": "their sender closed the connection before all had come: look at the network and at proxies",
    "unavailable": "the disk did not take them in time; see the server's log",
}


def _check_refusals(server: Probe) -> Finding:
    if server.metrics is None:
        return Finding("refused", WARNING, "not known: the server did not say", "see the line about the server")
    counts = {outcome: server.value("roomlapse_callbacks_total", outcome=outcome) for outcome in _REFUSED}
    found = {outcome: count for outcome, count in counts.items() if count}
    if not found:
        return Finding("refused", OK, "no callback, since the server started")
    return Finding(
        "refused",
        WARNING,
        ", ".join(f"{count:.0f} {outcome}" for outcome, count in found.items()) + " since the server started",
        "; ".join(_REFUSED[outcome] for outcome in found),
    )
