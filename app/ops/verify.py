"""Verifies a data directory: recomputes ids, chain and read models, and names the first difference."""

from contextlib import suppress

from app.infra import sqlite
from app.infra.data_dir import READ_MODELS_FILE, DataDir
from app.infra.errors import NewerSchema, NoData
from app.infra.progress import Progress, no_progress
from app.log.audit import Difference, verify_log
from app.log.files import open_log_reader
from app.log.records import Head
from app.log.store import EventStore
from app.projector.audit import verify_read_models
from app.projector.read_models import ReadModels
from app.projector.upkeep import open_read_models_reader


def verify_data(data_dir: DataDir, progress: Progress = no_progress) -> tuple[Head | None, Difference | None]:
    """Verify the log, and the read models if they can be opened; that they cannot is a difference too.

    Returns the log's end (None if it cannot be read) and the first difference. Raises sqlite.Error if a file cannot be
    opened now.
    """
    with open_log_reader(data_dir) as log:
        head = None
        with suppress(*sqlite.UNREADABLE):  # verify_log finds and names it
            head = log.head()
        try:
            models = open_read_models_reader(data_dir)
        except (*sqlite.UNREADABLE, NewerSchema, NoData) as error:
            if isinstance(error, sqlite.Error) and not sqlite.is_of_corrupt_file(error):
                raise
            return head, verify_log(log, progress) or Difference(READ_MODELS_FILE, READ_MODELS_FILE, str(error))
        with models:
            return head, verify(log, models, progress)


def verify(log: EventStore, models: ReadModels, progress: Progress = no_progress) -> Difference | None:
    """Check the log (see `verify_log`), then each row and saved state of the read models against a fold from the room's
    first event. Writes nothing; servers may run meanwhile."""
    progress = _Passes(progress, 1 + len(models.projections))
    return verify_log(log, progress) or verify_read_models(log, models, progress)


class _Passes:
    """Shows several passes over the log as one progress: one pass for the log, one for each projection."""

    def __init__(self, progress: Progress, passes: int) -> None:
        self._progress = progress
        self._passes = passes
        self._over = self._last = 0

    def __call__(self, done: int, total: int) -> None:
        if done < self._last:
            self._over += 1
        self._last = done
        self._progress(self._over * total + done, self._passes * total)
