"""How far each projection has read the log, which ones can read on, and which have to be rebuilt."""

import msgspec

from app.infra.errors import NewerSchema, ProjectionFailed
from app.log.store import EventStore
from app.projector.read_models import Checkpoint, ReadModels

REBUILD_FROM = 20_000
"""From so many unread events on, a projection that has read none is rebuilt: room by room is faster."""


def stale_projections(log: EventStore, models: ReadModels) -> dict[str, str]:
    """Name the projections that need a rebuild, each with the reason.

    Raises NewerSchema if a newer version of this program wrote one.
    """
    reasons = {}
    head = log.head().position
    for name, projection in models.projections.items():
        checkpoint = models.checkpoint(name)
        if checkpoint.version > projection.VERSION:
            raise NewerSchema(
                f"read model {name} is of version {checkpoint.version}, this Roomlapse knows {projection.VERSION}:"
                " upgrade it, or delete read_models.db to rebuild it in the older form"
            )
        if checkpoint.version < projection.VERSION:
            reasons[name] = f"version {checkpoint.version} is now {projection.VERSION}"
        elif checkpoint.chain != log.chain_at(checkpoint.position):
            reasons[name] = "it was made from another log"
        elif checkpoint.position == 0 and head >= REBUILD_FROM:
            reasons[name] = "it has read nothing yet"
    return reasons


def resume(models: ReadModels) -> None:
    """Let projections that stopped try again, after whatever made them stop has been mended."""
    if all(models.checkpoint(name).error is None for name in models.projections):
        return  # nearly always: without taking the write lock
    with models.transaction():
        for name in models.projections:
            checkpoint = models.checkpoint(name)
            if checkpoint.error is not None:
                models.save_checkpoint(name, msgspec.structs.replace(checkpoint, error=None))


def running_projections(log: EventStore, models: ReadModels) -> dict[str, Checkpoint]:
    """The checkpoints of the projections that can read on: not stopped, of this version and of this log."""
    return {
        name: checkpoint for name, checkpoint in projections_of_log(log, models).items() if checkpoint.error is None
    }


def projections_of_log(log: EventStore, models: ReadModels) -> dict[str, Checkpoint]:
    """The checkpoints of the projections that have read this log, in this version."""
    checkpoints = {name: models.checkpoint(name) for name in models.projections}
    return {
        name: checkpoint
        for name, checkpoint in checkpoints.items()
        if checkpoint.version == models.projections[name].VERSION
        and checkpoint.chain == log.chain_at(checkpoint.position)
    }


def stop(models: ReadModels, name: str, failure: ProjectionFailed) -> None:
    """Keep a projection where it is, and say why in its checkpoint."""
    models.save_checkpoint(name, msgspec.structs.replace(models.checkpoint(name), error=str(failure)))
