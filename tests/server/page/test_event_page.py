"""The page of one callback."""

from conftest import Server
from html_tree import moments_in

from server.page.reading import changes_of, check, open_page, open_room
from server.page.town import DIARY, HOSTILE, MARKUP


def test_a_callback_is_shown_exactly_as_it_came(town: Server) -> None:
    for change in (changes_of(town, DIARY)[-1], changes_of(town, MARKUP)[0], changes_of(town, HOSTILE[14])[0]):
        page = open_page(town, f"/event/{change['event_id']}")
        event = town.get(f"/events/{change['event_id']}")
        assert page.one("pre", id="body").raw_text == event["body"]
        facts = page.one("dl")
        told = dict(zip([it.text for it in facts.all("dt")], [it.text for it in facts.all("dd")], strict=True))
        assert told["Command"] == event["command"]
        assert told["Position"] == f"{event['position']:,}"
        assert (told["event_id"], told["chain"]) == (event["event_id"], event["chain"])
        assert moments_in(facts) == [event["event_time_ms"], event["received_at_ms"]]
        room = check(town.client.get(facts.one("a").attrs["href"]))
        assert room.one("h1").text == told["Room"]
        assert town.client.get(page.one("main").all("a")[-1].attrs["href"]).json() == event


def test_a_number_that_made_a_callback_is_shown_digit_by_digit(town: Server) -> None:
    by = {str(2**63): 2, "1.50": -1}
    for shown, i in by.items():
        page = open_page(town, f"/event/{changes_of(town, DIARY)[i]['event_id']}")
        assert page.one("dl").all("dd")[2].text == shown


def test_callbacks_of_the_history_are_a_link_away(town: Server) -> None:
    page = open_room(town, DIARY)
    links = [link.attrs["href"] for link in page.one("table", class_="history").all("a") if link.text == "raw"]
    assert len(links) == 25
    check(town.client.get(links[0]))
    fields = page.one("table", class_="fields").all("a")
    assert check(town.client.get(fields[-1].attrs["href"])).one("pre", id="body")
