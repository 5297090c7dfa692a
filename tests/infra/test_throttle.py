"""Log lines that repeat: one of a kind at once, then one each interval that says how many there were."""

import time

from app.infra.throttle import Throttle


def test_the_first_of_a_kind_is_due_at_once_and_the_next_after_the_interval() -> None:
    throttle = Throttle(0.2)
    assert throttle.due() == 1
    assert [throttle.due() for _ in range(5)] == [0] * 5
    time.sleep(0.25)
    assert throttle.due() == 6  # with the five that were held back
    assert throttle.due() == 0
    time.sleep(0.25)
    assert throttle.due() == 2


def test_kinds_do_not_hold_one_another_back() -> None:
    throttle = Throttle()
    assert throttle.due("forbidden") == 1
    assert throttle.due("unsigned") == 1
    assert throttle.due("forbidden") == 0
    assert throttle.due() == 1
