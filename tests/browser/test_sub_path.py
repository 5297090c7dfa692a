"""The page under a path of another site: what its scripts fetch stands under that path too."""

from collections.abc import Iterator

import pytest
from conftest import T0, Server, body_of
from playwright.sync_api import Browser, expect

from browser.conftest import Opener

ROOT = "/tools/rooms"


@pytest.fixture(scope="module")
def rooted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("rooted") / "data", "--root-path", ROOT) as server:
        assert server.post(body_of("r", T0, IsPublicVisible=True, RoomName="before")).status_code == 200
        yield server


def test_live_updates_and_scrubbing_work_under_the_path(browser: Browser, rooted: Server) -> None:
    opener = Opener(browser, rooted.url)
    page = opener(f"{ROOT}/")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    expect(page.locator("#live")).to_have_text("live")
    assert rooted.post(body_of("r", T0 + 60_000, RoomName="after")).status_code == 200
    expect(page.locator("tr[data-room='r']")).to_contain_text("after")
    page.get_by_role("link", name="r", exact=True).click()
    expect(page.locator("#live")).to_have_text("live")
    expect(page.locator("#moment")).to_contain_text("after")
    page.locator("#at").press("ArrowLeft")
    expect(page.locator("#moment")).to_contain_text("before")
    opener.close()
    assert opener.said == []
    assert asked
    assert [url for url in asked if not url.startswith(f"{rooted.url}{ROOT}/")] == []
