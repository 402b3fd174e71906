"""The parts of records: paths, texts, and lists that were written out as text."""

from __future__ import annotations

import json
from decimal import Decimal

import numpy as np
import pytest

from smf_jax.data.records import at, parse_json, paths_of, texts_in, unlisted

TEXTS = ["the Oro", "THE ORO", "it's", 'he said "so"', "a, b", "Ōro\tx", "back\\slash", "[1]", ""]


@pytest.mark.parametrize("count", [1, 2, len(TEXTS)])
def test_lists_are_read_as_python_numpy_and_json_write_them(count):
    texts = TEXTS[:count]
    several = np.array(texts * 9)  # long enough for NumPy to wrap the line
    for written in (str(texts), json.dumps(texts), str(np.array(texts)), repr(np.array(texts))):
        found = unlisted(written)
        assert list(texts_in(found)) == [text.strip() for text in texts if text]
    assert "\n" in str(several) or count == 1
    assert list(texts_in(unlisted(str(several)))) == [t for t in texts * 9 if t]
    assert unlisted(str(list(np.array(texts)))) == texts  # [np.str_('the Oro'), …]
    assert unlisted(str(np.array(texts, object))) == texts


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("('a', 'b')", ("a", "b")),
        ("{'b', 'a'}", ["b", "a"]),  # in the order of the text
        ("{'text': array(['a'], dtype=object)}", {"text": ["a"]}),
        ("[['a' 'b']\n ['c' 'd']]", [["a", "b"], ["c", "d"]]),
        ("[{'role': 'user'} {'role': 'x'}]", [{"role": "user"}, {"role": "x"}]),
        ("['a' 1900]", ["a", 1900]),
        ("[]", []),
        ("[None]", [None]),
    ],
)
def test_groups_and_nested_lists_are_read(text, value):
    assert unlisted(text) == value
    assert type(unlisted(text)) is type(value)


@pytest.mark.parametrize(
    "text",
    ["[not a list", "(the) Beatles (band)", "('quoted') words (so)", "('a')", "{x | y}", "a [1]"],
)
def test_words_in_brackets_stay_words(text):
    assert unlisted(f" {text} ") == text


@pytest.mark.parametrize(
    "text",
    [
        "[a, b]",
        "['a', 'b",
        "['a''b']",
        '["a" "b"',
        "['a'",
        "{'text': ['a'",
        "{'text': 'a', 'text': 'b'}",
        "[" * 9999 + "]",
        "[nan 'a']",
        "[x()]",
    ],
)
def test_what_looks_like_a_list_and_is_none_is_refused(text):
    with pytest.raises(ValueError, match="looks like a list and cannot be read as one: expected"):
        unlisted(text)


@pytest.mark.parametrize("text", ["[0, 1]", "[1900 1911]", "[ 1.5  2. ]", "[[1], [2]]"])
def test_numbers_alone_may_be_an_interval(text):
    with pytest.raises(ValueError, match="may be a list of numbers or a text"):
        unlisted(text)


@pytest.mark.parametrize("bad", ["['a' ... 'b']", "[True, 'a']", "['a', 1e999]"])
def test_lists_that_hold_no_texts_are_refused(bad):
    with pytest.raises(ValueError, match="found .*: expected text or a list of texts"):
        list(texts_in(unlisted(bad)))


def test_texts_are_found_in_numbers_bytes_lists_and_groups():
    assert list(texts_in(1911)) == ["1911"]
    assert list(texts_in(parse_json("[0.10, 1911.0, -3]"))) == ["0.10", "1911.0", "-3"]
    assert list(texts_in([b"W\xc3\xa9rt", None, " a ", " ", float("nan")])) == ["Wért", "a"]
    assert list(texts_in(np.array(["a", "b"]))) == ["a", "b"]
    assert list(texts_in(np.int64(7))) == ["7"]
    assert list(texts_in({"aliases": ["b", "c"], "value": "a", "type": "x"})) == ["a", "b", "c"]
    assert list(texts_in([{"text": "a", "answer_start": 3}, {"text": "b"}])) == ["a", "b"]
    for bad in (True, np.True_, {"other": "a"}, float("inf"), Decimal("Infinity"), object()):
        with pytest.raises(ValueError, match="expected text or a list of texts"):
            list(texts_in([bad]))


def test_paths_lead_through_groups_lists_and_texts_of_them():
    record = {"a": {"b": [{"c": 1}, {"c": 2}]}, "a.x": 3, "d": "{'e': ['f']}"}
    assert at(record, "a.b.c") == at(record, "a/b/c") == [1, 2]
    assert at(record, "a.x") == 3
    assert at(record, "d.e") == ["f"]
    assert at(record, "a.z") is at(record, "q") is at(record, "a.x.y") is None
    assert list(paths_of(record)) == ["a.b", "a.x", "d"]


def test_half_characters_are_refused():
    assert parse_json(r'["\ud83d\ude00", 1.5]') == ["😀", Decimal("1.5")]
    with pytest.raises(ValueError, match="surrogates not allowed"):
        parse_json(r'{"a": "\uD83D!"}')


@pytest.mark.parametrize("text", ['{"a": 1, "b": 2, "a": 1}', '[{"x": {"a": 1, "a": 2}}]'])
def test_a_key_that_is_there_twice_is_refused(text):
    with pytest.raises(ValueError, match="the key 'a' is there twice"):
        parse_json(text)
