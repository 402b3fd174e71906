"""Every family: against transformers, there and back, and under all that is done to a model."""

import json
from dataclasses import replace
from functools import partial
from typing import cast, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smf_jax.data.batching import Batch
from smf_jax.interop.huggingface.checkpoint import (
    huggingface_name,
    load_huggingface,
    save_huggingface,
)
from smf_jax.interop.huggingface.config import config_values, parse_config
from smf_jax.interop.huggingface.families import FAMILIES
from smf_jax.models.config import Family, MemoryPlacement
from smf_jax.models.decoder import Decoder, abstract_params
from smf_jax.models.generate import generate, left_pad
from smf_jax.models.lora import (
    ATTENTION_TARGETS,
    FEED_FORWARD_TARGETS,
    apply_lora,
    init_lora,
    merge_lora,
)
from smf_jax.models.retrofit import retrofit
from smf_jax.params import flatten, pool_path, unflatten
from smf_jax.sparse.optimizers import OptimizerConfig
from smf_jax.tables import explicit
from smf_jax.training.sparse_config import SparseConfig
from smf_jax.training.sparse_trainer import sparse_trainer
from smf_jax.training.step import Shared
from smf_jax.training.trainers import dense_trainer
from smf_jax.typed_json import JsonObject
from tests.interop.huggingface.make_golden import (
    CASES,
    EVERY,
    GOLDEN,
    STEPS,
    expect,
    write_checkpoint,
)
from tests.models.tiny import FAMILIES as TINY
from tests.models.tiny import random_params, random_tokens
from tests.training import tiny


@partial(jax.jit, static_argnums=0)
def logits(config, params, tokens, valid=None):
    return Decoder(config).apply({"params": params}, tokens, valid)


def continue_greedily(config, params, tokens, valid=None):
    valid = np.ones(tokens.shape, bool) if valid is None else valid
    return generate(Decoder(config), params, tokens, valid, STEPS)


@pytest.fixture
def golden(request, tmp_path):
    """The configuration and parameters of a case, read from its drawn checkpoint; what is known."""
    about = json.loads((GOLDEN / f"{request.param}.json").read_text())
    write_checkpoint(tmp_path / "theirs", about["config"], about["shapes"], about["seed"])
    expected = np.load(GOLDEN / f"{request.param}.npz")
    return request.param, *load_huggingface(tmp_path / "theirs"), expected


def test_every_family_has_a_file_and_a_tiny_model():
    assert set(FAMILIES) == set(TINY) == set(get_args(Family))
    assert all(config.family == name for name, config in TINY.items())


@pytest.mark.parametrize("golden", CASES, indirect=True)
def test_golden_logits_and_continuations(golden):
    name, config, params, expected = golden
    found = np.asarray(logits(config, params, expected["prompt"]))[:, ::EVERY]
    assert np.abs(found - expected["logits"]).max() <= CASES[name].tolerance
    assert np.abs(expected["logits"]).max() > 1
    longer = continue_greedily(config, params, expected["prompt"])
    np.testing.assert_array_equal(longer, expected["continuation"])
    tokens, valid = expected["tokens"], expected["valid"]
    last = np.asarray(logits(config, params, tokens, valid))[:, -1]
    assert np.abs(last - expected["last_logits"]).max() <= CASES[name].tolerance
    longer = continue_greedily(config, params, tokens, valid)
    np.testing.assert_array_equal(longer, expected["continuations"])


@pytest.mark.parametrize("golden", CASES, indirect=True)
def test_what_transformers_saved_is_written_as_it_was(golden, tmp_path):
    name, config, params, _ = golden
    save_huggingface(tmp_path / "ours", config, params)
    again, found = load_huggingface(tmp_path / "ours")
    assert again == config
    jax.tree.map(np.testing.assert_array_equal, found, params)
    ours = (tmp_path / "ours" / "model.safetensors").read_bytes()
    theirs = (tmp_path / "theirs" / "model.safetensors").read_bytes()
    # Headers may differ in order; the tensors are as many bytes, and were compared above.
    assert abs(len(ours) - len(theirs)) < 100, name


@pytest.mark.parametrize("name", CASES)
def test_live_parity_with_transformers_both_ways(name, tmp_path):
    torch = pytest.importorskip("torch", reason="needs torch: make test-parity")
    transformers = pytest.importorskip("transformers", reason="needs it: make test-parity")
    seed = json.loads((GOLDEN / f"{name}.json").read_text())["seed"]
    expected, *_ = expect(name, tmp_path / "theirs", seed)
    whole, tolerance = expected.whole, CASES[name].tolerance
    config, params = load_huggingface(tmp_path / "theirs")
    apart = np.abs(logits(config, params, whole.prompt) - whole.logits).max()
    padded = np.asarray(logits(config, params, expected.tokens, expected.valid))
    apart_padded = np.abs(padded - expected.logits)[expected.valid].max()
    print(f"{name}: {apart:.1e}, padded {apart_padded:.1e}")
    assert max(apart, apart_padded) <= tolerance
    longer = continue_greedily(config, params, whole.prompt)
    np.testing.assert_array_equal(longer, whole.continuation)
    longer = continue_greedily(config, params, expected.tokens, expected.valid)
    np.testing.assert_array_equal(longer, expected.continuations)
    save_huggingface(tmp_path / "ours", config, params, shard_bytes=10**5)
    again = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "ours", attn_implementation="eager"
    )
    with torch.no_grad():
        found = again(torch.tensor(whole.prompt)).logits.numpy()
    np.testing.assert_allclose(found, whole.logits, atol=tolerance)


@pytest.mark.parametrize("name", TINY)
def test_export_reads_back_bit_for_bit(name, tmp_path):
    config, params = TINY[name], random_params(TINY[name])
    save_huggingface(tmp_path / "out", config, params)
    again, found = load_huggingface(tmp_path / "out")
    assert again == config
    jax.tree.map(np.testing.assert_array_equal, found, params)


@pytest.mark.parametrize("name", TINY)
def test_every_leaf_has_a_name_of_its_own(name):
    paths = flatten(abstract_params(TINY[name]))
    assert len({huggingface_name(path, TINY[name].family) for path in paths}) == len(paths)


@pytest.mark.parametrize("name", TINY)
def test_generation_equals_decoding_without_a_cache(name):
    """Rows of unequal length behind a shared prefix, longer than any window."""
    config, params = TINY[name], random_params(TINY[name])
    prefix = random_tokens(config, (1, 6), seed=1)[0].tolist()
    prompts = [random_tokens(config, (1, n), seed=n)[0].tolist() for n in (3, 8)]
    tokens, valid = left_pad(prompts, pad=0)
    found = generate(Decoder(config), params, tokens, valid, 12, prefix=prefix)
    for prompt, row in zip(prompts, np.asarray(found), strict=True):
        whole = np.array([prefix + prompt + row.tolist()])
        padded = np.pad(whole, ((0, 0), (0, 32 - whole.shape[1])))
        best = np.argmax(logits(config, params, padded, np.arange(32)[None] < whole.shape[1]), -1)
        start = len(prefix + prompt) - 1
        np.testing.assert_array_equal(best[0, start : start + 12], row)


@pytest.mark.parametrize("name", [name for name in TINY if TINY[name].sliding_layers])
def test_a_window_sees_so_many_tokens(name):
    """Of blocks that all slide, the last token hears of ``layers · (window − 1)`` before it."""
    config = replace(TINY[name], layers=2, sliding_layers=(0, 1))
    params, tokens = random_params(config), random_tokens(config, (1, 12))
    last = [np.asarray(logits(config, params, tokens))[0, -1]]
    for place in (4, 5):
        changed = tokens.copy()
        changed[0, place] = (changed[0, place] + 1) % config.vocabulary
        last.append(np.asarray(logits(config, params, changed))[0, -1])
    np.testing.assert_array_equal(last[1], last[0])
    assert np.abs(last[2] - last[0]).max() > 1e-6


@pytest.mark.parametrize("name", TINY)
def test_sequences_that_share_a_row_are_as_if_alone(name):
    config, params = TINY[name], random_params(TINY[name])
    tokens = random_tokens(config, (1, 20))
    segments = np.repeat([[1, 2]], (11, 9), axis=1).astype(np.int32)
    packed = logits(config, params, tokens, segments)
    for own in (slice(0, 11), slice(11, 20)):
        alone = logits(config, params, tokens[:, own])
        np.testing.assert_allclose(packed[:, own], alone, atol=5e-6)


@pytest.mark.parametrize("mode", ["add", "replace"])
@pytest.mark.parametrize("name", TINY)
def test_retrofit_and_a_sparse_step(name, mode):
    """A fresh memory changes no bit where it adds; a step moves the selected rows alone."""
    base, before = TINY[name], random_params(TINY[name])
    rows = "zero" if mode == "add" else "normal"
    placement = MemoryPlacement((1,), mode, tiny.MEMORY, init_rows=rows)
    config, params = retrofit(base, before, placement, jax.random.key(0))
    assert config.family == base.family
    tokens = random_tokens(base, (2, 12))
    if mode == "add":
        np.testing.assert_array_equal(logits(config, params, tokens), logits(base, before, tokens))
    flat, pool = flatten(params), pool_path(1)
    flat[pool] = jnp.asarray(explicit(flat[pool]))
    assert flat.keys() == flatten(abstract_params(config)).keys()
    trainer = sparse_trainer(Decoder(config), SparseConfig(optimizer=OptimizerConfig("sgd")), 64)
    shared = Shared(trainer.frozen(flat), tiny.usage(config))
    state, batch = trainer.begin(flat, tiny.settings()), tiny.batch()
    after, metrics = jax.jit(trainer.step)(shared, state, batch, tiny.settings(0.5, budget=7))
    assert np.isfinite(metrics.loss)
    written = np.asarray(after.written[pool])
    moved = np.asarray(after.tables[pool]) != np.asarray(flat[pool])
    assert written.sum() == 7
    assert moved[written].any()
    assert not moved[~written].any()


@pytest.mark.parametrize("name", TINY)
def test_lora_reaches_every_map_and_merges(name):
    config, params = TINY[name], random_params(TINY[name])
    targets = (*ATTENTION_TARGETS, *FEED_FORWARD_TARGETS)
    rng = np.random.default_rng(0)
    adapters = {
        path: jnp.asarray(0.1 * rng.standard_normal(leaf.shape), jnp.float32)
        for path, leaf in init_lora(params, 2, targets, jax.random.key(0)).items()
    }
    assert len(adapters) == 2 * len(targets) * config.layers
    tokens = random_tokens(config, (2, 12))

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def adapted(adapters):
        with apply_lora(adapters, 4.0):
            found = cast(jax.Array, Decoder(config).apply({"params": params}, tokens))
        return jnp.mean(jax.nn.log_softmax(found)[..., 0]), found

    (_, found), gradient = adapted(adapters)
    expected = logits(config, merge_lora(params, adapters, 4.0), tokens)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert all(np.abs(leaf).max() > 0 for leaf in gradient.values())


@pytest.mark.parametrize("name", TINY)
def test_full_finetuning_follows_the_gradient_of_every_leaf(name):
    """All move, but for embeddings of tokens not met; the loss falls by what the steps promise."""
    config, before, rate = TINY[name], flatten(random_params(TINY[name])), 1e-3
    tokens = random_tokens(config, (2, 13))
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    batch = Batch(inputs, targets, np.ones((2, 12), np.float32), np.ones((2, 12), bool))
    trainer = dense_trainer(Decoder(config), OptimizerConfig("sgd"))
    shared, state = Shared(trainer.frozen(before), None), trainer.begin(before, tiny.settings())
    step, leaves, losses = jax.jit(trainer.step), [before], []
    for _ in range(2):
        state, metrics = step(shared, state, batch, tiny.settings(rate))
        leaves.append(trainer.trained(state))
        losses.append(float(metrics.loss))
    found = np.asarray(logits(config, unflatten(before), inputs), np.float64)
    right = np.take_along_axis(found, targets[..., None], 2)[..., 0]
    expected = np.log(np.exp(found).sum(2)) - right
    assert losses[0] == pytest.approx(expected.mean(), rel=1e-5)
    wide = [{path: np.asarray(x, np.float64) for path, x in each.items()} for each in leaves]
    fallen = 0.0
    for path, leaf in wide[0].items():
        first, second = leaf - wide[1][path], wide[1][path] - wide[2][path]
        assert first.any(), path
        fallen += np.sum((first + second) / 2 * first) / rate  # the trapezoid of ∇L along the step
    assert losses[0] - losses[1] == pytest.approx(fallen, rel=1e-2)
    if not config.tied:
        moved = np.any(leaves[1]["embedder/embedding"] != before["embedder/embedding"], axis=1)
        np.testing.assert_array_equal(np.flatnonzero(moved), np.unique(inputs))


def parsed(name, **changes):
    """The configuration of a tiny model whose file was edited; ``...`` takes a key out."""
    values = config_values(TINY[name]) | changes
    kept = {key: value for key, value in values.items() if value is not ...}
    return parse_config(JsonObject(kept, "config.json"))


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        (
            "smollm3",
            {"no_rope_layers": ..., "no_rope_layer_interval": 2},
            {"unrotated_layers": (1,)},
        ),
        (
            "smollm3",
            {"no_rope_layers": None, "num_hidden_layers": 9, "layer_types": None},
            {"unrotated_layers": (3, 7)},
        ),
        (
            "smollm3",
            {
                "tie_word_embeddings": ...,
                "num_key_value_heads": ...,
                "rope_theta": ...,
                "rope_parameters": ...,
                "max_position_embeddings": ...,
            },
            {"tied": True, "key_value_heads": 4, "rope_theta": 2e6, "max_positions": 32_768},
        ),
        (
            "olmo2",
            {"rms_norm_eps": ..., "num_key_value_heads": ..., "max_position_embeddings": ...},
            {"norm_epsilon": 1e-5, "key_value_heads": 4, "max_positions": 2048, "tied": False},
        ),
        (
            "gemma3_text",
            {"num_hidden_layers": 13, "layer_types": ..., "sliding_window": ...}
            | {"head_dim": ..., "query_pre_attn_scalar": ..., "rope_parameters": ...}
            | {"rope_theta": ..., "rope_local_base_freq": ..., "hidden_activation": ...},
            {
                "sliding_layers": (0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 12),
                "sliding_window": 4096,
                "head_width": 256,
                "score_width": None,
                "rope_theta": 1e6,
                "sliding_rope_theta": 1e4,
            },
        ),
        (
            "gemma3_text",  # as Gemma 3 1B was first published
            {"layer_types": ..., "sliding_window_pattern": 2, "rope_parameters": ...}
            | {"rope_theta": 1e5, "rope_local_base_freq": 2e4, "query_pre_attn_scalar": 6},
            {
                "sliding_layers": (0, 2),
                "rope_theta": 1e5,
                "sliding_rope_theta": 2e4,
                "score_width": None,
            },
        ),
        (
            "gemma3_text",
            {"layer_types": ["full_attention"] * 3},
            {"sliding_layers": (), "sliding_window": None, "sliding_rope_theta": None},
        ),
        ("mistral", {"sliding_window": None}, {"sliding_window": None, "sliding_layers": ()}),
        ("mistral", {"sliding_window": 63}, {"sliding_window": 63, "sliding_layers": (0, 1)}),
        # No position of the model is so far from another.
        ("mistral", {"sliding_window": 64}, {"sliding_window": None, "sliding_layers": ()}),
        (
            "mistral",
            {"sliding_window": ..., "num_key_value_heads": ..., "max_position_embeddings": ...}
            | {"num_attention_heads": 16},
            {"sliding_window": 4096, "key_value_heads": 8, "max_positions": 131_072},
        ),
    ],
)
def test_what_a_file_says_or_leaves_out(name, changes, expected):
    config = parsed(name, **changes)
    assert {field: getattr(config, field) for field in expected} == expected


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("smollm3", {"no_rope_layers": [1]}, r"no_rope_layers=\[1\]: expected 0 or 1 for each of"),
        ("smollm3", {"no_rope_layers": [1, 2, 1]}, r"no_rope_layers\[1\]=2: expected a whole num"),
        (
            "smollm3",
            {"use_sliding_window": True},
            "use_sliding_window=True is not supported: .*Fal",
        ),
        ("gemma3_text", {"final_logit_softcapping": 30.0}, "final_logit_softcapping=30.0 is not"),
        ("gemma3_text", {"hidden_activation": "gelu"}, "hidden_activation='gelu' is not supported"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention=True"),
        ("gemma3_text", {"layer_types": ["full_attention"]}, "layer_types=.*: expected a kind for"),
        ("gemma3_text", {"sliding_window": None}, "sliding_window=None: expected a whole number"),
        (
            "gemma3_text",
            {"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0}}},
            "rope_parameters.full_attention.rope_type='linear': expected 'default'",
        ),
        (
            "gemma3_text",
            {"rope_parameters": ..., "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
            "rope_type='linear' is not supported",
        ),
        ("mistral", {"sliding_window": 0}, "sliding_window=0: expected a whole number from 1"),
        (
            "mistral",
            {"layer_types": ["full_attention"]},
            r"layer_types=.* is not supported: .*None",
        ),
        ("smollm3", {"layer_types": ["chunked"]}, r"layer_types=\['chunked'\] is not supported"),
    ],
)
def test_what_cannot_be_is_named(name, changes, message):
    with pytest.raises(ValueError, match=f"config.json: {message}"):
        parsed(name, **changes)


def test_a_family_that_is_no_plain_attention_is_refused_by_name():
    """Qwen3.5, of whose blocks three of four are a gated delta rule."""
    told = r"config.json: model_type='qwen3_5' is not supported; choose of \('qwen2', 'qwen3'"
    with pytest.raises(ValueError, match=told):
        parsed("qwen3", model_type="qwen3_5")


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("llama", {"unrotated_layers": (1,)}, r"llama has no variant with unrotated_layers=\(1,\)"),
        ("llama", {"precision": "nf4"}, "matrices held in nf4 have no place in a llama checkpoint"),
    ],
)
def test_export_refuses_what_the_family_cannot_express(name, changes, message):
    with pytest.raises(ValueError, match=message):
        config_values(replace(TINY[name], **changes))
