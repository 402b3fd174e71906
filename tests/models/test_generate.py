from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smf_jax.models.decoder import Decoder
from smf_jax.models.generate import generate, left_pad
from tests.models.tiny import PLAIN, random_params, random_tokens, with_memory

CONFIG = with_memory("add", (1,), alpha=1.0)
MODEL, PARAMS = Decoder(CONFIG), random_params(CONFIG)
STEPS = 12
forward = jax.jit(partial(MODEL.apply, {"params": PARAMS}))


def slow_greedy(prompt: np.ndarray, steps: int) -> list[int]:
    """Every token from a forward pass over all that stands before it."""
    tokens = list(prompt)
    for _ in range(steps):
        padded = np.pad(tokens, (0, 20 - len(tokens)))[None].astype(np.int32)
        found = forward(padded, np.arange(20)[None] < len(tokens))
        tokens.append(int(jnp.argmax(found[0, len(tokens) - 1])))
    return tokens[len(prompt) :]


@pytest.fixture(scope="module")
def prompts() -> list[np.ndarray]:
    return [random_tokens(CONFIG, (1, length), seed=length)[0] for length in (3, 8, 5)]


@pytest.fixture(scope="module")
def expected(prompts) -> np.ndarray:
    return np.array([slow_greedy(prompt, STEPS) for prompt in prompts])


def test_equals_decoding_without_a_cache(prompts, expected):
    tokens, valid = left_pad(prompts, pad=0)
    assert tokens.shape == (3, 8)
    found = generate(MODEL, PARAMS, tokens, valid, STEPS)
    np.testing.assert_array_equal(found, expected)
    assert len(np.unique(expected)) > 3


def test_stop_token_ends_its_row_only(prompts, expected):
    stop = int(expected[0, 4])
    tokens, valid = left_pad(prompts, pad=0)
    found = np.asarray(generate(MODEL, PARAMS, tokens, valid, STEPS, stop=(stop,) * 3))
    for row, whole in zip(found, expected, strict=True):
        hits = np.flatnonzero(whole == stop)
        end = hits[0] if hits.size else STEPS
        np.testing.assert_array_equal(row[:end], whole[:end])
        assert (row[end:] == stop).all()
    assert (found[0, 4:] == stop).all()


def test_all_rows_may_end_early(prompts, expected):
    tokens, valid = left_pad(prompts, pad=0)
    stop = tuple(int(token) for token in expected[:, 0])
    found = np.asarray(generate(MODEL, PARAMS, tokens, valid, STEPS, stop=stop))
    np.testing.assert_array_equal(found, expected[:, :1].repeat(STEPS, axis=1))


def test_runs_under_vmap_over_models(prompts, expected):
    tokens, valid = left_pad(prompts, pad=0)
    other = random_params(CONFIG, seed=1)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), PARAMS, other)
    both = jax.vmap(lambda params: generate(MODEL, params, tokens, valid, STEPS))(stacked)
    np.testing.assert_array_equal(both[0], expected)
    np.testing.assert_array_equal(both[1], generate(MODEL, other, tokens, valid, STEPS))


def test_left_pad():
    tokens, valid = left_pad([[1, 2, 3], [4]], pad=9, multiple=2)
    np.testing.assert_array_equal(tokens, [[9, 1, 2, 3], [9, 9, 9, 4]])
    np.testing.assert_array_equal(valid, [[0, 1, 1, 1], [0, 0, 0, 1]])


@pytest.mark.parametrize(
    ("sequences", "message"),
    [([], r"sequences=\[\] holds no prompt"), ([[1], []], "prompt 1 is empty")],
)
def test_left_pad_refuses_empty_prompts(sequences, message):
    with pytest.raises(ValueError, match=message):
        left_pad(sequences, pad=0)


@pytest.mark.parametrize(
    ("valid", "steps", "message"),
    [
        (np.ones((1, 4), bool), 0, "steps=0 must be at least 1"),
        (np.ones((1, 3), bool), 2, r"prompts \(1, 4\) and valid \(1, 3\)"),
        (np.array([[True, True, True, False]]), 2, "pads belong on the left"),
        (np.ones((1, 4), bool), 61, "65 tokens exceed max_positions=64"),
    ],
)
def test_bad_arguments_are_refused(valid, steps, message):
    with pytest.raises(ValueError, match=message):
        generate(Decoder(PLAIN), random_params(PLAIN), np.zeros((1, 4), np.int32), valid, steps)
