"""What a server is asked to compute, and what comes of it: one job a prompt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from smf_jax.data.tokenizer import Ids
from smf_jax.serving.served_models import PatchSet


class Token(NamedTuple):
    """A token with what the model said of it."""

    id: int
    log_probability: float  # nats
    others: tuple[tuple[int, float], ...]  # the likeliest tokens, the first of them first


class Tokens(NamedTuple):
    """Tokens that follow those of earlier events."""

    tokens: list[Token]


class Done(NamedTuple):
    """The last event of a job; ``stop`` if it met an end token."""

    reason: str  # ``stop`` or ``length``
    end: Token | None = None  # the end token, which has no text


class Failed(NamedTuple):
    """The last event of a job that could not be run."""

    message: str


class Scored(NamedTuple):
    """The tokens of a text from the second on; the only event of its job."""

    tokens: list[Token]


class ReadWeights(NamedTuple):
    """Where the tokens of a text were read; the only event of its job."""

    written: float  # share of the read weight on rows that patches wrote
    patches: tuple[float, ...]  # of that, the share of each patch of the set


Event = Tokens | Done | Failed | Scored | ReadWeights


@dataclass(eq=False)
class Job:
    """A prompt for one set of patches."""

    patch_set: PatchSet
    ids: Ids
    tell: Callable[[Event], None]  # called from the worker's thread
    others: int = 0  # alternatives of each token that are told
    gone: bool = field(default=False, init=False)  # nobody waits for it any more


@dataclass(eq=False)
class Generation(Job):
    """Continues a prompt."""

    limit: int = 16  # tokens at most
    temperature: float = 0.0
    seed: int = 0


@dataclass(eq=False)
class Scoring(Job):
    """Says how likely each token of a text is, from the second on."""


@dataclass(eq=False)
class Tracing(Job):
    """Tells which patches' rows the tokens of a text were read from."""
