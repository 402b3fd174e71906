"""What one product-key memory is: its shape and its choices."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from smf_jax.memory.product_keys import ScoreWeighting

Gate = Literal["silu", "scalar", "none"]
QueryNorm = Literal["none", "layer", "rms", "batch"]
OutputNorm = Literal["none", "layer"]
KeyScale = Literal["memory+", "pkm"]


@dataclass(frozen=True)
class MemoryConfig:
    """Shape and choices of one product-key memory.

    Attributes:
      keys_per_half: ``n``; the table has ``n²`` slots.
      heads: ``h``.
      reads: ``k``, reads per head.
      key_width: ``kd``, both halves of a query together; even.
      value_width: ``v``.
      gate: ``silu``: ``(y ⊙ silu(x W1 + b1)) W2 + b2`` (Memory+); ``scalar``: one sigmoid a token
        times the projected read; ``none``: the read, projected only where ``v ≠ d``.
      query_norm: ``layer`` or ``rms``: on query halves, shared by heads and halves; ``batch``:
        over the tokens of a batch, for every number of the query by itself (PKM 1907.05242,
        section 3.2); or ``none``.
      qk_norm: RMS norm with a learned scale on query halves and on keys.
      score: ``softmax`` over a head's winners, or ``relu``.
      output_norm: ``layer``: layer norm of the read ``y``, before its gate and projection; or
        ``none``.
      experts: whether each slot is an expert of one hidden unit (PEER 2407.04153): its row counts
        with ``w · gelu(u·x)`` instead of ``w``, where ``u`` is its row of a second table.
      key_scale: uniform initial keys in ``±1/√kd`` (``memory+``) or ``±1/√(kd/2)`` (``pkm``).
      query_bias: whether the query projection has a bias.
      norm_epsilon: ``ε`` of all norms; ``None``: 1e-5 for layer and batch norms, 1e-6 for RMS.
    """

    keys_per_half: int = 128
    heads: int = 4
    reads: int = 8
    key_width: int = 64
    value_width: int = 128
    gate: Gate = "silu"
    query_norm: QueryNorm = "none"
    qk_norm: bool = False
    score: ScoreWeighting = "softmax"
    output_norm: OutputNorm = "none"
    experts: bool = False
    key_scale: KeyScale = "memory+"
    query_bias: bool = True
    norm_epsilon: float | None = None

    def __post_init__(self) -> None:
        for name in ("keys_per_half", "heads", "reads", "key_width", "value_width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.reads > self.keys_per_half:
            raise ValueError(
                f"reads={self.reads} per head exceed keys_per_half={self.keys_per_half}; the "
                "product search needs k <= n: lower reads or raise keys_per_half"
            )
        if self.key_width % 2:
            raise ValueError(
                f"key_width={self.key_width} must be even: it is split into two query halves"
            )
        choices: dict[str, Any] = {
            "gate": Gate,
            "query_norm": QueryNorm,
            "score": ScoreWeighting,
            "output_norm": OutputNorm,
            "key_scale": KeyScale,
        }
        for name, literal in choices.items():
            if getattr(self, name) not in get_args(literal):
                raise ValueError(
                    f"{name}={getattr(self, name)!r} is unknown; choose from {get_args(literal)}"
                )
        if self.norm_epsilon is not None and not self.norm_epsilon > 0:
            raise ValueError(f"norm_epsilon={self.norm_epsilon} must be above 0, or None")
        if self.qk_norm and self.query_norm != "none":
            raise ValueError(
                f"qk_norm=True and query_norm={self.query_norm!r} both normalise the query; "
                "choose one of them"
            )

    @property
    def slots(self) -> int:
        """Table slots ``N = n²``."""
        return self.keys_per_half**2

    @property
    def reads_per_token(self) -> int:
        """``r = h·k``."""
        return self.heads * self.reads

    def epsilon(self, default: float) -> float:
        """``ε`` of a norm whose own default is given."""
        return default if self.norm_epsilon is None else self.norm_epsilon

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; `from_dict` is the inverse."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> MemoryConfig:
        """Reads what `to_dict` wrote."""
        return cls(**values)
