"""The cookie of a session: who can write one, what it opens and for how long."""

import base64
import hmac
from http.cookies import SimpleCookie

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kit.clock import signed_at

from app.infra.settings import Secrets
from app.server.authentication import Authentication
from app.server.sessions import ADMIN, COOKIE, READ, SESSION_S, Role, Sessions, end_cookie

NOW_S = 1_773_260_000.75
SECRETS = Secrets(("callback-token",), "read-token", "admin-token")


def pair_of(set_cookie: str) -> str:
    """What a browser sends back for a Set-Cookie header."""
    return set_cookie.partition(";")[0]


def write_cookie(role: Role, secrets: Secrets = SECRETS, now_s: float = NOW_S) -> str:
    with signed_at(now_s):
        return Sessions(secrets).write_cookie(role)


def value_of(role: Role = READ, secrets: Secrets = SECRETS, now_s: float = NOW_S) -> str:
    return pair_of(write_cookie(role, secrets, now_s)).removeprefix(f"{COOKIE}=")


def role_of(header: str, secrets: Secrets = SECRETS, now_s: float = NOW_S) -> str | None:
    with signed_at(now_s):
        return Sessions(secrets).role_of(header)


def opens(value: str, secrets: Secrets = SECRETS, now_s: float = NOW_S) -> str | None:
    return role_of(f"{COOKIE}={value}", secrets, now_s)


# ---- a session of ours ----


@pytest.mark.parametrize("role", [READ, ADMIN])
def test_a_cookie_opens_what_it_was_written_for(role: Role) -> None:
    assert opens(value_of(role)) == role


def test_a_cookie_written_now_opens_now() -> None:
    sessions = Sessions(SECRETS)
    assert sessions.role_of(pair_of(sessions.write_cookie(READ))) == READ


def test_a_session_lasts_twelve_hours_and_no_second_longer() -> None:
    value = value_of()
    assert SESSION_S == 12 * 3600
    until = int(NOW_S) + SESSION_S
    assert opens(value, now_s=until) == READ
    assert opens(value, now_s=until + 1) is None
    assert opens(value, now_s=until + 10**9) is None


def test_the_cookie_is_out_of_reach_of_scripts_and_of_other_sites() -> None:
    for header in (write_cookie(READ), end_cookie()):
        flags = [part.strip() for part in header.split(";")[1:]]
        assert "HttpOnly" in flags
        assert "SameSite=Lax" in flags
        assert "Path=/" in flags
        assert not [flag for flag in flags if flag.lower().startswith("domain")]
    assert f"Max-Age={SESSION_S}" in write_cookie(READ)


def test_browsers_and_pythons_own_parser_read_the_same_cookie_as_we_do() -> None:
    morsel = SimpleCookie(write_cookie(ADMIN))[COOKIE]
    assert opens(morsel.value) == ADMIN
    assert (morsel["httponly"], morsel["samesite"], morsel["path"]) == (True, "Lax", "/")


def test_the_cookie_that_ends_a_session_is_empty_at_once_and_opens_nothing() -> None:
    assert "Max-Age=0" in end_cookie()
    assert pair_of(end_cookie()) == f"{COOKIE}="
    assert opens("") is None


def test_no_token_is_in_the_cookie() -> None:
    header = write_cookie(ADMIN)
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
        assert role_of(header) == READ, header


@pytest.mark.parametrize("name", [COOKIE.upper(), f"x{COOKIE}", f"{COOKIE}x", "session"])
def test_a_session_under_another_name_is_none(name: str) -> None:
    assert role_of(f"{name}={value_of()}") is None


# ---- forged and altered ----


def test_a_reader_cannot_write_admin_into_the_cookie() -> None:
    _, begun, signature = value_of(READ).split(".")
    for role in (ADMIN, "", "READ", "write", "read.admin", "admin.read"):
        assert opens(f"{role}.{begun}.{signature}") is None


def test_the_time_cannot_be_moved() -> None:
    role, begun, signature = value_of().split(".")
    later = value_of(now_s=NOW_S + 1).split(".")[1]
    earlier = value_of(now_s=NOW_S - 1).split(".")[1]
    for other in (later, earlier, f"A{begun}", f"{begun}=", f"+{begun}", f" {begun}", "9" * 40, "", "1e99"):
        assert opens(f"{role}.{other}.{signature}") is None, other


def test_a_clock_that_is_set_back_signs_nobody_out() -> None:
    assert opens(value_of(now_s=NOW_S + 1)) == READ
    assert opens(value_of(now_s=NOW_S + 3600)) == READ


def test_the_border_between_role_and_time_cannot_be_moved() -> None:
    role, begun, signature = value_of().split(".")
    for value in (f"{role}{begun}.{signature}", f"{role}.{begun}{signature}", f".{role}.{begun}.{signature}"):
        assert opens(value) is None


def test_a_signature_that_is_cut_lengthened_or_written_otherwise_is_none() -> None:
    head, _, signature = value_of().rpartition(".")
    for cut in range(len(signature)):
        assert opens(f"{head}.{signature[:cut]}") is None
    for other in (
        signature + "0",
        signature + ".",
        "0" + signature,
        signature.upper(),
        signature[::-1],
        signature + "!",
        signature + "=",
        signature + "\xe9",
        signature[:8] + "!!!!" + signature[8:],
        " " + signature,
        "0" * 64,
        "A" * 64,
    ):
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
    later = value_of(READ, now_s=NOW_S + 60).split(".")
    assert opens(".".join([*later[:2], read[2]])) is None


def test_a_cookie_signed_with_a_token_itself_or_with_nothing_is_forged() -> None:
    text = value_of(ADMIN).rpartition(".")[0]
    for key in (b"", b"read-token", b"admin-token", b"callback-token", COOKIE.encode()):
        for digest in ("sha1", "sha256", "sha384"):
            signature = hmac.digest(key, text.encode(), digest)
            assert opens(f"{text}.{signature.hex()}") is None
            assert opens(f"{text}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}") is None


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
    assert role_of(garbage) is None
    assert role_of(f"{COOKIE}={garbage}") is None
    assert role_of(f"{COOKIE}=read.{garbage}") is None
    assert Authentication(SECRETS).role_of_token(garbage.encode()) is None


@settings(max_examples=200)
@given(st.text(max_size=40), st.text(max_size=40), st.text(max_size=70))
def test_role_time_and_signature_in_any_script_open_nothing_and_raise_nothing(a: str, b: str, c: str) -> None:
    assert opens(f"{a}.{b}.{c}") is None


@settings(max_examples=200)
@given(st.integers(0, 200), st.characters(min_codepoint=33, max_codepoint=126))
def test_no_single_character_can_be_changed(at: int, char: str) -> None:
    value = value_of()
    i = at % len(value)
    changed = value[:i] + char + value[i + 1 :]
    assert opens(changed) == (READ if changed == value else None)


def test_the_signature_is_not_the_tokens_in_another_writing() -> None:
    signature = value_of(ADMIN).rpartition(".")[2]
    assert len(signature) == 64
    for token in SECRETS.all():
        assert token.encode().hex() not in signature
        assert base64.b64encode(token.encode()).decode() not in signature


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
    roles: tuple[Role, ...] = (READ, ADMIN)
    for role in roles:
        value = value_of(role)
        assert opens(value) == role
        assert opens(value, changed) is None
