"""Backs up the log to one file while callbacks come, and verifies the copy before it gets its name."""

import os
from pathlib import Path

import msgspec

from app.infra import sqlite
from app.infra.data_dir import DataDir
from app.infra.errors import BadBackup
from app.infra.progress import Progress, no_progress
from app.log.audit import verify_log
from app.log.store import EventStore


class BackedUp(msgspec.Struct, frozen=True):
    """A backup that was checked; `chain` is that of its last event."""

    file: str
    events: int
    chain: str
    bytes: int


def back_up(data_dir: DataDir, file: Path, progress: Progress = no_progress) -> BackedUp:
    """Copy the log, as it is at one moment, to a new file; sync it, and recompute every id and the chain.

    Read models are not in it: they are rebuilt from the log. Raises FileExistsError, OSError, sqlite.Error and
    BadBackup; no file of that name is made then.
    """
    if file.exists():
        raise FileExistsError(f"{file} is there already: a backup replaces nothing, choose another name")
    if not file.parent.is_dir():
        raise FileNotFoundError(f"there is no directory {file.parent}: make it, or choose another place")
    partial = file.with_name(f".{file.name}.partial")
    partial.unlink(missing_ok=True)  # left by a backup that was interrupted
    try:
        sqlite.make_private(partial)
        sqlite.copy(data_dir.log_path, partial)
        backed_up = _check(partial, file, progress)
        sqlite.sync(partial)
        os.link(partial, file)  # unlike a rename, a link fails if that name has come up meanwhile
        sqlite.sync(file.parent)
    finally:
        partial.unlink(missing_ok=True)
    return backed_up


def _check(partial: Path, file: Path, progress: Progress) -> BackedUp:
    with EventStore(sqlite.open_reader(partial)) as log:
        difference = verify_log(log, progress)
        if difference is not None:
            raise BadBackup(f"the log cannot be backed up as it is: {difference}")
        head = log.head()
    return BackedUp(str(file), head.position, head.chain, partial.stat().st_size)
