"""What folds gave, written: rows that differ, and saved states."""

from collections.abc import Iterable

from app.projector.columns import Columns
from app.projector.fold import Run, Saved, row_key
from app.projector.read_models import ReadModels
from app.projector.remembered import RoomState

Flat = tuple[list[Columns], list[Columns]]
"""The columns of rows and of saved states, as `Table.flatten` gives them."""


def write_runs(models: ReadModels, name: str, runs: Iterable[tuple[str, Saved, Run]]) -> None:
    """Store what the folds of some rooms gave, each with the saved state that it went on from.

    Only rows that differ are written. Call it inside the transaction that moves the checkpoint.
    """
    table, remembered = models.tables[name], models.remembered
    gone_rows: list[Columns] = []
    new_rows: list[Columns] = []
    gone_states: list[Columns] = []
    new_states: list[Columns] = []
    for room_id, saved, run in runs:
        last = remembered.take(name, room_id)
        if last is not None and last.saved is saved:  # in order: what may change are the last rows
            old = last.lines
        else:  # whatever stands after the saved state may have been folded without one of these events
            last = None
            old = table.lines(models.rows(name, room_id, first=run.first))
            gone_states.append((room_id, *saved.key))
        if last is not None and run.last.state is last.saved.state:
            lines = old
        else:
            lines = table.lines(run.rows)
            gone_rows += [(room_id, *key) for key in old if key not in lines]
            new_rows += [line for key, line in lines.items() if old.get(key) != line]
            if table.row.GROWS:
                touchable = models.projections[name].rows(room_id, run.last.state)
                lines = {key: lines[key] for key in map(row_key, touchable)}
        new_states += [table.write_state(room_id, save) for save in run.saves]
        remembered.keep(name, room_id, RoomState(run.last, lines))
    remembered.trim(name)  # not before: rooms of this batch would lose theirs
    models.conn.executemany(table.delete_row, gone_rows)
    models.conn.executemany(table.upsert_row, new_rows)
    models.conn.executemany(table.delete_states, gone_states)
    models.conn.executemany(table.insert_state, new_states)


def insert_flat(models: ReadModels, name: str, flat: Flat) -> None:
    """Store rows and saved states of rooms that have none yet."""
    table = models.tables[name]
    rows, states = flat
    models.conn.executemany(table.upsert_row, rows)
    models.conn.executemany(table.insert_state, states)
