"""Files of a data directory as the system sees them: made for its owner alone, and why one cannot be used."""

import errno
import logging
import os
import pwd
import shlex
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from app.infra.texts import visible

_MAX_FOLDER_BYTES = 480  # SQLite's limit is 512, with `/read_models.db-journal` behind it
_NO_FOLDER_SYNC = {errno.EINVAL, errno.EBADF, errno.EACCES, errno.ENOTSUP, errno.EISDIR}

_log = logging.getLogger(__name__)


def name_of(path: Path | str) -> str:
    """A path as a message shows it: what is no text, or would break the line, is escaped."""
    return visible(os.fspath(path))


# ---- making ----


def make_private(path: Path | str) -> None:
    """Make a file that is not there yet, for its owner alone: bodies are for nobody else on this machine.

    One that is there is not even opened: closing it would release all locks that SQLite holds on it in this process.
    Errors are left to the opening that follows.
    """
    with suppress(OSError):
        number = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            _fit(number, Path(path))
        finally:
            os.close(number)


def _fit(number: int, path: Path) -> None:
    """Let a file that was just made be its folder's owner's, and its group's where that may write the folder."""
    folder = path.absolute().parent.stat()
    if os.geteuid() == 0 and folder.st_uid != 0:
        try:
            os.fchown(number, folder.st_uid, folder.st_gid)
        except OSError as error:
            _log.warning("%s", _not_handed_over(path, folder.st_uid, error))
    if folder.st_mode & stat.S_IWGRP and os.fstat(number).st_gid == folder.st_gid:
        with suppress(OSError):  # a file system without modes
            os.fchmod(number, 0o660)


def hand_over(path: Path) -> None:
    """Give a file of root's to the owner of its folder, if root runs this: a backup that root has copied there, say.

    No link, and no file of another name as well: it could be somebody else's.
    """
    if os.geteuid() != 0:
        return
    try:
        folder, file = path.absolute().parent.stat(), path.lstat()
    except OSError:
        return
    if folder.st_uid == 0 or file.st_uid != 0 or not stat.S_ISREG(file.st_mode) or file.st_nlink != 1:
        return
    try:
        os.chown(path, folder.st_uid, folder.st_gid, follow_symlinks=False)
    except OSError as error:
        _log.warning("%s", _not_handed_over(path, folder.st_uid, error))


def _not_handed_over(path: Path, uid: int, error: OSError) -> str:
    return (
        f"{name_of(path)} belongs to {_user(os.geteuid())} and cannot be given to {_user(uid)}, whose directory it is"
        f" in ({error.strerror}): a server of theirs cannot use it until `{_chown(uid, path)}` succeeds"
    )


def sync(path: Path) -> None:
    """Sync a closed file."""
    number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def sync_folder(path: Path) -> None:
    """Sync a folder, whose names are lost in a power cut until that is done. Not every file system can."""
    try:
        sync(path)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise


# ---- why not ----


def find_problem(path: Path, *, write: bool) -> str | None:
    """Why this user cannot use a database file, in a sentence that says what to do; None if nothing is found.

    A file that is missing is no problem, unless it cannot be made.
    """
    path = path.absolute()
    return (
        _find_long_path(path)
        or _find_shut_folder(path)
        or next(filter(None, (_find_in_file(file, write=write) for file in _with_wal(path))), None)
        or (_find_in_folder(path.parent) if write or _needs_wal(path) else None)
        or _find_lack()
    )


def find_problem_of_folder(path: Path) -> str | None:
    """Why this user cannot make files in a folder; None if nothing is found, or it is not there."""
    path = path.absolute()
    return _find_long_path(path / "events.db") or _find_shut_folder(path / "events.db") or _find_in_folder(path)


def _with_wal(path: Path) -> Iterator[Path]:
    yield path
    for suffix in ("-wal", "-shm"):
        yield path.with_name(f"{path.name}{suffix}")


def _needs_wal(path: Path) -> bool:
    """Whether a reader has to make the files of the WAL: they go when the last one closes the database."""
    return not all(file.exists() for file in _with_wal(path))


def _find_long_path(path: Path) -> str | None:
    size = len(os.fsencode(path.parent))
    if size > _MAX_FOLDER_BYTES:
        return (
            f"the path {name_of(path.parent)[:80]}... is too long: it has {size} bytes, and SQLite takes"
            f" {_MAX_FOLDER_BYTES}: name a shorter --data"
        )
    for part in path.parts:
        if len(os.fsencode(part)) > os.pathconf("/", "PC_NAME_MAX"):
            return f"the name {name_of(part)[:80]}... is too long for a file system: name a shorter --data"
    return None


def _find_shut_folder(path: Path) -> str | None:
    """Find the outermost folder that this user may not enter, or that is none."""
    for folder in reversed(path.parents):
        try:
            mode = folder.stat().st_mode
        except FileNotFoundError:
            return None
        except OSError as error:
            return f"{name_of(folder)} cannot be reached: {error.strerror}"
        if not stat.S_ISDIR(mode):
            return f"{name_of(folder)} is a file, where a directory has to be: name another --data"
        if not _may(folder, os.X_OK):
            return _not_allowed(folder, "enter", "x")
    return None


def _find_in_file(path: Path, *, write: bool) -> str | None:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"{name_of(path)} cannot be reached: {error.strerror}"
    if stat.S_ISDIR(mode):
        return f"{name_of(path)} is a directory, where a database file has to be: move it away"
    if not stat.S_ISREG(mode):
        return f"{name_of(path)} is no regular file, as a database has to be: move it away"
    if not _may(path, os.R_OK):
        return _not_allowed(path, "read", "r")
    if write and not _may(path, os.W_OK):
        return _not_allowed(path, "write", "w")
    return None


def _find_in_folder(path: Path) -> str | None:
    if path.is_dir() and not _may(path, os.W_OK | os.X_OK):
        return _not_allowed(path, "write", "w")
    return None


def _find_lack() -> str | None:
    try:
        os.close(os.open("/", os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            return "too many files are open: raise the limit (`ulimit -n`, or LimitNOFILE= of a service)"
    return None


def _may(path: Path, mode: int) -> bool:
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def _not_allowed(path: Path, verb: str, bit: str) -> str:
    """Say why a file or folder that is there may not be used: the mount, the owner, or the mode."""
    shown = name_of(path)
    if bit == "w" and os.statvfs(path).f_flag & os.ST_RDONLY:
        return (
            f"{shown} cannot be written: it is on a read-only file system: mount it read-write, or name another --data"
        )
    me, owner, folder_owner = os.geteuid(), path.stat().st_uid, path.parent.stat().st_uid
    if owner == me and not path.stat().st_mode & {"r": 0o400, "w": 0o200, "x": 0o100}[bit]:
        return f"{shown} cannot be {_DONE[verb]}: its mode forbids it: `chmod u+{bit} {shlex.quote(shown)}`"
    if me in (0, owner):
        return (
            f"{shown} cannot be {_DONE[verb]}, though its mode lets {_user(me)}: look for an attribute (`lsattr -d`,"
            " `chattr -i`), an access list (`getfacl`) or a security policy"
        )
    remedy = f"run this as {_user(owner)}"
    if verb != "enter" and (folder_owner == me or path.is_dir()):
        remedy = f"give it to this user (`{_chown(me, path)}`), or {remedy}"
    elif verb != "enter" and folder_owner != owner:
        remedy = f"give it to the owner of its directory (`{_chown(folder_owner, path)}`), or {remedy}"
    return f"{shown} cannot be {_DONE[verb]}: it belongs to {_user(owner)}, and this is {_user(me)}: {remedy}"


_DONE = {"read": "read", "write": "written", "enter": "entered"}


def _chown(uid: int, path: Path) -> str:
    recursive = "-R " if path.is_dir() else ""
    return f"chown {recursive}{_user(uid).removeprefix('user ')} {shlex.quote(name_of(path))}"


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # a container's user often has no name
        return f"user {uid}"
