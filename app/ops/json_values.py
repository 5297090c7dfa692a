"""Follows a JSON value through a text that comes in pieces, to where it ends. Looks at its structure only."""

import re

_MAX_DEPTH = 1000
_BLANK = re.compile(rb"[ \t\r\n]*+")
_STRING = re.compile(rb'[^"\\\x00-\x1f]*+(?:\\[^\x00-\x1f][^"\\\x00-\x1f]*+)*+')
_SCALAR = re.compile(rb"[\w.+-]*+")
_KEY, _VALUE, _COLON, _NEXT = "a key", "a value", "a colon", "a comma or the end"
_CLOSES = {b"}": b"{", b"]": b"["}


class Broken(Exception):
    """What is there is no JSON value, and would be none whatever comes behind it."""


class Value:
    """One value: an object, an array or a scalar."""

    def __init__(self) -> None:
        self._open: list[bytes] = []
        self._due = _VALUE
        self._may_close = False
        """Whether what is open may end here without the key or the value that is due: it is empty."""
        self._is_key = False
        self._in_string = self._in_scalar = self._escaped = False

    def follow(self, piece: bytes, at: int = 0) -> int | None:
        """Go on with a piece from a place; the place behind the value's end, None if it goes on. Raises Broken."""
        while True:
            if self._in_string:
                at = self._follow_string(piece, at)
            elif self._in_scalar:
                at = _end_of(_SCALAR, piece, at)
                if at < len(piece):
                    self._in_scalar = False
                    self._ended()
            else:
                at = _end_of(_BLANK, piece, at)
                if at < len(piece):
                    at = self._take(piece[at : at + 1], at)
            if self._due is _NEXT and not (self._open or self._in_string or self._in_scalar):
                return at
            if at >= len(piece):
                return None

    def _follow_string(self, piece: bytes, at: int) -> int:
        if self._escaped:
            at, self._escaped = at + 1, False
        at = _end_of(_STRING, piece, at)
        if at >= len(piece):
            return at
        if piece[at : at + 1] == b'"':
            self._in_string = False
            if self._is_key:
                self._due = _COLON
            else:
                self._ended()
        elif piece[at : at + 1] == b"\\" and at + 1 == len(piece):
            self._escaped = True
        else:
            raise Broken  # a line break in a string, as where a line was cut off
        return at + 1

    def _take(self, byte: bytes, at: int) -> int:
        due, may_close = self._due, self._may_close
        self._may_close = False
        if byte in _CLOSES:
            if not self._open or self._open[-1] != _CLOSES[byte] or not (due is _NEXT or may_close):
                raise Broken
            self._open.pop()
            self._ended()
        elif byte == b'"' and due in (_KEY, _VALUE):
            self._in_string, self._is_key = True, due is _KEY
        elif byte in (b"{", b"[") and due is _VALUE:
            if len(self._open) == _MAX_DEPTH:
                raise Broken
            self._open.append(byte)
            self._due, self._may_close = (_KEY if byte == b"{" else _VALUE), True
        elif byte == b":" and due is _COLON:
            self._due = _VALUE
        elif byte == b"," and due is _NEXT:
            self._due = _KEY if self._open[-1] == b"{" else _VALUE
        elif due is _VALUE and _SCALAR.fullmatch(byte):
            self._in_scalar = True
        else:
            raise Broken
        return at + 1

    def _ended(self) -> None:
        self._due = _NEXT


def _end_of(pattern: re.Pattern[bytes], piece: bytes, at: int) -> int:
    match = pattern.match(piece, at)
    assert match is not None
    return match.end()
