"""Processes that work for one command, and end with it however it ends."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from threading import Thread
from typing import Any

from app.infra.memory import settle_memory


@contextmanager
def workers(count: int, begin: Callable[..., None] | None = None, *args: Any) -> Iterator[ProcessPoolExecutor]:
    """Processes that start when they are needed, each by calling `begin` with the arguments."""
    with ProcessPoolExecutor(
        count,
        # A fork would carry over open databases, which SQLite forbids.
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin,
        initargs=(begin, args),
    ) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # whoever stops this early does not wait for what is at work
            raise
        # Nobody else may end first what tells them to end, as happens in a process that is itself one of a pool's.
        pool.shutdown()


def _begin(begin: Callable[..., None] | None, args: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; who is asked to stop is the parent
    Thread(target=_end_with_parent, daemon=True).start()
    if begin is not None:
        begin(*args)
    settle_memory()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)  # a killed parent cannot end its pool; nothing here is worth finishing
