"""Checks the data directory for the doctor: its disk, the log, the quarantine and the projections."""

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from app.infra import sqlite
from app.infra.data_dir import DataDir
from app.infra.errors import BadSettings, Corrupt, NewerSchema, NoData, WrongOwner
from app.infra.times import now_ms
from app.log import quarantine
from app.log.audit import verify_chain
from app.log.files import check_log, open_log_reader
from app.log.store import EventStore
from app.ops.findings import BAD, OK, WARNING, Finding
from app.ops.probe import Probe
from app.projector.read_models import Checkpoint, ReadModels
from app.projector.upkeep import open_read_models_reader

_CHAIN_EVENTS = 1000
_FREE_WARN, _FREE_BAD = 2 * 2**30, 200 * 2**20
_SYNC_WARN_S, _SYNC_BAD_S = 0.1, 1.0
_SYNCS = 20
_DAY_MS = 24 * 3600 * 1000


_AS_THE_SERVER = "do what it says, as the user that the server runs as"


def check_data(data_dir: DataDir, sdk_app_id: str | None, server: Probe) -> list[Finding]:
    """Check a data directory, also against what the server at hand says of its log.

    Measuring the disk writes a small file without a name into it; nothing else is written.
    """
    disk = [_check_free(data_dir.path), _check_sync(data_dir.path)] if data_dir.path.is_dir() else []
    with ExitStack() as files:
        try:
            check_log(data_dir, sdk_app_id)
            models = None
            if data_dir.read_models_path.exists():
                models = files.enter_context(open_read_models_reader(data_dir))
            log = files.enter_context(open_log_reader(data_dir))
        except (sqlite.Error, Corrupt) as error:
            advice = (
                "read models are made again when the server starts; for events.db, restore a backup into an empty place"
                if sqlite.is_of_corrupt_file(error) or isinstance(error, Corrupt)
                else _AS_THE_SERVER
            )
            return [*disk, Finding("data", BAD, str(error), advice)]
        except BadSettings as error:
            return [*disk, Finding("projections", BAD, str(error), "mend that file or folder: nothing starts with it")]
        except OSError as error:
            return [*disk, Finding("data", BAD, str(error), _AS_THE_SERVER)]
        except NoData as error:
            advice = "say --data, or put events.db back if there was one: a server that starts here begins an empty log"
            return [*disk, Finding("data", BAD, str(error), advice)]
        except (NewerSchema, WrongOwner) as error:
            return [*disk, Finding("data", BAD, str(error), "say --data, or upgrade this program")]
        return [*disk, *_check_databases(log, models, server)]


def _check_databases(log: EventStore, models: ReadModels | None, server: Probe) -> list[Finding]:
    try:
        findings = [_check_chain(log), _check_quarantine(log)]
        if server.chain and log.chain_at(server.head) != server.chain:
            found = f"the log here is not the one that {server.url} writes, which ends at position {server.head}"
            findings.append(Finding("data", BAD, found, "say the server's directory with --data, or another --url"))
        if models is not None:
            checkpoints = {name: models.find_checkpoint(name) for name in models.projections}
            findings.append(_check_projections(checkpoints))
    except (sqlite.Error, Corrupt) as error:
        return [Finding("data", BAD, f"cannot be read: {error}", "run `roomlapse verify`; restore a backup")]
    return findings


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
    after = max(0, head.position - _CHAIN_EVENTS)
    difference = verify_chain(log, after=after)
    if difference is not None:
        return Finding(
            "chain", BAD, str(difference), "the log was changed or the disk lies: run `roomlapse verify`, keep a copy"
        )
    return Finding("chain", OK, f"the last {head.position - after} of {head.position} events hold, {head.chain}")


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


def _check_projections(checkpoints: dict[str, Checkpoint | None]) -> Finding:
    new = [name for name, checkpoint in checkpoints.items() if checkpoint is None]
    if errors := [found.error for found in checkpoints.values() if found is not None and found.error is not None]:
        return Finding(
            "projections",
            BAD,
            "; ".join(errors),
            "mend the projection and start the server again: it goes on at that event",
        )
    if new:
        found = f"{', '.join(new)}: not made yet"
        return Finding("projections", WARNING, found, "start the server again, or run `roomlapse rebuild`")
    return Finding("projections", OK, "none has stopped")
