"""Which versions run: of this program, of Python and of SQLite."""

import platform
from importlib.metadata import PackageNotFoundError, version

from app.infra import sqlite


def read_versions() -> dict[str, str]:
    """The versions by name; that of a checkout that was not installed is `checkout`."""
    try:
        own = version("roomlapse")
    except PackageNotFoundError:
        own = "checkout"
    return {"version": own, "python": platform.python_version(), "sqlite": sqlite.LIBRARY_VERSION}
