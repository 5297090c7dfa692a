"""Live: what is used is left alone, one stream per browser, little on the wire, the truth when the server is gone."""

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
from conftest import Server, StartServer, body_of
from playwright.sync_api import Browser, Page, Request, expect

from browser.conftest import Opener

HIDE = """hidden => {
    Object.defineProperty(document, 'hidden', {value: hidden, configurable: true});
    document.dispatchEvent(new Event('visibilitychange'));
}"""


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def send(server: Server, room_id: str, **fields: object) -> None:
    assert server.post(body_of(room_id, now_ms(), **fields)).is_success


@contextmanager
def sending(server: Server, room_of: Callable[[int], str], per_second: float = 5) -> Iterator[list[int]]:
    """Callbacks at a steady rate; gives how many were sent."""
    sent, stop = [0], threading.Event()

    def work() -> None:
        while not stop.wait(1 / per_second):
            sent[0] += 1
            send(server, room_of(sent[0]), RoomName=f"busy {sent[0]}", IsPublicVisible=sent[0] % 7 < 4)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield sent
    finally:
        stop.set()
        thread.join()


class Streams:
    """The event streams that the tabs of a browser have open, counted from now on."""

    def __init__(self, page: Page) -> None:
        self._open: list[Request] = []
        page.context.on("request", self._begin)
        page.context.on("requestfailed", self._end)
        page.context.on("requestfinished", self._end)

    def _begin(self, request: Request) -> None:
        if "/events/stream" in request.url:
            self._open.append(request)

    def _end(self, request: Request) -> None:
        if request in self._open:
            self._open.remove(request)

    def wait_for(self, count: int, page: Page) -> None:
        """Until so many are open."""
        deadline = time.monotonic() + 5
        while (found := self._count()) != count and time.monotonic() < deadline:
            page.wait_for_timeout(50)
        assert found == count

    def _count(self) -> int:
        return len([request for request in self._open if not request.frame.page.is_closed()])


# ---- nothing that is used is replaced ----


def test_what_is_typed_stays_with_focus_and_caret_while_a_busy_room_waits(show: Opener, server: Server) -> None:
    send(server, "busy-1", RoomName="before", IsPublicVisible=True)
    page = show("/room/busy-1")
    expect(page.locator("#live")).to_have_text("live")
    field = page.locator("#history").get_by_label("Operator")
    field.click()
    with sending(server, lambda _: "busy-1"):
        page.keyboard.type("mallory", delay=150)
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("Shift+ArrowLeft")
        expect(page.locator("#live")).to_have_text("paused while you type")
        page.wait_for_timeout(2500)
        expect(field).to_have_value("mallory")
        expect(field).to_be_focused()
        assert field.evaluate("it => [it.selectionStart, it.selectionEnd]") == [5, 6]
        expect(page.locator("#name")).to_have_text("before")
        field.blur()
        expect(page.locator("#name")).to_contain_text("busy")
    expect(field).to_have_value("mallory")  # typed, not sent: still there


@pytest.mark.parametrize("form", ["#travel", "#times"])
def test_a_time_that_is_typed_stays(show: Opener, server: Server, form: str) -> None:
    send(server, "busy-2", RoomName="before", IsPublicVisible=True)
    page = show("/room/busy-2")
    field = page.locator(f"{form} input[type=datetime-local]").first
    field.fill("2026-03-11T21:14")
    with sending(server, lambda _: "busy-2"):
        page.wait_for_timeout(1500)
        expect(page.locator("#live")).to_have_text("paused while you type")
        expect(field).to_have_value("2026-03-11T21:14")
        field.blur()
        expect(page.locator("#name")).to_contain_text("busy")
        expect(field).to_have_value("2026-03-11T21:14")


def test_a_selection_a_pressed_link_and_an_open_part_stay(show: Opener, server: Server) -> None:
    send(server, "busy-3", RoomName="before", IsPublicVisible=True)
    page = show("/room/busy-3")
    expect(page.locator("#live")).to_have_text("live")
    with sending(server, lambda _: "busy-3"):
        page.locator("#moment table").select_text()
        expect(page.locator("#live")).to_have_text("paused while text is selected")
        chosen = page.evaluate("getSelection().toString()")
        page.wait_for_timeout(1500)
        assert page.evaluate("getSelection().toString()") == chosen != ""
        page.evaluate("getSelection().removeAllRanges()")
        expect(page.locator("#name")).to_contain_text("busy")
        page.locator("#visibility summary").click()  # it was open: short tables are
        opened = page.locator("#periods").evaluate("it => it.open")
        link = page.get_by_role("link", name="Previous change")
        link.focus()
        link.evaluate("it => { window.kept = it; }")
        before = page.locator("#name").inner_text()
        expect(page.locator("#name")).not_to_have_text(before)
        assert page.locator("#periods").evaluate("it => it.open") == opened
        assert page.evaluate("document.activeElement === window.kept")
        page.locator("#history").scroll_into_view_if_needed()
        box = page.locator("#history tbody a").first.bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + 3, box["y"] + 3)
        page.mouse.down()
        held = page.locator("#history tbody").inner_html()
        page.wait_for_timeout(1500)
        assert page.locator("#history tbody").inner_html() == held
        expect(page.locator("#live")).to_have_text("paused while you press")
        page.mouse.move(5, 5)
        page.mouse.up()


def test_a_callback_that_is_read_on_the_health_page_stays_open(show: Opener, server: Server) -> None:
    assert server.post(b"not json at all").status_code == 400
    page = show("/health")
    page.locator(".quarantine summary").first.click()
    expect(page.locator("#live")).to_have_text("paused while a callback is open")
    page.wait_for_timeout(5500)
    expect(page.locator(".quarantine details").first).to_have_attribute("open", "")


def test_rows_under_the_pointer_change_in_place_and_tidy_up_afterwards(show: Opener, server: Server) -> None:
    for name in ("row-a", "row-b", "row-c"):
        send(server, name, RoomName=name, IsPublicVisible=True)
    page = show("/?q=row-")

    def order() -> object:
        return page.locator("tr[data-room]").evaluate_all("all => all.map(it => it.dataset.room)")

    assert order() == ["row-c", "row-b", "row-a"]
    expect(page.locator("#live")).to_have_text("live")
    page.locator("tr[data-room=row-b]").hover()
    send(server, "row-a", RoomName="row-a again")
    expect(page.locator("tr[data-room=row-a] .name")).to_have_text("row-a again")
    assert order() == ["row-c", "row-b", "row-a"]
    page.mouse.move(5, 5)
    expect(page.locator("tr[data-room]").first).to_have_attribute("data-room", "row-a")
    send(server, "row-d", RoomName="row-d", IsPublicVisible=True)  # a new room
    expect(page.locator("tr[data-room]").first).to_have_attribute("data-room", "row-d")
    assert order() == ["row-d", "row-a", "row-c", "row-b"]


def test_a_room_that_no_longer_matches_leaves_the_list(show: Opener, server: Server) -> None:
    send(server, "leaves", RoomName="leaves", IsPublicVisible=True)
    page = show("/?q=leaves&show=public")
    expect(page.locator("tr[data-room=leaves]")).to_be_visible()
    expect(page.locator("#live")).to_have_text("live")
    send(server, "leaves", IsPublicVisible=False)
    expect(page.locator("tr[data-room=leaves]")).to_have_count(0)


def test_pausing_holds_the_page_and_counts_what_comes(show: Opener, server: Server) -> None:
    send(server, "held", RoomName="one")
    page = show("/?q=held")
    expect(page.locator("#live")).to_have_text("live")
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("#live")).to_have_text("paused")
    for number in range(3):
        send(server, "held", RoomName=f"name {number}")
    expect(page.locator("#live")).to_have_text("paused; 3 new changes")
    expect(page.locator("tr[data-room=held] .name")).to_have_text("one")
    page.get_by_role("button", name="Resume").click()
    expect(page.locator("tr[data-room=held] .name")).to_have_text("name 2")
    expect(page.locator("#live")).to_have_text("live")


# ---- one stream per browser ----


def test_eight_tabs_load_and_are_live_with_one_stream(show: Opener, server: Server) -> None:
    first = show("/?q=tabs")
    streams = Streams(first)
    first.reload()
    pages = [first]
    for _ in range(7):
        page = first.context.new_page()
        page.goto(f"{server.url}/?q=tabs")
        pages.append(page)
    for page in pages:
        expect(page.locator("#live")).to_have_text("live")
    send(server, "tabs", RoomName="to all")
    for page in pages:
        expect(page.locator("tr[data-room=tabs]")).to_contain_text("to all")
    streams.wait_for(1, pages[0])
    pages.pop(0).close()  # the one that had it
    send(server, "tabs", RoomName="to the others")
    for page in pages:
        expect(page.locator("tr[data-room=tabs]")).to_contain_text("to the others")
    for page in pages:
        page.evaluate(HIDE, True)
    streams.wait_for(0, pages[0])  # nobody looks
    send(server, "tabs", RoomName="meanwhile")
    pages[3].evaluate(HIDE, False)
    expect(pages[3].locator("tr[data-room=tabs]")).to_contain_text("meanwhile")
    streams.wait_for(1, pages[0])


def test_without_locks_each_tab_that_is_seen_has_its_own_stream(show: Opener, server: Server) -> None:
    page = show("/?q=lockless")
    page.context.add_init_script("Object.defineProperty(Navigator.prototype, 'locks', {value: undefined})")
    streams = Streams(page)
    page.reload()
    other = page.context.new_page()
    other.goto(f"{server.url}/?q=lockless")
    send(server, "lockless", RoomName="both")
    for each in (page, other):
        expect(each.locator("tr[data-room=lockless]")).to_contain_text("both")
    streams.wait_for(2, page)
    other.evaluate(HIDE, True)
    streams.wait_for(1, page)
    send(server, "lockless", RoomName="missed")
    expect(page.locator("tr[data-room=lockless]")).to_contain_text("missed")
    other.evaluate(HIDE, False)
    expect(other.locator("tr[data-room=lockless]")).to_contain_text("missed")


# ---- what goes over the wire ----


def test_ten_seconds_at_five_callbacks_a_second_cost_little(browser: Browser, start_server: StartServer) -> None:
    server = start_server()
    for number in range(60):
        send(server, f"wire-{number:02}", RoomName=f"room {number}", IsPublicVisible=True)
    show = Opener(browser, server.url)
    page = show("/")
    expect(page.locator("#live")).to_have_text("live")
    seen: list[Request] = []
    page.on("requestfinished", lambda request: seen.append(request))
    with sending(server, lambda n: f"wire-{n * 7 % 60:02}") as sent:
        page.wait_for_timeout(10_000)
    page.wait_for_timeout(500)
    pages = [request for request in seen if "/events/stream" not in request.url]
    sizes = [request.sizes() for request in pages]
    total = sum(size["responseBodySize"] + size["responseHeadersSize"] for size in sizes)
    print(f"{sent[0]} callbacks in 10 s: {len(pages)} requests, {total} bytes, {total / sent[0]:.0f} a callback")
    assert 5 <= len(pages) <= 12
    assert total / sent[0] < 2048
    assert all("only=" in request.url for request in pages)
    assert {it.header_value("content-encoding") for it in (request.response() for request in pages) if it} == {"gzip"}
    show.close()


def test_a_busy_room_with_a_long_history_costs_little_too(browser: Browser, start_server: StartServer) -> None:
    server = start_server()
    begin = now_ms() - 3_600_000
    for number in range(300):
        assert server.post(body_of("long", begin + number * 10_000, IsPublicVisible=number % 3 > 0)).is_success
    show = Opener(browser, server.url)
    page = show("/room/long")
    expect(page.locator("#live")).to_have_text("live")
    marks = page.locator("#timeline .tick").count()
    seen: list[Request] = []
    page.on("requestfinished", lambda request: seen.append(request))
    with sending(server, lambda _: "long") as sent:
        page.wait_for_timeout(10_000)
    expect(page.locator("#name")).to_have_text(f"busy {sent[0]}")
    pages = [request for request in seen if "/events/stream" not in request.url]
    total = sum(it["responseBodySize"] + it["responseHeadersSize"] for it in (page.sizes() for page in pages))
    print(f"{sent[0]} callbacks in 10 s: {len(pages)} requests, {total} bytes, {total / sent[0]:.0f} a callback")
    assert len(pages) <= 12
    assert total / sent[0] < 2500
    expect(page.locator("#timeline .tick")).to_have_count(marks + sent[0], timeout=8000)  # drawn in the end
    show.close()


# ---- when the server is gone ----


def test_a_server_that_is_gone_is_said_to_be_and_nothing_moves_on(browser: Browser, start_server: StartServer) -> None:
    first = start_server()
    begin = now_ms() - 60_000
    for number in range(3):
        assert first.post(body_of("r", begin + number * 10_000, RoomName=f"name {number}")).is_success
    show = Opener(browser, first.url)
    page, listed = show("/room/r"), show("/")
    for each in (page, listed):
        expect(each.locator("#live")).to_have_text("live")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#name")).to_have_text("name 1")
    shown, url = page.locator("#moment").inner_text(), page.url
    cursor = page.locator("#cursor").get_attribute("x1")
    port = urlsplit(first.url).port
    first.stop()
    for each in (page, listed):
        expect(each.locator("#live")).to_have_text(re.compile(r"disconnected since \d\d:\d\d:\d\d; trying again"))
    said = page.locator("#live").inner_text()
    for work in ("ArrowLeft", "Home", " "):
        page.keyboard.press(work)
        page.wait_for_timeout(1500)
        assert page.locator("#moment").inner_text() == shown
        assert page.url == url
        assert page.locator("#cursor").get_attribute("x1") == cursor
    expect(page.get_by_role("button", name="Play")).to_be_visible()
    assert page.locator("#live").inner_text() == said  # since when it was first gone
    second = start_server("--port", str(port))
    expect(listed.locator("#live")).to_have_text("live", timeout=20_000)
    expect(page.locator("#live")).to_contain_text("a past time", timeout=20_000)
    assert second.post(body_of("r", now_ms(), RoomName="name 3")).is_success
    expect(listed.locator("tr[data-room=r]")).to_contain_text("name 3")
    page.keyboard.press("End")
    expect(page.locator("#name")).to_have_text("name 3")
    show.close()


def test_a_server_that_says_nothing_any_more_is_noticed(browser: Browser, start_server: StartServer) -> None:
    server = start_server()
    send(server, "r", RoomName="one")
    show = Opener(browser, server.url)
    page = show("/")
    expect(page.locator("#live")).to_have_text("live")
    group = os.getpgid(server.process.pid)
    os.killpg(group, signal.SIGSTOP)
    try:
        expect(page.locator("#live")).to_contain_text("disconnected since", timeout=30_000)
    finally:
        os.killpg(group, signal.SIGCONT)
    expect(page.locator("#live")).to_have_text("live", timeout=20_000)
    show.close()


def test_another_log_in_the_server_s_place_is_shown(
    browser: Browser, start_server: StartServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    first = start_server()
    for number in range(5):
        send(first, f"old-{number}", RoomName="old")
    show = Opener(browser, first.url)
    page = show("/")
    expect(page.locator("#live")).to_have_text("live")
    port = urlsplit(first.url).port
    first.stop()
    second = start_server("--port", str(port), data=tmp_path_factory.mktemp("other") / "data")
    send(second, "new", RoomName="new")
    expect(page.locator("tr[data-room=new]")).to_be_visible(timeout=20_000)
    expect(page.locator("tr[data-room='old-1']")).to_have_count(0)
    show.close()
