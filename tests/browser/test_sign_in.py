"""Signing in with a real browser: a link from another site does not ask again, a form from there does nothing."""

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import T0, Server, body_of
from playwright.sync_api import Browser, Page, expect

TOKEN = "a-reader-token"


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("guarded") / "data", env={"ROOMLAPSE_API_TOKEN": TOKEN}) as server:
        assert server.post(body_of("r", T0, IsPublicVisible=True)).status_code == 200
        yield server


@pytest.fixture(scope="module")
def here(guarded: Server) -> str:
    """The server by a name that makes another site of it than an address does."""
    return f"http://localhost:{guarded.port}"


@pytest.fixture(scope="module")
def elsewhere(here: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Another site, with a link to the server and forms that are sent to it."""
    folder: Path = tmp_path_factory.mktemp("elsewhere")
    (folder / "index.html").write_text(
        f'<a href="{here}/room/r">the room</a>'
        f'<form method="post" action="{here}/sign-out"><button>sign out</button></form>'
        f'<form method="post" action="{here}/sign-in"><input name="token" value="{TOKEN}">'
        "<button>sign in</button></form>"
    )
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with browser.new_context() as context:
        yield context.new_page()


def sign_in(page: Page, here: str) -> None:
    page.goto(f"{here}/")
    page.get_by_label("API token").fill(TOKEN)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Rooms now")


def test_a_link_from_another_site_opens_the_page_without_asking_again(page: Page, here: str, elsewhere: str) -> None:
    sign_in(page, here)
    page.goto(elsewhere)
    page.get_by_role("link", name="the room").click()
    expect(page).to_have_url(f"{here}/room/r")
    expect(page.get_by_role("heading", level=1)).to_have_text("r")


def test_a_form_of_another_site_neither_signs_out_nor_in(page: Page, here: str, elsewhere: str) -> None:
    page.goto(elsewhere)
    page.get_by_role("button", name="sign in").click()
    expect(page.get_by_text("this form was sent from another site")).to_be_visible()
    page.goto(f"{here}/")
    expect(page).to_have_url(f"{here}/sign-in?next=/")
    sign_in(page, here)
    page.goto(elsewhere)
    page.get_by_role("button", name="sign out").click()
    expect(page.get_by_text("this form was sent from another site")).to_be_visible()
    page.goto(f"{here}/")
    expect(page.get_by_role("heading", level=1)).to_have_text("Rooms now")


def test_signing_out_by_its_button_ends_the_session(page: Page, here: str) -> None:
    sign_in(page, here)
    page.get_by_role("button", name="Sign out").click()
    expect(page).to_have_url(f"{here}/sign-in?next=/")
