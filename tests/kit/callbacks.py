"""Bodies of callbacks."""

import json
from typing import Any

UPDATE = "Live.CallbackAfterUpdateRoomInfo"
APP_ID = "1400000001"
T0 = 1_670_574_414_123


def body_of(room_id: str, event_time_ms: int, operator: Any = "bob", **fields: Any) -> bytes:
    """The body of a room update."""
    content = {
        "CallbackCommand": UPDATE,
        "Operator_Account": operator,
        "RoomInfo": {"RoomId": room_id, **fields},
        "EventTime": event_time_ms,
    }
    return json.dumps(content, ensure_ascii=False).encode()
