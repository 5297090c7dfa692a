"""Sessions: a signed cookie that says which role its holder has and when it was given."""

import hashlib
import re
from typing import Final, Literal

from itsdangerous import BadSignature, TimestampSigner

from app.infra.settings import Secrets

Role = Literal["read", "admin"]
READ: Final = "read"
ADMIN: Final = "admin"
COOKIE = "roomlapse_session"
SESSION_S = 12 * 3600
_SPELLING = re.compile(r"(read|admin)\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{64}")
_ROLES: dict[bytes, Role] = {b"read": READ, b"admin": ADMIN}


class Sessions:
    """Writes and reads the cookies. The tokens are the key: changing one of them ends all sessions."""

    def __init__(self, secrets: Secrets) -> None:
        # SHA-384 fills its base64 to the last bit: of each signature there is one spelling.
        self._signer = TimestampSigner(
            "\0".join(secrets.all()), salt=COOKIE, key_derivation="hmac", digest_method=hashlib.sha384
        )

    def write_cookie(self, role: Role, root: str = "", *, secure: bool = False) -> str:
        """A Set-Cookie header for twelve hours under a path, out of reach of scripts; `secure`: it came by TLS."""
        return set_cookie(COOKIE, self._signer.sign(role).decode(), SESSION_S, root, secure=secure)

    def role_of(self, header: str) -> Role | None:
        """The role that a Cookie header gives; None without a session of ours, or when it has ended."""
        value = cookie_in(header, COOKIE)
        if not _SPELLING.fullmatch(value):  # base64 reads others as well
            return None
        try:
            role, begun_at = self._signer.unsign(value, return_timestamp=True)
        except BadSignature:
            return None
        # A clock that was set back since makes its age negative: it is ours all the same, and ends as it would have.
        return _ROLES.get(role) if self._signer.get_timestamp() - begun_at.timestamp() <= SESSION_S else None


def end_cookie(root: str = "", *, secure: bool = False) -> str:
    """A Set-Cookie header that ends a session."""
    return set_cookie(COOKIE, "", 0, root, secure=secure)


def set_cookie(name: str, value: str, max_age_s: int, root: str, *, secure: bool) -> str:
    """A Set-Cookie header. Links from elsewhere bring the cookie along, forms and scripts from elsewhere do not."""
    flags = "; HttpOnly; SameSite=Lax" + ("; Secure" if secure else "")
    return f"{name}={value}; Path={root or '/'}; Max-Age={max_age_s}{flags}"


def cookie_in(header: str, name: str) -> str:
    """The value of the first cookie of a name in a Cookie header, empty if there is none."""
    # http.cookies would give up on all cookies at the first that another program wrote in its own way.
    pairs = (pair.strip().partition("=") for pair in header.split(";"))
    return next((value for given, _, value in pairs if given == name), "")
