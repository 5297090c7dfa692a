"""A data directory: which files it holds, which of them is which now, and the locks on it."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from app.infra.errors import RebuildRunning

LOG_FILE = "events.db"
READ_MODELS_FILE = "read_models.db"
_REBUILD_LOCK = ".rebuild.lock"
_WRITER_LOCK = ".writer.lock"

FileId = tuple[int, int]
"""A file's device and inode: another file of the same name has another one."""


class DataDir:
    """The paths and locks of one application's data directory. Opens no database."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log_path = path / LOG_FILE
        self.read_models_path = path / READ_MODELS_FILE

    def log_file(self) -> FileId | None:
        """Which file the log is in now, None if there is none."""
        return _file_id(self.log_path)

    def read_models_file(self) -> FileId | None:
        """Which file the read models are in now, None if there is none. A reader of another one has to reopen."""
        return _file_id(self.read_models_path)

    def lock_writer(self) -> IO[str]:
        """Take the lock of the only writer; it is held as long as the file is open. Raises BlockingIOError."""
        file = (self.path / _WRITER_LOCK).open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            file.close()
            raise
        return file

    @contextmanager
    def rebuild_lock(self) -> Iterator[None]:
        """Hold the lock of the only rebuild; the system releases it when the process dies. Raises RebuildRunning."""
        with (self.path / _REBUILD_LOCK).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RebuildRunning(f"another rebuild of {self.path} is running: wait for it") from None
            yield


def _file_id(path: Path) -> FileId | None:
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino
