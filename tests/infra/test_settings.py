"""Settings: who may be let in from where, and secrets that stay secret (contract §5)."""

from pathlib import Path

import pytest

from app.infra.errors import BadSettings
from app.infra.settings import (
    Secrets,
    Settings,
    is_loopback,
    read_address,
    read_secrets,
    service_address_notice,
)

BOTH = Secrets(("token-one", "token-two"), "api-secret")


def settings_for(host: str, secrets: Secrets = Secrets(), insecure: bool = False) -> Settings:  # noqa: B008  frozen
    return Settings("1400000001", host=host, secrets=secrets, insecure=insecure)


def test_the_defaults_are_the_loopback_port_8000_and_roomlapse_data() -> None:
    settings = Settings("1400000001")
    assert (settings.host, settings.port, settings.data) == ("127.0.0.1", 8000, Path("roomlapse-data"))
    assert settings.insecure is False
    assert settings.secrets == Secrets((), None)
    settings.check()


LOOPBACK = ["127.0.0.1", "127.0.0.2", "127.255.255.254", "::1", "0:0:0:0:0:0:0:1", "localhost"]
ELSEWHERE = [
    "0.0.0.0",
    "::",
    "192.168.1.5",
    "10.0.0.1",
    "8.8.8.8",
    "fe80::1",
    "example.com",
    "localhost.example.com",
    "127.0.0.1.example.com",
    "127.0.0.1 ",
    "127.1",
    "2130706433",
    "",
]


@pytest.mark.parametrize("host", LOOPBACK)
def test_the_loopback_needs_no_token(host: str) -> None:
    assert is_loopback(host)
    settings_for(host).check()


@pytest.mark.parametrize("host", ELSEWHERE)
def test_another_address_needs_both_tokens(host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(BadSettings) as nothing:
        settings_for(host).check()
    assert "ROOMLAPSE_CALLBACK_TOKENS and ROOMLAPSE_API_TOKEN" in str(nothing.value)
    assert "--insecure" in str(nothing.value)
    with pytest.raises(BadSettings, match="set ROOMLAPSE_API_TOKEN,"):
        settings_for(host, Secrets(("token",))).check()
    with pytest.raises(BadSettings, match="set ROOMLAPSE_CALLBACK_TOKENS,"):
        settings_for(host, Secrets((), "api-token")).check()
    settings_for(host, BOTH).check()


@pytest.mark.parametrize("secrets", [Secrets((), "7 chars"), Secrets((), "long enough", "short")])
@pytest.mark.parametrize("insecure", [False, True])
def test_a_token_that_is_soon_guessed_is_refused(secrets: Secrets, insecure: bool) -> None:
    with pytest.raises(BadSettings, match="less than 8 characters"):
        settings_for("127.0.0.1", secrets, insecure=insecure).check()
    settings_for("127.0.0.1", Secrets(("x",), "8 chars.")).check()  # the sender's are the console's to choose


@pytest.mark.parametrize("host", ELSEWHERE)
def test_another_address_without_tokens_has_to_be_asked_for(host: str) -> None:
    settings_for(host, insecure=True).check()


def test_empty_tokens_are_no_tokens() -> None:
    with pytest.raises(BadSettings, match="CALLBACK_TOKENS and ROOMLAPSE_API_TOKEN"):
        settings_for("0.0.0.0", Secrets((), "")).check()


# ---- secrets ----


def test_without_anything_set_there_are_no_secrets() -> None:
    assert read_secrets({}) == Secrets((), None)
    assert read_secrets({"CALLBACK_TOKENS": "x", "API_TOKEN": "y", "roomlapse_api_token": "z"}) == Secrets((), None)


@pytest.mark.parametrize(
    ("value", "tokens"),
    [
        ("one", ("one",)),
        ("new,old", ("new", "old")),
        (" new , old ", ("new", "old")),
        ("new,,old,", ("new", "old")),
        ("new\nold\n", ("new", "old")),
        ("a b,c=d&e", ("a b", "c=d&e")),
    ],
)
def test_callback_tokens_come_from_the_environment(value: str, tokens: tuple[str, ...]) -> None:
    assert read_secrets({"ROOMLAPSE_CALLBACK_TOKENS": value}).callback_tokens == tokens


def test_the_api_token_comes_from_the_environment() -> None:
    assert read_secrets({"ROOMLAPSE_API_TOKEN": "se,cret"}) == Secrets((), "se,cret")


def test_secrets_come_from_files(tmp_path: Path) -> None:
    tokens, api = tmp_path / "tokens", tmp_path / "api"
    tokens.write_text("new\nold\n")
    api.write_text("secret\n")
    env = {"ROOMLAPSE_CALLBACK_TOKENS_FILE": str(tokens), "ROOMLAPSE_API_TOKEN_FILE": str(api)}
    assert read_secrets(env) == Secrets(("new", "old"), "secret")


def test_one_from_a_file_and_the_other_from_the_environment(tmp_path: Path) -> None:
    api = tmp_path / "api"
    api.write_text("secret")
    env = {"ROOMLAPSE_CALLBACK_TOKENS": "one", "ROOMLAPSE_API_TOKEN_FILE": str(api)}
    assert read_secrets(env) == Secrets(("one",), "secret")


@pytest.mark.parametrize("name", ["CALLBACK_TOKENS", "API_TOKEN"])
def test_a_secret_and_a_file_for_it_are_too_much(tmp_path: Path, name: str) -> None:
    path = tmp_path / "secret"
    path.write_text("from-the-file")
    with pytest.raises(BadSettings, match="both set") as refused:
        read_secrets({f"ROOMLAPSE_{name}": "from-the-env", f"ROOMLAPSE_{name}_FILE": str(path)})
    assert "from-the" not in str(refused.value)


@pytest.mark.parametrize("name", ["CALLBACK_TOKENS", "API_TOKEN"])
def test_an_empty_variable_is_as_if_unset(tmp_path: Path, name: str) -> None:
    path = tmp_path / "secret"
    path.write_text("s")
    assert read_secrets({f"ROOMLAPSE_{name}": "", f"ROOMLAPSE_{name}_FILE": ""}) == Secrets((), None)
    secrets = read_secrets({f"ROOMLAPSE_{name}": "", f"ROOMLAPSE_{name}_FILE": str(path)})
    assert secrets == (Secrets(("s",)) if name == "CALLBACK_TOKENS" else Secrets((), "s"))


@pytest.mark.parametrize("name", ["CALLBACK_TOKENS", "API_TOKEN"])
@pytest.mark.parametrize("content", ["", "\n", " \t\r\n"])
def test_an_empty_file_is_refused(tmp_path: Path, name: str, content: str) -> None:
    path = tmp_path / "secret"
    path.write_text(content)
    with pytest.raises(BadSettings, match=f"ROOMLAPSE_{name}_FILE is empty"):
        read_secrets({f"ROOMLAPSE_{name}_FILE": str(path)})


@pytest.mark.parametrize("content", [",", " , ,\n", "\n,\n"])
def test_tokens_that_are_set_but_come_to_none_are_refused(tmp_path: Path, content: str) -> None:
    # Whoever set them wants callbacks checked; to go on without a token would take unsigned ones.
    path = tmp_path / "tokens"
    path.write_text(content)
    with pytest.raises(BadSettings):
        read_secrets({"ROOMLAPSE_CALLBACK_TOKENS_FILE": str(path)})
    with pytest.raises(BadSettings):
        read_secrets({"ROOMLAPSE_CALLBACK_TOKENS": content})


def test_a_file_that_is_missing_or_unreadable_is_refused(tmp_path: Path) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe secret")
    for path in (tmp_path / "missing", tmp_path, binary):
        with pytest.raises(BadSettings, match="ROOMLAPSE_API_TOKEN_FILE cannot be read"):
            read_secrets({"ROOMLAPSE_API_TOKEN_FILE": str(path)})


def test_secrets_are_never_printed() -> None:
    settings = settings_for("0.0.0.0", BOTH)
    for text in (repr(BOTH), str(BOTH), f"{BOTH}", repr(settings), str(settings), f"{settings!r}", repr([settings])):
        assert "token-one" not in text
        assert "token-two" not in text
        assert "api-secret" not in text
    assert repr(BOTH) == "Secrets(callback_tokens=<2>, api_token=<True>, admin_token=<False>)"
    assert repr(Secrets()) == "Secrets(callback_tokens=<0>, api_token=<False>, admin_token=<False>)"


def test_settings_cannot_be_changed_after_the_check() -> None:
    settings = settings_for("127.0.0.1")
    with pytest.raises(AttributeError):
        settings.host = "0.0.0.0"  # type: ignore[misc]


# ---- the address ----


@pytest.mark.parametrize("value", ["tcp://10.96.0.12:8000", "udp://10.0.0.1:53", "TCP://[fd00::1]:8000", "sctp://h:1"])
def test_what_kubernetes_sets_for_a_service_named_roomlapse_is_no_port(value: str) -> None:
    assert read_address({"ROOMLAPSE_PORT": value}) == ("127.0.0.1", 8000)
    notice = service_address_notice({"ROOMLAPSE_PORT": value})
    assert notice is not None
    assert value in notice
    assert "ignored" in notice


@pytest.mark.parametrize("value", ["", "8000", "0", "65535"])
def test_a_port_is_taken_without_a_word(value: str) -> None:
    assert read_address({"ROOMLAPSE_PORT": value}) == ("127.0.0.1", int(value or 8000))
    assert service_address_notice({"ROOMLAPSE_PORT": value}) is None


@pytest.mark.parametrize("value", ["65536", "-1", "8e3", "http://h:8000", "10.96.0.12:8000", "tcp:8000", "\u0668"])
def test_what_is_no_port_is_refused(value: str) -> None:
    with pytest.raises(BadSettings, match="ROOMLAPSE_PORT"):
        read_address({"ROOMLAPSE_PORT": value})
