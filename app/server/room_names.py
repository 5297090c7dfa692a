"""A room's id as a segment of a path. Clients take `.` and `..` for folders, escaped or not: these get a ~ in front."""

import re
from urllib.parse import quote

_TAKEN = re.compile(r"~*\.\.?")  # with what would be read as one of them


def segment_of(room_id: str) -> str:
    """The segment that names a room, percent-encoded."""
    return quote(f"~{room_id}" if _TAKEN.fullmatch(room_id) else room_id, safe="")


def room_id_of(segment: str) -> str:
    """The room that a decoded segment names; `..` names itself too, where a client sends it as it is."""
    return segment.removeprefix("~") if _TAKEN.fullmatch(segment) else segment
