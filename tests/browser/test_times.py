"""Times in the reader's zone: the hour that comes twice, the one that is left out, midnight."""

import re

import pytest
from playwright.sync_api import Page, expect

from browser.conftest import Opener

TWICE = [
    pytest.param("Europe/Berlin", "2026-10-25T0{}:30", ("00:30", "01:30"), ("UTC+2", "UTC+1"), id="Berlin"),
    pytest.param("America/New_York", "2026-11-01T0{}:30", ("05:30", "06:30"), ("UTC-4", "UTC-5"), id="New York"),
]


def sent_at(page: Page) -> str:
    """What the address says of the time, without its seconds."""
    found = re.search(r"[?&]at=(\d{4}-\d\d-\d\dT\d\d)%3A(\d\d)%3A00\.000Z", page.url)
    assert found, page.url
    return f"{found[1]}:{found[2]}"


def hour_of(zone: str) -> int:
    return 2 if zone == "Europe/Berlin" else 1


@pytest.mark.parametrize(("path", "side"), [("/", 1), ("/room/late-show", 0)])
@pytest.mark.parametrize(("zone", "local", "utc", "offsets"), TWICE)
def test_a_time_of_the_hour_that_comes_twice_stays_on_its_side(
    show: Opener, zone: str, local: str, utc: tuple[str, str], offsets: tuple[str, str], side: int, path: str
) -> None:
    typed = local.format(hour_of(zone))
    day = typed[:10]
    page = show(f"{path}?at={day}T{utc[side]}:00Z", timezone_id=zone)
    heading = page.locator("h1 time" if path == "/" else "#moment h2 time").first
    expect(heading).to_contain_text(offsets[side])
    form = page.locator("#filters" if path == "/" else "#travel")
    field = form.locator("input[type=datetime-local]").first
    expect(field).to_have_value(typed)
    choice = form.locator("select[aria-label*='which of the two']").first
    expect(choice).to_be_visible()
    assert offsets[side] in choice.locator("option:checked").inner_text()
    form.get_by_role("button").click()  # sent as it is
    assert sent_at(page) == f"{day}T{utc[side]}"
    field.fill(typed.replace(":30", ":45"))
    form.get_by_role("button").click()
    assert sent_at(page) == f"{day}T{utc[side].replace(':30', ':45')}"
    expect(heading).to_contain_text(offsets[side])
    choice.select_option(index=1 - side)  # the other of the two
    form.get_by_role("button").click()
    assert sent_at(page) == f"{day}T{utc[1 - side].replace(':30', ':45')}"
    expect(heading).to_contain_text(offsets[1 - side])


def test_other_hours_name_no_offset_and_offer_no_choice(show: Opener) -> None:
    page = show("/?at=2026-10-25T02:30:00Z")  # half past three, after the change
    expect(page.locator("h1 time")).to_have_text("25/10/2026, 03:30:00")
    expect(page.locator("#filters select[aria-label*='which of the two']")).to_be_hidden()


def test_a_time_that_the_clocks_leave_out_says_how_it_is_read(show: Opener) -> None:
    page = show("/")
    field = page.locator("#filters input[type=datetime-local]")
    field.fill("2026-03-29T02:30")
    expect(page.locator("#filters small")).to_contain_text("03:30:00")
    page.get_by_role("button", name="Show").click()
    assert sent_at(page) == "2026-03-29T01:30"


@pytest.mark.parametrize("locale", ["en-US", "en-GB", "de-DE"])
def test_midnight_is_zero_hours(show: Opener, locale: str) -> None:
    page = show("/?at=2026-03-11T23:00:00Z", locale=locale)
    expect(page.locator("h1 time")).to_contain_text("00:00:00")


def test_what_the_drawings_say_is_in_the_reader_s_zone_too(show: Opener) -> None:
    page = show("/room/late-show?at=2026-03-11T20:14:00Z&known_at=2026-03-11T20:30:00Z")
    expect(page.locator("#live")).not_to_have_text("")
    said = [*page.locator("svg title").all_text_contents(), page.title()]
    said += page.locator("svg [aria-label], svg[aria-label]").evaluate_all(
        "all => all.map(it => it.getAttribute('aria-label'))"
    )
    said += page.locator(".badge[title]").evaluate_all("all => all.map(it => it.title)")
    assert len(said) > 20
    assert [text for text in said if re.search(r"\dT\d\d:\d\d.*Z", text)] == []
    assert "21:14:00" in page.title()
