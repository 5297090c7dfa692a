"""Looks for what goes wrong around a receiver, and says of each what to do about it."""

import http.client
import os
import shutil
import statistics
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from app.infra import sqlite
from app.infra.data_dir import DataDir
from app.infra.errors import BadSettings, Corrupt, NewerSchema, NoData, WrongOwner
from app.infra.settings import Secrets, Settings, is_loopback
from app.infra.times import now_ms
from app.log import quarantine
from app.log.audit import verify_chain
from app.log.files import check_log, open_log_reader
from app.log.store import EventStore
from app.projector.upkeep import open_read_models_reader
from app.tencent.request import sign

OK, WARNING, BAD = "ok", "warning", "bad"

_CHAIN_EVENTS = 1000
_RECENT_EVENTS = 200
_SKEW_WARN_S, _SKEW_BAD_S = 10, 45  # at 60 s off, callbacks are refused
_FREE_WARN, _FREE_BAD = 2 * 2**30, 200 * 2**20
_SYNC_WARN_S, _SYNC_BAD_S = 0.1, 1.0
_ANSWER_WARN_S, _ANSWER_BAD_S = 0.5, 1.5
_SYNCS = 20
_ASK_S = 5.0
_DAY_MS = 24 * 3600 * 1000
# Published by the vendor ("Webhooks Overview"): what Sign has to be for this token and RequestTime.
_VECTOR = ("xxxxyyyy", "1669872112", "17773bc39a671d7b9aa835458704d2a6db81360a5940292b587d6d760d484061")


class Finding(msgspec.Struct, frozen=True):
    """What a check found: `state` is ok, warning or bad; `advice` is empty where there is nothing to do."""

    check: str
    state: str
    found: str
    advice: str = ""


class Diagnosis(msgspec.Struct, frozen=True):
    """All findings, and whether none of them is bad."""

    ok: bool
    findings: list[Finding]


class _Server(msgspec.Struct):
    """What a running server says of itself: the values of its metrics, by name and labels, its log's end, and why it
    is not ready."""

    url: str
    metrics: dict[tuple[str, tuple[tuple[str, str], ...]], float] | None
    problem: str = ""
    advice: str = ""
    head: int = 0
    chain: str = ""
    unready: str = ""

    def value(self, name: str, **labels: str) -> float:
        return (self.metrics or {}).get((name, tuple(sorted(labels.items()))), 0.0)


def diagnose(settings: Settings, url: str) -> Diagnosis:
    """Check the program, the data directory, and the server at `url` if there is one. Writes a small file and removes
    it; changes nothing else."""
    server = _ask(url, settings.secrets)
    findings = [_check_library(), _check_vector(), _check_bind(settings), _check_server(server)]
    findings += _check_data(DataDir(settings.data), settings.sdk_app_id or None, server)
    findings += [_check_clock(server, settings), _check_answers(server), _check_refusals(server)]
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
            "set them, also behind a proxy: without, whoever reaches the address can send callbacks, or read rooms"
            " (if the server has them from elsewhere, run this with the same environment)",
        )
    return Finding("tokens", OK, f"{len(secrets.callback_tokens)} for callbacks, one to read, address for {where}")


# ---- the data directory ----


def _check_data(data_dir: DataDir, sdk_app_id: str | None, server: _Server) -> list[Finding]:
    """The disk below it, and what is in it."""
    disk = [_check_free(data_dir.path), _check_sync(data_dir.path)] if data_dir.path.is_dir() else []
    try:
        check_log(data_dir, sdk_app_id)
        models = open_read_models_reader(data_dir) if data_dir.read_models_path.exists() else None
        log = open_log_reader(data_dir)
    except (sqlite.Error, Corrupt) as error:
        advice = (
            "read models are made again when the server starts; for events.db, restore a backup into an empty place"
        )
        return [*disk, Finding("data", BAD, str(error), advice)]
    except (NoData, NewerSchema, OSError, WrongOwner) as error:
        return [*disk, Finding("data", BAD, str(error), "start the server once, or say --data")]
    try:
        findings = [_check_chain(log), _check_quarantine(log)]
        if server.chain and log.chain_at(server.head) != server.chain:
            found = f"the log here is not the one that {server.url} writes, which ends at position {server.head}"
            findings.append(Finding("data", BAD, found, "say the server's directory with --data, or another --url"))
        if models is not None:
            errors = {name: models.checkpoint(name).error for name in models.projections}
            findings.append(_check_projections({name: error for name, error in errors.items() if error is not None}))
    except (sqlite.Error, Corrupt) as error:
        findings = [Finding("data", BAD, f"cannot be read: {error}", "run `roomlapse verify`; restore a backup")]
    finally:
        log.close()
        if models is not None:
            models.close()
    return [*disk, *findings]


def _check_free(path: Path) -> Finding:
    usage = shutil.disk_usage(path)
    state = BAD if usage.free < _FREE_BAD else WARNING if usage.free < _FREE_WARN else OK
    advice = "" if state == OK else "make room: callbacks are refused with 503 when it is full, and the log only grows"
    return Finding("free disk", state, f"{usage.free / 2**30:.1f} GiB of {usage.total / 2**30:.0f}", advice)


def _check_sync(path: Path) -> Finding:
    try:
        seconds = sorted(_sync_seconds(path))
    except OSError as error:
        return Finding(
            "disk sync", BAD, f"nothing can be written to {path}: {error.strerror}", "callbacks are refused: mend this"
        )
    median_s, worst_s = statistics.median(seconds), seconds[-1]
    state = BAD if median_s > _SYNC_BAD_S else WARNING if median_s > _SYNC_WARN_S else OK
    advice = "" if state == OK else "the sender waits 2 s: move the data to a faster disk"
    return Finding("disk sync", state, f"median {median_s * 1000:.1f} ms, worst {worst_s * 1000:.1f} ms", advice)


def _sync_seconds(path: Path) -> Iterator[float]:
    with tempfile.TemporaryFile(dir=path) as file:
        for _ in range(_SYNCS):
            file.write(b"." * 4096)
            file.flush()
            begin = time.perf_counter()
            os.fsync(file.fileno())
            yield time.perf_counter() - begin


def _check_chain(log: EventStore) -> Finding:
    head = log.head()
    behind = max(0, head.position - _CHAIN_EVENTS)
    difference = verify_chain(log, behind=behind)
    if difference is not None:
        return Finding(
            "chain", BAD, str(difference), "the log was changed or the disk lies: run `roomlapse verify`, keep a copy"
        )
    return Finding("chain", OK, f"the last {head.position - behind} of {head.position} events hold, {head.chain}")


def _check_quarantine(log: EventStore) -> Finding:
    count = quarantine.count(log.conn)
    newest = quarantine.page(log.conn, None, 1)
    if newest and newest[0].received_at_ms > now_ms() - _DAY_MS:
        return Finding(
            "quarantine",
            WARNING,
            f"{count} bodies, the latest within a day: {newest[0].reason}",
            "see `roomlapse rejected`; `roomlapse rejected retry` takes them once the rule or the clock lets it",
        )
    return Finding("quarantine", OK, f"{count} bodies")


def _check_projections(stopped: dict[str, str]) -> Finding:
    if stopped:
        return Finding(
            "projections",
            BAD,
            "; ".join(stopped.values()),
            "mend the projection and start the server again: it goes on at that event",
        )
    return Finding("projections", OK, "none has stopped")


# ---- the server ----


class _StayHere(urllib.request.HTTPRedirectHandler):
    """The token is for the server that was named, and for none that this one names."""

    def redirect_request(self, *_: object) -> None:
        return None


_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}), _StayHere)


_NO_SERVER = "start it, or say where it is with --url, and give this command its tokens: some checks need it"
_GIVE_TOKENS = "give this command the server's tokens, in its environment: ROOMLAPSE_API_TOKEN, ROOMLAPSE_ADMIN_TOKEN"


class _Head(msgspec.Struct):
    head: int
    chain: str


class _Ready(msgspec.Struct):
    ready: bool = False
    lag: dict[str, int] = {}
    stopped: dict[str, str] = {}
    waiting: str | None = None
    failure: str | None = None

    def why_not(self) -> str:
        """Say what is wrong, in one line; empty if it is ready."""
        if self.ready:
            return ""
        reasons = [reason for reason in (self.failure, self.waiting, *self.stopped.values()) if reason]
        return "; ".join(reasons) or f"the read models are {max(self.lag.values(), default=0)} events behind"


def _ask(url: str, secrets: Secrets) -> _Server:
    try:
        metrics = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(_get(url, "/metrics", secrets).decode())
            for sample in family.samples
        }
        if ("roomlapse_log_writable", ()) not in metrics:
            return _Server(url, None, f"what answers at {url} is no Roomlapse", _NO_SERVER)
        ready = msgspec.json.decode(_get(url, "/readyz", secrets, also=503), type=_Ready)
        if not ready.ready and ready.failure is not None:
            return _Server(url, metrics, unready=ready.why_not())
        end = msgspec.json.decode(_get(url, "/status", secrets), type=_Head)
    except urllib.error.HTTPError as error:
        with suppress(OSError):
            error.close()
        advice = _GIVE_TOKENS if error.code in (401, 403) else "see its log"
        return _Server(url, None, f"{error.url} answers {error.code}", advice)
    except (OSError, ValueError, http.client.HTTPException) as error:
        return _Server(url, None, f"no answer from {url}: {getattr(error, 'reason', error)}", _NO_SERVER)
    return _Server(url, metrics, head=end.head, chain=end.chain, unready=ready.why_not())


def _get(url: str, path: str, secrets: Secrets, also: int = 200) -> bytes:
    """Ask; another status than 200 raises HTTPError, but for one whose body is wanted too."""
    request = urllib.request.Request(f"{url}{path}")  # noqa: S310  an http URL, as the command line has checked
    token = secrets.admin_token or secrets.api_token
    if token is not None:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with _OPENER.open(request, timeout=_ASK_S) as answer:
            body: bytes = answer.read()
    except urllib.error.HTTPError as error:
        if error.code != also:
            raise
        with error:
            body = error.read()
    return body


def _check_server(server: _Server) -> Finding:
    if server.metrics is None:
        return Finding("server", WARNING, server.problem, server.advice)
    if not server.value("roomlapse_log_writable"):
        found = f"its last commit failed, callbacks get 503: {server.unready}".removesuffix(": ")
        return Finding("server", BAD, found, "see its log; make room on the disk, or put back what was moved")
    if server.unready:
        advice = "mend that; /readyz, /status and the server's log say more"
        return Finding("server", BAD, f"it takes callbacks but is not ready: {server.unready}", advice)
    return Finding("server", OK, f"{server.url}, log head {server.head}")


def _check_clock(server: _Server, settings: Settings) -> Finding:
    signed = server.value("roomlapse_signed_callbacks_recent")
    if signed:
        skew_s, against = server.value("roomlapse_clock_skew_seconds"), f"RequestTime of {signed:.0f} recent callbacks"
    else:
        delays_s = _delays_s(DataDir(settings.data))
        if not delays_s:
            return Finding("clock", WARNING, "nothing to compare it with yet", "run this again after some callbacks")
        # A delivery takes some time, and never less than none: only a clock that is behind shows for certain.
        skew_s, against = min(0.0, statistics.median(delays_s)), f"EventTime of the last {len(delays_s)} events"
    found = f"{skew_s:+.1f} s against {against}"
    if abs(skew_s) > _SKEW_BAD_S:
        return Finding("clock", BAD, found, "set it (chrony, systemd-timesyncd): 60 s off, every callback is refused")
    if abs(skew_s) > _SKEW_WARN_S:
        return Finding("clock", WARNING, found, "set it (chrony, systemd-timesyncd) before it is 60 s off")
    return Finding("clock", OK, found)


def _delays_s(data_dir: DataDir) -> list[float]:
    try:
        log = open_log_reader(data_dir)
    except (sqlite.Error, Corrupt, NoData):
        return []
    try:
        records = log.tail(max(0, log.head().position - _RECENT_EVENTS), _RECENT_EVENTS)
    except (sqlite.Error, Corrupt):
        return []
    finally:
        log.close()
    return [(record.received_at_ms - record.event_time_ms) / 1000 for record in records]


def _check_answers(server: _Server) -> Finding:
    if server.metrics is None:
        return Finding("answers", WARNING, "not known: the server did not say", "see the line about the server")
    count = server.value("roomlapse_answer_seconds_count")
    if not count:
        return Finding("answers", WARNING, "no callback was answered yet", "run this again after some callbacks")
    p99_s = _percentile_s(server, count, 0.99)
    found = f"99 of 100 within {p99_s:g} s, of {count:.0f}"
    if p99_s > _ANSWER_BAD_S:
        return Finding("answers", BAD, found, "the sender waits 2 s: look for a slow disk or a busy processor")
    if p99_s > _ANSWER_WARN_S:
        return Finding("answers", WARNING, found, "the sender waits 2 s: look for a slow disk or a busy processor")
    return Finding("answers", OK, found)


def _percentile_s(server: _Server, count: float, part: float) -> float:
    """The upper bound of the histogram's bucket that holds the percentile."""
    buckets = sorted(
        (float(dict(labels)["le"]), value)
        for (name, labels), value in (server.metrics or {}).items()
        if name == "roomlapse_answer_seconds_bucket"
    )
    return next(bound for bound, value in buckets if value >= part * count)


_REFUSED: dict[str, str] = {
    "unsigned": "compare the callback tokens with the console's, and the clock above",
    "forbidden": "compare --sdk-app-id with the SDKAppID of the console",
    "too_large": "bodies above 64 KiB are refused; ask who sends them",
    "unavailable": "the disk did not take them in time; see the server's log",
}


def _check_refusals(server: _Server) -> Finding:
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
