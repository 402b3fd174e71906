from __future__ import annotations

import bz2
import gzip
import lzma
from pathlib import Path

import pytest

from smf_jax.data.files import (
    holds_records,
    read_records,
    read_texts,
    read_whole,
)
from tests.tiny_sweep import write_lines

LINES = '{"a": 1}\n{"a": "é"}\n'
OPENERS = {"": open, ".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}


def write(path: Path, text: str) -> Path:
    with OPENERS[path.suffix if path.suffix in OPENERS else ""](path, "wb") as file:
        file.write(text.encode("utf-8"))
    return path


@pytest.mark.parametrize("suffix", OPENERS)
def test_every_compression_reads_alike(tmp_path, suffix):
    path = write(tmp_path / f"records.jsonl{suffix}", LINES)
    assert list(read_records(path)) == [(1, {"a": 1}), (2, {"a": "é"})]


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".bz2"])
def test_a_file_cut_short_is_named(tmp_path, suffix):
    path = write(tmp_path / f"records.jsonl{suffix}", LINES * 5000)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"records\.jsonl\S+: damaged or cut short"):
        list(read_records(path))


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".bz2"])
def test_a_file_that_is_not_what_its_name_says_is_named(tmp_path, suffix):
    path = tmp_path / f"records.jsonl{suffix}"
    path.write_text("no archive at all")
    with pytest.raises(ValueError, match="damaged or cut short"):
        list(read_records(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1}\n\n{"a": 2}\n', "line 2: empty; expected one JSON object per line"),
        ('{"a": 1}\n{"a": \n', "line 2: malformed JSON"),
        ("[1, 2]\n", "line 1: expected a JSON object, found list"),
    ],
)
def test_bad_lines_are_numbered(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        list(read_records(write(tmp_path / "records.jsonl", text)))


def test_blank_lines_may_end_a_file(tmp_path):
    path = write(tmp_path / "records.jsonl", LINES + "\n \n")
    assert list(read_records(path)) == [(1, {"a": 1}), (2, {"a": "é"})]


def test_what_is_there_twice_is_refused(tmp_path):
    path = write(tmp_path / "records.jsonl", LINES + '{"a": 1, "b": {"c": 1, "c": 1}}\n')
    with pytest.raises(ValueError, match="line 3: the key 'c' is there twice"):
        list(read_records(path))
    path = write(tmp_path / "records.csv", "a,b, a,,\n1,2,3,,\n")
    with pytest.raises(ValueError, match=r"line 1: the header names \['a'\] twice: rename"):
        list(read_records(path))
    path = write(tmp_path / "records.tsv", "a\t\t\n1\t2\t3\n")  # empty columns have no name
    assert list(read_records(path)) == [(2, {"a": "1", "": "3"})]


ENCODINGS = ("utf-8-sig", "utf-16", "utf-32", "utf-16-be", "utf-16-le", "utf-32-be")


@pytest.mark.parametrize("suffix", OPENERS)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_byte_order_marks_tell_the_encoding(tmp_path, encoding, suffix):
    mark = "" if encoding in ENCODINGS[:3] else "\ufeff"

    def marked(name: str, text: str) -> Path:
        path = tmp_path / f"{name}{suffix}"
        with OPENERS[suffix](path, "wb") as file:
            file.write((mark + text).encode(encoding))
        return path

    assert list(read_records(marked("a.jsonl", LINES))) == [(1, {"a": 1}), (2, {"a": "é"})]
    assert list(read_records(marked("a.csv", '"a",b\r\n1,é\r\n'))) == [(2, {"a": "1", "b": "é"})]
    assert list(read_records(marked("a.tsv", "a\tb\r\n1\té, è\r\n"))) == [
        (2, {"a": "1", "b": "é, è"})
    ]
    text = marked("a.txt", "one é\r\n\r\ntwo")
    assert read_whole(text) == "one é\r\n\r\ntwo"
    assert read_whole(text, 5) == "one é"
    assert list(read_texts(text)) == ["one é", "two"]


def test_joined_files_may_have_marks_within(tmp_path):
    path = write(tmp_path / "records.jsonl", f"\ufeff{LINES}\ufeff{LINES}")
    assert [record["a"] for _, record in read_records(path)] == [1, "é", 1, "é"]


def test_utf_16_without_a_mark_is_refused(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes("Some text.".encode("utf-16-le"))
    with pytest.raises(ValueError, match=r"text\.txt: zero bytes in its text: UTF-16\? Save"):
        read_whole(path)
    path.write_bytes(b"\xff\xfea\x00b")
    with pytest.raises(ValueError, match=r"text\.txt: not UTF-16 text"):
        read_whole(path)


def test_a_document_may_be_one_cell(tmp_path):
    text = "One day, a girl went out.\n" * 10_000
    path = write(tmp_path / "records.csv", f'id,text\n1,"{text}"\n2,next\n')
    assert list(read_texts(path)) == [text, "next"]


def test_texts_may_stand_in_another_field(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", {"doc": {"body": "one"}}, {"doc": {"body": "[two]"}})
    assert list(read_texts(path, "doc.body")) == ["one", "[two]"]
    with pytest.raises(
        ValueError, match=r"line 1: no text in the field 'doc.x'; .* \['doc.body'\]"
    ):
        list(read_texts(path, "doc.x"))


def test_csv_cells_may_hold_brackets_and_line_breaks(tmp_path):
    text = 'problem,answer\n"two\nlines","[""a"", ""b""]"\nplain,[not json\n'
    records = list(read_records(write(tmp_path / "records.csv", text)))
    assert records == [
        (2, {"problem": "two\nlines", "answer": '["a", "b"]'}),
        (4, {"problem": "plain", "answer": "[not json"}),
    ]


@pytest.mark.parametrize("row", ["one", "one,two,three"])
def test_csv_rows_of_another_width_are_numbered(tmp_path, row):
    path = write(tmp_path / "records.csv", f"a,b\n1,2\n{row}\n")
    with pytest.raises(ValueError, match=r"line 3: expected 2 cells, one for each of \['a', 'b'\]"):
        list(read_records(path))


def test_malformed_quotes_are_numbered(tmp_path):
    path = write(tmp_path / "records.csv", 'a,b\n1,2\n"x"y,3\n')
    with pytest.raises(ValueError, match="line 3: malformed CSV"):
        list(read_records(path))


def test_other_formats_and_encodings_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.jsonl: no such file"):
        read_records(tmp_path / "none.jsonl")
    with pytest.raises(
        ValueError, match=r"unknown format; expected \.jsonl, \.csv, \.tsv, \.txt, al"
    ):
        read_records(write(tmp_path / "table.parquet", ""))
    with pytest.raises(ValueError, match="plain text has no fields"):
        read_records(write(tmp_path / "text.txt", "words"))
    path = tmp_path / "latin.jsonl"
    path.write_bytes(b'{"a": "\xe9"}\n')
    with pytest.raises(ValueError, match="not UTF-8 text"):
        list(read_records(path))


def test_paragraphs_are_divided_by_blank_lines(tmp_path):
    path = write(tmp_path / "text.txt", "\n = Title = \n \none\r\ntwo\n\n\nthree")
    assert list(read_texts(path)) == ["= Title =", "one\ntwo", "three"]


@pytest.mark.parametrize("suffix", OPENERS)
def test_a_text_is_read_as_it_stands_up_to_a_limit(tmp_path, suffix):
    text = " \n = Title = \n \n one\r\ntwo é \n\n"
    path = write(tmp_path / f"text.txt{suffix}", text)
    assert read_whole(path, -1) == text
    assert read_whole(path, 6) == text[:6]
    with pytest.raises(FileNotFoundError, match=r"none\.txt: no such file"):
        read_whole(tmp_path / "none.txt", -1)


def test_texts_come_from_records_paragraphs_and_directories(tmp_path):
    write_lines(tmp_path / "b.jsonl", {"text": "one"}, {"text": " "}, {"text": "two"})
    write_lines(tmp_path / "a.txt", "three", "", "four")
    write_lines(tmp_path / "notes.md", "not read")
    assert list(read_texts(tmp_path / "b.jsonl")) == ["one", "two"]
    assert list(read_texts(tmp_path / "a.txt")) == ["three", "four"]
    assert list(read_texts(tmp_path)) == ["three", "four", "one", "two"]


def test_texts_are_streamed(tmp_path):
    path = write_lines(tmp_path / "long.jsonl", *[{"text": "fine"}] * 3, "broken")
    texts = read_texts(path)
    assert [next(texts) for _ in range(3)] == ["fine"] * 3
    with pytest.raises(ValueError, match="line 4: malformed JSON"):
        next(texts)


def test_missing_texts_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_texts(tmp_path / "none.jsonl")
    with pytest.raises(ValueError, match="no text in this directory"):
        read_texts(tmp_path)
    path = write_lines(tmp_path / "a.jsonl", {"body": "x"})
    with pytest.raises(ValueError, match=r"line 1: no text in the field 'text'; .* \['body'\]"):
        list(read_texts(path))


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("background/c4_train.jsonl.gz", 1000),
        ("background/wiki2014_valid_1MB.jsonl.xz", 407),
        ("ppl/wikitext2_valid.txt.xz", 1160),
    ],
)
def test_real_texts(shared, name, count):
    assert sum(1 for _ in read_texts(shared / "data" / name)) == count


def test_records_are_told_by_the_name_of_their_file():
    assert all(holds_records(Path(name)) for name in ("a.jsonl", "b.csv.xz", "c.d.jsonl.bz2"))
    assert not any(holds_records(Path(name)) for name in ("a.txt", "b.txt.gz", "jsonl", "c.zip"))
