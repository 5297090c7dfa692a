"""The read models of a data directory: made, mended and brought up to the log's end."""

import logging
from contextlib import suppress

from app.infra import sqlite
from app.infra.data_dir import DataDir
from app.infra.errors import CorruptFile, NewerSchema, ProjectionFailed, RebuildRunning
from app.infra.files import name_of
from app.infra.progress import Progress, no_progress
from app.log.store import EventStore
from app.projector.catch_up import catch_up_all
from app.projector.checkpoints import resume, stale_projections, stop
from app.projector.read_models import ReadModels, connect_read_models
from app.projector.rebuild import drop_leftovers, has_leftovers, rebuild
from app.projector.registry import known_projections

_log = logging.getLogger(__name__)


def open_read_models(data_dir: DataDir) -> ReadModels:
    """Open the read models for writing, with a table for each projection.

    Raises CorruptFile, NewerSchema and, of the folder of projections, BadSettings.
    """
    try:
        conn = connect_read_models(data_dir.read_models_path)
    except CorruptFile as error:
        raise CorruptFile(f"{error}; delete it, it is made again from the log") from None
    with sqlite.closed_on_error(conn):
        models = ReadModels(conn, known_projections())
        models.create()
    return models


def open_read_models_reader(data_dir: DataDir, *, check: bool = True) -> ReadModels:
    """Open the read models for reading. Raises NoData, and with `check` also where they are of an older layout, and
    NewerSchema; a server leaves that to its projector, which may make them again just now."""
    conn = sqlite.open_reader(data_dir.read_models_path)
    with sqlite.closed_on_error(conn), sqlite.named_in_errors(data_dir.read_models_path, write=False):
        models = ReadModels(conn, known_projections())
        if check:
            models.check_layout()
    return models


def create_read_models(data_dir: DataDir) -> None:
    """Make the read models if they are missing. A corrupt file, or one of a newer version, is left to the projector:
    callbacks are taken meanwhile. Raises sqlite.Error if there can be none."""
    try:
        with suppress(NewerSchema):
            open_read_models(data_dir).close()
    except sqlite.UNREADABLE as error:
        if not sqlite.is_of_corrupt_file(error):
            raise


def drop_corrupt_read_models(data_dir: DataDir) -> None:
    """Remove the read models if their file is corrupt: a server makes them again from the log.

    What does not even begin as a database may be somebody's: it is moved aside.
    """
    try:
        with open_read_models(data_dir) as models:
            fault = sqlite.find_fault(models.conn)
    except sqlite.UNREADABLE as error:
        if not sqlite.is_of_corrupt_file(error):
            raise
        fault = str(error)
    if fault is None:
        return
    path = data_dir.read_models_path
    _log.error("the read models are corrupt and made again: %s", fault)
    if not sqlite.looks_like_database(path):
        aside = data_dir.unreadable_path
        _log.error("what was there is now %s", name_of(aside))
        path.replace(aside)
    sqlite.remove(path)


def bring_up(
    data_dir: DataDir, log: EventStore, models: ReadModels, progress: Progress = no_progress, jobs: int = 1
) -> None:
    """Mend the read models, then let them read the log to its end."""
    mend(data_dir, log, models, progress, jobs)
    catch_up_all(log, models, progress)


def mend(
    data_dir: DataDir, log: EventStore, models: ReadModels, progress: Progress = no_progress, jobs: int = 1
) -> None:
    """Rebuild the read models that cannot go on from where they are, and let those that stopped try again.

    A projection that fails is stopped with its error in the checkpoint; one that somebody else is rebuilding is left
    to them. Raises NewerSchema.
    """
    resume(models)
    stale = stale_projections(log, models)
    for name, reason in stale.items():
        _log.warning("rebuilding %s: %s", name, reason)
    if stale:
        _rebuild(data_dir, log, models, list(stale), progress, jobs)
    if has_leftovers(models):
        with suppress(RebuildRunning), data_dir.rebuild_lock():
            drop_leftovers(models)


def _rebuild(
    data_dir: DataDir, log: EventStore, models: ReadModels, names: list[str], progress: Progress, jobs: int
) -> None:
    try:
        with data_dir.rebuild_lock():
            still = [name for name in names if name in stale_projections(log, models)]
            if still:  # somebody else may have done it meanwhile
                rebuild(log, models, still, jobs=jobs, progress=progress)
    except RebuildRunning as running:
        _log.warning("%s", running)
    except ProjectionFailed as failure:
        if len(names) == 1:
            with models.transaction():
                stop(models, names[0], failure)
            return
        for name in names:  # each alone: the others are not to wait for the one that fails
            _rebuild(data_dir, log, models, [name], progress, jobs)
