"""Which role a request has: programs send a bearer token, browsers the cookie of a session."""

import hmac

from app.infra.asgi import Scope
from app.infra.settings import Secrets
from app.server.form_tokens import FormTokens
from app.server.sessions import ADMIN, COOKIE, READ, Role, Sessions, cookie_in


class Authentication:
    """Knows the tokens. Without an API token every request has the role `admin`."""

    def __init__(self, secrets: Secrets) -> None:
        self.sessions = Sessions(secrets)
        self.forms = FormTokens(secrets)
        self._guarded = secrets.api_token is not None
        self._api_token = (secrets.api_token or "").encode()
        self._admin_token = (secrets.admin_token or secrets.api_token or "").encode()

    def role_of(self, scope: Scope) -> Role | None:
        """The role of a request, None if it has none."""
        if not self._guarded:
            return ADMIN
        scheme, _, token = _header(scope, b"authorization").partition(b" ")
        if scheme.lower() == b"bearer":
            return self.role_of_token(token.strip())
        return self.sessions.role_of(_cookies(scope))

    def role_of_token(self, token: bytes) -> Role | None:
        """The role that a token gives, None if it is none of ours."""
        if not self._guarded:
            return ADMIN
        # Both are compared, so that the time taken does not tell which one nearly matched.
        reads = hmac.compare_digest(token, self._api_token)
        administers = hmac.compare_digest(token, self._admin_token)
        return ADMIN if administers else READ if reads else None

    def session_in(self, scope: Scope) -> str:
        """The cookie of the session that a request belongs to, empty if it belongs to none."""
        return cookie_of(scope, COOKIE) if self.sessions.role_of(_cookies(scope)) is not None else ""


def cookie_of(scope: Scope, name: str) -> str:
    """A cookie that a request brings, empty if it does not."""
    return cookie_in(_cookies(scope), name)


def _cookies(scope: Scope) -> str:
    return _header(scope, b"cookie").decode("latin-1")


def _header(scope: Scope, name: bytes) -> bytes:
    """The first header of a name, empty if there is none."""
    return next((value for given, value in scope["headers"] if given == name), b"")
