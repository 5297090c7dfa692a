"""Tokens of forms: which browser, which form and which time they fit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.clock import signed_at

from app.infra.settings import Secrets
from app.server.form_tokens import FormTokens, new_cookie_value
from app.server.sessions import SESSION_S

NOW_S = 1_773_260_000
FORMS = FormTokens(Secrets(("callback-token",), "read-token", "admin-token"))


def token(action: str = "sign-out", cookie: str = "cookie", now_s: int = NOW_S, forms: FormTokens = FORMS) -> str:
    with signed_at(now_s):
        return forms.write(action, cookie)


def fits(text: str, action: str = "sign-out", cookie: str = "cookie", now_s: int = NOW_S) -> bool:
    with signed_at(now_s):
        return FORMS.fits(text, action, cookie)


def test_a_token_fits_its_form_and_browser_for_as_long_as_a_session_lasts() -> None:
    assert fits(token())
    assert fits(token(), now_s=NOW_S + SESSION_S)
    assert not fits(token(), now_s=NOW_S + SESSION_S + 1)
    assert not fits(token(), now_s=NOW_S - 1)


def test_a_token_fits_no_other_form_browser_or_server() -> None:
    assert not fits(token(), action="sign-in")
    assert not fits(token(), cookie="another")
    assert not fits(token(action="sign-out\0cookie", cookie=""), cookie="cookie")
    assert not fits(token(forms=FormTokens(Secrets(("callback-token",), "read-token", "other-token"))))


@pytest.mark.parametrize("text", ["", ".", "..", "x", ".x.y", "\0", "é", "a" * 5000])
def test_garbage_fits_nothing(text: str) -> None:
    assert not fits(text)


@given(st.text(max_size=60))
def test_any_text_fits_nothing_and_raises_nothing(text: str) -> None:
    assert not fits(text.encode("utf-8", "replace").decode())
    assert not fits(f".{text}".encode("utf-8", "replace").decode(), cookie=text.encode("utf-8", "replace").decode())


def test_cookies_are_new_each_time() -> None:
    assert len({new_cookie_value() for _ in range(50)}) == 50
