"""What a proxy in front says of a request: the path under which browsers find this server, and whether they use TLS.

The headers count where the proxy's address is trusted. Others could write any path into links and redirects.
"""

from collections.abc import Collection
from functools import lru_cache
from ipaddress import ip_address
from typing import Any
from urllib.parse import quote

from app.infra.asgi import Scope
from app.infra.errors import BadSettings
from app.infra.settings import Network, Settings, read_root_path

_ROOT = "roomlapse.root_path"  # not ASGI's own root_path: the framework takes that for a part of each path
_PREFIX, _PROTO = b"x-forwarded-prefix", b"x-forwarded-proto"


def root_of(scope: Scope) -> str:
    """The path that stands before every path of this server in a browser: `/tools/rooms`, or nothing."""
    root: str = scope.get(_ROOT, "")
    return root


def is_secure(scope: Scope) -> bool:
    """Whether the browser came by TLS."""
    return bool(scope["scheme"] == "https")


class Forwarded:
    """Reads what the proxy says of requests."""

    def __init__(self, settings: Settings, names: Collection[str]) -> None:
        """`names`: the first segments of this server's own paths."""
        self._root = settings.root_path
        self._proxies = settings.trusted_proxies
        self._names = names

    def read(self, scope: Scope) -> Scope:
        """The scope of a request with what the proxy says, without the root where its path was passed on whole."""
        if scope["path"] == "/callbacks":  # no answer to it depends on this, and it comes most often
            return scope
        client = scope.get("client")
        trusted = client is not None and _is_within(client[0], self._proxies)
        said: dict[str, Any] = {}
        if root := self._root or (_root_path(_header(scope, _PREFIX)) if trusted else ""):
            said |= {_ROOT: root, **self._inside(root, scope)}
        if trusted and _header(scope, _PROTO).partition(",")[0].strip().lower() == "https":
            said["scheme"] = "https"
        return {**scope, **said} if said else scope

    def _inside(self, root: str, scope: Scope) -> dict[str, Any]:
        """The path below the root, where the root stands before it."""
        path, raw_path = scope["path"], scope["raw_path"]
        # Under a root that is called like one of our paths, only the proxy can tell the two apart: it has taken it off.
        if not f"{path}/".startswith(f"{root}/") or root.split("/")[1] in self._names:
            return {}
        path, begin = path.removeprefix(root) or "/", root.encode()
        cut = raw_path.removeprefix(begin) or b"/"
        return {"path": path, "raw_path": cut if raw_path.startswith(begin) else quote(path).encode()}


def _header(scope: Scope, name: bytes) -> str:
    """A header's value; empty where it does not come, or more than once: one of them is then not the proxy's."""
    values = [value for given, value in scope["headers"] if given == name]
    return values[0].decode("latin-1") if len(values) == 1 else ""


def _root_path(text: str) -> str:
    try:
        return read_root_path({"ROOMLAPSE_ROOT_PATH": text})
    except BadSettings:
        return ""


@lru_cache(maxsize=1024)
def _is_within(address: str, networks: tuple[Network, ...]) -> bool:
    try:
        ip = ip_address(address)
    except ValueError:
        return False
    ip = getattr(ip, "ipv4_mapped", None) or ip  # a server that listens on :: sees IPv4 within IPv6
    return any(ip in network for network in networks)
