"""Opens the data directory that a command works on."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from app.cli.progress import show_progress
from app.infra.data_dir import DataDir
from app.infra.settings import read_sdk_app_id
from app.log.files import check_log, open_log_reader
from app.projector.rebuild import MAPPED_BYTES
from app.projector.upkeep import bring_up, open_read_models
from app.queries.reader import Moment, open_reader

T = TypeVar("T")


def checked(data: Path) -> DataDir:
    """A data directory that holds a log of this application. Raises NoData, NewerSchema and WrongOwner."""
    data_dir = DataDir(data)
    check_log(data_dir, read_sdk_app_id())
    return data_dir


def ask(data: Path, question: Callable[[Moment], T]) -> T:
    """Answer a question, after bringing the read models up to the log's end.

    Nothing is open when it returns: printing may wait for a pager for hours, and the WAL would grow meanwhile.
    """
    data_dir = checked(data)
    bring_up_read_models(data_dir)
    with open_reader(data_dir) as reader, reader.moment() as moment:
        return question(moment)


def bring_up_read_models(data_dir: DataDir) -> None:
    """Let the read models read the log to its end, with a progress bar."""
    with (
        open_log_reader(data_dir, MAPPED_BYTES) as log,
        open_read_models(data_dir) as models,
        show_progress("catching up") as progress,
    ):
        bring_up(data_dir, log, models, progress, jobs=min(2, os.cpu_count() or 1))
