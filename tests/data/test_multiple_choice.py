"""HellaSwag and MedMCQA files: what they hold, and how what is wrong is named."""

from __future__ import annotations

import bz2
import json

import pytest

from smf_jax.data.multiple_choice import Choice, read_hellaswag, read_medmcqa

ITEM = ["Sledding: A boy goes down. he", "2", "falls.", "sings a song.", "laughs.", "is a dog."]
RECORD = dict(question=" Which bone? ", opa="Ulna", opb=" Radius", opc="Femur", opd="Tibia", cop=3)


def test_hellaswag_items_are_six_lines_each(tmp_path):
    path = tmp_path / "h.txt.bz2"
    path.write_bytes(bz2.compress("\n".join([*ITEM, *ITEM[:1], "0", *ITEM[2:]]).encode()))
    first, second = read_hellaswag(path)
    assert first == Choice("Sledding: A boy goes down. he", tuple(ITEM[2:]), 2)
    assert second.right == 0


def test_medmcqa_options_are_the_endings(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps(RECORD) + "\n")
    endings = ("Ulna", "Radius", "Femur", "Tibia")
    assert read_medmcqa(path) == (Choice("Question: Which bone?\nAnswer:", endings, 2),)


def test_medmcqa_is_read_from_csv_too(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text(",".join(RECORD) + "\n" + ",".join(map(str, RECORD.values())) + "\n")
    assert read_medmcqa(path)[0].right == 2


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (ITEM[:-1], "5 lines, expected 6 for each item"),
        ([], "0 lines, expected 6"),
        ([ITEM[0], "4", *ITEM[2:]], "line 2: '4' is no ending's number; expected 0 to 3"),
        ([*ITEM, "", *ITEM[1:]], "line 7: expected text"),
        ([*ITEM[:3], " ", *ITEM[4:]], "line 4: expected text for the context and every ending"),
    ],
)
def test_a_malformed_hellaswag_file_is_refused(tmp_path, lines, message):
    path = tmp_path / "h.txt"
    path.write_text("".join(f"{line}\n" for line in lines))
    with pytest.raises(ValueError, match=message):
        read_hellaswag(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(cop=0), "line 2: cop=0: expected 1 to 4"),
        (dict(cop=None), "line 2: cop=None"),
        (dict(opd=None), "line 2: expected text"),
        (dict(question=" "), "line 2: expected text"),
    ],
)
def test_a_malformed_medmcqa_record_is_refused(tmp_path, change, message):
    path = tmp_path / "m.jsonl"
    path.write_text(f"{json.dumps(RECORD)}\n{json.dumps(RECORD | change)}\n")
    with pytest.raises(ValueError, match=message):
        read_medmcqa(path)


def test_options_may_be_numbers_and_files_have_marks(tmp_path):
    text = "\ufeff" + json.dumps(RECORD | dict(opa=1900, opb=2.5, opc="[1]")) + "\n\n"
    (tmp_path / "m.jsonl").write_text(text, encoding="utf-8")
    assert read_medmcqa(tmp_path / "m.jsonl")[0].endings == ("1900", "2.5", "[1]", "Tibia")
    lines = "".join(f"{line}\n" for line in [*ITEM, " "])
    (tmp_path / "h.txt").write_text(f"\ufeff{lines}", encoding="utf-8")
    assert read_hellaswag(tmp_path / "h.txt")[0].prompt == ITEM[0].strip()


def test_a_file_of_something_else_is_refused(tmp_path):
    (tmp_path / "m.jsonl").write_text('{"question": "Who?", "answers": ["M"]}\n')
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(ValueError, match="line 1: no opa, opb, opc, opd, cop; expected the fields"):
        read_medmcqa(tmp_path / "m.jsonl")
    with pytest.raises(ValueError, match="no questions in the file"):
        read_medmcqa(tmp_path / "empty.jsonl")
    with pytest.raises(ValueError, match="read from plain text; expected .txt"):
        read_hellaswag(tmp_path / "m.jsonl")
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_hellaswag(tmp_path / "none.txt")


def test_the_shared_files_read(shared):
    held_out = shared / "data" / "heldout"
    items = read_hellaswag(held_out / "hellaswag_val_full.txt.bz2")
    assert len(items) == 10_042
    assert items[0].prompt.startswith("Roof shingle removal: A man") and items[0].right == 3
    items = read_medmcqa(held_out / "medmcqa_dev.jsonl.xz")
    assert len(items) == 4_183
    assert [sum(item.right == place for item in items) for place in range(4)] == [
        1348,
        1085,
        925,
        825,
    ]
