"""Opens a data directory for questions."""

from app.infra.data_dir import DataDir
from app.log.files import open_log_reader
from app.projector.upkeep import open_read_models_reader
from app.queries.rooms import Queries


def open_queries(data_dir: DataDir, *, check: bool = True) -> Queries:
    """Open both databases for reading; see `open_read_models_reader` for what is checked."""
    log = open_log_reader(data_dir)
    try:
        return Queries(log, open_read_models_reader(data_dir, check=check))
    except BaseException:
        log.close()
        raise
