"""Pretraining a base: a small decoder with memories learns the built-in world's known facts."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

import jax
import numpy as np

from smf_jax.bases.base import Base, abstract_params_of, data_mesh
from smf_jax.bases.pretrain_config import PretrainConfig
from smf_jax.bases.retrofit_config import parse_layers
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
from smf_jax.errors import blame_flag, require_memory
from smf_jax.evaluation.probes.exact import answer_probe, exact_match, is_exact_match
from smf_jax.models.config import MemoryPlacement, ModelConfig
from smf_jax.models.decoder import init_params, plain_logits
from smf_jax.params import Params, count_parameters, flatten
from smf_jax.progress import progress_bar, say
from smf_jax.sparse.optimizers import OptimizerConfig
from smf_jax.training.batch_norm import training_loss
from smf_jax.training.fit import fit
from smf_jax.training.trainers import dense_trainer
from smf_jax.training.whitening import whiten_queries

# Rows of the training data that queries are whitened on.
WHITENING_ROWS = 3000


def model_config(config: PretrainConfig, vocabulary: int) -> ModelConfig:
    """The decoder that the configuration describes."""
    model, memory = config.model, config.memory
    layers = parse_layers(memory.memory_layers, "memory_layers")
    outside = [layer for layer in layers if not 0 <= layer < model.layers]
    if outside:
        raise ValueError(
            f"--memory_layers={memory.memory_layers}: layers {outside} are outside of a model of "
            f"--layers={model.layers}, which has layers 0 to {model.layers - 1}"
        )
    if len(set(layers)) < len(layers):
        raise ValueError(f"--memory_layers={memory.memory_layers} names a layer twice")
    placement = None
    if layers:
        of_width = memory.memory.for_width(model.width)
        with blame_flag("--"):
            placement = MemoryPlacement(layers, "pretrain", of_width, memory.shared_pool)
    return ModelConfig(
        family="llama",
        vocabulary=vocabulary,
        width=model.width,
        layers=model.layers,
        heads=model.heads,
        key_value_heads=model.heads,
        head_width=model.width // model.heads,
        hidden_width=model.hidden_width,
        tied=True,
        max_positions=model.max_positions,
        memory=placement,
    )


def recipe_of(base: Base) -> PretrainConfig | None:
    """What made a built-in base, ``None`` for others; ValueError if its settings are unknown."""
    if base.recipe is None:
        return None
    unknown = sorted(base.recipe.keys() - PretrainConfig().values().keys())
    if unknown:
        raise ValueError(
            f"--base ({base.origin}): its recipe has {unknown}, unknown to this version; make the "
            "base again"
        )
    return PretrainConfig.of(**base.recipe)


def abstract_base(config: PretrainConfig) -> Base:
    """The base that `pretrain` will make, its parameters shapes only; nothing is computed.

    Raises ValueError naming the flag that does not fit.
    """
    world, further = _read(config)
    return _abstract_base(config, world, further)


def _read(config: PretrainConfig) -> tuple[World, list[str]]:
    """The world and further text."""
    with blame_flag("--"):
        world = make_world(config.world_config())
    reader = Reader(**config.data.values())
    return world, list(reader.texts(config.world.texts, "texts")) if config.world.texts else []


def _abstract_base(config: PretrainConfig, world: World, further: list[str]) -> Base:
    with blame_flag(f"--vocabulary={config.model.vocabulary}: "):
        texts = chain(world.tokenizer_texts(), further)
        tokenizer = train_tokenizer(texts, config.model.vocabulary)
    model = model_config(config, tokenizer.size)
    params = abstract_params_of(model)
    sizes = f"--width={config.model.width}, --layers={config.model.layers}"
    keys = config.memory.memory.keys_per_half
    require_memory(4 * count_parameters(params), f"{sizes}, --keys_per_half={keys}")
    return Base(model, params, tokenizer, "built-in world", config.recipe())


def pretrain(config: PretrainConfig) -> Base:
    """Trains a base from nothing; prints what it does."""
    world, further = _read(config)
    base = _abstract_base(config, world, further)
    batches = _batches(config, world, further, base)
    params = flatten(init_params(base.config, jax.random.key(config.training.seed)))
    trainer = dense_trainer(
        base.model,
        OptimizerConfig(
            "adamw",
            clip=1.0,
            schedule="cosine",
            warmup_steps=config.training.warmup_steps,
            schedule_steps=config.training.steps,
            b2=0.98,
            weight_decay=config.training.weight_decay,
        ),
        loss=training_loss(base.model),
    )
    say(
        f"pretraining {count_parameters(params):,} parameters on {len(world.known):,} facts and "
        f"{len(world.neutral_train) + len(further):,} texts"
    )
    with progress_bar(config.training.steps, "pretrain") as progress:
        mesh = data_mesh(batches.tokens.shape[1])
        fitted = fit(trainer, params, batches, config.training.learning_rate, mesh, progress)
    params = fitted.params
    placed = base.config.memory
    if config.memory.whiten_queries and placed is not None and not placed.memory.is_hashed:
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


def _batches(config: PretrainConfig, world: World, further: list[str], base: Base) -> Batch:
    """Every batch of the training: paraphrases of facts, and windows of text beside them."""
    tokenizer, paraphrases = base.tokenizer, train_paraphrases(world.known)
    asked = [paraphrase for fact in world.known for paraphrase in fact.held_out]
    length = needed_length(tokenizer, [*paraphrases, *asked])
    if length > config.model.max_positions:
        raise ValueError(
            f"--max_positions={config.model.max_positions}: the longest paraphrase takes {length}"
        )
    facts = encode_paraphrases(tokenizer, paraphrases, length, config.training.prompt_loss_weight)
    texts = pack_texts(tokenizer, world.neutral_train, length)
    if further:
        if config.world.text_tokens < length:
            raise ValueError(
                f"--text_tokens={config.world.text_tokens} does not fill one window of {length} "
                "tokens, the longest paraphrase; raise it"
            )
        with blame_flag(f"--texts={config.world.texts}: "):
            packed = pack_texts(tokenizer, further, length, config.world.text_tokens)
        texts = concatenate([texts, packed])
    rng = np.random.default_rng([config.training.seed, 1])
    told = config.training
    with blame_flag("--"):
        of_facts = sample_batches(facts, told.steps, told.batch_size, rng)
        if not told.text_batch_size:
            return of_facts
        of_texts = sample_batches(texts, told.steps, told.text_batch_size, rng)
    return Batch(*(np.concatenate(pair, axis=1) for pair in zip(of_facts, of_texts, strict=True)))
