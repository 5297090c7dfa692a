"""`GET /rooms/{room_id}`, the question asked most, answered without the framework, which costs more than the answer.

Whatever is odd (no role, an unknown parameter, a bad time, no such room, read models that are behind) is left to the
route, which asks again and says what is wrong.
"""

from urllib.parse import parse_qsl

import msgspec

from app.event import Cut
from app.infra.asgi import Scope, Send
from app.infra.errors import RoomlapseError
from app.infra.times import parse_time
from app.queries import rooms
from app.queries.answers import Room
from app.queries.pool import MustWait
from app.server.authentication import Authentication
from app.server.guards import SECURITY_HEADERS
from app.server.node import Service
from app.server.room_names import room_id_of

_PREFIX = "/rooms/"
_AS_OF = "as_of"  # a known_at may have to fold a whole history, which takes too long for an event loop


class Shortcut:
    """Answers a request at once, or not at all."""

    def __init__(self, service: Service, authentication: Authentication) -> None:
        self._service = service
        self._authentication = authentication

    async def take(self, scope: Scope, send: Send) -> bool:
        """Answer a request if it is plain; False if it is left to the routes."""
        if scope.get("method") != "GET" or not scope["path"].startswith(_PREFIX):
            return False
        room_id = room_id_of(scope["path"][len(_PREFIX) :])
        if not room_id or "/" in room_id or self._authentication.role_of(scope) is None:
            return False
        room = self._read(room_id, scope["query_string"])
        if room is None:
            return False
        body = msgspec.json.encode(room)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            *SECURITY_HEADERS,
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})
        return True

    def _read(self, room_id: str, query_string: bytes) -> Room | None:
        pairs = parse_qsl(query_string.decode("latin-1"), keep_blank_values=True)
        given = dict(pairs)
        if len(given) < len(pairs) or not given.keys() <= {_AS_OF}:
            return None
        try:
            cut = Cut(as_of_ms=parse_time(given[_AS_OF]) if given else None)
            return self._service.readers.read_at_once(lambda it: rooms.room(it, room_id, cut))
        except (RoomlapseError, MustWait):
            return None
