"""What is set from outside: the environment, files for secrets, and the command line's options. Read once."""

import os
import re
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path

import msgspec

from app.infra.errors import BadSettings

PREFIX = "ROOMLAPSE_"
PROJECTIONS = f"{PREFIX}PROJECTIONS"
DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8000
DEFAULT_DATA = Path("roomlapse-data")
FORMER_DATA = Path("data")
"""The default of earlier versions."""
DEFAULT_RATE_LIMIT_PER_S = 100.0
_MAX_IDLE_S = 3600
DEFAULT_IDLE_S = 75
MIN_TOKEN = 8
"""Characters; the sender's tokens are the console's to choose, so that shorter ones of them are only warned of."""


Network = IPv4Network | IPv6Network
LOOPBACK: tuple[Network, ...] = (ip_network("127.0.0.1"), ip_network("::1"))
MAX_ROOT_PATH = 200


class Variable(msgspec.Struct, frozen=True):
    """A variable of the environment, as the reference of the settings shows it."""

    means: str
    default: str = ""
    """What holds where it is not set."""


VARIABLES: dict[str, Variable] = {
    "ROOMLAPSE_SDK_APP_ID": Variable("the SDKAppID of the application whose callbacks are taken"),
    "ROOMLAPSE_DATA": Variable("the data directory", f"`{DEFAULT_DATA}`"),
    "ROOMLAPSE_HOST": Variable("the address that `serve` listens on", DEFAULT_HOST),
    "ROOMLAPSE_PORT": Variable("its port", str(DEFAULT_PORT)),
    "ROOMLAPSE_CALLBACK_TOKENS": Variable("tokens that may sign callbacks, comma-separated", "unsigned ones are taken"),
    "ROOMLAPSE_CALLBACK_TOKENS_FILE": Variable("a file that holds them instead, comma-separated or one a line"),
    "ROOMLAPSE_API_TOKEN": Variable("the bearer token of the queries, at least 8 characters", "queries are open"),
    "ROOMLAPSE_API_TOKEN_FILE": Variable("a file that holds it instead"),
    "ROOMLAPSE_ADMIN_TOKEN": Variable(
        "the bearer token of raw bodies, quarantine and metrics, at least 8 characters", "the API token opens them"
    ),
    "ROOMLAPSE_ADMIN_TOKEN_FILE": Variable("a file that holds it instead"),
    "ROOMLAPSE_ALLOWED_HOSTS": Variable(
        "names by which queries may call the server, comma-separated, without ports; needed behind a proxy without an"
        " API token",
        "`localhost` and addresses, or any name where an API token is asked for",
    ),
    "ROOMLAPSE_ROOT_PATH": Variable(
        "the path under which a proxy shows the server, as `/tools/rooms`; goes before `X-Forwarded-Prefix`",
        "none, or what a trusted proxy says in `X-Forwarded-Prefix`",
    ),
    "ROOMLAPSE_TRUSTED_PROXIES": Variable(
        "addresses or networks of proxies, comma-separated, whose `X-Forwarded-Prefix` and `X-Forwarded-Proto` count",
        "127.0.0.1, ::1",
    ),
    "ROOMLAPSE_RATE_LIMIT": Variable(
        "queries a second of one address; 0: no limit", f"{DEFAULT_RATE_LIMIT_PER_S:g}, for other machines alone"
    ),
    "ROOMLAPSE_IDLE_S": Variable(
        "how many seconds a connection may wait for its next request; longer than the senders and proxies in front keep"
        " theirs",
        str(DEFAULT_IDLE_S),
    ),
    PROJECTIONS: Variable("a folder whose `*.py` are projections beside the built-in ones", "the built-in ones alone"),
}
"""Every variable that is read, for the reference; a test holds it against the code."""


class Secrets(msgspec.Struct, frozen=True):
    """Secrets come from the environment or from a file it names, never from an argument list."""

    callback_tokens: tuple[str, ...] = ()
    """Any of them may sign a callback: the old one and the new one while they are rotated."""
    api_token: str | None = None
    """What a reader sends as its bearer token, None if reading is open."""
    admin_token: str | None = None
    """What opens raw bodies, the quarantine and the metrics too; None: whatever opens the rest opens them."""

    def all(self) -> list[str]:
        """Every secret, for redaction."""
        return [*self.callback_tokens, *(token for token in (self.api_token, self.admin_token) if token)]

    def __repr__(self) -> str:
        return (
            f"Secrets(callback_tokens=<{len(self.callback_tokens)}>, api_token=<{self.api_token is not None}>,"
            f" admin_token=<{self.admin_token is not None}>)"
        )


class Settings(msgspec.Struct, frozen=True):
    """What a server needs to know."""

    sdk_app_id: str
    data: Path = DEFAULT_DATA
    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    secrets: Secrets = Secrets()
    insecure: bool = False
    allowed_hosts: tuple[str, ...] = ()
    """Names by which browsers may call this server; none: those of the loopback, or any where a token is asked for."""
    rate_limit_per_s: float | None = None
    """Questions, and refused callbacks, of one address; 0: no limit; None: the default, for other machines alone."""

    root_path: str = ""
    """The path under which a proxy shows this server, without a slash at its end; empty: none."""
    trusted_proxies: tuple[Network, ...] = LOOPBACK
    """Whose word counts about the path and the scheme that a browser used."""
    idle_s: int = DEFAULT_IDLE_S
    """How long a connection may wait for its next request."""
    demo: bool = False
    """Whether the page explains itself as a demo."""

    def check(self) -> None:
        """Raise BadSettings if this would open the service to a network without tokens, or with one that is soon
        guessed."""
        for name, token in (("API_TOKEN", self.secrets.api_token), ("ADMIN_TOKEN", self.secrets.admin_token)):
            if token and len(token) < MIN_TOKEN:
                raise BadSettings(f"{PREFIX}{name} has less than {MIN_TOKEN} characters: take one that nobody guesses")
        if self.insecure or is_loopback(self.host):
            return
        missing = [
            name
            for name, value in (
                ("ROOMLAPSE_CALLBACK_TOKENS", self.secrets.callback_tokens),
                ("ROOMLAPSE_API_TOKEN", self.secrets.api_token),
            )
            if not value
        ]
        if missing:
            raise BadSettings(
                f"{self.host} can be reached from other machines: set {' and '.join(missing)},"
                " or say --insecure if something in front of this server checks who calls"
            )


def default_data() -> Path:
    """The data directory when none is named: FORMER_DATA (the object itself) if only that holds a log."""
    log = "events.db"
    return FORMER_DATA if (FORMER_DATA / log).is_file() and not (DEFAULT_DATA / log).exists() else DEFAULT_DATA


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def read_sdk_app_id(env: Mapping[str, str] = os.environ) -> str | None:
    """Read ROOMLAPSE_SDK_APP_ID, against which commands hold the owner of a data directory; None if it is not set."""
    return env.get(f"{PREFIX}SDK_APP_ID") or None


def read_address(env: Mapping[str, str] = os.environ) -> tuple[str, int]:
    """Read ROOMLAPSE_HOST and ROOMLAPSE_PORT: where the server is. Raises BadSettings."""
    given = env.get(f"{PREFIX}PORT", "").strip()
    port = str(DEFAULT_PORT) if not given or is_service_address(given) else given
    if not (port.isascii() and port.isdigit() and int(port) < 2**16):
        raise BadSettings(f"{PREFIX}PORT is {port!r}, which is no port: set a number, as {DEFAULT_PORT}")
    host = env.get(f"{PREFIX}HOST") or DEFAULT_HOST
    refuse_bytes(f"{PREFIX}HOST", host)
    return host, int(port)


def is_service_address(port: str) -> bool:
    """Whether ROOMLAPSE_PORT is what Kubernetes and Docker set for a service named `roomlapse`: tcp://10.96.0.12:8000."""
    return re.match(r"(?i)(tcp|udp|sctp)://", port.strip()) is not None


def service_address_notice(env: Mapping[str, str] = os.environ) -> str | None:
    """What to say where ROOMLAPSE_PORT is such an address; None where it is not."""
    port = env.get(f"{PREFIX}PORT", "")
    if not is_service_address(port):
        return None
    return (
        f"{PREFIX}PORT is {port!r}, which is no port but what Kubernetes sets for a Service named roomlapse: ignored."
        " Say --port, name the Service otherwise, or set enableServiceLinks: false"
    )


def refuse_bytes(name: str, text: str) -> None:
    """Raise BadSettings if a variable's value is not UTF-8."""
    if not text.isprintable() and any("\ud800" <= char <= "\udfff" for char in text):
        raise BadSettings(f"{name} is no UTF-8 text: set it anew")


def read_projections_folder(env: Mapping[str, str] = os.environ) -> Path | None:
    """Read ROOMLAPSE_PROJECTIONS, None if it is not set."""
    given = env.get(PROJECTIONS, "").strip()
    return Path(given).absolute() if given else None


def read_allowed_hosts(env: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Read ROOMLAPSE_ALLOWED_HOSTS: names without ports, comma-separated. Raises BadSettings."""
    hosts = tuple(host.strip().lower() for host in env.get(f"{PREFIX}ALLOWED_HOSTS", "").split(",") if host.strip())
    for host in hosts:
        if not re.fullmatch(r"[\w.-]+", host):
            raise BadSettings(f"{PREFIX}ALLOWED_HOSTS holds {host!r}, which is no name: rooms.example, without a port")
    return hosts


def read_root_path(env: Mapping[str, str] = os.environ) -> str:
    """Read ROOMLAPSE_ROOT_PATH: plain segments, which mean the same in every link and header. Raises BadSettings."""
    path = env.get(f"{PREFIX}ROOT_PATH", "").strip().removesuffix("/")
    plain = re.fullmatch(r"(/[A-Za-z0-9._~-]+)*", path) and not re.search(r"/\.\.?(/|$)", path)
    if not plain or len(path) > MAX_ROOT_PATH:
        raise BadSettings(
            f"the root path {path[:80]!r} is no path of plain segments (letters, digits and - . _ ~): as /tools/rooms"
        )
    return path


def read_trusted_proxies(env: Mapping[str, str] = os.environ) -> tuple[Network, ...]:
    """Read ROOMLAPSE_TRUSTED_PROXIES: addresses or networks, comma-separated. Raises BadSettings."""
    given = [text.strip() for text in env.get(f"{PREFIX}TRUSTED_PROXIES", "").split(",") if text.strip()]
    try:
        return tuple(ip_network(text) for text in given) or LOOPBACK
    except ValueError as error:
        raise BadSettings(
            f"{PREFIX}TRUSTED_PROXIES holds what is no address and no network ({error}): as 10.0.0.7, or 10.0.0.0/24"
        ) from None


def read_rate_limit(env: Mapping[str, str] = os.environ) -> float | None:
    """Read ROOMLAPSE_RATE_LIMIT: requests a second. Raises BadSettings."""
    text = env.get(f"{PREFIX}RATE_LIMIT", "").strip()
    if not text:
        return None
    try:
        per_s = float(text)
    except ValueError:
        per_s = -1.0
    if not 0 <= per_s < 1e9:
        raise BadSettings(f"{PREFIX}RATE_LIMIT is not a number of requests a second: 100, or 0 for no limit")
    return per_s


def read_idle_s(env: Mapping[str, str] = os.environ) -> int:
    """Read ROOMLAPSE_IDLE_S: seconds. Raises BadSettings."""
    text = env.get(f"{PREFIX}IDLE_S", "").strip() or str(DEFAULT_IDLE_S)
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= _MAX_IDLE_S):
        raise BadSettings(f"{PREFIX}IDLE_S is not a number of seconds from 1 to {_MAX_IDLE_S}: {DEFAULT_IDLE_S}, say")
    return int(text)


def read_secrets(env: Mapping[str, str] = os.environ) -> Secrets:
    """Read the secrets from ROOMLAPSE_CALLBACK_TOKENS, ROOMLAPSE_API_TOKEN and ROOMLAPSE_ADMIN_TOKEN, or from the files
    that these names with _FILE behind them point to. Raises BadSettings."""
    given = _secret(env, "CALLBACK_TOKENS")
    tokens = tuple(token.strip() for token in (given or "").replace("\n", ",").split(",") if token.strip())
    if given is not None and not tokens:
        raise BadSettings(f"{PREFIX}CALLBACK_TOKENS is set but holds no token: unset it to take unsigned callbacks")
    api_token, admin_token = _secret(env, "API_TOKEN"), _secret(env, "ADMIN_TOKEN")
    if admin_token is not None and api_token is None:
        raise BadSettings(
            f"{PREFIX}ADMIN_TOKEN without {PREFIX}API_TOKEN would leave the other questions open: set both"
        )
    if admin_token is not None and admin_token == api_token:
        raise BadSettings(f"{PREFIX}ADMIN_TOKEN and {PREFIX}API_TOKEN are the same: unset the one, or let them differ")
    return Secrets(tokens, api_token, admin_token)


def _secret(env: Mapping[str, str], name: str) -> str | None:
    given = env.get(PREFIX + name, "")
    value = given.strip()
    if given and not value:
        raise BadSettings(f"{PREFIX}{name} is set but blank: unset it, or give it a value")
    path = env.get(f"{PREFIX}{name}_FILE")
    refuse_bytes(PREFIX + name, value)
    if value and path:
        raise BadSettings(f"{PREFIX}{name} and {PREFIX}{name}_FILE are both set: keep one")
    if path:
        try:
            value = Path(path).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise BadSettings(f"{PREFIX}{name}_FILE cannot be read: {error}") from None
        if not value:
            raise BadSettings(f"{PREFIX}{name}_FILE is empty")
    return value or None
