"""Runs the application on uvicorn, in this process, until it is told to stop."""

import asyncio
import logging
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, cast

import uvicorn

from app.infra import sqlite
from app.infra.processes import settle_memory
from app.server.app import create_app
from app.server.connections import Connection, cut_idle, cut_unfinished
from app.server.node import Service
from app.server.stream import Notifier

_SHUTDOWN_S = 5
_SEND_REST_S = 2  # for a request that is half sent when the server is asked to stop
_BACKLOG = 2048
_MAX_FILES = 65_536

_log = logging.getLogger(__name__)


class _Server(uvicorn.Server):
    """Ends the event streams before it waits for the connections, and calls `on_started` when it listens."""

    def __init__(self, config: uvicorn.Config, notifier: Notifier, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._notifier = notifier
        self._on_started = on_started
        self._cutter: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002  as uvicorn has it
        """Stop, also at a second Ctrl-C, at which uvicorn would leave threads and files open."""
        self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on SIGINT and SIGTERM; uvicorn's own would raise the signal again at the end."""
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._cutter = asyncio.create_task(cut_idle(self._connections))
            self._on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._cutter is not None:
            self._cutter.cancel()
        self._notifier.stop()
        asyncio.get_running_loop().call_later(_SEND_REST_S, cut_unfinished, self._connections, 0.0)
        await super().shutdown(sockets)

    @property
    def _connections(self) -> set[Connection]:
        return cast(set[Connection], self.server_state.connections)


class Running:
    """A server that is about to run: its listening socket is open, its address known."""

    def __init__(self, service: Service) -> None:
        """Bind the address. Raises OSError if it is taken."""
        settings = service.settings
        self.service = service
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind((settings.host, settings.port))
        except OSError as error:
            self._socket.close()
            address = f"{settings.host}:{settings.port}"
            raise OSError(error.errno, f"cannot listen on {address} ({error.strerror}): try another --port") from None
        host, port = self._socket.getsockname()[:2]
        self.url = f"http://[{host}]:{port}" if family == socket.AF_INET6 else f"http://{host}:{port}"
        self._server: _Server | None = None

    def run(self, on_started: Callable[[], None] = lambda: None) -> None:
        """Serve until a signal or `stop`."""
        notifier = Notifier()

        def on_listening() -> None:
            settle_memory()
            _log.info("listening", extra={"url": self.url, "data": str(self.service.settings.data)})
            on_started()

        def make_connection(*args: Any, **kwargs: Any) -> Connection:
            connection = Connection(*args, **kwargs)
            connection.on_broken = self.service.receiver.note_broken
            return connection

        config = uvicorn.Config(
            create_app(self.service, notifier),
            http=cast(type[Connection], make_connection),  # on httptools: h11 has let smuggled requests through
            timeout_keep_alive=self.service.settings.idle_s,
            ws="none",
            lifespan="on",
            access_log=False,  # its lines would hold each callback's Sign
            log_config=None,
            server_header=False,
            proxy_headers=False,  # nothing asks where a request comes from
            backlog=_BACKLOG,
            timeout_graceful_shutdown=_SHUTDOWN_S,
        )
        _allow_many_files()
        self._server = _Server(config, notifier, on_listening)
        try:
            self._server.run([self._socket])
        finally:
            self._socket.close()
            _log.info("stopped")

    def stop(self) -> None:
        """Ask the server to stop; `run` returns when it has."""
        if self._server is not None:
            self._server.should_exit = True

    @property
    def failed(self) -> bool:
        """Whether the application did not start."""
        return self._server is not None and not self._server.started


def _allow_many_files() -> None:
    """Raise the limit of open files: slow connections must not keep others out."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, _MAX_FILES)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def warn_of_library() -> None:
    """Log a warning if this SQLite has a known fault."""
    if not sqlite.LIBRARY_IS_SOUND:
        _log.warning(
            "SQLite %s can corrupt a database in WAL mode (fixed in 3.51.3): install the package pysqlite3",
            sqlite.LIBRARY_VERSION,
        )
