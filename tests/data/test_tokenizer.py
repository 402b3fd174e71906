from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers
from tokenizers import AddedToken, models, normalizers, processors

from smf_jax.data.tokenizer import Tokenizer, load_tokenizer, train_tokenizer

TEXTS = ["The cat sat on the mat.", "Where does the cat sleep?", "A mat, a cat and a dog."] * 20
TINYSTORIES = Path(__file__).parents[3] / "shared" / "data" / "models" / "tinystories656k"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(TEXTS, 300)


@pytest.mark.parametrize(
    "text", ["The cat sat.", "naïve 東京 🚁", "two  spaces\n\nand lines", "x", "", "don't; it's"]
)
def test_decoding_gives_the_text_back(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(0 <= i < tokenizer.size for i in ids)


def test_a_word_is_the_same_token_at_the_start_of_a_text_and_inside_it(tokenizer):
    assert tokenizer.encode("cat") == tokenizer.encode(" cat") == tokenizer.encode("mat cat")[1:]
    assert len(tokenizer.encode("cat")) == 1


def test_training_is_deterministic_and_respects_the_size(tokenizer):
    again = train_tokenizer(iter(TEXTS), 300)
    assert again.backend.to_str() == tokenizer.backend.to_str()
    assert tokenizer.size <= 300
    assert train_tokenizer(TEXTS, 270).size == 270


def test_special_tokens_have_fixed_ids_and_are_never_made_from_text(tokenizer):
    assert (tokenizer.pad, tokenizer.bos, tokenizer.eos) == (0, 1, 2)
    assert tokenizer.stops == (2,)
    assert not {0, 1, 2} & set(tokenizer.encode("The cat <pad> sat"))
    assert tokenizer.decode([1, *tokenizer.encode("cat"), 2, 0]) == "cat"


def test_a_vocabulary_without_room_for_every_byte_is_refused():
    with pytest.raises(ValueError, match=r"vocabulary size 100: .* at least 259"):
        train_tokenizer(TEXTS, 100)


def test_batches_encode_as_single_texts_do(tokenizer):
    assert tokenizer.encode_batch(TEXTS[:3]) == [tokenizer.encode(text) for text in TEXTS[:3]]


def test_saving_and_loading_gives_the_same_tokenizer(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "deep" / "directory")
    loaded = load_tokenizer(tmp_path / "deep" / "directory", rows=300)
    assert loaded.encode("The dog sleeps 東") == tokenizer.encode("The dog sleeps 東")
    ids = (tokenizer.bos, tokenizer.eos, tokenizer.pad, tokenizer.stops, tokenizer.size)
    assert (loaded.bos, loaded.eos, loaded.pad, loaded.stops, loaded.size) == ids


def test_other_readers_of_the_saved_file_place_the_begin_token(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    backend = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert backend.encode("The cat").ids == tokenizer.encode_prompt("The cat")
    assert backend.to_str() == tokenizer.backend.to_str()


def test_tokens_that_hold_a_text(tokenizer):
    found = tokenizer.tokens_with("at")
    assert tokenizer.encode("cat")[0] in found
    pieces = {i: tokenizer.backend.decode([i]) for i in range(tokenizer.size)}
    assert set(found) == {i for i, piece in pieces.items() if "at" in piece}


def write_directory(directory: Path, *, adds_begin: bool, **files: dict) -> Tokenizer:
    """A directory as Hugging Face lays it out, on the trained tokenizer's merges."""
    source = train_tokenizer(TEXTS, 300)
    plain = json.loads(source.backend.to_str()) | {"post_processor": None}
    backend = tokenizers.Tokenizer.from_str(json.dumps(plain))
    if adds_begin:
        backend.post_processor = processors.TemplateProcessing(
            single="<|begin|> $A", special_tokens=[("<|begin|>", 1)]
        )
    backend.enable_padding(length=64)  # a real file may ask for it; reading must not
    backend.enable_truncation(2)
    backend.save(str(directory / "tokenizer.json"))
    for name, content in files.items():
        (directory / f"{name}.json").write_text(json.dumps(content))
    return source


def test_llama_layout_begins_with_the_token_that_the_tokenizer_adds(tmp_path):
    source = write_directory(
        tmp_path,
        adds_begin=True,
        tokenizer_config={"bos_token": {"content": "<|begin|>"}, "eos_token": "<|end|>"},
        generation_config={"bos_token_id": 1, "eos_token_id": [2, 9]},
    )
    loaded = load_tokenizer(tmp_path)
    assert (loaded.bos, loaded.eos, loaded.stops, loaded.pad) == (1, 2, (2, 9), 2)
    text = "The cat sat on the mat."
    assert loaded.encode(text) == source.encode(text)  # neither padded, cut nor framed


def test_qwen_layout_has_no_begin_token_though_a_configuration_names_one(tmp_path):
    write_directory(
        tmp_path,
        adds_begin=False,
        tokenizer_config={
            "add_bos_token": False,
            "bos_token": None,
            "eos_token": "<|end|>",
            "pad_token": "<|pad|>",
        },
        generation_config={"bos_token_id": 0, "eos_token_id": [2, 0]},
        config={"bos_token_id": 0, "eos_token_id": 2},
    )
    loaded = load_tokenizer(tmp_path)
    assert (loaded.bos, loaded.eos, loaded.stops, loaded.pad) == (None, 2, (2, 0), 0)


def test_files_may_begin_with_a_byte_order_mark(tmp_path):
    write_directory(tmp_path, adds_begin=False)
    text = json.dumps({"eos_token": "<|end|>"})
    (tmp_path / "tokenizer_config.json").write_text(text, encoding="utf-8-sig")
    (tmp_path / "chat_template.jinja").write_text("<{{ a }}>", encoding="utf-8-sig")
    loaded = load_tokenizer(tmp_path)
    assert loaded.eos == 2
    assert loaded.chat is not None and loaded.chat.text == "<{{ a }}>"


def test_the_end_token_may_come_from_the_special_tokens_or_the_model(tmp_path):
    write_directory(tmp_path, adds_begin=False, special_tokens_map={"eos_token": "<|end|>"})
    assert load_tokenizer(tmp_path).eos == 2
    (tmp_path / "special_tokens_map.json").unlink()
    with pytest.raises(ValueError, match="no file names the end-of-text token; give eos_token"):
        load_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text('{"eos_token_id": 2}')
    assert load_tokenizer(tmp_path).eos == 2


def test_a_tokenizer_larger_than_the_embedding_is_refused(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    load_tokenizer(tmp_path, rows=tokenizer.size)
    with pytest.raises(ValueError, match=rf"has {tokenizer.size} tokens, but .* has 280 rows"):
        load_tokenizer(tmp_path, rows=280)


SPECIAL = ("<unk>", "<s>", "</s>")


def llama_like(directory: Path, *further: AddedToken, **config) -> Path:
    """A tokenizer as Llama's, whose special tokens are sought in the normalised text."""
    words = [*SPECIAL, *"▁aehnt", "▁t", "▁th", "▁the", "an", "▁an"]
    merges = [("▁", "t"), ("▁t", "h"), ("▁th", "e"), ("a", "n"), ("▁", "an")]
    vocabulary = {word: number for number, word in enumerate(words)}
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    backend.add_tokens([AddedToken(text, normalized=True, special=True) for text in SPECIAL])
    backend.add_tokens(list(further))
    directory.mkdir(exist_ok=True)
    backend.save(str(directory / "tokenizer.json"))
    told = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>", **config}
    (directory / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "LlamaTokenizer", "model_max_length": 99, **told})
    )
    return directory


def test_special_tokens_keep_their_ids_when_they_are_sought_in_normalised_text(tmp_path):
    first = load_tokenizer(llama_like(tmp_path / "theirs"))
    first.save(tmp_path / "ours")
    again = load_tokenizer(tmp_path / "ours")
    expected = (1, 2, 0, (2,), 14)
    for found in (first, again):
        assert (found.bos, found.eos, found.pad, found.stops, found.size) == expected
    told = json.loads((tmp_path / "ours" / "tokenizer_config.json").read_text())
    assert told == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        "padding_side": "left",
        "model_max_length": 99,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<unk>",
        "add_bos_token": True,
    }


def test_names_in_normalised_text_as_once_written_are_read_by_their_ids(tmp_path):
    theirs = llama_like(
        tmp_path, bos_token="▁<s>", eos_token="▁</s>", pad_token="▁<unk>", add_bos_token=True
    )
    ids = {"eos_token_id": [2], "pad_token_id": 0, "bos_token_id": 1}
    (theirs / "generation_config.json").write_text(json.dumps(ids))
    found = load_tokenizer(theirs, rows=14)
    assert (found.bos, found.eos, found.pad, found.stops) == (1, 2, 0, (2,))


def test_names_that_are_no_tokens_are_not_written(tmp_path):
    # Others would make new tokens of them, which the embedding has no rows for.
    theirs = llama_like(tmp_path / "theirs", pad_token="<pad>", mask_token="<mask>")
    load_tokenizer(theirs).save(tmp_path / "ours")
    told = json.loads((tmp_path / "ours" / "tokenizer_config.json").read_text())
    assert told["pad_token"] == "</s>"
    assert "mask_token" not in told
    # Nor is a word of the vocabulary, which would become a special token.
    theirs = llama_like(tmp_path / "theirs", eos_token="▁the", pad_token=None)
    loaded = load_tokenizer(theirs)
    assert loaded.eos == 11
    loaded.save(tmp_path / "ours")
    told = json.loads((tmp_path / "ours" / "tokenizer_config.json").read_text())
    assert not {"eos_token", "pad_token"} & told.keys()
    again = load_tokenizer(tmp_path / "ours")
    assert (again.eos, again.pad, again.stops) == (11, 11, (11,))


PAD_TOKEN = AddedToken("<pad>", normalized=False, special=True)


def test_a_pad_token_beyond_the_embedding_is_left_out(tmp_path):
    theirs = llama_like(tmp_path / "theirs", PAD_TOKEN, pad_token="<pad>")
    assert load_tokenizer(theirs).pad == 14
    loaded = load_tokenizer(theirs, rows=14)
    plain = load_tokenizer(llama_like(tmp_path / "plain", pad_token="</s>"), rows=14)
    assert (loaded.pad, loaded.size) == (2, 14)
    for text in ("the <pad> than", "<pad>", "the</s> an"):
        assert loaded.encode(text) == plain.encode(text)
        assert max(loaded.encode(text)) < 14
    loaded.save(tmp_path / "ours")
    assert load_tokenizer(tmp_path / "ours", rows=14).pad == 2


@pytest.mark.parametrize(
    ("token", "config"),
    [
        (AddedToken("<pad>", normalized=False), {}),  # an ordinary one, which text makes
        (PAD_TOKEN, {"eos_token": "<pad>"}),
        (PAD_TOKEN, {"bos_token": "<pad>", "add_bos_token": True}),
        (PAD_TOKEN, {"chat_template": "{{ messages[0].content }}<pad>"}),
    ],
)
def test_a_token_beyond_the_embedding_that_is_used_is_refused(token, config, tmp_path):
    theirs = llama_like(tmp_path, token, **config)
    if "bos_token" in config:  # placed by the flag alone
        backend = tokenizers.Tokenizer.from_file(str(theirs / "tokenizer.json"))
        content = json.loads(backend.to_str()) | {"post_processor": None}
        (theirs / "tokenizer.json").write_text(json.dumps(content))
    load_tokenizer(theirs, rows=15)
    with pytest.raises(ValueError, match="14 rows"):
        load_tokenizer(theirs, rows=14)


def test_missing_and_malformed_files_are_named(tokenizer, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json: no such file"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": ')
    with pytest.raises(ValueError, match=r"tokenizer\.json: not a tokenizer that can be read"):
        load_tokenizer(tmp_path)
    tokenizer.save(tmp_path)
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"generation_config\.json: not valid JSON"):
        load_tokenizer(tmp_path)
    (tmp_path / "generation_config.json").write_text("[]")
    with pytest.raises(ValueError, match="expected a JSON object, found list"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("generation_config", {"eos_token_id": -2}, "eos_token_id=-2: expected a whole number fr"),
        ("generation_config", {"eos_token_id": 1.5}, "eos_token_id=1.5: expected a whole number"),
        ("generation_config", {"eos_token_id": True}, "eos_token_id=True: expected a whole num"),
        ("generation_config", {"eos_token_id": [2, 300]}, r"eos_token_id\[1\]=300: .* 0 to 299"),
        ("config", {"eos_token_id": {}}, "eos_token_id={}: expected a whole number"),
        ("tokenizer_config", {"eos_token": 2}, "eos_token=2: expected a text"),
        ("tokenizer_config", {"bos_token": {"content": 1}}, "bos_token.content=1: expected a text"),
        ("special_tokens_map", {"pad_token": ["x"]}, "pad_token=.*: expected a text"),
        ("tokenizer_config", {"add_bos_token": "no"}, "add_bos_token='no': expected true or false"),
    ],
)
def test_values_of_another_type_are_named(name, content, message, tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    (tmp_path / f"{name}.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"{name}\.json: {message}"):
        load_tokenizer(tmp_path, rows=300)


@pytest.mark.skipif(not TINYSTORIES.is_dir(), reason="shared/data is not there")
def test_a_real_checkpoint_of_the_llama_layout():
    loaded = load_tokenizer(TINYSTORIES, rows=2048)
    assert (loaded.bos, loaded.eos, loaded.size) == (1, 2, 2048)
    text = "Once upon a time, there was a little girl named Lily."
    assert loaded.decode(loaded.encode(text)) == text
    assert loaded.bos not in loaded.encode(text)
    assert loaded.decode([1, *loaded.encode(text), 2]) == text
    with pytest.raises(ValueError, match="has 2048 tokens, but the embedding has 2000 rows"):
        load_tokenizer(TINYSTORIES, rows=2000)


FRAMES = {  # what tokenizer.json adds, and what tokenizer_config.json says of it
    "begin": ("<s> $A", {}),
    "begin and end": ("<s> $A </s>", {}),
    "end": ("$A </s>", {"bos_token": None}),
    "nothing": ("$A", {"bos_token": None}),
    "the flag's": ("$A", {"add_bos_token": True}),
    "in spite of the flag": ("<s> $A", {"add_bos_token": False}),
    "a word": ("▁the $A", {"bos_token": None}),
}


def framed(directory: Path, frame: str) -> Tokenizer:
    """A tokenizer for others, that was read from files with such a frame."""
    single, told = FRAMES[frame]
    theirs = llama_like(directory / "theirs", PAD_TOKEN, **told)
    backend = tokenizers.Tokenizer.from_file(str(theirs / "tokenizer.json"))
    used = [(text, backend.token_to_id(text)) for text in ("<s>", "</s>", "▁the") if text in single]
    backend.post_processor = processors.TemplateProcessing(single=single, special_tokens=used)
    backend.save(str(theirs / "tokenizer.json"))
    ours = load_tokenizer(theirs, rows=14)
    ours.save(directory / "ours")
    return ours


@pytest.mark.parametrize("frame", FRAMES)
def test_what_is_saved_for_others_adds_what_is_added_here(frame, tmp_path):
    ours = framed(tmp_path, frame)
    backend = tokenizers.Tokenizer.from_file(str(tmp_path / "ours" / "tokenizer.json"))
    assert backend.encode("the an").ids == ours.encode_prompt("the an")
    assert load_tokenizer(tmp_path / "ours").encode_prompt("an") == ours.encode_prompt("an")


@pytest.mark.parametrize("frame", FRAMES)
def test_live_what_is_saved_tokenises_alike_in_transformers(frame, tmp_path):
    transformers = pytest.importorskip("transformers", reason="needs it: make test-parity")
    ours = framed(tmp_path, frame)
    (tmp_path / "ours" / "config.json").write_text('{"model_type": "llama", "vocab_size": 14}')
    found = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    for text in ("the an", "", "an</s> <s>the", "<unk>", " the  an", "<pad>", "than<s>"):
        assert found(text).input_ids == ours.encode_prompt(text), text
    assert (found.eos_token_id, found.pad_token_id, len(found)) == (2, 0, 14)
    padded = found(["the an the", "an"], padding=True)
    assert padded.keys() == {"input_ids", "attention_mask"}
    assert max(map(max, padded.input_ids)) < 14 and padded.attention_mask[1][0] == 0
