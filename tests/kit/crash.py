"""The death of a process between two statements of its work."""

from typing import Any

from app.infra import sqlite


class PowerGone(BaseException):
    """The process is gone: nothing after this statement happens."""


class FailingConnection:
    """A real connection that dies before its n-th statement, and does nothing from then on, not even a rollback."""

    def __init__(self, conn: sqlite.Connection, statements: int) -> None:
        self._conn = conn
        self._left = statements

    def execute(self, sql: str, args: Any = ()) -> Any:
        self._left -= 1
        if self._left < 0:
            raise PowerGone
        return self._conn.execute(sql, args)

    def executemany(self, sql: str, rows: list[Any]) -> None:
        for row in rows:
            self.execute(sql, row)

    @property
    def in_transaction(self) -> bool:
        return self._left >= 0 and self._conn.in_transaction

    def close(self) -> None:
        self._conn.close()
