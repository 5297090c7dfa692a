"""The two servers whose pages are read, and who reads them."""

from collections.abc import Iterator

import httpx
import msgspec
import pytest
from conftest import T0, Server, body_of

from server.page.reading import sign_in
from server.page.town import ADMIN_TOKEN, GUARDED, READ_TOKEN, REFUSED, fill


@pytest.fixture(scope="session")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server without tokens, with many rooms."""
    with Server(tmp_path_factory.mktemp("town") / "data") as server:
        fill(server)
        yield server
        check_no_bug(server)


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that wants tokens for reading, with a few rooms."""
    with Server(tmp_path_factory.mktemp("guarded") / "data", env=GUARDED) as server:
        for room_id in ("r", "what? #1 é%", "日本"):
            assert server.post(body_of(room_id, T0, IsPublicVisible=True, RoomName="secret")).status_code == 200
        for body in REFUSED:
            assert server.post(body).status_code == 400
        yield server
        check_no_bug(server)


@pytest.fixture
def browser(guarded: Server) -> Iterator[httpx.Client]:
    """Somebody who has not signed in."""
    with httpx.Client(base_url=guarded.url, timeout=30) as client:
        yield client


@pytest.fixture(params=["read", "admin"])
def member(request: pytest.FixtureRequest, browser: httpx.Client) -> tuple[str, httpx.Client]:
    """Somebody who has signed in, and what they may do."""
    sign_in(browser, {"read": READ_TOKEN, "admin": ADMIN_TOKEN}[request.param])
    return request.param, browser


def check_no_bug(server: Server) -> None:
    """Check that no request of all the tests failed for a reason of ours."""
    lines = [msgspec.json.decode(line) for line in server.logs().splitlines()]
    assert lines
    assert [line for line in lines if line["message"] == "a request failed"] == []
