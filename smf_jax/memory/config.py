"""What one product-key memory is: its shape and its choices."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from smf_jax.configuration import COUNT, setting
from smf_jax.memory.product_keys import ScoreWeighting

Gate = Literal["silu", "scalar", "none"]
QueryNorm = Literal["none", "layer", "rms", "batch"]
OutputNorm = Literal["none", "layer"]
KeyScale = Literal["memory+", "pkm"]
MemoryInit = Literal["zero", "normal"]  # how the rows of a table start
MOST_KEYS = 46_340  # in a half: slots are numbered in 32 bits


@dataclass(frozen=True)
class MemoryConfig:
    """Shape and choices of one product-key memory of ``n²`` slots, ``n = keys_per_half``."""

    keys_per_half: int = setting(128, "n; the table has n² slots", first=True)
    heads: int = setting(4, "heads h")
    reads: int = setting(8, "reads per head k")
    key_width: int = setting(64, "key width kd, both halves together")  # even, for two halves
    value_width: int = setting(128, "value width v; 0 for the model width")
    # silu: (y ⊙ silu(x W1 + b1)) W2 + b2 (Memory+); scalar: one sigmoid a token times the
    # projected read; none: the read, projected only where v ≠ d.
    gate: Gate = setting("silu", "silu, scalar or none")
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

    def __post_init__(self) -> None:
        for name in ("keys_per_half", "heads", "reads", "key_width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("keys_per_half", "heads", "key_width", "value_width"):
            if getattr(self, name) > (most := MOST_KEYS if name == "keys_per_half" else COUNT):
                raise ValueError(f"{name}={getattr(self, name)} must be at most {most:,}")
        if self.value_width < 0:
            raise ValueError(f"value_width={self.value_width} must not be negative")
        if self.reads > self.keys_per_half:
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

    @property
    def slots(self) -> int:
        """Table slots ``N = n²``."""
        return self.keys_per_half**2

    @property
    def reads_per_token(self) -> int:
        """``r = h·k``."""
        return self.heads * self.reads

    def for_width(self, width: int) -> MemoryConfig:
        """The memory of a model of this width: its value width where that is 0."""
        return replace(self, value_width=self.value_width or width)

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
