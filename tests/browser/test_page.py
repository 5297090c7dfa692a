"""The page in a real browser: every part of it, with scripts and without, wide and narrow, with hostile names."""

import json
import re
import time
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from conftest import T0, Server, StartServer, body_of
from playwright.sync_api import Browser, Page, expect

from browser.conftest import Opener, keep_picture

AT_2014 = "2026-03-11T20:14:00Z"
HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "\"'><script>alert(1)</script>",
    "\u202eright to left",
    "a\u0007\u001b[31mbell",
    "{{7*7}} ${7*7} %s",
    '=HYPERLINK("http://example.com")',
    "javascript:alert(1)",
    "x" * 120,
]
ROOM = "/room/late-show"


def query_of(page: Page) -> dict[str, list[str]]:
    return parse_qs(urlsplit(page.url).query)


def wait_for_moment(page: Page, text: str) -> None:
    """Until the state that is shown has a change by somebody, or a value."""
    expect(page.locator("#moment")).to_contain_text(text)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


# ---- 1: rooms ----


@pytest.mark.parametrize("scripts", [True, False])
def test_rooms_are_searched_filtered_and_sorted(show: Opener, scripts: bool) -> None:
    page = show("/", java_script_enabled=scripts)
    expect(page.locator("tr[data-room]")).to_have_count(12)
    page.get_by_label("Search").fill("LATE")
    page.get_by_role("button", name="Show").click()
    expect(page.locator("tr[data-room]")).to_have_count(1)
    line = page.locator("tr[data-room='late-show']")
    expect(line).to_contain_text("The Late Show: goodbye")
    expect(line).to_contain_text("by maya")
    expect(line).to_contain_text("hidden")
    page.goto("/?sort=name&window=7d")
    names = page.locator("tr[data-room]").evaluate_all("rows => rows.map(row => row.dataset.room)")
    assert names == sorted(names)
    page.locator("select[name=show]").select_option("public")
    page.get_by_role("button", name="Show").click()
    assert set(page.locator("tbody .badge").all_inner_texts()) <= {"public"}


@pytest.mark.parametrize("scripts", [True, False])
def test_the_clock_shows_the_whole_list_at_that_moment(show: Opener, scripts: bool) -> None:
    page = show(f"/?at={AT_2014}", java_script_enabled=scripts)
    line = page.locator("tr[data-room='late-show']")
    expect(line).to_contain_text("public")
    expect(line).to_contain_text("The Late Show: open phones")
    expect(line.locator("svg.strip rect.public").first).to_be_attached()
    page.get_by_role("link", name="late-show").click()
    assert query_of(page)["at"] == ["2026-03-11T20:14:00.000Z"]
    wait_for_moment(page, "ines")
    keep_picture(page, f"room-at-2014-{'scripts' if scripts else 'plain'}")


def test_a_time_is_picked_in_the_reader_s_zone(show: Opener) -> None:
    page = show("/")
    page.locator("#filters input[type=datetime-local]").fill("2026-03-11T21:14")  # Berlin is an hour ahead of UTC
    page.get_by_role("button", name="Show").click()
    assert query_of(page)["at"] == [AT_2014.replace("00Z", "00.000Z")]
    expect(page.locator("tr[data-room='late-show']")).to_contain_text("public")
    expect(page.locator("h1 time")).to_have_attribute("title", "2026-03-11T20:14:00.000Z")
    expect(page.locator("h1 time")).to_contain_text("21:14:00")


def test_without_scripts_times_are_utc(show: Opener) -> None:
    page = show(f"/?at={AT_2014}", java_script_enabled=False)
    expect(page.locator("h1 time")).to_have_text("2026-03-11 20:14:00.000")
    expect(page.locator("footer")).to_contain_text("UTC")
    page.goto("/?at=2026-03-11+20:14")
    expect(page.locator("h1 time")).to_have_text("2026-03-11 20:14:00.000")


# ---- 2: one room, and the two clocks ----


def test_each_field_says_who_set_it_when_from_where_and_by_which_event(show: Opener) -> None:
    page = show(f"{ROOM}?at={AT_2014}")
    row = page.locator("tr", has=page.get_by_role("rowheader", name="IsPublicVisible"))
    for text in ("true", "ines", "Android", "29da3c71a1d3", "last change"):
        expect(row).to_contain_text(text)
    expect(row.locator("time")).to_have_attribute("title", "2026-03-11T20:12:40.600Z")
    other = page.locator("tr", has=page.get_by_role("rowheader", name="MaxMemberCount"))
    expect(other).to_contain_text("scheduler")
    expect(other).not_to_contain_text("last change")


@pytest.mark.parametrize("scripts", [True, False])
def test_steps_lead_to_the_previous_and_the_next_change(show: Opener, scripts: bool) -> None:
    page = show(f"{ROOM}?at={AT_2014}", java_script_enabled=scripts)
    page.get_by_role("link", name="Next change").click()
    wait_for_moment(page, "21:16:02" if scripts else "20:16:02")
    expect(page.locator("#moment h2")).to_contain_text("hidden")
    page.get_by_role("link", name="Previous change").click()
    expect(page.locator("#moment h2")).to_contain_text("public")
    page.get_by_role("link", name="Previous change").click()
    expect(page).to_have_url(re.compile(r"at=2026-03-11T20%3A05%3A31\.250Z"))
    expect(page.locator("#moment .what")).to_contain_text("mod-7 from Web")


def test_keys_step_through_the_room_s_timeline(show: Opener) -> None:
    page = show(f"{ROOM}?at={AT_2014}")
    page.keyboard.press("ArrowRight")
    wait_for_moment(page, "21:16:02")
    page.keyboard.press("ArrowLeft")
    wait_for_moment(page, "21:12:40")
    page.keyboard.press("Home")
    expect(page.locator("#moment h2")).to_contain_text("19:59:10")
    page.keyboard.press("End")
    expect(page.locator("#moment h2")).to_contain_text("Now")
    assert "at" not in query_of(page)


def test_the_slider_scrubs_and_the_link_carries_the_moment(show: Opener) -> None:
    page = show(ROOM)
    slider = page.get_by_role("slider", name="At", exact=True)
    slider.evaluate("(it, ms) => { it.value = ms; it.dispatchEvent(new Event('input')); }", 1773260040000)
    wait_for_moment(page, "ines")
    assert query_of(page)["at"] == ["2026-03-11T20:14:00.000Z"]
    before = page.locator("#moment table").inner_text()
    again = show(page.url)
    assert again.locator("#moment table").inner_text() == before
    assert again.get_by_role("slider", name="At", exact=True).input_value() == "1773260040000"


def test_play_walks_forward_and_stops(show: Opener) -> None:
    page = show(f"{ROOM}?at={AT_2014}")
    page.get_by_role("button", name="Play").click()
    wait_for_moment(page, "21:16:02")
    wait_for_moment(page, "21:21:07")
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("button", name="Play")).to_be_visible()


@pytest.mark.parametrize("scripts", [True, False])
def test_known_at_shows_what_was_believed_then(show: Opener, scripts: bool) -> None:
    page = show(f"{ROOM}?at={AT_2014}&known_at=2026-03-11T20:30:00Z", java_script_enabled=scripts)
    expect(page.locator("#moment h2")).to_contain_text("hidden")
    expect(page.locator("#moment h2")).to_contain_text("as known at")
    wait_for_moment(page, "mod-7")
    if scripts:
        slider = page.get_by_role("slider", name="Known at")
        slider.evaluate("(it) => { it.value = it.max; it.dispatchEvent(new Event('input')); }")
        wait_for_moment(page, "ines")
        assert "known_at" not in query_of(page)


def test_late_changes_are_marked_on_the_timeline(show: Opener) -> None:
    page = show(ROOM)
    late = page.locator("#timeline .tick.late")
    labels = late.evaluate_all("ticks => ticks.map(tick => tick.parentElement.getAttribute('aria-label'))")
    assert len(labels) == 2
    assert any("11/03/2026, 21:12:40.600: IsPublicVisible by ines, late: received" in label for label in labels)
    expect(page.locator("#timeline .tick")).to_have_count(12)


# ---- 3: the timeline of visibility ----


def test_periods_are_drawn_to_scale_with_their_times(show: Opener, server: Server) -> None:
    page = show(ROOM)
    periods = page.locator("#timeline rect.period")
    intervals = server.get("/rooms/late-show/visibility")["intervals"]
    expect(periods).to_have_count(len(intervals))
    drawn = periods.evaluate_all("all => all.map(it => it.getBoundingClientRect().width)")
    closed = list(zip(drawn, intervals, strict=True))[:-1]
    scale = {round(width / (it["to_ms"] - it["from_ms"]) * 1e6, 1) for width, it in closed if width > 20}
    assert max(scale) - min(scale) < 0.05 * max(scale)
    first = periods.first
    first.focus()
    expect(first).to_be_focused()
    expect(page.locator("#period")).to_have_text(first.get_attribute("aria-label") or "no label")
    assert "hidden from 11/03/2026, 19:59:10.120 to 11/03/2026, 20:30:00.007, 30 min 49 s" in (
        first.get_attribute("aria-label") or ""
    )
    assert "ongoing" in (periods.last.get_attribute("aria-label") or "")
    expect(page.locator("#visibility table tbody tr")).to_have_count(len(intervals))
    expect(page.locator("#visibility")).to_contain_text("Public for 2 h 49 min 3 s")


def test_the_timeline_is_downloaded_as_csv(show: Opener) -> None:
    page = show(ROOM)
    with page.expect_download() as download:
        page.get_by_role("link", name="Download as CSV").click()
    assert download.value.suggested_filename == "visibility-late-show.csv"
    lines = download.value.path().read_text().splitlines()
    assert lines[1].startswith("late-show,hidden,2026-03-11T18:59:10.120Z,2026-03-11T19:30:00.007Z,")


# ---- 4: history ----


@pytest.mark.parametrize("scripts", [True, False])
def test_history_is_filtered_and_the_raw_callback_is_a_click_away(show: Opener, server: Server, scripts: bool) -> None:
    page = show(ROOM, java_script_enabled=scripts)
    history = page.locator("#history")
    history.get_by_label("Operator").fill("ines")
    history.locator("select[name=late]").select_option("yes")
    history.get_by_role("button", name="Filter").click()
    expect(page.locator("#history tbody tr")).to_have_count(2)
    expect(page.locator("#history tbody tr").first).to_contain_text("IsPublicVisible true → false")
    page.locator("#history tbody a", has_text="raw").first.click()
    event_id = page.url.rpartition("/")[2]
    assert page.locator("#body").text_content() == server.get(f"/events/{event_id}")["body"]


# ---- 5: compare ----


@pytest.mark.parametrize("scripts", [True, False])
def test_two_times_stand_side_by_side(show: Opener, scripts: bool) -> None:
    page = show(f"{ROOM}?a=2026-03-11T20:00:00Z&b=2026-03-11T21:30:00Z", java_script_enabled=scripts)
    row = page.locator("#compare tr", has=page.get_by_role("rowheader", name="CustomInfo"))
    assert row.locator("td").all_inner_texts() == ["season=4", "season=4;part=1"]
    expect(row).to_contain_text("differs")
    expect(page.locator("#compare tr.fresh")).to_have_count(1)
    page.locator("#compare").get_by_role("button", name="Compare").click()
    expect(page.locator("#compare tr.fresh")).to_have_count(1)


# ---- 6: health ----


@pytest.mark.parametrize("scripts", [True, False])
def test_health_shows_the_receiver_and_the_quarantine(show: Opener, server: Server, scripts: bool) -> None:
    assert server.post(b'{"CallbackCommand": <b>broken</b>').status_code == 400
    page = show("/health", java_script_enabled=scripts)
    for text in ("Log head", "Duplicates", "Late", "Free disk", "current_room", "running"):
        expect(page.locator("#health")).to_contain_text(text)
    row = page.locator(".quarantine tbody tr").first
    expect(row).to_contain_text("not JSON")
    row.locator("summary").click()
    expect(row.locator("pre").first).to_have_text('{"CallbackCommand": <b>broken</b>')
    expect(page.locator(".banner")).to_contain_text("not signed")
    keep_picture(page, f"health-{'scripts' if scripts else 'plain'}")


# ---- 7: live ----


def test_a_change_flows_in_without_a_reload(show: Opener, server: Server) -> None:
    page = show("/")
    expect(page.locator("#live")).to_have_text("live")
    page.evaluate("window.mark = 'not reloaded'")
    waits_s = []
    for number in range(5):
        at_ms = now_ms()
        assert server.post(body_of("live-room-1", at_ms, RoomName=f"Name {number}", IsPublicVisible=True)).is_success
        begin = time.monotonic()
        expect(page.locator("tr[data-room='live-room-1']")).to_contain_text(f"Name {number}")
        waits_s.append(time.monotonic() - begin)
    assert page.evaluate("window.mark") == "not reloaded"
    print(f"a change was on the page after {sorted(waits_s)[2]:.2f} s (median of 5; {max(waits_s):.2f} at the most)")
    assert sorted(waits_s)[2] < 3  # it should be within 1 s; how long it took is printed, machines differ


def test_a_room_s_page_is_live_too_but_the_past_does_not_move(show: Opener, server: Server) -> None:
    at_ms = now_ms()
    assert server.post(body_of("live-room-2", at_ms - 5000, RoomName="Before", IsPublicVisible=True)).is_success
    now, past = show("/room/live-room-2"), show(f"/room/live-room-2?at={at_ms - 4000}")
    expect(now.locator("#live")).to_have_text("live")
    expect(past.locator("#live")).to_have_text("a past time: no updates")
    shown = past.locator("#moment").inner_text()
    assert server.post(body_of("live-room-2", at_ms, RoomName="Behind")).is_success
    wait_for_moment(now, "Behind")
    expect(past.locator("#live")).to_contain_text("new changes")
    assert past.locator("#moment").inner_text() == shown


def test_the_list_of_a_past_moment_does_not_move(show: Opener, server: Server) -> None:
    page = show(f"/?at={AT_2014}")
    shown = page.locator("#list").inner_html()
    assert server.post(body_of("late-show", now_ms(), RoomName="Now another")).is_success
    page.wait_for_timeout(1500)
    assert page.locator("#list").inner_html() == shown


def test_live_goes_on_after_a_break(browser: Browser, start_server: StartServer) -> None:
    first = start_server()
    assert first.post(body_of("r", now_ms() - 1000, RoomName="One")).is_success
    show = Opener(browser, first.url)
    page = show("/")
    expect(page.locator("#live")).to_have_text("live")
    port = urlsplit(first.url).port
    first.stop()
    expect(page.locator("#live")).to_contain_text("disconnected since")
    second = start_server("--port", str(port))
    assert second.post(body_of("r", now_ms(), RoomName="Two")).is_success
    expect(page.locator("tr[data-room='r']")).to_contain_text("Two", timeout=20_000)
    expect(page.locator("#live")).to_have_text("live")
    show.close()


# ---- hostile text ----


@pytest.mark.parametrize("scripts", [True, False])
def test_hostile_names_show_as_text(show: Opener, server: Server, scripts: bool) -> None:
    for number, text in enumerate(HOSTILE):
        room_id = text.replace("/", "_")[:60] or "x"
        body = body_of(
            room_id, T0 + number, operator=text, RoomName=text, CustomInfo=text, CoverURL=text, **{text: text}
        )
        assert server.post(body).is_success, text
    page = show("/?sort=name", java_script_enabled=scripts)
    for text in HOSTILE:
        room_id = text.replace("/", "_")[:60]
        page.goto(f"/room/{quote(room_id, safe='')}")
        expect(page.locator("h1")).to_be_visible()
        assert page.locator("main img, main script, main iframe").count() == 0
        shown = page.locator("#moment").inner_text()
        assert "\u202e" not in shown
        assert "\u001b" not in shown
        assert page.locator("#moment a[href^='javascript:']").count() == 0
    page.goto(f"/room/{quote(HOSTILE[0].replace('/', '_')[:60], safe='')}")
    expect(page.locator("h1")).to_have_text(HOSTILE[0])


# ---- width, colours, accessibility ----

PAGES = [
    "/",
    f"/?at={AT_2014}",
    ROOM,
    f"{ROOM}?at={AT_2014}&a={AT_2014}&b=2026-03-11T21:30:00Z",
    "/health",
    "/room/none",
]


@pytest.mark.parametrize("colors", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1600])
def test_pages_fit_and_are_accessible(browser: Browser, server: Server, width: int, colors: str) -> None:
    show = Opener(browser, server.url)
    for number, path in enumerate(PAGES):
        page = show(path, width=width, color_scheme=colors)
        page.wait_for_load_state("load")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        found = Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]})
        problems = [(it["id"], [node["html"][:200] for node in it["nodes"][:3]]) for it in found.response["violations"]]
        assert problems == [], f"{path}: {json.dumps(problems, indent=1)}"
        keep_picture(page, f"page-{number}-{width}-{colors}")
    assert [text for text in show.said if "404" not in text] == []  # the last page is one that is not there
    show.close()


def test_everything_is_reached_by_keyboard(show: Opener) -> None:
    page = show(ROOM)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    reached = set()
    for _ in range(70):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate(
                "document.activeElement.id || document.activeElement.name || document.activeElement.innerText"
            )
        )
    assert reached >= {"at", "known", "previous", "play", "field", "operator", "late", "Download as CSV", "Filter"}


# ---- signing in ----


def test_a_session_is_needed_and_gives_what_its_token_may(browser: Browser, start_server: StartServer) -> None:
    tokens = {"ROOMLAPSE_API_TOKEN": "reader-token", "ROOMLAPSE_ADMIN_TOKEN": "admin-token"}
    server = start_server(env=tokens)
    assert server.post(body_of("r", now_ms(), RoomName="One")).is_success
    show = Opener(browser, server.url)
    page = show("/room/r")
    expect(page).to_have_url(f"{server.url}/sign-in?next=/room/r")
    page.get_by_label("API token").fill("wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert").filter(has_text="The token is wrong")).to_be_visible()
    page.get_by_label("API token").fill("reader-token")
    page.get_by_role("button", name="Sign in").click()
    expect(page).to_have_url(f"{server.url}/room/r")
    expect(page.locator("#live")).to_have_text("live")
    assert page.locator("a", has_text="raw").count() == 0
    cookie = {it["name"]: it for it in page.context.cookies()}["roomlapse_session"]
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Lax")
    assert "reader-token" not in cookie["value"]
    page.get_by_role("button", name="Sign out").click()
    page.goto("/")
    page.get_by_label("API token").fill("admin-token")
    page.get_by_role("button", name="Sign in").click()
    page.goto("/room/r")
    expect(page.locator("#history a", has_text="raw")).to_be_visible()
    assert [text for text in show.said if "401" not in text] == []  # the wrong token's answer
    show.close()


# ---- a first-time user ----


def test_was_it_public_then_and_who_changed_it_takes_three_clicks(show: Opener) -> None:
    page = show("/?window=7d")
    page.get_by_role("link", name="late-show").click()  # one
    period = page.locator("#visibility tbody tr", has_text="21:12:40").filter(has_text="21:16:02")
    expect(period).to_contain_text("public")
    period.get_by_role("link").click()  # two
    expect(page.locator("#moment h2")).to_contain_text("public")
    expect(page.locator("#moment .what")).to_contain_text("by ines from Android")
