"""The answer that is taught where a list of aliases has no order."""

from __future__ import annotations

import pytest

from smf_jax.data.answer_order import typical_first
from smf_jax.data.questions import Fields, question_in


@pytest.mark.parametrize(
    ("answers", "first"),
    [
        (
            ["\N{HELICOPTER}", "Helicopters", "Cargo helicopter", "Helecopter", "Helicopter"],
            "Helicopter",
        ),
        (["Gerald ford", "President Gerald R. Ford", "Ford", "Gerald Ford"], "Gerald Ford"),
        (["The who", "The Who (band)", "THE WHO", "The Who"], "The Who"),
        (["Serena (film)", "Serena"], "Serena"),
        (["Alfonse %22Scarface%22 Capone", "Al Capone", "Alphonse Capone"], "Alphonse Capone"),
        (["NASA", "N.A.S.A."], "NASA"),
        (["1950", "one thousand, nine hundred and fifty"], "1950"),
        (["x"], "x"),
    ],
)
def test_the_first_is_most_like_the_others(answers, first):
    found = typical_first(answers)
    assert found[0] == first
    assert sorted(found) == sorted(answers)


def test_answers_that_are_equally_like_stay_in_order():
    assert typical_first(["abc", "xyz"]) == ("abc", "xyz")
    assert typical_first(["xyz", "abc"]) == ("xyz", "abc")
    assert typical_first([]) == ()


def test_a_record_gives_them_in_the_order_that_is_asked_for():
    record = {"question": "Who?", "answers": ["Serena (film)", "Serena"]}
    assert question_in(record).answers == ("Serena (film)", "Serena")
    fields = Fields.of(order="typical")
    assert question_in(record, fields).answers == ("Serena", "Serena (film)")
