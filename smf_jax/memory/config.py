"""What one memory is: its shape and its choices."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from smf_jax.configuration import COUNT, setting
from smf_jax.memory.product_keys import ScoreWeighting

Router = Literal["product_keys", "ngram"]
Join = Literal["sum", "concat"]
Gate = Literal["silu", "scalar", "context", "none"]
QueryNorm = Literal["none", "layer", "rms", "batch"]
OutputNorm = Literal["none", "layer"]
KeyScale = Literal["memory+", "pkm"]
MemoryInit = Literal["zero", "normal"]  # how the rows of a table start
MOST_KEYS = 46_340  # in a half: slots are numbered in 32 bits
MOST_NGRAM = 16


@dataclass(frozen=True)
class MemoryConfig:
    """Shape and choices of one memory of ``n²`` slots, ``n = keys_per_half``.

    Of a hashed router, reads per head, key width and all choices of queries, keys and scores are
    unused.
    """

    keys_per_half: int = setting(128, "n; the table has n² slots", first=True)
    heads: int = setting(4, "heads h")
    reads: int = setting(8, "reads per head k")
    key_width: int = setting(64, "key width kd, both halves together")  # even, for two halves
    value_width: int = setting(128, "value width v; 0 for the model width")
    # silu: (y ⊙ silu(x W1 + b1)) W2 + b2 (Memory+); scalar: one sigmoid a token times the
    # projected read; context: a projected read times how well another projection of it fits the
    # hidden state (Engram, 2601.07372); none: the read, projected only where v ≠ d.
    gate: Gate = setting("silu", "silu, scalar, context or none")
    # layer, rms: shared by heads and halves; batch: every number of the query by itself (PKM,
    # 1907.05242, section 3.2).
    query_norm: QueryNorm = setting(
        "none", "none; layer or rms, of query halves; or batch, over tokens"
    )
    qk_norm: bool = setting(False, "RMS norm on query halves and keys")  # with a learned scale
    score: ScoreWeighting = setting("softmax", "softmax or relu")  # over a head's winners
    # Of the read y, before its gate and projection.
    output_norm: OutputNorm = setting("none", "none, or layer: layer norm of what is read")
    # A row counts with w · gelu(u·x) instead of w, where u is its row of a second table (PEER,
    # 2407.04153).
    experts: bool = setting(False, "each slot is an expert of one hidden unit (PEER)")
    key_scale: KeyScale = setting("memory+", "initial keys: memory+ in ±1/√kd, pkm in ±√(2/kd)")
    query_bias: bool = setting(True, "whether the query projection has a bias")
    # ε of all norms; None: 1e-5 for layer and batch norms, 1e-6 for RMS.
    norm_epsilon: float | None = None
    # How a token finds its slots: by its hidden state, or by the last ids (2601.07372).
    router: Router = setting(
        "product_keys", "product_keys, or ngram: slots are hashes of the last two, three … tokens"
    )
    max_ngram: int = setting(3, "router=ngram: the longest n-gram, of 2 and more")
    join: Join = setting(
        "sum", "sum the rows that a token reads, or router=ngram: concat, side by side as in Engram"
    )

    def __post_init__(self) -> None:
        for name in ("keys_per_half", "heads", "reads", "key_width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("keys_per_half", "heads", "key_width", "value_width"):
            if getattr(self, name) > (most := MOST_KEYS if name == "keys_per_half" else COUNT):
                raise ValueError(f"{name}={getattr(self, name)} must be at most {most:,}")
        if self.value_width < 0:
            raise ValueError(f"value_width={self.value_width} must not be negative")
        if not self.is_hashed and self.reads > self.keys_per_half:
            raise ValueError(
                f"reads={self.reads} per head exceed keys_per_half={self.keys_per_half}; the "
                "product search needs k <= n: lower reads or raise keys_per_half"
            )
        if self.key_width % 2:
            raise ValueError(
                f"key_width={self.key_width} must be even: it is split into two query halves"
            )
        require_choices(self)
        if self.norm_epsilon is not None and not self.norm_epsilon > 0:
            raise ValueError(f"norm_epsilon={self.norm_epsilon} must be above 0, or None")
        if self.qk_norm and self.query_norm != "none":
            raise ValueError(
                f"qk_norm=True and query_norm={self.query_norm!r} both normalise the query; "
                "choose one of them"
            )
        self._check_router()

    def _check_router(self) -> None:
        if not 2 <= self.max_ngram <= MOST_NGRAM:
            raise ValueError(f"max_ngram={self.max_ngram} must be 2 to {MOST_NGRAM}")
        if self.join == "concat" and not self.is_hashed:
            raise ValueError(
                f"join='concat' with router={self.router!r}: the rows of product keys have no "
                "places of their own; choose join='sum' or router='ngram'"
            )
        if self.is_hashed and self.experts:
            raise ValueError(
                f"experts=True with router={self.router!r}: experts are found by product keys; "
                "choose router='product_keys' or experts=False"
            )
        if self.is_hashed and self.reads_per_token > self.slots:
            raise ValueError(
                f"keys_per_half={self.keys_per_half} makes {self.slots} slots, fewer than the "
                f"{self.reads_per_token} parts that heads={self.heads} and "
                f"max_ngram={self.max_ngram} share it in; raise keys_per_half"
            )

    @property
    def is_hashed(self) -> bool:
        """Whether slots depend on token ids alone: no parameter has a say in what is read."""
        return self.router == "ngram"

    @property
    def context_tokens(self) -> int:
        """The last tokens whose ids the router is given, a place's own among them."""
        return self.max_ngram if self.is_hashed else 0

    @property
    def slots(self) -> int:
        """Table slots ``N = n²``."""
        return self.keys_per_half**2

    @property
    def reads_per_head(self) -> int:
        """``k``: of a hashed router the orders of its n-grams."""
        return self.max_ngram - 1 if self.is_hashed else self.reads

    @property
    def reads_per_token(self) -> int:
        """``r = h·k``."""
        return self.heads * self.reads_per_head

    @property
    def read_width(self) -> int:
        """Numbers of what a token reads: ``v``, or ``r·v`` where rows stand side by side."""
        return self.value_width * (self.reads_per_token if self.join == "concat" else 1)

    def for_width(self, width: int) -> MemoryConfig:
        """The memory of a model of this width: that of what is read, where the value width is 0."""
        parts = self.reads_per_token if self.join == "concat" else 1
        if not self.value_width and width % parts:
            raise ValueError(
                f"value_width=0 with join='concat': the {parts} rows of a token cannot share the "
                f"model width {width} evenly; give a value_width"
            )
        return replace(self, value_width=self.value_width or width // parts)

    def epsilon(self, default: float) -> float:
        """``ε`` of a norm whose own default is given."""
        return default if self.norm_epsilon is None else self.norm_epsilon

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; `from_dict` is the inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> MemoryConfig:
        """Reads what `to_dict` wrote."""
        return cls(**values)


def require_choices(section: Any) -> None:
    """Refuses what is none of a field's literals, naming the field, its value and the choices."""
    for name, hint in get_type_hints(type(section)).items():
        value = getattr(section, name)
        if get_origin(hint) is Literal and value not in get_args(hint):
            raise ValueError(f"{name}={value!r} is unknown; choose from {get_args(hint)}")
