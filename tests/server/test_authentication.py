"""Which role a token, a header or a session gives."""

import base64
import hmac

import pytest

from app.infra.settings import Secrets
from app.server.authentication import Authentication
from app.server.sessions import ADMIN, COOKIE, READ, Role, Sessions

SECRETS = Secrets(("callback-token",), "read-token", "admin-token")


def role_of_token(token: bytes, secrets: Secrets) -> str | None:
    return Authentication(secrets).role_of_token(token)


def role_of(*headers: tuple[bytes, bytes], secrets: Secrets = SECRETS) -> str | None:
    return Authentication(secrets).role_of({"headers": list(headers)})


def cookie_of(role: Role, secrets: Secrets = SECRETS) -> str:
    return Sessions(secrets).write_cookie(role).partition(";")[0]


def test_each_token_opens_its_own() -> None:
    assert role_of_token(b"read-token", SECRETS) == READ
    assert role_of_token(b"admin-token", SECRETS) == ADMIN
    assert role_of_token(b"callback-token", SECRETS) is None
    for wrong in (b"", b"read-toke", b"read-token ", b"READ-TOKEN", b"read-tokenadmin-token", b"\0", b"None"):
        assert role_of_token(wrong, SECRETS) is None, wrong


def test_without_an_admin_token_the_api_token_opens_everything() -> None:
    secrets = Secrets((), "read-token", None)
    assert role_of_token(b"read-token", secrets) == ADMIN
    assert role_of_token(b"", secrets) is None


def test_without_an_api_token_everything_is_open() -> None:
    assert role_of_token(b"", Secrets()) == ADMIN
    assert role_of_token(b"whatever", Secrets(("callback-token",))) == ADMIN


@pytest.mark.parametrize("token", ["Schlüssel-ß", "密码", "🔑", "\u202etoken", "a b", "é" * 200])
def test_tokens_in_any_script_open_and_sign(token: str) -> None:
    secrets = Secrets((), token, f"{token}!")
    assert role_of_token(token.encode(), secrets) == READ
    assert role_of_token(f"{token}!".encode(), secrets) == ADMIN
    assert role_of_token(token.encode("utf-16"), secrets) is None
    cookie = cookie_of(ADMIN, secrets)
    assert Sessions(secrets).role_of(cookie) == ADMIN
    assert Sessions(SECRETS).role_of(cookie) is None


def test_a_bearer_token_opens_however_its_scheme_is_written() -> None:
    for header in (b"Bearer read-token", b"bearer read-token", b"BEARER  read-token "):
        assert role_of((b"authorization", header)) == READ
    for header in (
        b"Bearer",
        b"Bearer wrong",
        b"Basic read-token",
        b"read-token",
        b"Bearer read-token admin-token",
        b"",
    ):
        assert role_of((b"authorization", header)) is None
    assert role_of((b"x-authorization", b"Bearer read-token")) is None
    assert role_of() is None
    assert role_of(secrets=Secrets()) == ADMIN


def test_a_session_opens_unless_a_bearer_token_is_sent_too() -> None:
    cookie = (b"cookie", cookie_of(ADMIN).encode())
    assert role_of(cookie) == ADMIN
    assert role_of(cookie, (b"authorization", b"Basic eDp5")) == ADMIN  # a proxy's own password
    assert role_of(cookie, (b"authorization", b"Bearer read-token")) == READ
    assert role_of(cookie, (b"authorization", b"Bearer wrong")) is None
    assert role_of((b"cookie", b"%s=\xff" % COOKIE.encode())) is None


def test_secrets_are_compared_as_bytes_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[object, object]] = []
    compare = hmac.compare_digest

    def spy(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return compare(a, b)

    monkeypatch.setattr(hmac, "compare_digest", spy)
    cookie = cookie_of(READ)
    assert Sessions(SECRETS).role_of(cookie) == READ
    signature = base64.urlsafe_b64decode(cookie.rpartition(".")[2])
    assert compared == [(signature, signature)]
    compared.clear()
    assert role_of_token("read-tokén".encode(), SECRETS) is None
    # Both, though the first has not matched: the time taken must not tell which one nearly did.
    assert compared == [("read-tokén".encode(), b"read-token"), ("read-tokén".encode(), b"admin-token")]
    compared.clear()
    assert role_of_token(b"read-token", SECRETS) == READ
    assert len(compared) == 2
