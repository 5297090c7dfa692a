"""A data directory: which files it holds, whose they are, and how they are opened for writing and for reading."""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from app.infra import sqlite
from app.log.store import EventStore
from app.projector.catch_up import (
    Progress,
    catch_up_all,
    drop_leftovers,
    has_leftovers,
    no_progress,
    rebuild,
    resume,
    stale_projections,
    stop,
)
from app.projector.fold import ProjectionFailed
from app.projector.read_models import ReadModels
from app.queries.rooms import Queries
from projections import ALL

LOG_FILE = "events.db"
READ_MODELS_FILE = "read_models.db"
_REBUILD_LOCK = ".rebuild.lock"
_WRITER_LOCK = ".writer.lock"

RESERVE_BYTES = 16 * 2**20
"""What a server leaves free on the disk: the read models get to the log's end, so that reads go on when it is full."""

_log = logging.getLogger(__name__)


class NoRoom(Exception):
    """The disk is full, but for what is reserved."""


class WrongOwner(Exception):
    """The data belongs to another application."""


class RebuildRunning(Exception):
    """Somebody else is rebuilding the read models."""


class OtherWriter(Exception):
    """Somebody else writes the log, and this SQLite cannot be trusted with two."""


class DataDir:
    """The two databases of one application."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log_path = path / LOG_FILE
        self.read_models_path = path / READ_MODELS_FILE

    def create(self, sdk_app_id: str | None = None) -> None:
        """Make the directory and the log if they are missing, and claim them for an application.

        Raises WrongOwner, OSError and sqlite.Error.
        """
        new = not self.path.exists()
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)  # raw callbacks are for nobody else on this machine
        if not os.access(self.path, os.W_OK):  # SQLite would say that it is unable to open a file
            raise PermissionError(f"{self.path} cannot be written: give it to this user, or mount it read-write")
        log = self.open_log()
        try:
            if new:
                sqlite.sync(self.path.parent)
            sqlite.sync(self.path)
            if sdk_app_id is not None and (owner := log.claim(sdk_app_id)) != sdk_app_id:
                raise WrongOwner(_wrong_owner(self.path, owner, sdk_app_id))
        finally:
            log.close()

    def check(self, sdk_app_id: str | None) -> None:
        """Raise sqlite.NoData if there is no log here, sqlite.NewerSchema if it is of a newer version, WrongOwner if it
        is another application's."""
        if not self.log_path.is_file():
            raise sqlite.NoData(
                f"no Roomlapse data in {self.path}: start `roomlapse serve` or run `roomlapse import` with this --data"
            )
        log = self.open_log_reader()
        try:
            sqlite.refuse_newer_log(log.conn, self.log_path)
            owner = log.owner()
        except sqlite.Error as error:
            raise type(error)(f"{self.log_path}: {error}") from None
        finally:
            log.close()
        if sdk_app_id is not None and owner is not None and owner != sdk_app_id:
            raise WrongOwner(_wrong_owner(self.path, owner, sdk_app_id))

    def open_log(self, cache_kib: int = sqlite.CACHE_KIB) -> EventStore:
        """Open the log for writing. Raises OtherWriter where SQLite cannot be trusted with two of them."""
        if sqlite.LIBRARY_IS_SOUND:
            return EventStore(sqlite.open_log(self.log_path, cache_kib), file=_file_at(self.log_path))
        right = self._writing_right()
        try:
            return EventStore(sqlite.open_log(self.log_path, cache_kib), right, _file_at(self.log_path))
        except BaseException:
            right.close()
            raise

    def open_own_log(self, sdk_app_id: str) -> EventStore:
        """Open the log for writing, if it is there and this application's: a log that went away is not begun anew.

        Raises sqlite.NoData, WrongOwner and what `open_log` raises.
        """
        if not self.log_path.is_file():
            raise sqlite.NoData(f"{self.log_path} is gone: put it back, or start the server again to begin a new one")
        log = self.open_log()
        if log.owner() != sdk_app_id:
            log.close()
            raise WrongOwner(f"{self.log_path} is not the log of SDKAppID {sdk_app_id} any more")
        return log

    def check_before_commit(self, log: EventStore, size: int) -> None:
        """Raise NoRoom if the log may not take so many bytes more, sqlite.NoData if it is not the file of that name."""
        if log.file != _file_at(self.log_path):
            raise sqlite.NoData(f"{self.log_path} was moved or removed: put it back")
        disk = os.statvfs(self.path)
        free = disk.f_bavail * disk.f_frsize
        to_come = log.wal_bytes() + 2 * size  # what is written to the WAL is written to the database later
        if disk.f_blocks and free < RESERVE_BYTES + to_come:
            raise NoRoom(f"the disk is full: {free >> 20} MiB are left of it, and {RESERVE_BYTES >> 20} are reserved")

    def _writing_right(self) -> IO[str]:
        """Hold the right to write the log while the file is open: one writer is also the only one to checkpoint."""
        file = (self.path / _WRITER_LOCK).open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise OtherWriter(
                f"another process writes {self.log_path}, and with two of them SQLite {sqlite.LIBRARY_VERSION} can"
                " corrupt it: stop the other one first, or install the package pysqlite3"
            ) from None
        return file

    def open_log_reader(self, mapped_bytes: int = 0) -> EventStore:
        """Open the log for reading; see `sqlite.open_reader` for what may be mapped."""
        return EventStore(sqlite.open_reader(self.log_path, mapped_bytes))

    def open_read_models(self) -> ReadModels:
        """Open the read models for writing, with a table for each projection."""
        try:
            models = ReadModels(sqlite.open_read_models(self.read_models_path), ALL)
        except sqlite.NotADatabase as error:
            raise sqlite.NotADatabase(f"{error}; delete it, it is made again from the log") from None
        try:
            models.create()
        except BaseException:
            models.close()
            raise
        return models

    def create_read_models(self) -> None:
        """Make the read models if they are missing. A spoilt file, or one of a newer version, is left to the projector:
        callbacks are taken meanwhile. Raises sqlite.Error if there can be none."""
        try:
            with suppress(sqlite.NewerSchema):
                self.open_read_models().close()
        except sqlite.UNREADABLE as error:
            if not sqlite.tells_of_a_fault(error):
                raise

    def drop_spoilt_read_models(self) -> None:
        """Remove the read models if their file is spoilt: a server makes them again from the log.

        What does not even begin as a database may be somebody's: it is moved aside.
        """
        try:
            models = self.open_read_models()
            try:
                fault = sqlite.fault_of(models.conn)
            finally:
                models.close()
        except sqlite.UNREADABLE as error:
            if not sqlite.tells_of_a_fault(error):
                raise
            fault = str(error)
        if fault is None:
            return
        _log.error("the read models are spoilt and made again: %s", fault)
        if not sqlite.looks_like_one(self.read_models_path):
            aside = self.read_models_path.with_suffix(".unreadable")
            _log.error("what was there is now %s", aside)
            self.read_models_path.replace(aside)
        sqlite.remove(self.read_models_path)

    def read_models_file(self) -> tuple[int, int] | None:
        """Which file the read models are in, None if there is none: who has another one open has to open it anew."""
        return _file_at(self.read_models_path)

    def open_queries(self) -> Queries:
        """Open both databases for reading, whatever is in the read models: a server's may be made again just now."""
        log = self.open_log_reader()
        try:
            return Queries(log, ReadModels(sqlite.open_reader(self.read_models_path), ALL))
        except BaseException:
            log.close()
            raise

    def open_checked_queries(self) -> Queries:
        """The same, for who does not wait. Raises sqlite.NewerSchema and sqlite.NoData if the read models are of
        another layout."""
        queries = self.open_queries()
        try:
            queries.models.check_layout()
        except BaseException as error:
            queries.close()
            if isinstance(error, sqlite.Error):
                raise type(error)(f"{self.read_models_path}: {error}") from None
            raise
        return queries

    def bring_up(self, log: EventStore, models: ReadModels, progress: Progress = no_progress, jobs: int = 1) -> None:
        """Let the read models read the log to its end, after mending them."""
        self.mend(log, models, progress, jobs)
        catch_up_all(log, models, progress)

    def mend(self, log: EventStore, models: ReadModels, progress: Progress = no_progress, jobs: int = 1) -> None:
        """Rebuild the read models that cannot go on from where they are, and let those that stopped try again.

        A projection that fails is stopped with its error in the checkpoint; one that somebody else is rebuilding is
        left to them. Raises sqlite.NewerSchema.
        """
        resume(models)
        stale = stale_projections(log, models)
        for name, reason in stale.items():
            _log.warning("rebuilding %s: %s", name, reason)
        if stale:
            self._rebuild(log, models, list(stale), progress, jobs)
        if has_leftovers(models):
            with suppress(RebuildRunning), self.rebuild_lock():
                drop_leftovers(models)

    def _rebuild(self, log: EventStore, models: ReadModels, names: list[str], progress: Progress, jobs: int) -> None:
        try:
            with self.rebuild_lock():
                still = [name for name in names if name in stale_projections(log, models)]
                if still:  # somebody else may have done it meanwhile
                    rebuild(log, models, still, jobs=jobs, progress=progress)
        except RebuildRunning as running:
            _log.warning("%s", running)
        except ProjectionFailed as failure:
            if len(names) == 1:
                with sqlite.transaction(models.conn):
                    stop(models, names[0], failure)
                return
            for name in names:  # each alone: the others are not to wait for the one that fails
                self._rebuild(log, models, [name], progress, jobs)

    @contextmanager
    def rebuild_lock(self) -> Iterator[None]:
        """Hold the right to rebuild; a process that dies lets go of it. Raises RebuildRunning."""
        with (self.path / _REBUILD_LOCK).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RebuildRunning(f"another rebuild of {self.path} is running: wait for it") from None
            yield


def _file_at(path: Path) -> tuple[int, int] | None:
    """Which file has a name now, None if there is none."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def _wrong_owner(path: Path, owner: str, sdk_app_id: str) -> str:
    return f"{path} holds the callbacks of SDKAppID {owner}, not {sdk_app_id}: give each application its own --data"
