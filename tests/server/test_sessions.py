"""The cookie of a session: who can write one, what it opens and for how long."""

import base64
import hmac
from http.cookies import SimpleCookie

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.infra.settings import Secrets
from app.server.sessions import ADMIN, COOKIE, LASTS_S, READ, end_cookie, scope_of_cookie, scope_of_token, write_cookie

NOW_S = 1_773_260_000.75
SECRETS = Secrets(("callback-token",), "read-token", "admin-token")


def pair_of(set_cookie: str) -> str:
    """What a browser sends back for a Set-Cookie header."""
    return set_cookie.partition(";")[0]


def value_of(scope: str = READ, secrets: Secrets = SECRETS) -> str:
    return pair_of(write_cookie(scope, secrets, NOW_S)).removeprefix(f"{COOKIE}=")


def opens(value: str, secrets: Secrets = SECRETS, now_s: float = NOW_S) -> str | None:
    return scope_of_cookie(f"{COOKIE}={value}", secrets, now_s)


# ---- a session of ours ----


@pytest.mark.parametrize("scope", [READ, ADMIN])
def test_a_cookie_opens_what_it_was_written_for(scope: str) -> None:
    assert opens(value_of(scope)) == scope


def test_a_cookie_written_now_opens_now() -> None:
    assert scope_of_cookie(pair_of(write_cookie(READ, SECRETS)), SECRETS) == READ


def test_a_session_lasts_twelve_hours_and_no_second_longer() -> None:
    value = value_of()
    until = int(value.split(".")[1])
    assert LASTS_S == 12 * 3600
    assert until == int(NOW_S) + LASTS_S
    assert opens(value, now_s=until) == READ
    assert opens(value, now_s=until + 0.01) is None
    assert opens(value, now_s=until + 10**9) is None


def test_the_cookie_is_out_of_reach_of_scripts_and_of_other_sites() -> None:
    for header in (write_cookie(READ, SECRETS, NOW_S), end_cookie()):
        flags = [part.strip() for part in header.split(";")[1:]]
        assert "HttpOnly" in flags
        assert "SameSite=Strict" in flags
        assert "Path=/" in flags
        assert not [flag for flag in flags if flag.lower().startswith("domain")]
    assert f"Max-Age={LASTS_S}" in write_cookie(READ, SECRETS, NOW_S)


def test_browsers_and_pythons_own_parser_read_the_same_cookie_as_we_do() -> None:
    morsel = SimpleCookie(write_cookie(ADMIN, SECRETS, NOW_S))[COOKIE]
    assert opens(morsel.value) == ADMIN
    assert (morsel["httponly"], morsel["samesite"], morsel["path"]) == (True, "Strict", "/")


def test_the_cookie_that_ends_a_session_is_empty_at_once_and_opens_nothing() -> None:
    assert "Max-Age=0" in end_cookie()
    assert pair_of(end_cookie()) == f"{COOKIE}="
    assert opens("") is None


def test_no_token_is_in_the_cookie() -> None:
    header = write_cookie(ADMIN, SECRETS, NOW_S)
    for token in SECRETS.all():
        assert token not in header


@pytest.mark.parametrize(
    "others",
    [
        "theme=dark",
        "flag",
        'prefs={"a":[1,2],"b":"x y"}',
        'q="never closed',
        "a/b=1",
        "a[b]=1",
        "=1",
        "näme=Größe",
        "x=1, y=2",
        "x=\x01",
        "path=/; domain=example",
        "",
    ],
)
def test_whatever_cookies_another_program_on_this_host_sets_ours_is_found(others: str) -> None:
    ours = f"{COOKIE}={value_of()}"
    for header in (f"{others}; {ours}", f"{ours}; {others}", f"{others};{ours};{others}"):
        assert scope_of_cookie(header, SECRETS, NOW_S) == READ, header


@pytest.mark.parametrize("name", [COOKIE.upper(), f"x{COOKIE}", f"{COOKIE}x", "session"])
def test_a_session_under_another_name_is_none(name: str) -> None:
    assert scope_of_cookie(f"{name}={value_of()}", SECRETS, NOW_S) is None


# ---- forged and altered ----


def test_a_reader_cannot_write_admin_into_the_cookie() -> None:
    _, until, signature = value_of(READ).split(".")
    for scope in (ADMIN, "", "READ", "write", "read.admin", "admin.read"):
        assert opens(f"{scope}.{until}.{signature}") is None


def test_the_time_cannot_be_moved() -> None:
    scope, until, signature = value_of().split(".")
    for other in (
        str(int(until) + 1),
        str(int(until) - 1),
        f"0{until}",
        f"+{until}",
        f" {until}",
        "9" * 40,
        "",
        "1e99",
    ):
        assert opens(f"{scope}.{other}.{signature}") is None, other


def test_the_border_between_scope_and_time_cannot_be_moved() -> None:
    scope, until, signature = value_of().split(".")
    for value in (f"{scope}{until}.{signature}", f"{scope}.{until}{signature}", f".{scope}.{until}.{signature}"):
        assert opens(value) is None


def test_a_signature_that_is_cut_lengthened_or_written_otherwise_is_none() -> None:
    head, _, signature = value_of().rpartition(".")
    for cut in range(len(signature)):
        assert opens(f"{head}.{signature[:cut]}") is None
    for other in (signature + "0", signature + ".", "0" + signature, signature.upper(), signature[::-1], "0" * 64):
        assert opens(f"{head}.{other}") is None


def test_each_digit_of_the_signature_counts() -> None:
    head, _, signature = value_of().rpartition(".")
    for i, digit in enumerate(signature):
        other = "0" if digit != "0" else "1"
        assert opens(f"{head}.{signature[:i]}{other}{signature[i + 1 :]}") is None


def test_the_signature_of_one_cookie_fits_no_other() -> None:
    read, admin = value_of(READ).split("."), value_of(ADMIN).split(".")
    assert read[2] != admin[2]
    assert opens(".".join([*admin[:2], read[2]])) is None
    later = pair_of(write_cookie(READ, SECRETS, NOW_S + 60)).removeprefix(f"{COOKIE}=").split(".")
    assert opens(".".join([*later[:2], read[2]])) is None


def test_a_cookie_signed_with_a_token_itself_or_with_nothing_is_forged() -> None:
    for key in (b"", b"read-token", b"admin-token", b"callback-token", b"session"):
        text = f"{ADMIN}.{int(NOW_S) + 60}"
        assert opens(f"{text}.{hmac.new(key, text.encode(), 'sha256').hexdigest()}") is None


@settings(max_examples=300)
@given(st.text(st.characters(min_codepoint=0, max_codepoint=255), max_size=120))
@example("..")
@example("...")
@example("read")
@example("read.")
@example("read.x.y")
@example("read.١٢.é")
@example("\0")
@example('"\\400"')
@example('"\\"')
@example("a=b; =; ;;")
def test_garbage_opens_nothing_and_raises_nothing(garbage: str) -> None:
    # The header as the server hands it on: bytes read as Latin-1.
    assert scope_of_cookie(garbage, SECRETS, NOW_S) is None
    assert scope_of_cookie(f"{COOKIE}={garbage}", SECRETS, NOW_S) is None
    assert scope_of_cookie(f"{COOKIE}=read.{garbage}", SECRETS, NOW_S) is None
    assert scope_of_token(garbage.encode(), SECRETS) is None


@settings(max_examples=200)
@given(st.text(max_size=40), st.text(max_size=40), st.text(max_size=70))
def test_scope_time_and_signature_in_any_script_open_nothing_and_raise_nothing(a: str, b: str, c: str) -> None:
    assert opens(f"{a}.{b}.{c}") is None


@settings(max_examples=200)
@given(st.integers(0, 200), st.characters(min_codepoint=33, max_codepoint=126))
def test_no_single_character_can_be_changed(at: int, char: str) -> None:
    value = value_of()
    i = at % len(value)
    changed = value[:i] + char + value[i + 1 :]
    assert opens(changed) == (READ if changed == value else None)


# ---- tokens ----


@pytest.mark.parametrize(
    "changed",
    [
        Secrets(("callback-token",), "other-token", "admin-token"),
        Secrets(("callback-token",), "read-token", "other-token"),
        Secrets(("callback-token",), "read-token", None),
        Secrets(("other-token",), "read-token", "admin-token"),
        Secrets(("callback-token", "new-token"), "read-token", "admin-token"),
        Secrets((), "read-token", "admin-token"),
    ],
)
def test_whoever_changes_a_token_ends_all_sessions(changed: Secrets) -> None:
    for scope in (READ, ADMIN):
        value = value_of(scope)
        assert opens(value) == scope
        assert opens(value, changed) is None


def test_each_token_opens_its_own() -> None:
    assert scope_of_token(b"read-token", SECRETS) == READ
    assert scope_of_token(b"admin-token", SECRETS) == ADMIN
    assert scope_of_token(b"callback-token", SECRETS) is None
    for wrong in (b"", b"read-toke", b"read-token ", b"READ-TOKEN", b"read-tokenadmin-token", b"\0", b"None"):
        assert scope_of_token(wrong, SECRETS) is None, wrong


def test_without_an_admin_token_the_api_token_opens_everything() -> None:
    secrets = Secrets((), "read-token", None)
    assert scope_of_token(b"read-token", secrets) == ADMIN
    assert scope_of_token(b"", secrets) is None


def test_without_an_api_token_everything_is_open() -> None:
    assert scope_of_token(b"", Secrets()) == ADMIN
    assert scope_of_token(b"whatever", Secrets(("callback-token",))) == ADMIN


@pytest.mark.parametrize("token", ["Schlüssel-ß", "密码", "🔑", "\u202etoken", "a b", "é" * 200])
def test_tokens_in_any_script_open_and_sign(token: str) -> None:
    secrets = Secrets((), token, f"{token}!")
    assert scope_of_token(token.encode(), secrets) == READ
    assert scope_of_token(f"{token}!".encode(), secrets) == ADMIN
    assert scope_of_token(token.encode("utf-16"), secrets) is None
    assert opens(value_of(ADMIN, secrets), secrets) == ADMIN
    assert opens(value_of(ADMIN, secrets)) is None


def test_secrets_are_compared_as_bytes_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[object, object]] = []
    compare = hmac.compare_digest

    def spy(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return compare(a, b)

    monkeypatch.setattr(hmac, "compare_digest", spy)
    value = value_of()
    assert opens(value) == READ
    signature = value.rpartition(".")[2].encode()
    assert compared == [(signature, signature)]
    compared.clear()
    assert scope_of_token("read-tokén".encode(), SECRETS) is None
    # Both, though the first has not matched: the time taken must not tell which one nearly did.
    assert compared == [("read-tokén".encode(), b"read-token"), ("read-tokén".encode(), b"admin-token")]
    compared.clear()
    assert scope_of_token(b"read-token", SECRETS) == READ
    assert len(compared) == 2


def test_the_signature_is_not_the_tokens_in_another_writing() -> None:
    signature = value_of(ADMIN).rpartition(".")[2]
    assert len(signature) == 64
    for token in SECRETS.all():
        assert token.encode().hex() not in signature
        assert base64.b64encode(token.encode()).decode() not in signature
