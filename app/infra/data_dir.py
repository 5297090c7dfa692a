"""A data directory: which files it holds, which of them is which now, and the locks on it."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from app.infra.errors import RebuildRunning
from app.infra.files import find_problem, find_problem_of_folder, hand_over, make_private, name_of

LOG_FILE = "events.db"
READ_MODELS_FILE = "read_models.db"
_REBUILD_LOCK = ".rebuild.lock"
_WRITER_LOCK = ".writer.lock"
_UNREADABLE = "read_models.unreadable"
_DATABASES = (LOG_FILE, READ_MODELS_FILE)
_FILES = frozenset({_REBUILD_LOCK, _WRITER_LOCK, _UNREADABLE}) | {
    name + suffix for name in _DATABASES for suffix in ("", "-wal", "-shm", "-journal")
}

FileId = tuple[int, int]
"""A file's device and inode: another file of the same name has another one."""


class DataDir:
    """The paths and locks of one application's data directory. Opens no database."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log_path = path / LOG_FILE
        self.read_models_path = path / READ_MODELS_FILE
        self.unreadable_path = path / _UNREADABLE
        """Where a file goes that stood in the place of the read models and is no database."""

    def log_file(self) -> FileId | None:
        """Which file the log is in now, None if there is none."""
        return _file_id(self.log_path)

    def read_models_file(self) -> FileId | None:
        """Which file the read models are in now, None if there is none. A reader of another one has to reopen."""
        return _file_id(self.read_models_path)

    def lock_writer(self) -> IO[str]:
        """Take the lock of the only writer; it is held as long as the file is open. Raises BlockingIOError."""
        file = _open_lock(self.path / _WRITER_LOCK)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            file.close()
            raise
        return file

    @contextmanager
    def rebuild_lock(self) -> Iterator[None]:
        """Hold the lock of the only rebuild; the system releases it when the process dies. Raises RebuildRunning."""
        with _open_lock(self.path / _REBUILD_LOCK) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RebuildRunning(f"another rebuild of {name_of(self.path)} is running: wait for it") from None
            yield

    def hand_over(self) -> None:
        """Give what root has copied into another user's directory to that user, if root runs this."""
        for name in sorted(_FILES):
            hand_over(self.path / name)


def is_data_directory(folder: Path) -> bool:
    """Whether a folder holds a log or read models."""
    return any((folder / name).exists() for name in _DATABASES)


def is_of_data_directory(file: Path, *known: Path) -> bool:
    """Whether a path leads to a file of a data directory, or to where one would be made, through links or not.

    `known`: data directories whose files are found behind hard links as well.
    """
    real = Path(os.path.realpath(file))
    if real.name.lower() in _FILES and is_data_directory(real.parent):
        return True
    found = _file_id(file)
    return found is not None and any(
        found == _file_id(folder / name) for folder in (*known, real.parent) for name in _FILES
    )


def _open_lock(path: Path) -> IO[str]:
    make_private(path)
    try:
        return path.open()  # a lock needs no more, so that a file of another user's may be in its place
    except OSError as error:
        problem = find_problem(path, write=False) or find_problem_of_folder(path.parent)
        raise PermissionError(problem or f"{name_of(path)}: {error.strerror}") from None


def _file_id(path: Path) -> FileId | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
