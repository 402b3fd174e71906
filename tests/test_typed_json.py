"""JSON of others: values of the asked type and range, or one line with file, key and value."""

import math

import pytest

from smf_jax.typed_json import JsonObject, parse_json, read_json


def test_values_come_as_they_were_asked_for():
    told = JsonObject({"n": 3, "x": 2, "flag": True, "name": "", "ids": [1, 2], "none": None})
    assert told.need("n", int) == 3
    assert isinstance(told.need("x", float), float)
    assert (told.need("flag", bool), told.need("name", str)) == (True, "")
    assert told.many("ids", int) == [1, 2]
    assert (told.get("none", int), told.get("absent", int)) == (None, None)
    assert told.need("absent", int, 7) == 7
    assert told.section("none").values == {}
    assert JsonObject({"a": 1, "b": 2}).all(int) == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (int, [True, "512", [1], {}, None, 1.5, 3.0, math.nan, 10**12, -(10**12)]),
        (float, [True, "512", [1], {}, None, math.nan, math.inf, -math.inf, 10**400, 1e39]),
        (bool, [0, 1, "", "true", [], None]),
        (str, [True, 1, [], {}, None]),
        (dict, [[], "", 0]),
        (list, [{}, "ab", 0]),
    ],
)
def test_what_is_of_another_type_is_named(kind, values):
    for value in values:
        with pytest.raises(ValueError, match=r"^file: size=.*: expected a|true"):
            JsonObject({"size": value}, "file").need("size", kind)


def test_the_error_says_where_and_what_was_expected():
    told = JsonObject({"sizes": {"n": 0, "ids": [1, "x"]}, "a": 1}, "dir/config.json")
    inner = told.section("sizes")
    with pytest.raises(ValueError, match=r"json: sizes.n=0: expected a whole number from 1 to 2,1"):
        inner.need("n", int, least=1)
    with pytest.raises(ValueError, match=r"^dir/config.json: sizes.ids\[1\]='x': expected a whole"):
        inner.many("ids", int)
    with pytest.raises(ValueError, match=r"b=\(absent\): expected a text"):
        told.need("b", str)
    with pytest.raises(ValueError, match=r"a=1: expected more"):
        told.require(False, "a", "more")
    with pytest.raises(ValueError) as caught:
        JsonObject({"a": "x" * 10**6}).need("a", int)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not valid JSON: Expecting"),
        (b"[1]", "expected a JSON object, found list"),
        (b"[" * 10**5, "not valid JSON: maximum recursion"),
        (b'{"a": ' + b"1" * 5000 + b"}", "not valid JSON: Exceeds the limit"),
        (b'{"a": "\xff"}', "not valid JSON: 'utf-8' codec"),
    ],
)
def test_files_that_hold_no_object_are_named(content, message, tmp_path):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(ValueError, match=f"x.json: {message}"):
        read_json(tmp_path / "x.json")


def test_a_byte_order_mark_is_no_part_of_it(tmp_path):
    (tmp_path / "x.json").write_text('{"a": "é"}', encoding="utf-8-sig")
    assert read_json(tmp_path / "x.json").values == {"a": "é"}
    assert parse_json('{"a": 1}', "header").all(int) == {"a": 1}
