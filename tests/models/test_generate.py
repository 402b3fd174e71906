from dataclasses import replace
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smf_jax.models import generate as generating
from smf_jax.models.attention import empty_cache
from smf_jax.models.decoder import Decoder
from smf_jax.models.generate import generate, left_pad, trim
from smf_jax.params import flatten
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


def test_a_shared_prefix_is_as_if_it_stood_in_every_prompt(prompts):
    prefix = random_tokens(CONFIG, (1, 6), seed=1)[0]
    # Rows of unequal length: the pads of the shorter ones stand behind the prefix.
    tokens, valid = left_pad(prompts[::2], pad=0)
    found = generate(MODEL, PARAMS, tokens, valid, 4, prefix=prefix.tolist())
    whole = [slow_greedy(np.concatenate([prefix, prompt]), 4) for prompt in prompts[::2]]
    np.testing.assert_array_equal(found, whole)
    assert not np.array_equal(found, generate(MODEL, PARAMS, tokens, valid, 4))


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


def test_calls_of_equal_shapes_share_one_compilation(prompts, expected):
    tokens, valid = left_pad(prompts, pad=0)
    generate(MODEL, PARAMS, tokens, valid, STEPS)
    decode = cast(Any, generating._decode)
    before = decode._cache_size()
    for stop in ((), (1,), (2, 3, 4)):
        generate(MODEL, flatten(PARAMS), tokens, valid, STEPS, stop=stop)
    assert decode._cache_size() == before
    key = jax.random.key(0)
    for temperature in (0.5, 1.0):
        generate(MODEL, PARAMS, tokens, valid, STEPS, temperature=temperature, key=key)
    assert decode._cache_size() == before + 1


def test_draws_follow_the_softmax_and_the_key(prompts, expected):
    tokens, valid = left_pad(prompts[:1], pad=0)
    rows = 512
    tokens, valid = tokens.repeat(rows, axis=0), valid.repeat(rows, axis=0)

    def draw(seed: int, temperature: float) -> np.ndarray:
        key = jax.random.key(seed)
        return np.asarray(
            generate(MODEL, PARAMS, tokens, valid, 1, temperature=temperature, key=key)
        )

    drawn = draw(0, 0.7)[:, 0]
    padded = np.pad(prompts[0], (0, 20 - len(prompts[0])))[None].astype(np.int32)
    logits = forward(padded, np.arange(20)[None] < len(prompts[0]))[0, len(prompts[0]) - 1]
    share = np.bincount(drawn, minlength=CONFIG.vocabulary) / rows
    # Five standard deviations of a share.
    probability = np.asarray(jax.nn.softmax(logits / 0.7))
    assert (abs(share - probability) <= 5 * np.sqrt(probability / rows) + 1e-3).all()
    np.testing.assert_array_equal(drawn, draw(0, 0.7)[:, 0])
    assert (drawn != draw(1, 0.7)[:, 0]).any()
    # Cold enough, the likeliest token is all there is.
    assert (draw(0, 1e-4) == expected[0, 0]).all()


def test_draws_of_a_row_are_those_of_its_own_key(prompts):
    tokens, valid = left_pad(prompts, pad=0)
    keys = jax.random.split(jax.random.key(3), 3)

    def draw(*order: int) -> np.ndarray:
        chosen = np.array(order)
        found = generate(
            MODEL, PARAMS, tokens[chosen], valid[chosen], STEPS, temperature=1.0, key=keys[chosen]
        )
        return np.asarray(found)

    np.testing.assert_array_equal(draw(0, 1, 2)[[2, 0, 1]], draw(2, 0, 1))


def test_cache_and_leaves_are_as_wide_as_the_computation(prompts):
    half = replace(CONFIG, dtype="bfloat16")
    cache = empty_cache(half, 2, 8)
    _, cache = jax.eval_shape(
        partial(Decoder(half).apply, method="extend"),
        {"params": PARAMS},
        np.zeros((2, 3), np.int32),
        np.ones((2, 3), bool),
        cache,
    )
    assert {leaf.dtype for leaf in (*cache.keys, *cache.values)} == {jnp.dtype(jnp.bfloat16)}
    # Leaves held in bfloat16 under a float32 computation are those leaves in float32.
    narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), PARAMS)
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), narrow)
    tokens, valid = left_pad(prompts, pad=0)
    np.testing.assert_array_equal(
        generate(MODEL, narrow, tokens, valid, STEPS), generate(MODEL, wide, tokens, valid, STEPS)
    )


def test_trim():
    assert trim([4, 5, 9, 9], stop=(9, 8)) == [4, 5]
    assert trim(cast(Any, np.array([4, 5])), stop=()) == [4, 5]


def test_runs_under_vmap_over_models(prompts, expected):
    tokens, valid = left_pad(prompts, pad=0)
    other = random_params(CONFIG, seed=1)
    stacked = jax.tree.map(lambda *params: jnp.stack(params), PARAMS, other)
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
def test_bad_shapes_are_refused(valid, steps, message):
    with pytest.raises(ValueError, match=message):
        generate(Decoder(PLAIN), random_params(PLAIN), np.zeros((1, 4), np.int32), valid, steps)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"stop": (3, 40)}, r"stop=\[40\] are no tokens of this model"),
        ({"stop": (-1,)}, r"stop=\[-1\] are no tokens"),
        ({"temperature": -1.0}, "temperature=-1.0 must be 0"),
        ({"temperature": 0.5}, "temperature=0.5 draws tokens and key=None"),
        ({"temperature": 0.5, "key": np.zeros(2, np.uint32)}, r"key is uint32\[2\]"),
    ],
)
def test_bad_choices_are_refused(choices, message):
    with pytest.raises(ValueError, match=message):
        generate(MODEL, PARAMS, np.zeros((1, 4), np.int32), np.ones((1, 4), bool), 2, **choices)
