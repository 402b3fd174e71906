from __future__ import annotations

import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from smf_jax.data.questions import Fields
from smf_jax.data.tfds_source import (
    TfdsSplit,
    parse_tfds,
    read_tfds_open_questions,
    read_tfds_questions,
    read_tfds_texts,
    tfds_files,
)

TEXT = tfds.features.Text()


class SmfToyQuestions(tfds.core.GeneratorBasedBuilder):
    """The shapes that question sets come in, one configuration each."""

    VERSION = tfds.core.Version("1.0.0")
    ANSWERS = {  # noqa: RUF012  (tfds wants class attributes)
        "trivia": {"value": TEXT, "aliases": tfds.features.Sequence(TEXT)},
        "natural": tfds.features.Sequence(TEXT),
        "plain": TEXT,
        "squad": tfds.features.Sequence({"text": TEXT}),
        "number": np.int32,
        "messages": tfds.features.Sequence({"role": TEXT, "content": TEXT}),
    }
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in ANSWERS]  # noqa: RUF012

    def _info(self):
        assert self.builder_config is not None
        answer = self.ANSWERS[self.builder_config.name]
        features = {"question": TEXT, "answer": answer, "context": {"text": TEXT}}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(6), "test": self._generate_examples(2)}

    def _generate_examples(self, count=0):
        assert self.builder_config is not None
        for i in range(count):
            answer = {
                "trivia": {"value": f"Wért {i}", "aliases": [f"Wert {i}", f"Wért {i}"]},
                "natural": [f"Wért {i}", f"Wert {i}"] if i != 5 else [],
                "plain": f"Wért {i}",
                "squad": [{"text": f"Wért {i}"}, {"text": f"Wert {i}"}],
                "number": 1900 + i,
                "messages": [
                    {"role": "user", "content": "Was?"},
                    {"role": "assistant", "content": f"Wért {i}"},
                ],
            }[self.builder_config.name]
            text = "" if i == 0 else f"Text é {i}."
            yield i, {"question": f"Was ist {i}?", "answer": answer, "context": {"text": text}}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    path = tmp_path_factory.mktemp("tfds")
    for name in SmfToyQuestions.ANSWERS:
        builder = tfds.builder(f"smf_toy_questions/{name}", data_dir=path)
        builder.download_and_prepare(file_format="array_record")
    return path


def toy(config: str, split: str, data_dir) -> TfdsSplit:
    return TfdsSplit(f"smf_toy_questions/{config}", split, data_dir)


@pytest.mark.parametrize("config", ["trivia", "natural", "plain", "squad"])
def test_questions_of_every_shape_become_facts(data_dir, config):
    facts = read_tfds_questions(toy(config, "test", data_dir))
    assert {fact.train[0].answer for fact in facts} == {" Wért 0", " Wért 1"}
    for fact in facts:
        number = fact.answers[0][-1]
        aliases = (f"Wért {number}",) if config == "plain" else (f"Wért {number}", f"Wert {number}")
        assert fact.answers == aliases
        assert all(f"Was ist {number}?" in prompt for prompt, _ in fact.train + fact.held_out)
        assert (len(fact.train), len(fact.held_out)) == (8, 2)
    assert {fact.name for fact in facts} == {
        f"smf_toy_questions/{config}/test:{place}" for place in range(2)
    }


def test_numbers_and_conversations_are_read_too(data_dir):
    facts = read_tfds_questions(toy("number", "test", data_dir))
    assert {fact.answers for fact in facts} == {("1900",), ("1901",)}
    fields = Fields.of("answer")
    for question in read_tfds_open_questions(toy("messages", "test", data_dir), fields):
        assert question.turns == (("user", "Was?"),)
        assert question.answers[0].startswith("Wért")


def test_tensorflow_is_not_imported(data_dir):
    read_tfds_questions(toy("plain", "test", data_dir))
    assert "tensorflow" not in sys.modules


def test_files_are_those_of_the_split(data_dir):
    home = data_dir / "smf_toy_questions" / "plain" / "1.0.0"
    files = tfds_files(toy("plain", "test", data_dir))
    assert files[0] == home / "features.json" and len(files) > 1
    assert all("-test." in file.name for file in files[1:])
    assert tfds_files(toy("plain", "test[:50%]", data_dir)) == files
    assert all(file.is_file() for file in files + tfds_files(toy("plain", "train", data_dir)))


def test_slices_and_chosen_features(data_dir):
    assert len(read_tfds_questions(toy("plain", "train[:50%]", data_dir))) == 3
    source = toy("trivia", "train", data_dir)
    for fact in read_tfds_questions(source, Fields.of("question", "answer/aliases")):
        assert fact.answers[0].startswith("Wert")


def test_texts_are_decoded_and_blank_ones_passed_over(data_dir):
    texts = read_tfds_texts(toy("plain", "train", data_dir), text="context/text")
    assert sorted(texts) == [f"Text é {i}." for i in range(1, 6)]


def test_an_answerless_question_is_named(data_dir):
    with pytest.raises(ValueError, match=r"record \d: the question has no answer: .*Was ist 5"):
        read_tfds_questions(toy("natural", "train", data_dir))


def test_a_set_that_is_not_prepared_is_refused_without_the_network(tmp_path):
    with pytest.raises(ValueError) as error:
        read_tfds_questions(TfdsSplit("natural_questions_open", "train", tmp_path))
    message = str(error.value)
    assert f"tfds:natural_questions_open:train: not prepared in {tmp_path}" in message
    assert "--download" in message
    assert "download_and_prepare(file_format='array_record')" in message
    assert f"data_dir='{tmp_path}'" in message


def test_download_prepares_the_set(tmp_path):
    facts = read_tfds_questions(toy("plain", "test", tmp_path), download=True)
    assert len(facts) == 2


def test_unknown_names_are_refused_with_what_exists(data_dir):
    with pytest.raises(ValueError, match=r"no set 'triva_qa'.*did you mean trivia_qa"):
        read_tfds_questions(TfdsSplit("triva_qa", "train", data_dir))
    with pytest.raises(ValueError, match=r"cannot be opened: .*BuilderConfig nope not found"):
        read_tfds_questions(toy("nope", "train", data_dir))
    with pytest.raises(ValueError, match="no such split; the set has test, train"):
        read_tfds_questions(toy("plain", "dev", data_dir))
    with pytest.raises(ValueError, match=r"record 0: .* in 'answer/other'; .*'answer.aliases'"):
        read_tfds_questions(toy("trivia", "test", data_dir), Fields.of("", "answer/other"))
    with pytest.raises(
        ValueError, match=r"no feature with the text [^;]*; the set has answer, context, question"
    ):
        read_tfds_texts(toy("plain", "test", data_dir))
    with pytest.raises(ValueError, match=r"record 0: no text in the feature 'context/x'"):
        list(read_tfds_texts(toy("plain", "test", data_dir), text="context/x"))
    with pytest.raises(ValueError, match="without a namespace"):
        read_tfds_questions(TfdsSplit("huggingface:squad", "train", data_dir))


def test_another_file_format_is_refused(data_dir, tmp_path, monkeypatch):
    """A set prepared the default way (tfrecord) needs TensorFlow; the error says what to do."""
    source = toy("plain", "test", data_dir)
    folder = data_dir / "smf_toy_questions" / "plain" / "1.0.0"
    copy = tmp_path / "smf_toy_records" / "plain" / "1.0.0"
    copy.mkdir(parents=True)
    for file in folder.iterdir():
        name = file.name.replace("array_record", "tfrecord")
        content = file.read_bytes()
        if file.suffix == ".json":
            content = content.replace(b'"array_record"', b'"tfrecord"')
        (copy / name).write_bytes(content)
    source = TfdsSplit("smf_toy_records/plain", "test", tmp_path)
    with pytest.raises(ValueError, match=r"prepared as tfrecord.* expected array_record"):
        read_tfds_questions(source)


def test_sources_are_parsed_from_flags():
    assert parse_tfds("tfds:trivia_qa/rc:train[:10]", "--stream", "/data") == TfdsSplit(
        "trivia_qa/rc", "train[:10]", "/data"
    )
    assert str(TfdsSplit("a/b", "c")) == "tfds:a/b:c"
    for text in ("trivia_qa", "tfds:trivia_qa", "tfds::train", "file:a:b"):
        with pytest.raises(ValueError, match=r"--stream=.*expected tfds:NAME:SPLIT"):
            parse_tfds(text, "--stream")
