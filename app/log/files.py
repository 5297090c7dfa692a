"""The log of a data directory: made, claimed for an application, opened, and checked before each commit."""

import os

from app.infra import sqlite
from app.infra.data_dir import DataDir
from app.infra.errors import DiskFull, NoData, OtherWriter, WrongOwner
from app.infra.files import find_problem, find_problem_of_folder, name_of, sync_folder
from app.log import schema
from app.log.store import EventStore
from app.log.wal import wal_bytes

RESERVE_BYTES = 16 * 2**20
"""What a server leaves free on the disk: the read models get to the log's end, so that reads go on when it is full."""


def create_log(data_dir: DataDir, sdk_app_id: str | None = None) -> None:
    """Make the directory and the log if they are missing, and claim them for an application.

    Raises WrongOwner, OSError and sqlite.Error.
    """
    path = data_dir.path
    if (problem := find_problem_of_folder(path)) is not None:  # SQLite would say that it is unable to open a file
        raise PermissionError(problem)
    new = not path.exists()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)  # raw callbacks are for nobody else on this machine
    except OSError as error:
        raise OSError(error.errno, f"{name_of(path)} cannot be made ({error.strerror}): name another --data") from None
    data_dir.hand_over()
    with open_log(data_dir) as log:
        if new:
            sync_folder(path.parent)
        sync_folder(path)
        if sdk_app_id is not None:
            _refuse_other_owner(data_dir, log.claim(sdk_app_id), sdk_app_id)


def check_log(data_dir: DataDir, sdk_app_id: str | None) -> None:
    """Raise NoData if there is no log, PermissionError if it may not be read, NewerSchema if it is of a newer version,
    WrongOwner if it is another application's."""
    path = data_dir.log_path
    data_dir.hand_over()
    if (problem := find_problem(path, write=False)) is not None:
        raise PermissionError(problem)
    if data_dir.log_file() is None:
        raise NoData(
            f"no Roomlapse data in {name_of(data_dir.path)}: start `roomlapse serve` or run `roomlapse import` with"
            " this --data"
        )
    with open_log_reader(data_dir) as log, sqlite.named_in_errors(path, write=False):
        schema.refuse_newer_log(log.conn, path)
        owner = log.owner()
    _refuse_other_owner(data_dir, owner, sdk_app_id)


def open_log(data_dir: DataDir, cache_kib: int = sqlite.CACHE_KIB) -> EventStore:
    """Open the log for writing. Raises OtherWriter where SQLite cannot be trusted with two writers."""
    writer_lock = None
    if not sqlite.LIBRARY_IS_SOUND:  # one writer is also the only one to checkpoint
        try:
            writer_lock = data_dir.lock_writer()
        except BlockingIOError:
            raise OtherWriter(
                f"another process writes {name_of(data_dir.log_path)}, and with two of them SQLite"
                f" {sqlite.LIBRARY_VERSION} can corrupt it: stop the other one first, or install the package pysqlite3"
            ) from None
    try:
        return EventStore(schema.open_log(data_dir.log_path, cache_kib), writer_lock, data_dir.log_file())
    except BaseException:
        if writer_lock is not None:
            writer_lock.close()
        raise


def open_own_log(data_dir: DataDir, sdk_app_id: str) -> EventStore:
    """Open the log for writing, if it is there and this application's: a log that went away is not begun anew.

    Raises NoData, WrongOwner and what `open_log` raises.
    """
    path = data_dir.log_path
    if data_dir.log_file() is None:
        raise NoData(f"{name_of(path)} is gone: put it back, or start the server again to begin a new one")
    log = open_log(data_dir)
    if log.owner() != sdk_app_id:
        log.close()
        raise WrongOwner(f"{name_of(path)} is not the log of SDKAppID {sdk_app_id} any more")
    return log


def open_log_reader(data_dir: DataDir, mapped_bytes: int = 0) -> EventStore:
    """Open the log for reading; see `sqlite.open_reader` for what may be mapped. Raises NoData."""
    return EventStore(sqlite.open_reader(data_dir.log_path, mapped_bytes))


def check_before_commit(data_dir: DataDir, log: EventStore, size: int) -> None:
    """Raise DiskFull if the log may not take so many bytes more, NoData if it is not the file of that name."""
    if log.file != data_dir.log_file():
        raise NoData(f"{name_of(data_dir.log_path)} was moved or removed: put it back")
    disk = os.statvfs(data_dir.path)
    free = disk.f_bavail * disk.f_frsize
    to_come = wal_bytes(log.conn) + 2 * size  # what is written to the WAL is written to the database later
    if disk.f_blocks and free < RESERVE_BYTES + to_come:
        raise DiskFull(f"the disk is full: {free >> 20} MiB are left of it, and {RESERVE_BYTES >> 20} are reserved")


def _refuse_other_owner(data_dir: DataDir, owner: str | None, sdk_app_id: str | None) -> None:
    if sdk_app_id is not None and owner is not None and owner != sdk_app_id:
        raise WrongOwner(
            f"{name_of(data_dir.path)} holds the callbacks of SDKAppID {owner}, not {sdk_app_id}:"
            " give each application its own --data"
        )
