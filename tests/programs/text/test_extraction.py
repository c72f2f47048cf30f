"""Numbers, dates and the nearest sentences are found in text."""

from __future__ import annotations

import datetime

from erlport_bridge.programs.text.extraction import dates, nearest_sentences, numbers


def test_numbers_and_dates_are_distinguished() -> None:
    text = "On 2024-05-01 and 20 July 1969, 1,234 of v2 cost -3.5; March 31, 1889; 2023-02-31."
    assert numbers(text) == [1234, -3.5]
    assert dates(text) == [datetime.date(2024, 5, 1), datetime.date(1969, 7, 20), datetime.date(1889, 3, 31)]


def test_search_prefers_rare_words_and_keeps_the_order_of_equals() -> None:
    text = "The cat sat. The cat ran. The dog and the cat slept."
    assert nearest_sentences(text, "cats and dogs", 2) == ["The dog and the cat slept.", "The cat sat."]
    assert nearest_sentences(text, "zebra", 2) == []
