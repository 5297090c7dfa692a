"""Tokens of forms: what a form sends has to come from a page that was written for the same browser.

A token is bound to a cookie: that of the session, or, for signing in, one that is made for that form. Another site can
read neither, so that it can write no form that is taken.
"""

import hashlib
import secrets as random
from typing import Final

from itsdangerous import TimestampSigner

from app.infra.settings import Secrets
from app.server.sessions import SESSION_S

FIELD: Final = "form_token"
COOKIE: Final = "roomlapse_form"
COOKIE_S: Final = 3600
"""How long a page for signing in may stay open."""


class FormTokens:
    """Writes and checks the tokens. The tokens of the API are the key, as they are for sessions."""

    def __init__(self, secrets: Secrets) -> None:
        self._key = "\0".join(secrets.all())

    def write(self, action: str, cookie: str) -> str:
        """The token of a form that is sent to `action`, for the browser that has a cookie."""
        return self._signer(action, cookie).sign("").decode()

    def fits(self, token: str, action: str, cookie: str) -> bool:
        """Whether a token was written for this form and browser, no longer ago than a session lasts."""
        return self._signer(action, cookie).validate(token, max_age=SESSION_S)

    def _signer(self, action: str, cookie: str) -> TimestampSigner:
        salt = f"{FIELD}\0{action}\0{cookie}"
        return TimestampSigner(self._key, salt=salt, key_derivation="hmac", digest_method=hashlib.sha384)


def new_cookie_value() -> str:
    """What binds a form for signing in to a browser that has no session."""
    return random.token_urlsafe(16)
