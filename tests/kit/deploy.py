"""What the tests of deploy/ share: its files with their places changed, the tools that read them, signed callbacks."""

import hashlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from kit.callbacks import APP_ID, UPDATE
from kit.program import environment

TOP = Path(__file__).parents[2]
DEPLOY = TOP / "deploy"
CALLBACK_TOKEN, API_TOKEN, ADMIN_TOKEN = "callback-token-1", "api-token-1", "admin-token-1"
TOKENS = {
    "ROOMLAPSE_CALLBACK_TOKENS": CALLBACK_TOKEN,
    "ROOMLAPSE_API_TOKEN": API_TOKEN,
    "ROOMLAPSE_ADMIN_TOKEN": ADMIN_TOKEN,
}


def tool(name: str) -> str:
    """The path of a program; the test is skipped if it is not installed."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed: `make deploy-tools` installs it")
    return found


def output_of(*command: str, cwd: Path | None = None) -> str:
    """Run a command, which has to succeed; all that it prints."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, check=False, cwd=cwd
    )
    assert done.returncode == 0, f"{command[0]}: {done.stdout}"
    return done.stdout


def deploy_file(name: str, changes: Mapping[str, str]) -> str:
    """The text of a file in deploy/, with its places changed; each of them has to be in it."""
    text = (DEPLOY / name).read_text()
    for old, new in changes.items():
        assert old in text, f"{name} has no {old!r}"
        text = text.replace(old, new)
    return text


def certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate that nobody signed; its key and its chain, as files."""
    key, chain = folder / "privkey.pem", folder / "fullchain.pem"
    names = "subjectAltName=DNS:rooms.example,IP:127.0.0.1"
    output_of(
        *(tool("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=rooms.example"),
        *("-addext", names, "-keyout", str(key), "-out", str(chain)),
    )
    return key, chain


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        port: int = it.getsockname()[1]
        return port


def listens(port: int) -> bool:
    """Whether somebody listens on a port of the loopback."""
    with socket.socket() as it:
        return it.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def running(
    command: Sequence[str], log_path: Path, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program beside the test, its output in a file, and end it."""
    with (
        log_path.open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log, env=environment(env)) as process,
    ):
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def write_tokens(folder: Path) -> None:
    """Write the tokens as the files that deploy/ names."""
    folder.mkdir(mode=0o700)
    for name, token in TOKENS.items():
        (folder / name.removeprefix("ROOMLAPSE_").lower()).write_text(f"{token}\n")


def signed_query() -> dict[str, str]:
    """The query of a callback that is signed now."""
    now_s = str(int(time.time()))
    return {
        "SdkAppid": APP_ID,
        "CallbackCommand": UPDATE,
        "contenttype": "json",
        "RequestTime": now_s,
        "Sign": hashlib.sha256(f"{CALLBACK_TOKEN}{now_s}".encode()).hexdigest(),
    }


def bearer(token: str) -> dict[str, str]:
    """The header that gives a token."""
    return {"Authorization": f"Bearer {token}"}
