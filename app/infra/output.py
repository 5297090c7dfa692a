"""Writes a file that is there whole or not at all, and never over a file of a data directory."""

import errno
import fcntl
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from app.infra.data_dir import LOG_FILE, is_data_directory, is_of_data_directory
from app.infra.files import hand_over, name_of, sync, sync_folder

_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV, errno.EINVAL}
"""What link() says on a file system without hard links, or where something forbids them."""
_MAX_NAME_BYTES = 255
_STREAMS = ("/dev/stdin", "/dev/stdout", "/dev/stderr")
STDOUT = Path("/dev/stdout")


@contextmanager
def write_whole(file: Path, *, replace: bool = False) -> Iterator[Path]:
    """Give the path of an empty file to write; when the block ends it is synced and gets its name.

    A symbolic link stays, and what it leads to is made or replaced. Raises FileExistsError where a file is there,
    unless `replace`, and OSError. No file of that name is made then, and one that was there stays.
    """
    target = Path(os.path.realpath(file))
    if os.path.lexists(target) and not replace:
        raise FileExistsError(f"{name_of(file)} is there already: choose another name, or say --force to replace it")
    if replace and _is_database(target):
        raise FileExistsError(f"{name_of(file)} is a database, which is not replaced: choose another name")
    partial = _partial_of(target)
    with _named_in_errors(file), _begun(partial, file):
        try:
            yield partial
            sync(partial)
            if target.name == LOG_FILE or is_data_directory(target.parent):
                hand_over(partial)
            if replace:
                _keep_mode(target, partial)
                partial.replace(target)
            else:
                _link(partial, target)
            sync_folder(target.parent)
        finally:
            partial.unlink(missing_ok=True)


def refuse_data_file(file: Path, data: Path) -> None:
    """Raise FileExistsError if a path is one of a data directory, of `data` or any other."""
    if is_of_data_directory(file, data):
        raise FileExistsError(
            f"{name_of(file)} is a file of a data directory: nothing else is written there, choose another name"
        )


def _is_database(file: Path) -> bool:
    try:
        with file.open("rb") as stream:
            return stream.read(16) == b"SQLite format 3\0"
    except OSError:
        return False


@contextmanager
def open_output(file: Path, data: Path, *, replace: bool = False) -> Iterator[IO[bytes]]:
    """Open a file as `write_whole` makes it, or a pipe, a device or a file that is open already (`/dev/stdout`).

    Those are not emptied. `data`: the data directory that is read. Errors name the file.
    """
    refuse_data_file(file, data)
    if (stream := _open_stream(file)) is not None:
        with _named_in_errors(file), stream:
            yield stream
    else:
        with write_whole(file, replace=replace) as partial, partial.open("wb") as stream:
            yield stream


@contextmanager
def _named_in_errors(file: Path) -> Iterator[None]:
    """Name the file that was asked for in errors of the system, which name another one or none."""
    try:
        yield
    except OSError as error:
        if error.errno is None or isinstance(error, BrokenPipeError):
            raise
        raise type(error)(error.errno, error.strerror, str(file)) from None


def _open_stream(file: Path) -> IO[bytes] | None:
    number = _descriptor_of(file)
    if number is not None:
        return os.fdopen(os.dup(number), "wb")
    try:
        mode = file.stat().st_mode
    except OSError:
        return None
    return None if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else file.open("wb")


def _descriptor_of(path: Path) -> int | None:
    """Which file of this process a path like /dev/stdout, /dev/fd/3 or /proc/self/fd/3 stands for."""
    own = {os.path.realpath("/proc/self/fd"), "/dev/fd"}
    for _ in range(8):
        folder, name = os.path.realpath(path.parent), path.name
        if folder in own and name.isascii() and name.isdigit():
            return int(name)
        if f"{folder}/{name}" in _STREAMS and not path.is_symlink():
            return _STREAMS.index(f"{folder}/{name}")
        if not path.is_symlink():
            return None
        path = Path(folder) / path.readlink()
    return None


def _partial_of(target: Path) -> Path:
    name = f".{target.name}.partial"
    if len(os.fsencode(name)) > _MAX_NAME_BYTES:
        name = f".{hashlib.sha256(os.fsencode(target.name)).hexdigest()}.partial"
    return target.with_name(name)


@contextmanager
def _begun(partial: Path, file: Path) -> Iterator[None]:
    """Make the partial file, and hold a lock on it: it is removed if nobody does, as after a kill."""
    with suppress(FileNotFoundError):
        number = os.open(partial, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            _lock(number, file)
            partial.unlink()
        finally:
            os.close(number)
    number = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        _lock(number, file)
        yield
    finally:
        os.close(number)


def _lock(number: int, file: Path) -> None:
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BlockingIOError(f"another process writes {name_of(file)}: wait for it, or choose another name") from None


def _keep_mode(target: Path, partial: Path) -> None:
    """Give a file that replaces another the mode of that one."""
    with suppress(FileNotFoundError):
        partial.chmod(stat.S_IMODE(target.stat().st_mode))


def _link(partial: Path, target: Path) -> None:
    """Give a file its name, unless something has that: unlike a rename, a link fails then."""
    try:
        os.link(partial, target)
    except FileExistsError:
        raise FileExistsError(f"{name_of(target)} has come up meanwhile: choose another name") from None
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # Only this process has it: what is replaced is the empty file that was just made.
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        try:
            partial.replace(target)
        except BaseException:
            target.unlink()
            raise
