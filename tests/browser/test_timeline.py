"""A room's timeline: what it draws of long rooms and of past knowledge, its sliders, its steps."""

import itertools
import re
import time
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import pytest
from conftest import Server, body_of
from playwright.sync_api import Browser, Locator, Page, expect

from browser.conftest import Opener, import_lines, keep_picture

ROOM = "/room/late-show"
AT_2014 = "2026-03-11T20:14:00Z"
MINUTE = 60_000
TOGGLES = 1500


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def query_of(page: Page) -> dict[str, list[str]]:
    return parse_qs(urlsplit(page.url).query)


def middle_of(found: Locator) -> float:
    box = found.bounding_box()
    assert box is not None
    return float(box["x"] + box["width"] / 2)


@pytest.fixture(scope="module")
def long_rooms(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opener]:
    """A room that changed its visibility every ten seconds for four hours, half of the time public."""
    data = tmp_path_factory.mktemp("long") / "data"
    begin = now_ms() - TOGGLES * 10_000
    import_lines(
        data,
        (body_of("restless", begin + n * 10_000, IsPublicVisible=n % 2 == 0, RoomName=f"{n}") for n in range(TOGGLES)),
    )
    with Server(data) as server:
        opener = Opener(browser, server.url)
        yield opener
        opener.close()
        assert opener.said == []


# ---- more than can be told apart ----


@pytest.mark.parametrize("scripts", [True, False])
def test_the_whole_past_of_a_restless_room_is_drawn_and_said_to_be_thinned(long_rooms: Opener, scripts: bool) -> None:
    page = long_rooms("/room/restless", java_script_enabled=scripts)
    timeline = page.locator("#timeline svg")
    box = timeline.bounding_box()
    assert box is not None
    drawn = page.locator("#timeline .period").evaluate_all(
        "all => all.map(it => it.getBoundingClientRect()).map(it => [it.left, it.right])"
    )
    assert 100 < len(drawn) < TOGGLES
    assert drawn[0][0] == pytest.approx(box["x"], abs=1)
    assert drawn[-1][1] == pytest.approx(box["x"] + box["width"], abs=1)
    assert all(abs(one[1] - next_[0]) < 1 for one, next_ in itertools.pairwise(drawn))
    expect(page.locator("#legend")).to_contain_text("thinned: 1,500 periods are drawn as")
    expect(page.locator("#legend")).to_contain_text("each mark stands for")
    marks = page.locator("#timeline .tick").evaluate_all("all => all.map(it => it.getBoundingClientRect().left)")
    assert 100 < len(marks) <= 500
    assert marks[0] == pytest.approx(box["x"], abs=6)
    label = page.locator("#timeline .joined").first.get_attribute("aria-label") or ""
    assert re.match(r"\d+ periods from ", label)
    expect(page.locator("#visibility summary")).to_contain_text("The newest 100 of 1,500 periods")
    keep_picture(page, f"restless-{'scripts' if scripts else 'plain'}")


def test_the_strip_of_the_list_is_thinned_too(long_rooms: Opener) -> None:
    page = long_rooms("/")
    strip = page.locator("tr[data-room=restless] svg.strip")
    assert (strip.get_attribute("aria-label") or "").endswith("thinned")
    assert 30 < strip.locator(".joined").count() < 300


def test_steps_in_a_thinned_timeline_miss_no_change(long_rooms: Opener) -> None:
    page = long_rooms("/room/restless")
    heading = page.locator("#moment .what")
    for number in (TOGGLES - 2, TOGGLES - 3, TOGGLES - 4):
        page.keyboard.press("ArrowLeft")
        expect(heading).to_contain_text(f"RoomName {number - 1} → {number}")
    page.keyboard.press("ArrowRight")
    expect(heading).to_contain_text(f"RoomName {TOGGLES - 4} → {TOGGLES - 3}")
    page.keyboard.press("Home")
    expect(heading).to_contain_text("RoomName not set → 0")


# ---- known_at ----


@pytest.mark.parametrize("scripts", [True, False])
def test_the_strip_ends_at_known_at_and_is_hatched_behind_it(show: Opener, scripts: bool) -> None:
    page = show(f"{ROOM}?known_at=2026-03-11T20:30:00Z", java_script_enabled=scripts)
    mark = page.locator("#known-mark")
    edge = middle_of(mark)
    ends = page.locator("#timeline .period").evaluate_all("all => all.map(it => it.getBoundingClientRect().right)")
    assert max(ends) == pytest.approx(edge, abs=2)
    hatched = page.locator("#timeline rect.unknown").bounding_box()
    timeline = page.locator("#timeline svg").bounding_box()
    assert hatched is not None
    assert timeline is not None
    assert hatched["x"] == pytest.approx(edge, abs=2)
    assert hatched["x"] + hatched["width"] == pytest.approx(timeline["x"] + timeline["width"], abs=1)
    expect(page.locator("#legend")).to_contain_text("known at")
    expect(page.locator("#visibility > p")).not_to_contain_text("to now")
    keep_picture(page, f"known-at-{'scripts' if scripts else 'plain'}")
    page.goto("/?known_at=2026-03-11T20:30:00Z&at=2026-03-11T21:30:00Z")
    strip = page.locator("tr[data-room='late-show'] svg.strip")
    ends = strip.locator("rect.public, rect.hidden").evaluate_all(
        "all => all.map(it => it.getBoundingClientRect().right)"
    )
    hatched = strip.locator("rect.unknown").bounding_box()
    assert hatched is not None
    assert max(ends) == pytest.approx(hatched["x"], abs=2)


def test_without_a_known_at_nothing_is_hatched_or_marked(show: Opener) -> None:
    page = show(ROOM)
    expect(page.locator("rect.unknown")).to_have_count(0)
    expect(page.locator("#known-mark")).to_be_hidden()


# ---- sliders ----


@pytest.mark.parametrize("width", [360, 800, 1280, 1600])
def test_the_thumb_stands_at_the_line_that_it_moves(show: Opener, width: int) -> None:
    page = show(ROOM, width=width)
    slider = page.get_by_role("slider", name="At", exact=True)
    timeline = page.locator("#timeline svg").bounding_box()
    track = slider.bounding_box()
    assert timeline is not None
    assert track is not None
    for part in (0.0, 0.5, 0.02, 0.25, 0.98, 0.75, 1.0):
        # A click on the track, beside the thumb, puts the thumb's middle there.
        x = timeline["x"] + part * timeline["width"]
        page.mouse.click(x, track["y"] + track["height"] / 2)
        assert middle_of(page.locator("#cursor")) == pytest.approx(x, abs=2), part


def test_the_known_at_slider_agrees_with_its_mark_and_steps_from_arrival_to_arrival(
    show: Opener, server: Server
) -> None:
    page = show(ROOM)
    slider = page.get_by_role("slider", name="Known at")
    events = server.get("/events", limit=500)["events"]
    arrivals = sorted({it["received_at_ms"] for it in events if it["room_id"] == "late-show"})
    slider.focus()
    for expected in arrivals[:-4:-1]:
        page.keyboard.press("ArrowLeft")
        expect(slider).to_have_js_property("value", str(expected))
    page.keyboard.press("ArrowDown")
    expect(slider).to_have_js_property("value", str(arrivals[-4]))
    expect(page.locator("#moment h2 time").last).to_have_attribute("data-ms", str(arrivals[-4]))
    for expected in arrivals[-3:]:
        page.keyboard.press("ArrowRight")
        expect(slider).to_have_js_property("value", str(expected))
    page.keyboard.press("ArrowRight")
    expect(page.locator("#moment h2")).not_to_contain_text("known at")
    page.keyboard.press("Home")
    expect(page.locator("#moment h2 time").last).to_have_attribute("data-ms", str(arrivals[0]))


# ---- what is shown is of one moment ----


def test_nothing_stale_is_left_after_a_step(show: Opener) -> None:
    page = show(f"{ROOM}?at={AT_2014}")
    expect(page.locator("#name")).to_have_text("The Late Show: open phones")
    page.keyboard.press("Home")
    expect(page.locator("#moment h2")).to_contain_text("19:59:10")
    fresh = show(page.url)
    for part in ("#name", "#moment", "#history table", "#legend", "#visibility"):
        assert page.locator(part).inner_text() == fresh.locator(part).inner_text(), part
    assert page.title() == fresh.title()
    for name in ("#filter", "#times", "#travel"):
        sent = "form => [...new FormData(form)].map(pair => pair.join('='))"
        assert page.locator(name).evaluate(sent) == fresh.locator(name).evaluate(sent)
    expect(page.locator("#back")).to_be_visible()
    page.keyboard.press("End")
    expect(page.locator("#moment h2")).to_contain_text("Now")
    expect(page.locator("#back")).to_be_hidden()
    expect(page.locator("#name")).to_have_text("The Late Show: goodbye")


def test_a_past_time_is_not_called_live(show: Opener) -> None:
    page = show(ROOM)
    expect(page.locator("#live")).to_have_text("live")
    page.keyboard.press("Home")
    expect(page.locator("#live")).to_contain_text("a past time")
    page.keyboard.press("End")
    expect(page.locator("#live")).to_have_text("live")
    known = show(f"{ROOM}?known_at={AT_2014}")
    expect(known.locator("#live")).to_contain_text("a past time")


@pytest.mark.parametrize("scripts", [True, False])
def test_a_change_of_minutes_ago_says_so(show: Opener, scripts: bool) -> None:
    page = show(f"{ROOM}?at={AT_2014}", java_script_enabled=scripts)
    expect(page.locator("#moment .what")).to_contain_text("(1 min 19 s 400 ms before)")
    page.get_by_role("link", name="Next change").click()
    expect(page.locator("#moment .what")).not_to_contain_text("before)")


def test_without_scripts_there_is_no_button_that_does_nothing(show: Opener) -> None:
    for path in ("/", ROOM, f"{ROOM}?at={AT_2014}", "/health"):
        page = show(path, java_script_enabled=False)
        for button in page.get_by_role("button").all():
            assert button.evaluate("it => it.form !== null"), button.inner_text()
        expect(page.locator("input[type=range]:visible")).to_have_count(0)


def test_a_moment_outside_of_the_slider_s_reach_stays_when_the_other_moves(show: Opener) -> None:
    page = show(f"{ROOM}?at=2026-03-01T00:00:00Z")
    page.get_by_role("slider", name="Known at").focus()
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#moment h2")).to_contain_text("as known at")
    assert query_of(page)["at"] == ["2026-03-01T00:00:00.000Z"]
