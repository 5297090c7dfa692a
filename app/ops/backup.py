"""Backs up the log to one file while callbacks come, and verifies the copy before it gets its name."""

import os
from pathlib import Path

import msgspec

from app.infra import sqlite
from app.infra.data_dir import DataDir
from app.infra.errors import BadBackup
from app.infra.files import name_of
from app.infra.output import refuse_data_file, write_whole
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
    if os.path.lexists(file):
        raise FileExistsError(f"{name_of(file)} is there already: a backup replaces nothing, choose another name")
    refuse_data_file(file, data_dir.path)
    if not file.parent.is_dir():
        raise FileNotFoundError(f"there is no directory {name_of(file.parent)}: make it, or choose another place")
    with write_whole(file) as partial:
        sqlite.copy(data_dir.log_path, partial, file)
        return _check(partial, file, progress)


def _check(partial: Path, file: Path, progress: Progress) -> BackedUp:
    with EventStore(sqlite.open_reader(partial)) as log:
        difference = verify_log(log, progress)
        if difference is not None:
            raise BadBackup(f"the log cannot be backed up as it is: {difference}")
        head = log.head()
    return BackedUp(name_of(file), head.position, head.chain, partial.stat().st_size)
