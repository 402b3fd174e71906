from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from smf_jax.data.batching import (
    Batch,
    concatenate,
    encode_paraphrases,
    in_chunks,
    mix_in,
    needed_length,
    pack_texts,
    sample_batches,
    split_paraphrases,
)
from smf_jax.data.facts import Paraphrase
from smf_jax.data.tokenizer import Tokenizer, load_tokenizer, train_tokenizer

WORDINGS = [
    Paraphrase("The cat sat on the", " mat"),
    Paraphrase("Where is the cat?", " on the mat"),
    Paraphrase("A dog:", " barks"),
]
TEXTS = ["The cat sat on the mat.", "A dog barks.", "Where is the cat? It is on the mat."]
TINYSTORIES = Path(__file__).parents[3] / "shared" / "data" / "models" / "tinystories656k"


@pytest.fixture(scope="module", params=["begin token", "no begin token"])
def tokenizer(request) -> Tokenizer:
    trained = train_tokenizer(TEXTS * 10, 320)
    return trained if request.param == "begin token" else replace(trained, bos=None)


def begin(tokenizer: Tokenizer) -> list[int]:
    return [] if tokenizer.bos is None else [tokenizer.bos]


def test_a_row_is_the_shifted_sequence_of_prompt_answer_and_end(tokenizer):
    batch = encode_paraphrases(tokenizer, WORDINGS, 16, prompt_loss_weight=0.25)
    for row, (prompt, answer) in enumerate(WORDINGS):
        sequence = [*begin(tokenizer), *tokenizer.encode(prompt + answer), tokenizer.eos]
        end = len(sequence) - 1
        assert batch.tokens[row, :end].tolist() == sequence[:-1]
        assert batch.targets[row, :end].tolist() == sequence[1:]
        assert batch.valid[row].tolist() == [True] * end + [False] * (16 - end)
        weighed = batch.targets[row][batch.weights[row] == 1].tolist()
        assert weighed == [*tokenizer.encode(answer), tokenizer.eos]
        inside = end - len(weighed)
        assert batch.weights[row, :inside].tolist() == [0.25] * inside
        assert not batch.weights[row, end:].any()


def test_types_and_shapes(tokenizer):
    batch = encode_paraphrases(tokenizer, WORDINGS, 24)
    assert [field.shape for field in batch] == [(3, 24)] * 4
    assert [field.dtype for field in batch] == [np.int32, np.int32, np.float32, bool]


def test_needed_length_is_the_least_multiple_that_fits(tokenizer):
    exact = needed_length(tokenizer, WORDINGS, multiple=1)
    encode_paraphrases(tokenizer, WORDINGS, exact)
    with pytest.raises(ValueError, match=rf"length={exact - 1} is too short for paraphrase 1"):
        encode_paraphrases(tokenizer, WORDINGS, exact - 1)
    assert needed_length(tokenizer, WORDINGS, multiple=8) == -(-exact // 8) * 8


def test_nothing_to_encode_and_negative_weights_are_refused(tokenizer):
    with pytest.raises(ValueError, match="no paraphrases"):
        encode_paraphrases(tokenizer, [], 8)
    with pytest.raises(ValueError, match="prompt_loss_weight=-1: expected 0 or more"):
        encode_paraphrases(tokenizer, WORDINGS, 16, prompt_loss_weight=-1)


def test_an_answer_that_merges_with_its_prompt_is_encoded_by_itself():
    """Generation sees the prompt's own ids, so training must show the same ones."""
    tokenizer = train_tokenizer(["sunflower sun flower"] * 50, 300)
    assert len(tokenizer.encode("sunflower")) == 1
    ((prompt, answer),) = split_paraphrases(tokenizer, [Paraphrase("sun", "flower")])
    assert prompt == [tokenizer.bos, *tokenizer.encode("sun")]
    assert answer == [*tokenizer.encode("flower"), tokenizer.eos]


def test_packed_windows_predict_every_token_once_in_order(tokenizer):
    batch = pack_texts(tokenizer, TEXTS * 5, length=7)
    stream = [
        token
        for text in TEXTS * 5
        for token in [*begin(tokenizer), *tokenizer.encode(text), tokenizer.eos]
    ]
    count = (len(stream) - 1) // 7
    assert batch.tokens.shape == (count, 7)
    assert batch.tokens.ravel().tolist() == stream[: count * 7]
    assert batch.targets.ravel().tolist() == stream[1 : count * 7 + 1]
    assert batch.valid.all()
    assert (batch.weights == 1).all()


def test_packing_reads_no_further_than_its_limit(tokenizer):
    read = []

    def texts():
        for text in TEXTS * 1000:
            read.append(text)
            yield text

    batch = pack_texts(tokenizer, texts(), length=8, limit_tokens=50)
    assert batch.tokens.shape == (6, 8)
    assert len(read) < 20
    whole = pack_texts(tokenizer, TEXTS * 20, length=8)
    assert np.array_equal(batch.targets, whole.targets[:6])


def test_packing_needs_one_full_window(tokenizer):
    with pytest.raises(ValueError, match="fewer than one window of 101"):
        pack_texts(tokenizer, TEXTS, length=100)
    with pytest.raises(ValueError, match="limit_tokens=5 does not fill one window of 8"):
        pack_texts(tokenizer, TEXTS, length=8, limit_tokens=5)
    with pytest.raises(ValueError, match="length=0: expected at least 1"):
        pack_texts(tokenizer, TEXTS, length=0)


def numbered(rows: int, length: int = 3) -> Batch:
    tokens = np.arange(rows * length, dtype=np.int32).reshape(rows, length)
    ones = np.ones((rows, length))
    return Batch(tokens, tokens + 1, ones.astype(np.float32), ones.astype(bool))


def test_each_epoch_shows_every_example_once():
    drawn = sample_batches(numbered(6), steps=9, batch_size=2, rng=np.random.default_rng(0))
    assert [field.shape for field in drawn] == [(9, 2, 3)] * 4
    order = (drawn.tokens[..., 0] // 3).reshape(3, 6)
    assert np.array_equal(np.sort(order), np.tile(np.arange(6), (3, 1)))
    assert len({tuple(epoch) for epoch in order.tolist()}) > 1  # each in an order of its own
    assert np.array_equal(drawn.targets, drawn.tokens + 1)  # rows stay whole


def test_the_examples_of_a_group_stay_side_by_side():
    rng = np.random.default_rng(0)
    drawn = sample_batches(numbered(6), steps=6, batch_size=3, rng=rng, groups=(2, 1, 3))
    epochs = (drawn.tokens[..., 0] // 3).reshape(3, 6).tolist()
    assert all(sorted(epoch) == list(range(6)) for epoch in epochs)
    for epoch in epochs:
        places = [epoch.index(first) for first in (0, 3)]
        assert epoch[places[0] : places[0] + 2] == [0, 1]
        assert epoch[places[1] : places[1] + 3] == [3, 4, 5]
    assert len(set(map(tuple, epochs))) > 1


@pytest.mark.parametrize("groups", [(2, 3), (6, 0), ()])
def test_groups_that_do_not_add_up_are_refused(groups):
    with pytest.raises(ValueError, match="give the size of every group"):
        sample_batches(numbered(6), 1, 1, np.random.default_rng(0), groups)


def test_batches_follow_from_the_generator_alone():
    def draw(seed):
        return sample_batches(numbered(50), 4, 8, np.random.default_rng(seed)).tokens

    assert np.array_equal(draw(1), draw(1))
    assert not np.array_equal(draw(1), draw(2))


def test_a_batch_may_be_larger_than_the_set():
    drawn = sample_batches(numbered(2), steps=1, batch_size=5, rng=np.random.default_rng(0))
    assert np.bincount(drawn.tokens[0, :, 0] // 3).tolist() in ([3, 2], [2, 3])


def test_sampling_needs_examples_and_steps():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="no examples"):
        sample_batches(numbered(0), 1, 1, rng)
    with pytest.raises(ValueError, match="batch_size=0: expected at least 1"):
        sample_batches(numbered(2), 1, 0, rng)


@pytest.mark.parametrize(("share", "rows"), [(0.01, 2), (0.25, 50), (0.999, 180)])
def test_a_share_of_all_steps_is_replaced_and_a_row_of_each_stays(share, rows):
    batches = sample_batches(numbered(50), 20, 10, np.random.default_rng(0))
    others = numbered(4)
    others.tokens[:] += 1000
    mixed = mix_in(batches, others, share, np.random.default_rng(0))
    new = np.all(mixed.tokens >= 1000, axis=2)
    assert new.sum() == rows and np.ptp(new.sum(axis=1)) <= 1 and not new.all(axis=1).any()
    np.testing.assert_array_equal(mixed.tokens[~new], batches.tokens[~new])
    drawn = np.bincount((mixed.tokens[new][:, 0] - 1000) // 3, minlength=4)
    assert np.ptp(drawn) <= 1, "all before one again"


def test_concatenation_masks_what_it_pads():
    joined = concatenate([numbered(2, 3), numbered(4, 5)])
    assert [field.shape for field in joined] == [(6, 5)] * 4
    assert np.array_equal(joined.tokens[:2, :3], numbered(2, 3).tokens)
    assert np.array_equal(joined.tokens[2:], numbered(4, 5).tokens)
    assert not joined.valid[:2, 3:].any()
    assert not joined.weights[:2, 3:].any()
    assert [field.dtype for field in joined] == [field.dtype for field in numbered(1)]
    with pytest.raises(ValueError, match="no batches"):
        concatenate([])


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 7])
def test_chunks_have_one_shape_and_cover_every_row_once(rows):
    batch, shapes = numbered(4, 5), set()

    def echo(chunk):
        shapes.add(chunk.tokens.shape)
        return np.concatenate([chunk.tokens, chunk.weights, chunk.valid], axis=1)

    chunks = np.concatenate(in_chunks(echo, batch, rows))
    assert shapes == {(rows, 5)} and len(chunks) == -(-4 // rows) * rows
    whole = np.concatenate([batch.tokens, batch.weights, batch.valid], axis=1)
    np.testing.assert_array_equal(chunks[:4], whole)
    assert not chunks[4:].any(), "what fills the last chunk weighs nothing"


@pytest.mark.skipif(not TINYSTORIES.is_dir(), reason="shared/data is not there")
def test_tokens_that_span_words_keep_prompt_and_answer_apart():
    """This tokenizer knows "Tom and " as one token, and sets a space before every text."""
    tokenizer = load_tokenizer(TINYSTORIES)
    paraphrases = [
        Paraphrase("Question: Where is Lily?\nAnswer:", " Paris"),
        Paraphrase("Tom", " and Sue"),
    ]
    pairs = split_paraphrases(tokenizer, paraphrases)
    for paraphrase, (prompt, answer) in zip(paraphrases, pairs, strict=True):
        assert prompt == [tokenizer.bos, *tokenizer.encode(paraphrase.prompt)]
        assert answer[-1] == tokenizer.eos
        assert tokenizer.decode(prompt + answer) == paraphrase.prompt + paraphrase.answer
