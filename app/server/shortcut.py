"""The question asked most, `GET /rooms/{room_id}`, answered without the framework when nothing is odd about it.

Whatever is odd (a wrong token, an unknown parameter, a time that is none, no such room, read models that are behind) is
left to the routes, which ask again and say what is wrong.
"""

import hmac
from urllib.parse import parse_qsl

import msgspec

from app.event import Cut
from app.infra.asgi import Scope, Send
from app.infra.errors import BadTime, NotFound, Unavailable
from app.infra.times import parse_time
from app.queries import rooms
from app.queries.answers import Room
from app.queries.pool import MustWait
from app.server.guards import SECURITY_HEADERS
from app.server.node import Service

_PREFIX = "/rooms/"
_AS_OF = "as_of"  # a known_at may have to fold a whole history, which is no work for an event loop


class Shortcut:
    """Answers a request at once, or not at all."""

    def __init__(self, service: Service) -> None:
        self._service = service
        secrets = service.settings.secrets
        self._authorizations = [
            b"Bearer " + token.encode() for token in (secrets.api_token, secrets.admin_token) if token is not None
        ]

    async def take(self, scope: Scope, send: Send) -> bool:
        """Answer a request if it is plain; False if it is left to the routes."""
        if scope.get("method") != "GET" or not scope["path"].startswith(_PREFIX):
            return False
        room_id = scope["path"][len(_PREFIX) :]
        if not room_id or "/" in room_id or not self._is_authorized(scope):
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

    def _is_authorized(self, scope: Scope) -> bool:
        if not self._authorizations:
            return True
        given = b"".join(value for name, value in scope["headers"] if name == b"authorization")
        return sum(hmac.compare_digest(given, right) for right in self._authorizations) > 0

    def _read(self, room_id: str, query_string: bytes) -> Room | None:
        pairs = parse_qsl(query_string.decode("latin-1"), keep_blank_values=True)
        given = dict(pairs)
        if len(given) < len(pairs) or not given.keys() <= {_AS_OF}:
            return None
        try:
            cut = Cut(as_of_ms=parse_time(given[_AS_OF]) if given else None)
            return self._service.readers.read_at_once(lambda it: rooms.room(it, room_id, cut))
        except (BadTime, NotFound, Unavailable, MustWait):
            return None
