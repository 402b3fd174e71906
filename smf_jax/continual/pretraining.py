"""Pretraining a base: a small decoder with memories learns the built-in world's known facts."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

import jax
import numpy as np

from smf_jax.continual.base import Base, abstract_params_of, data_mesh
from smf_jax.continual.config import PretrainFlags, memory_config, parse_layers
from smf_jax.data.batching import (
    Batch,
    concatenate,
    encode_paraphrases,
    in_chunks,
    needed_length,
    pack_texts,
    sample_batches,
)
from smf_jax.data.facts import train_paraphrases
from smf_jax.data.readers import Reader
from smf_jax.data.tokenizer import train_tokenizer
from smf_jax.data.world.world import World, make_world
from smf_jax.errors import blame_flag, require_least, require_positive
from smf_jax.evaluation.probes.exact import answer_probe, exact_match, is_exact_match
from smf_jax.models.config import MemoryPlacement, ModelConfig
from smf_jax.models.decoder import init_params, plain_logits
from smf_jax.params import Params, count_parameters, flatten
from smf_jax.progress import progress_bar, say
from smf_jax.sparse.update_rule import UpdateRule
from smf_jax.training.batch_norm import training_loss
from smf_jax.training.fit import fit
from smf_jax.training.trainers import dense_trainer
from smf_jax.training.whitening import whiten_queries

# Rows of the training data that queries are whitened on.
WHITENING_ROWS = 3000


def model_config(flags: PretrainFlags, vocabulary: int) -> ModelConfig:
    """The decoder that the flags describe."""
    layers = parse_layers(flags.memory_layers, "memory_layers")
    outside = [layer for layer in layers if not 0 <= layer < flags.layers]
    if outside:
        raise ValueError(
            f"--memory_layers={flags.memory_layers}: layers {outside} are outside of a model of "
            f"--layers={flags.layers}, which has layers 0 to {flags.layers - 1}"
        )
    memory = memory_config(flags, flags.width)
    placement = MemoryPlacement(layers, "pretrain", memory, flags.shared_pool) if layers else None
    if flags.width % (2 * flags.heads):
        raise ValueError(
            f"--width={flags.width} is not a multiple of twice --heads={flags.heads}; every head "
            "takes an even share of it"
        )
    return ModelConfig(
        family="llama",
        vocabulary=vocabulary,
        width=flags.width,
        layers=flags.layers,
        heads=flags.heads,
        key_value_heads=flags.heads,
        head_width=flags.width // flags.heads,
        hidden_width=flags.hidden_width,
        tied=True,
        max_positions=flags.max_positions,
        memory=placement,
    )


def abstract_base(flags: PretrainFlags) -> Base:
    """The base that `pretrain` will make, its leaves shapes only; nothing is computed.

    Raises:
      ValueError: naming the flag that does not fit.
    """
    world, further = _read(flags)
    return _abstract_base(flags, world, further)


def _read(flags: PretrainFlags) -> tuple[World, list[str]]:
    """The world and further text."""
    world = make_world(flags.world())
    return world, list(Reader().texts(flags.texts, "texts")) if flags.texts else []


def _abstract_base(flags: PretrainFlags, world: World, further: list[str]) -> Base:
    require_least(
        flags, 1, "steps", "batch_size", "text_tokens", "width", "layers", "heads", "hidden_width"
    )
    least_zero = ("text_batch_size", "warmup_steps", "weight_decay", "prompt_loss_weight")
    require_least(flags, 0, *least_zero, "value_width", "seed")
    require_positive(flags, "learning_rate")
    if flags.warmup_steps >= flags.steps:
        raise ValueError(
            f"--warmup_steps={flags.warmup_steps} leaves no step of --steps={flags.steps} after "
            "it; lower the one or raise the other"
        )
    if flags.whiten_queries and flags.memory_layers and not flags.query_bias:
        raise ValueError(
            "--whiten_queries with --noquery_bias: whitening moves the queries' mean into their "
            "bias; give --nowhiten_queries or --query_bias"
        )
    with blame_flag(f"--vocabulary={flags.vocabulary}: "):
        tokenizer = train_tokenizer(chain(world.tokenizer_texts(), further), flags.vocabulary)
    config = model_config(flags, tokenizer.size)
    return Base(config, abstract_params_of(config), tokenizer, "built-in world", flags.recipe())


def pretrain(flags: PretrainFlags) -> Base:
    """Trains a base from nothing; prints what it does.

    Args:
      flags: the recipe.

    Returns:
      The base.
    """
    world, further = _read(flags)
    base = _abstract_base(flags, world, further)
    batches = _batches(flags, world, further, base)
    params = flatten(init_params(base.config, jax.random.key(flags.seed)))
    trainer = dense_trainer(
        base.model,
        UpdateRule(
            "adamw",
            clip=1.0,
            schedule="cosine",
            warmup_steps=flags.warmup_steps,
            schedule_steps=flags.steps,
            b2=0.98,
            weight_decay=flags.weight_decay,
        ),
        loss=training_loss(base.model),
    )
    say(
        f"pretraining {count_parameters(params):,} parameters on {len(world.known):,} facts and "
        f"{len(world.neutral_train) + len(further):,} texts"
    )
    with progress_bar(flags.steps, "pretrain") as progress:
        mesh = data_mesh(batches.tokens.shape[1])
        fitted = fit(trainer, params, batches, flags.learning_rate, mesh, progress)
    params = fitted.params
    if flags.whiten_queries and base.config.memory is not None:
        params = whiten_queries(base.model, params, _some_rows(batches, WHITENING_ROWS))
    base = replace(base, params=params)
    known = known_share(base, world)
    say(
        f"loss {fitted.losses[-1]:.3f}; the base answers {known:.1%} of its facts, held-out "
        "paraphrases"
    )
    return base


def _some_rows(batches: Batch, rows: int) -> Batch:
    """The first rows of ``(steps, b, t)`` batches, ``(rows, t)``."""
    return Batch(*(field.reshape(-1, field.shape[-1])[:rows] for field in batches))


def known_share(base: Base, world: World) -> float:
    """Share of the known facts that a base answers in paraphrases it was not taught them in."""
    paraphrases = [
        paraphrase for fact in world.known for paraphrase in (*fact.train, *fact.held_out)
    ]
    length = needed_length(base.tokenizer, paraphrases)
    probe = answer_probe(base.tokenizer, world.known, "held_out", length)
    logits = plain_logits(base.model)

    @jax.jit
    def right(params: Params, batch: Batch) -> jax.Array:
        return is_exact_match(logits(params, batch.tokens, batch.valid), batch)

    chunks = in_chunks(lambda batch: right(base.params, batch), probe.batch, 128)
    answered = np.concatenate(jax.device_get(chunks))[: probe.batch.tokens.shape[0]]
    return exact_match(probe, answered)


def _batches(flags: PretrainFlags, world: World, further: list[str], base: Base) -> Batch:
    """Every batch of the training: paraphrases of facts, and windows of text beside them."""
    tokenizer, paraphrases = base.tokenizer, train_paraphrases(world.known)
    asked = [paraphrase for fact in world.known for paraphrase in fact.held_out]
    length = needed_length(tokenizer, [*paraphrases, *asked])
    if length > flags.max_positions:
        raise ValueError(
            f"--max_positions={flags.max_positions}: the longest paraphrase takes {length}"
        )
    facts = encode_paraphrases(tokenizer, paraphrases, length, flags.prompt_loss_weight)
    texts = pack_texts(tokenizer, world.neutral_train, length)
    if further:
        with blame_flag(f"--texts={flags.texts}: "):
            packed = pack_texts(tokenizer, further, length, flags.text_tokens)
        texts = concatenate([texts, packed])
    rng = np.random.default_rng([flags.seed, 1])
    of_facts = sample_batches(facts, flags.steps, flags.batch_size, rng)
    if not flags.text_batch_size:
        return of_facts
    of_texts = sample_batches(texts, flags.steps, flags.text_batch_size, rng)
    return Batch(*(np.concatenate(pair, axis=1) for pair in zip(of_facts, of_texts, strict=True)))
