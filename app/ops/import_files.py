"""Reads a file to import: JSON lines, objects over several lines, or one array; plain or gzip.

What cannot be read is refused whole, by its name, before its first line is given.
"""

import codecs
import gzip
import io
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from typing import IO

from app.infra.errors import BadFile
from app.ops.json_values import Broken, Value
from app.tencent.body import MAX_BODY_BYTES

MAX_LINE_BYTES = 8 * MAX_BODY_BYTES  # a body of control characters grows sixfold when it is written as a JSON string
_HEAD_BYTES = 64 * 1024
_PIECE_BYTES = 256 * 1024
_GZIP = b"\x1f\x8b"
_OTHERS = {
    b"SQLite format 3\0": "a SQLite database: a backup is restored by copying it to events.db in an empty directory",
    b"\x28\xb5\x2f\xfd": "compressed with zstd: unpack it first",
    b"BZh": "compressed with bzip2: unpack it first",
    b"\xfd7zXZ\0": "compressed with xz: unpack it first",
    b"PK\x03\x04": "a zip archive: unpack it first",
}
_BOMS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
"""UTF-32 first: its mark begins with that of UTF-16."""
_ENCODINGS = {
    rb"\0\0\0[^\0]": "UTF-32",
    rb"[^\0]\0\0\0": "UTF-32",
    rb"\0[^\0]": "UTF-16",
    rb"[^\0]\0": "UTF-16",
}
"""How two characters of ASCII, as JSON begins with, look in them."""


def read_lines(file: IO[bytes], name: str = "the file") -> Iterator[bytes]:
    """Give the lines of a file, or the elements of an array, a bounded part of each that is too long.

    An object over several lines is given as one, with empty lines for the others behind it, so that numbers of lines
    stay right. Raises BadFile.
    """
    again = file.seekable()
    head, file = _begin(file, name, again=again)
    if head.startswith(_GZIP):
        head, file = _begin(io.BufferedReader(gzip.GzipFile(fileobj=file), _PIECE_BYTES), name, again=again)
    for magic, what in _OTHERS.items():
        if head.startswith(magic):
            raise BadFile(f"{name} is {what}")
    for mark, encoding in _BOMS.items():
        if head.startswith(mark):
            raise _bad_encoding(name, encoding)
    for beginning, encoding in _ENCODINGS.items():
        if re.match(beginning, head):
            raise _bad_encoding(name, encoding)
    if head.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"["):
        return _read_array(file, name)
    return _in_sentences(_read_values(file), name)


def _bad_encoding(name: str, encoding: str) -> BadFile:
    return BadFile(f"{name} is written in {encoding}: write it in UTF-8, as `iconv -f {encoding} -t UTF-8` does")


def _begin(file: IO[bytes], name: str, *, again: bool) -> tuple[bytes, IO[bytes]]:
    """The first bytes of a file, and the file with them; `again`: it can be read twice."""
    head = b""
    try:
        while len(head) < _HEAD_BYTES and (piece := file.read(_HEAD_BYTES - len(head))):
            head += piece
            if b"\n" in piece:  # somebody may write into a pipe line by line
                break
    except _CUT_GZIP as error:
        raise _bad_gzip(name, error) from None
    if again:
        file.seek(-len(head), io.SEEK_CUR)
        return head, file
    return head, io.BufferedReader(_Joined(head, file), _PIECE_BYTES)


class _Joined(io.RawIOBase):
    """Some bytes that were read already, and the file behind them."""

    def __init__(self, head: bytes, file: IO[bytes]) -> None:
        self._head = head
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # as io.BufferedReader calls it
        piece = self._head[: len(buffer)] or self._file.read(len(buffer))
        self._head = self._head[len(piece) :]
        buffer[: len(piece)] = piece
        return len(piece)


_CUT_GZIP = (EOFError, zlib.error, gzip.BadGzipFile)


def _bad_gzip(name: str, error: BaseException) -> BadFile:
    if isinstance(error, EOFError):
        return BadFile(f"{name} ends in the middle of its gzip data: it was cut off. Get it whole, and import that")
    return BadFile(f"{name} holds gzip data that are damaged ({error}): get it again")


def _in_sentences(lines: Iterator[bytes], name: str) -> Iterator[bytes]:
    try:
        yield from lines
    except _CUT_GZIP as error:
        raise _bad_gzip(name, error) from None


# ---- lines ----


def _read_cut(file: IO[bytes]) -> Iterator[bytes]:
    """Lines, without a byte order mark; one that is too long is cut off soon after MAX_LINE_BYTES."""
    while line := file.readline(MAX_LINE_BYTES + 1):
        rest = line
        while len(rest) > MAX_LINE_BYTES and not rest.endswith(b"\n"):
            rest = file.readline(MAX_LINE_BYTES + 1)
        yield line.removeprefix(codecs.BOM_UTF8)


def _read_values(file: IO[bytes]) -> Iterator[bytes]:
    lines = _read_cut(file)
    again: bytes | None = None
    while (line := next(lines, None) if again is None else again) is not None:
        again = None
        if _looks_whole(line) or len(line) > MAX_LINE_BYTES:
            yield line
            continue
        part, count, again = _gather(line, lines)
        yield part
        yield from [b"\n"] * (count - 1)


def _looks_whole(line: bytes) -> bool:
    """Whether a line is no beginning of an object or an array, or surely all of one."""
    text = line.strip()
    if not text.startswith((b"{", b"[")):
        return True
    return text.startswith(b"{") and text.endswith(b"}") and text.count(b"{") == text.count(b"}")


def _gather(line: bytes, lines: Iterator[bytes]) -> tuple[bytes, int, bytes | None]:
    """Add the lines that an object or array goes on in; give it, how many lines it has, and the line behind a broken
    one. What is too long is cut, but followed to its end: no part of it is taken for a value."""
    value, text, count = Value(), b"", 0
    rest: bytes | None = line
    while rest is not None:
        try:
            end = value.follow(rest)
        except Broken:
            if count:  # as if a line was cut off: this one may be whole
                return text, count, rest
            return rest, 1, None
        count += 1
        text += rest if len(text) <= MAX_LINE_BYTES else b""
        if end is not None:
            return text, count, None
        rest = next(lines, None)
    return text, count, None


# ---- an array ----


def _read_array(file: IO[bytes], name: str) -> Iterator[bytes]:
    """Follow the array to its end, and only then give its elements."""
    if file.seekable():
        return _read_twice(file, name)
    copy = tempfile.TemporaryFile()  # noqa: SIM115  it is closed behind the last element
    try:
        shutil.copyfileobj(file, copy, _PIECE_BYTES)
        copy.seek(0)
        return _then_close(copy, _read_twice(copy, name))
    except BaseException as error:
        copy.close()
        if isinstance(error, _CUT_GZIP):
            raise _bad_gzip(name, error) from None
        raise


def _read_twice(file: IO[bytes], name: str) -> Iterator[bytes]:
    begin = file.tell()
    for _ in _in_sentences(_elements(file, name), name):
        pass
    file.seek(begin)
    return _elements(file, name)


def _then_close(file: IO[bytes], elements: Iterator[bytes]) -> Iterator[bytes]:
    with file:
        yield from elements


def _elements(file: IO[bytes], name: str) -> Iterator[bytes]:
    """The elements of an array. Raises BadFile where it is broken."""
    pieces = _Pieces(file)
    assert pieces.skip_blank() == b"["
    pieces.at += 1
    done = 0
    if pieces.skip_blank() != b"]":
        while True:
            try:
                element = _element(pieces)
            except Broken:
                raise _broken(name, pieces, done) from None
            done += 1
            yield element
            if (byte := pieces.skip_blank()) == b"]":
                break
            if byte != b",":
                raise _broken(name, pieces, done)
            pieces.at += 1
            pieces.skip_blank()
    pieces.at += 1
    if pieces.skip_blank():
        raise BadFile(
            f"{name} is a JSON array with something behind it, at byte {pieces.place}: an array has to be all there is"
        )


def _element(pieces: "_Pieces") -> bytes:
    value, text = Value(), b""
    while pieces.fill():
        end = value.follow(pieces.piece, pieces.at)
        if len(text) <= MAX_LINE_BYTES:
            text += pieces.piece[pieces.at : end]
        pieces.at = len(pieces.piece) if end is None else end
        if end is not None:
            return text
    raise Broken


def _broken(name: str, pieces: "_Pieces", done: int) -> BadFile:
    if pieces.fill():
        where = f"is broken behind element {done}, near byte {pieces.place}"
    else:
        where = f"ends in the middle, behind element {done}"
    return BadFile(f"{name} is a JSON array that {where}: nothing of it was taken, mend it first")


class _Pieces:
    """A file in pieces, and the place in it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._before = 0
        self.piece = file.read(_PIECE_BYTES)
        self.at = len(codecs.BOM_UTF8) if self.piece.startswith(codecs.BOM_UTF8) else 0

    @property
    def place(self) -> int:
        """How many bytes stand before."""
        return self._before + self.at

    def fill(self) -> bool:
        """Read on if need be; whether there is anything left."""
        if self.at >= len(self.piece):
            self._before += len(self.piece)
            self.piece, self.at = self._file.read(_PIECE_BYTES), 0
        return bool(self.piece)

    def skip_blank(self) -> bytes:
        """Skip white space; the byte behind it, empty at the end."""
        while self.fill():
            match = _BLANK.match(self.piece, self.at)
            assert match is not None
            self.at = match.end()
            if self.at < len(self.piece):
                return self.piece[self.at : self.at + 1]
        return b""


_BLANK = re.compile(rb"[ \t\r\n]*+")
