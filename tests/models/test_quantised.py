"""Quantised matrices against NumPy, their product against the plain one, and what a step holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from statistics import NormalDist
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smf_jax.models import quantised
from smf_jax.models.config import MemoryPlacement, ModelConfig, Precision
from smf_jax.models.decoder import Decoder, abstract_params, init_params
from smf_jax.models.generate import generate
from smf_jax.models.quantised import (
    LEVELS,
    dequantise,
    is_matrix,
    product,
    quantise,
    quantise_params,
)
from smf_jax.params import Params, count_bytes, flatten, is_quantised, pool_path, unflatten
from smf_jax.sparse.optimizers import OptimizerConfig
from smf_jax.training.sparse_config import SparseConfig
from smf_jax.training.sparse_trainer import sparse_trainer
from smf_jax.training.step import Shared
from tests.models.tiny import FAMILIES, PLAIN, random_params, random_tokens
from tests.training import tiny

PRECISIONS: tuple[Precision, ...] = ("int8", "int4", "nf4")


def dequantise_params(params: Mapping[str, Any], shapes: Mapping[str, Any]) -> Params:
    """The inverse of `quantise_params`: to leaves by path of the ``shapes`` of the float model."""
    found = {path: leaf for path, leaf in params.items() if not is_quantised(path)}
    for path in filter(is_matrix, shapes):
        module = path.rpartition("/")[0]
        is_kernel, shape = path.endswith("/kernel"), shapes[path].shape
        columns = shape[0] if is_kernel else shape[1]
        rows = dequantise(params[f"{module}/codes"], params[f"{module}/scales"], columns)
        found[path] = rows.T if is_kernel else rows
    return dict(sorted(found.items()))


def matrix(rows: int = 9, columns: int = 150) -> np.ndarray:
    """Rows of very different sizes, one of zeros; the last block of a row is not full."""
    drawn = np.random.default_rng(0).standard_normal((rows, columns)).astype(np.float32)
    drawn *= np.float32(10.0) ** np.arange(-4, rows - 4)[:, None]
    drawn[3] = 0
    return drawn


def held(precision: Precision, numbers: np.ndarray) -> tuple[jax.Array, jax.Array]:
    codes, scales = quantise(precision, numbers.shape, lambda a, b: numbers[a:b])
    return jnp.asarray(codes), jnp.asarray(scales)


def test_levels_are_the_quantiles_of_the_paper():
    """2305.14314, appendix E: of a normal distribution, seven below and eight above a zero."""
    outermost = 1 - (1 / 30 + 1 / 32) / 2
    above = [NormalDist().inv_cdf(p) for p in np.linspace(outermost, 0.5, 9)]
    below = [-NormalDist().inv_cdf(p) for p in np.linspace(outermost, 0.5, 8)]
    expected = np.array([*below, *above[-2::-1]]) / above[0]
    np.testing.assert_allclose(LEVELS, expected, atol=1e-6)


def test_int8_is_the_nearest_of_each_row():
    numbers = matrix()
    codes, scales = held("int8", numbers)
    assert (codes.dtype, codes.shape, scales.shape) == (jnp.int8, (9, 150), (9,))
    exact = numbers.astype(np.float64)
    expected = np.abs(exact).max(axis=1) / 127
    np.testing.assert_allclose(scales, expected, rtol=1e-6)
    steps = np.divide(exact, expected[:, None], where=expected[:, None] > 0, out=0 * exact)
    np.testing.assert_allclose(codes, steps, atol=0.5 + 1e-4)
    assert np.abs(codes).max() == 127
    found = dequantise(codes, scales, 150)
    np.testing.assert_allclose(found, np.asarray(codes) * expected[:, None], rtol=1e-6)


def test_nf4_is_the_nearest_level_of_each_block():
    numbers = matrix()
    codes, scales = held("nf4", numbers)
    assert (codes.dtype, codes.shape, scales.shape) == (jnp.uint8, (9, 3, 32), (9, 3))
    exact = np.pad(numbers.astype(np.float64), ((0, 0), (0, 42))).reshape(9, 3, 64)
    largest = np.abs(exact).max(axis=2, keepdims=True)
    np.testing.assert_array_equal(scales, largest[..., 0].astype(np.float32))
    shares = np.divide(exact, largest, where=largest > 0, out=0 * exact)
    levels = LEVELS.astype(np.float64)
    nearest = levels[np.abs(shares[..., None] - levels).argmin(axis=-1)]
    expected = (nearest * largest).reshape(9, 192)[:, :150]
    np.testing.assert_allclose(dequantise(codes, scales, 150), expected, rtol=1e-6)


def test_int4_is_the_nearest_of_sixteen_steps_of_each_block():
    numbers = matrix()[2:]  # the steps of smaller rows are below half precision's
    codes, scales = held("int4", numbers)
    assert (codes.dtype, codes.shape) == (jnp.uint8, (7, 5, 16))
    assert (scales.dtype, scales.shape) == (jnp.float16, (7, 5, 2))
    exact = np.pad(numbers.astype(np.float64), ((0, 0), (0, 10)), "edge").reshape(7, 5, 32)
    least, span = exact.min(axis=2), np.ptp(exact, axis=2)
    np.testing.assert_allclose(scales[..., 0], span / 15, rtol=1e-3)
    np.testing.assert_allclose(scales[..., 1], least, rtol=1e-3)
    found = np.pad(dequantise(codes, scales, 150), ((0, 0), (0, 10)), "edge").reshape(7, 5, 32)
    # Half a step, and what half precision has of the least number and of fifteen steps.
    bound = 0.5 * span / 15 + 2.0**-11 * (np.abs(least) + span)
    assert (np.abs(found - exact) <= 1.001 * bound[..., None])[..., :22].all()


def test_int4_keeps_what_lies_on_a_grid_of_sixteen():
    """As a four-bit file's: steps of half precision from a least number, not all of them taken."""
    rng = np.random.default_rng(0)
    step, least = rng.uniform(0.01, 0.2, (2, 6, 4, 1)).astype(np.float16).astype(np.float32)
    taken = rng.integers(0, 16, (6, 4, 32))
    taken[1] = np.minimum(taken[1], 9)  # no code of the highest
    taken[2] = taken[2] // 5 * 5  # one in five
    taken[3] = np.where(taken[3] < 8, 3, 5)  # two numbers
    taken[4] = 7  # one
    taken[5] = np.array([0, 2, 5, 8])[taken[5] % 4]  # distances that are multiples of half of one
    numbers = (taken * step - 8 * least).reshape(6, 128).astype(np.float32)
    found = dequantise(*held("int4", numbers), 128)
    # Of the least number half precision is kept, of a step everything.
    lowest = np.abs(numbers.reshape(6, 4, 32).min(axis=2)).max()
    np.testing.assert_allclose(found, numbers, atol=2.0**-11 * lowest)


def test_int4_keeps_a_block_far_from_zero_within_the_steps_that_half_precision_leaves():
    numbers = np.random.default_rng(0).uniform(99.99, 100.01, (1, 32)).astype(np.float32)
    found = np.asarray(dequantise(*held("int4", numbers), 32))
    # Half precision has steps of 1/16 there: sixteen steps reach from one of them to the largest.
    assert np.abs(found - numbers).max() <= (0.02 + 1 / 16) / 15 / 2 * 1.01


def test_int4_refuses_numbers_beyond_half_precision():
    with pytest.raises(ValueError, match="numbers beyond 65,504, which int4 cannot express"):
        held("int4", np.array([[1e6, 2.0, 3.0]], np.float32))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_is_no_number_is_refused(precision):
    numbers = matrix()
    numbers[2, 5] = np.nan
    with pytest.raises(ValueError, match="^a/kernel: it holds numbers that are not finite"):
        quantise_params(precision, {"a/kernel": numbers.T})


@pytest.mark.parametrize("at_once", [2**23, 4 * 150])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_product_and_gradient_are_those_of_the_matrix(precision, at_once, monkeypatch):
    """In one piece, and four rows after four with one left over."""
    monkeypatch.setattr(quantised, "_AT_ONCE", at_once)
    codes, scales = held(precision, matrix() / 10.0 ** np.arange(-4, 5)[:, None])
    whole = dequantise(codes, scales, 150)
    x = jax.random.normal(jax.random.key(0), (2, 3, 150))

    def loss(x, by):
        y = by(x)
        return jnp.sum(jnp.sin(y)), y

    both = [
        jax.jit(jax.value_and_grad(lambda x, by=by: loss(x, by), has_aux=True))(x)
        for by in (lambda x: product(x, codes, scales, jnp.float32), lambda x: x @ whole.T)
    ]
    ((_, found), gradient), ((_, expected), expected_gradient) = both
    np.testing.assert_allclose(found, expected, atol=2e-5)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-4)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3_text"])
def test_a_quantised_model_is_that_of_the_rounded_matrices(family, precision):
    config, params = FAMILIES[family], flatten(random_params(FAMILIES[family]))
    narrow = replace(config, precision=precision)
    some = quantise_params(precision, params)
    shapes = flatten(abstract_params(narrow))
    assert {path: (leaf.shape, leaf.dtype) for path, leaf in some.items()} == {
        path: (leaf.shape, leaf.dtype) for path, leaf in shapes.items()
    }
    rounded = dequantise_params(some, flatten(abstract_params(config)))
    assert {path: leaf.shape for path, leaf in rounded.items()} == {
        path: leaf.shape for path, leaf in params.items()
    }
    tokens = random_tokens(config, (2, 9))
    found = jax.jit(Decoder(narrow).apply)({"params": unflatten(some)}, tokens)
    expected = jax.jit(Decoder(config).apply)({"params": unflatten(rounded)}, tokens)
    # Logits of Gemma are larger, and its bound against transformers is too.
    np.testing.assert_allclose(found, expected, atol=1e-4 if family == "gemma3_text" else 1e-5)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_generation_is_that_of_the_rounded_matrices(precision):
    """Codes are narrower than the computation, and no numbers to be widened."""
    narrow = replace(PLAIN, precision=precision)
    some = quantise_params(precision, flatten(random_params(PLAIN)))
    rounded = dequantise_params(some, flatten(abstract_params(PLAIN)))
    prompt, prefix = random_tokens(PLAIN, (2, 5)), random_tokens(PLAIN, (1, 3), seed=1)[0].tolist()
    found, expected = (
        generate(Decoder(config), leaves, prompt, np.ones((2, 5), bool), 6, prefix=prefix)
        for config, leaves in ((narrow, some), (PLAIN, rounded))
    )
    np.testing.assert_array_equal(found, expected)
    assert len(np.unique(expected)) > 3


def test_a_token_outside_the_vocabulary_is_no_guess():
    config = replace(PLAIN, precision="int8")
    params = unflatten(quantise_params("int8", flatten(random_params(PLAIN))))
    embed = Decoder(config).bind({"params": params}).embedder
    assert np.isnan(embed(jnp.array([[PLAIN.vocabulary]]))).all()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_sparse_step_is_that_of_the_rounded_base(precision):
    """The same rows move as far, and nothing else is trained or differentiated."""
    config = tiny.model_config((0, 1), "add", shared_pool=True)
    params = dict(tiny.params(config))
    some = quantise_params(precision, params)
    narrow = replace(config, precision=precision)
    rounded = dequantise_params(some, flatten(abstract_params(config)))
    sparse, batch = SparseConfig(optimizer=OptimizerConfig("sgd")), tiny.batch()
    after = []
    for model, leaves in ((config, rounded), (narrow, some)):
        trainer = sparse_trainer(Decoder(model), sparse, 64)
        shared = Shared(trainer.frozen(leaves), tiny.usage(config))
        state = trainer.begin(leaves, tiny.settings())
        state, metrics = jax.jit(trainer.step)(shared, state, batch, tiny.settings(0.5, budget=7))
        after.append((trainer.trained(state), state.written, metrics.loss))
    (expected, written, loss), (found, found_written, found_loss) = after
    assert set(found) == {pool_path(0)}
    np.testing.assert_allclose(found_loss, loss, rtol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, found_written, written)
    assert np.asarray(written[pool_path(0)]).sum() == 7
    np.testing.assert_allclose(found[pool_path(0)], expected[pool_path(0)], atol=1e-5)


def narrow_model(precision: Precision) -> tuple[ModelConfig, Params, int]:
    """A deep quantised model with a memory at the bottom, shapes alone; bytes of its matrices."""
    memory = MemoryPlacement((0,), "add", tiny.MEMORY)
    config = replace(PLAIN, width=256, hidden_width=512, layers=8, tied=True, memory=memory)
    config = replace(config, precision=precision)
    params = flatten(jax.eval_shape(lambda: init_params(config, jax.random.key(0))))
    return config, params, 4 * 8 * (2 * 256 * 24 + 2 * 256 * 12 + 3 * 256 * 512)


def temporaries(compiled: Any) -> int:
    """Bytes of a program beside what it is given and gives."""
    return compiled.memory_analysis().temp_size_in_bytes


def test_no_step_holds_the_float_matrices():
    """Forward and backward, both through all blocks."""
    config, params, matrices = narrow_model("int8")
    trainer = sparse_trainer(Decoder(config), SparseConfig(), 64)
    shared = Shared(trainer.frozen(params), tiny.usage(config))
    state = jax.eval_shape(lambda: trainer.begin(params, tiny.settings()))
    compiled = jax.jit(trainer.step).lower(shared, state, tiny.batch(), tiny.settings()).compile()
    assert temporaries(compiled) < matrices / 3
    held = count_bytes({path: leaf for path, leaf in params.items() if is_quantised(path)})
    assert held < matrices / 3.5


def test_no_loop_holds_the_float_matrices():
    """Its body does not change them, so a compiler might make all of them float before it."""
    config, params, matrices = narrow_model("nf4")

    def looped(params, chunks):
        model = Decoder(config)
        return jax.lax.map(lambda rows: model.apply({"params": unflatten(params)}, rows), chunks)

    compiled = jax.jit(looped).lower(params, jax.ShapeDtypeStruct((3, 2, 8), jnp.int32)).compile()
    assert temporaries(compiled) < matrices / 4
    held = count_bytes({path: leaf for path, leaf in params.items() if is_quantised(path)})
    assert held < matrices / 6
