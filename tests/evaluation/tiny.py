"""A tiny tokenizer and a random decoder that speaks it, and its likelihoods one token at a time."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import jax
import numpy as np

from smf_jax.data.multiple_choice import Choice
from smf_jax.data.tokenizer import Tokenizer, train_tokenizer
from smf_jax.evaluation.scorer import Scorer
from smf_jax.models.config import ModelConfig
from smf_jax.models.decoder import Decoder
from smf_jax.params import flatten
from tests.models.tiny import random_params, with_memory

SENTENCES = (
    "Question: Who made the bridge?\nAnswer: Ann Lee made the old stone bridge.",
    "A boy rides down the hill and falls into the snow.\n\nHe laughs, and rides again.",
)
POSITIONS = 64
ITEMS = (
    Choice("Who made the bridge?", ("Ann Lee", "a boy", "the hill", "snow"), 1),
    Choice("A boy rides down", ("the hill.", "and falls into the snow é.", "é", "again"), 2),
    Choice("He laughs", (", and rides again.", "made", "Question", "the old stone bridge"), 0),
)


@cache
def tokenizer() -> Tokenizer:
    return train_tokenizer(SENTENCES * 3, 290)


@cache
def model() -> Decoder:
    config = with_memory("add", (1,), alpha=1.0)
    return Decoder(replace(config, vocabulary=tokenizer().size, max_positions=POSITIONS))


@cache
def params():
    return flatten(random_params(model().config))


@cache
def scorer(rows: int = 5) -> Scorer:
    return Scorer(model(), rows)


@cache
def _forward(config: ModelConfig):
    decoder, params = Decoder(config), random_params(config)
    return jax.jit(lambda tokens, valid: decoder.apply({"params": params}, tokens, valid))


def token_logits(ids: list[int], config: ModelConfig | None = None) -> np.ndarray:
    """Logits after every id of one text, ``(len(ids), vocabulary)``, in float64.

    Those of `model`, or of the random one of another configuration.
    """
    tokens = np.zeros((1, POSITIONS), np.int32)
    tokens[0, : len(ids)] = ids
    valid = np.arange(POSITIONS)[None] < len(ids)
    logits: Any = _forward(config or model().config)(tokens, valid)
    return np.asarray(logits, np.float64)[0, : len(ids)]


def log_probabilities(ids: list[int], config: ModelConfig | None = None) -> np.ndarray:
    """``log p(ids[i] | ids[:i])`` for every ``i`` but the first."""
    logits = token_logits(ids[:-1], config)
    logs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return logs[np.arange(len(ids) - 1), ids[1:]]
