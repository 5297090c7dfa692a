"""Worker processes that end with the command they work for, and the garbage collector of processes that run long."""

import gc
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from threading import Thread
from typing import Any

_YOUNG, _MIDDLE, _OLD = 50_000, 20, 100


@contextmanager
def workers(count: int, begin: Callable[..., None] | None = None, *args: Any) -> Iterator[ProcessPoolExecutor]:
    """Start up to `count` processes as work comes; each calls `begin` with the arguments first."""
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
            pool.shutdown(wait=False, cancel_futures=True)  # an error is reported without waiting for tasks that run
            raise
        # Not left to the interpreter's exit: in a worker of another pool, what tells these processes to end would by
        # then be gone.
        pool.shutdown()


def _begin(begin: Callable[..., None] | None, args: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group, and the parent alone decides
    Thread(target=_end_with_parent, daemon=True).start()
    if begin is not None:
        begin(*args)
    settle_memory()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)  # a killed parent cannot end its pool; nothing here is worth finishing


def settle_memory() -> None:
    """Exempt what a program holds once it is up from garbage collection, and collect the rest less often.

    A batch of events is tens of thousands of objects that are all in use until it is written, hardly any of them in a
    cycle: collecting as often as Python does by itself took a tenth of a projector's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, _MIDDLE, _OLD)
