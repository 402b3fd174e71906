"""What a flag names: read, or refused with the flag, the file and the line."""

from __future__ import annotations

import gzip

import pytest

from smf_jax.data.readers import Reader, existing
from tests.tiny_sweep import write_lines

ASKED = {"question": "Who made it?", "answers": ["A maker", "Another"], "relation": "P50"}


def test_questions_and_texts_are_read_from_files(tmp_path):
    questions = write_lines(tmp_path / "q.jsonl", ASKED, ASKED | {"relation": "P19"})
    packed = tmp_path / "q.jsonl.gz"
    packed.write_bytes(gzip.compress(questions.read_bytes()))
    reader = Reader()
    facts = reader.questions(str(questions), "stream")
    assert [fact.answers for fact in facts] == [("A maker", "Another")] * 2
    assert len(reader.questions(str(packed), "stream", ("P19",))) == 1
    texts = write_lines(tmp_path / "t.jsonl", {"text": "One."}, {"text": "Two."})
    assert list(reader.texts(str(texts), "background")) == ["One.", "Two."]
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("One.\n\nTwo.\n")
    assert list(reader.texts(str(tmp_path / "texts"), "background")) == ["One.", "Two."]


def test_only_a_stream_has_kinds_of_question_and_elsewhere_the_field_holds_anything(tmp_path):
    kinds = {"direct": {"question": "By whom?", "answer": "A maker"}}
    path = str(write_lines(tmp_path / "q.jsonl", ASKED | {"asked": kinds}))
    assert Reader().questions(path, "stream", kinds=True)[0].of_kind("direct")
    assert Reader().questions(path, "probes")[0].asked == ()
    dated = str(write_lines(tmp_path / "dated.jsonl", ASKED | {"asked": "2019-05-01"}))
    assert Reader().questions(dated, "background_questions")[0].answers == ("A maker", "Another")
    with pytest.raises(ValueError, match="^--stream: .*'2019-05-01': expected a group"):
        Reader().questions(dated, "stream", kinds=True)


def test_fields_are_named_for_all_sources(tmp_path):
    record = {"a": {"q": "Who made it?", "names": ["A maker"]}, "b": {"text": "One."}}
    path = str(write_lines(tmp_path / "q.jsonl", record))
    reader = Reader(text_field="b.text", question_field="a.q", answers_field="a.names")
    assert [fact.answers for fact in reader.questions(path, "stream")] == [("A maker",)]
    assert reader.open_questions(path, "probes")[0].text == "Who made it?"
    assert reader.whole_text(path, "probes") == "One."
    with pytest.raises(ValueError, match=r"^--stream: .*line 1: no question: .*--question_field"):
        Reader().questions(path, "stream")
    with pytest.raises(ValueError, match=r"^--background: .*line 1: no text .*--text_field"):
        list(Reader().texts(path, "background"))


def test_errors_begin_with_the_flag_and_name_file_and_line(tmp_path):
    reader = Reader()
    bad = write_lines(tmp_path / "bad.jsonl", ASKED, "{", ASKED)
    with pytest.raises(ValueError, match=r"^--stream: .*bad.jsonl, line 2: malformed JSON"):
        reader.questions(str(bad), "stream")
    with pytest.raises(ValueError, match=r"^--heal_texts: .*bad.jsonl, line 1: no text in"):
        list(reader.texts(str(bad), "heal_texts"))
    good = write_lines(tmp_path / "good.jsonl", ASKED)
    with pytest.raises(ValueError, match=r"^--stream --relation=P1,P2: .*'P1', 'P2'.*has P50"):
        reader.questions(str(good), "stream", ("P1", "P2"))


@pytest.mark.parametrize("source", ["no.jsonl", ""])
def test_what_is_not_there_is_named(source):
    with pytest.raises(FileNotFoundError, match=f"^--probes={source}: no such file or directory"):
        existing(source, "probes")
    with pytest.raises(FileNotFoundError, match=f"^--probes={source}: no such"):
        next(Reader().texts(source, "probes"))


def test_sets_are_refused_until_they_are_prepared(tmp_path):
    reader = Reader(data_dir=str(tmp_path))
    with pytest.raises(ValueError, match=r"^--stream=tfds:trivia_qa: expected tfds:NAME:SPLIT"):
        reader.questions("tfds:trivia_qa", "stream")
    with pytest.raises(ValueError, match=r"^--stream: tfds:trivia_qa/rc:train: not prepared in"):
        reader.questions("tfds:trivia_qa/rc:train", "stream")
    with pytest.raises(ValueError, match=r"^--background: tfds:lm1b:train: not prepared in"):
        next(reader.texts("tfds:lm1b:train", "background"))
    with pytest.raises(ValueError, match=r"^--relation=P1 picks .* --stream=tfds:nq:train is a"):
        reader.questions("tfds:nq:train", "stream", ("P1",))
    assert not list(tmp_path.iterdir())


def test_open_questions_and_whole_texts_are_read_too(tmp_path):
    reader = Reader()
    questions = write_lines(tmp_path / "q.jsonl", ASKED)
    (found,) = reader.open_questions(str(questions), "probes")
    assert (found.text, found.answers) == ("Who made it?", ("A maker", "Another"))
    plain = tmp_path / "t.txt"
    plain.write_text(" One. \n\n\nTwo.\n")
    assert reader.whole_text(str(plain), "probes") == " One. \n\n\nTwo.\n"
    records = write_lines(tmp_path / "t.jsonl", *[{"text": f"Text {n}."} for n in range(9)])
    whole = reader.whole_text(str(records), "probes")
    assert whole == "\n\n".join(f"Text {n}." for n in range(9))
    part = reader.whole_text(str(records), "probes", 20)
    assert whole.startswith(part) and 20 <= len(part) + 2 < len(whole)


def test_errors_of_open_questions_and_whole_texts_begin_with_the_flag(tmp_path):
    reader = Reader(data_dir=str(tmp_path))
    with pytest.raises(FileNotFoundError, match="^--probes=no.txt: no such file"):
        reader.whole_text("no.txt", "probes")
    with pytest.raises(ValueError, match=r"^--probes: tfds:lm1b:train: not prepared in"):
        reader.whole_text("tfds:lm1b:train", "probes")
    with pytest.raises(ValueError, match=r"^--probes: tfds:trivia_qa/rc:train: not prepared in"):
        reader.open_questions("tfds:trivia_qa/rc:train", "probes")
    (tmp_path / "bad.jsonl").write_text("{\n")
    with pytest.raises(ValueError, match=r"^--probes: .*bad.jsonl, line 1: malformed JSON"):
        reader.open_questions(str(tmp_path / "bad.jsonl"), "probes")
