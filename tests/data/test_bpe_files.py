import json
import lzma

import pytest
from tokenizers import AddedToken

from smf_jax.data.bpe_files import read_bpe, read_qwen
from smf_jax.data.tokenizer import load_tokenizer, train_tokenizer

END = AddedToken("<end>", special=True)


@pytest.fixture
def files(tmp_path):
    """The vocabulary and merges of a trained tokenizer, in the files of GPT-2."""
    trained = train_tokenizer(["The cat sat on the mat. Where is it?"] * 20, 280)
    model = json.loads(trained.backend.to_str())["model"]
    special = {token: i for token, i in model["vocab"].items() if i < 3}
    vocabulary = {token: i - 3 for token, i in model["vocab"].items() if token not in special}
    merges = [" ".join(merge) for merge in model["merges"]]
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    return tmp_path


def test_texts_come_back_and_words_are_merged(files, tmp_path):
    tokenizer = read_bpe(files, None, [END])
    assert (tokenizer.bos, tokenizer.eos, tokenizer.size) == (None, 277, 278)
    for text in ("The cat sat.", " two  spaces\n\nand 123 lines", "naïve 東京 🚁"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode(" cat")) == 1
    assert tokenizer.encode("<end>") == [277]
    tokenizer.save(tmp_path / "saved")
    again = load_tokenizer(tmp_path / "saved")
    assert again.encode("The cat sat on 12 mats") == tokenizer.encode("The cat sat on 12 mats")


def test_packed_files_read_alike(files):
    plain = read_bpe(files, None, [END]).backend.to_str()
    for name in ("vocab.json", "merges.txt"):
        with lzma.open(files / f"{name}.xz", "wt") as file:
            file.write((files / name).read_text())
        (files / name).unlink()
    assert read_bpe(files, None, [END]).backend.to_str() == plain


def test_qwen_ids(shared):
    tokenizer = read_qwen(shared / "data" / "tokenizers" / "qwen2.5")
    assert tokenizer.size == 151_665
    assert tokenizer.encode("<|endoftext|><|im_start|><|file_sep|>") == [151643, 151644, 151664]
    # Published with the model: these ids belong to these texts.
    assert tokenizer.encode("Hello, world!") == [9707, 11, 1879, 0]
    assert tokenizer.encode("2024\n") == [17, 15, 17, 19, 198]
    assert tokenizer.decode([9707, 11, 1879, 0, 151645]) == "Hello, world!"


def test_bad_files_are_named(files):
    with pytest.raises(ValueError, match="added is empty"):
        read_bpe(files, None, [])
    (files / "merges.txt").write_text("a b\nThe c at\n")
    with pytest.raises(ValueError, match=r"merges.txt: 'The c at' is no pair"):
        read_bpe(files, None, [END])
    (files / "merges.txt").unlink()
    with pytest.raises(FileNotFoundError, match="merges.txt: no such file, nor one with .xz"):
        read_bpe(files, None, [END])
