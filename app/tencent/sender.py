"""Callbacks as the sender makes them, for simulations and tests."""

import json
from typing import Any
from urllib.parse import urlencode

from app.tencent.body import UPDATE_ROOM_INFO
from app.tencent.request import sign


def compose_update(room_id: str, operator: str, event_time_ms: int, patch: dict[str, Any]) -> bytes:
    """Write the body of a room update, as the sender does."""
    content = {
        "CallbackCommand": UPDATE_ROOM_INFO,
        "Operator_Account": operator,
        "RoomInfo": {"RoomId": room_id, **patch},
        "EventTime": event_time_ms,
    }
    return json.dumps(content, ensure_ascii=False).encode()


def signed_query(sdk_app_id: str, token: str | None, now_s: float, client_ip: str, platform: str) -> str:
    """Write a callback's query string, as the sender does; signed when there is a token."""
    fields = {
        "SdkAppid": sdk_app_id,
        "CallbackCommand": UPDATE_ROOM_INFO,
        "contenttype": "json",
        "ClientIP": client_ip,
        "OptPlatform": platform,
    }
    if token is not None:
        request_time = str(int(now_s))
        fields |= {"RequestTime": request_time, "Sign": sign(token, request_time)}
    return urlencode(fields)
