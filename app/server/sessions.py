"""Signing in with a token: a cookie that says what its holder may do, and until when, and that only we can write."""

import hashlib
import hmac
import time

from app.infra.settings import Secrets

COOKIE = "roomlapse_session"
LASTS_S = 12 * 3600
READ, ADMIN = "read", "admin"


def scope_of_token(token: bytes, secrets: Secrets) -> str | None:
    """What a token opens: `admin`, `read`, or None for nothing. Without an API token everything is open."""
    if secrets.api_token is None:
        return ADMIN
    # Both are compared, so that the time taken does not tell which one nearly matched.
    reads = hmac.compare_digest(token, secrets.api_token.encode())
    administers = hmac.compare_digest(token, (secrets.admin_token or secrets.api_token).encode())
    return ADMIN if administers else READ if reads else None


def write_cookie(scope: str, secrets: Secrets, now_s: float | None = None) -> str:
    """A Set-Cookie header for somebody who may do that, for twelve hours; out of reach of scripts and other sites."""
    until = str(int((time.time() if now_s is None else now_s) + LASTS_S))
    value = f"{scope}.{until}.{_sign(scope, until, secrets)}"
    return f"{COOKIE}={value}; Path=/; Max-Age={LASTS_S}; HttpOnly; SameSite=Strict"


def end_cookie() -> str:
    """A Set-Cookie header that ends a session."""
    return f"{COOKIE}=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict"


def scope_of_cookie(header: str, secrets: Secrets, now_s: float | None = None) -> str | None:
    """What the holder of a Cookie header may do; None if it holds no session of ours that still lasts."""
    # Not read with http.cookies: that gives up on all cookies at the first that another program wrote in its own way.
    pairs = (pair.strip().partition("=") for pair in header.split(";"))
    scope, _, rest = next((value for name, _, value in pairs if name == COOKIE), "").partition(".")
    until, _, signature = rest.partition(".")
    right = hmac.compare_digest(signature.encode(), _sign(scope, until, secrets).encode())
    if not right or int(until) < (time.time() if now_s is None else now_s):
        return None
    return scope


def _sign(scope: str, until: str, secrets: Secrets) -> str:
    # The tokens are the key: whoever changes one of them ends all sessions.
    key = hashlib.sha256("\0".join(["session", *secrets.all()]).encode()).digest()
    return hmac.new(key, f"{scope}.{until}".encode(), hashlib.sha256).hexdigest()
