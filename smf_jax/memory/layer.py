"""The linen shell of a product-key memory: a pool of value rows and the layers that read it."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from smf_jax.memory.reading import read
from smf_jax.memory.routing import ScoreWeighting, product_key_lookup, read_weights
from smf_jax.shapes import Table

Gate = Literal["silu", "scalar", "none"]
QueryNorm = Literal["none", "layer", "rms"]
KeyScale = Literal["memory+", "pkm"]

READS = "reads"
PERTURBATIONS = "perturbations"


class Read(NamedTuple):
    """What one memory layer read, as sown into the collection `READS`.

    Attributes:
      slots: ``(b, t, h, k)`` int32.
      weights: ``(b, t, h, k)``, compute dtype.
    """

    slots: Int[Array, "b t h k"]
    weights: Float[Array, "b t h k"]


def _latest(*reads: Any) -> Any:
    """The newest of what was sown; ``None`` before anything was."""
    return reads[-1] if reads else None


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
      query_norm: on query halves, shared by heads and halves: ``none``, ``layer`` or ``rms``.
      qk_norm: RMS norm with a learned scale on query halves and on keys.
      score: ``softmax`` over a head's winners, or ``relu``.
      key_scale: uniform initial keys in ``±1/√kd`` (``memory+``) or ``±1/√(kd/2)`` (``pkm``).
      query_bias: whether the query projection has a bias.
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
    key_scale: KeyScale = "memory+"
    query_bias: bool = True

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
            "key_scale": KeyScale,
        }
        for name, literal in choices.items():
            if getattr(self, name) not in get_args(literal):
                raise ValueError(
                    f"{name}={getattr(self, name)!r} is unknown; choose from {get_args(literal)}"
                )
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

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; `from_dict` is the inverse."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> MemoryConfig:
        """Reads what `to_dict` wrote."""
        return cls(**values)


class MemoryPool(nn.Module):
    """One table of value rows; its layers are given the table, they do not own it."""

    config: MemoryConfig
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self) -> Table:
        """Returns the table ``(N, v)``; rows start normal with standard deviation ``v^-½``."""
        return self.param(
            "values",
            nn.initializers.normal(self.config.value_width**-0.5),
            (self.config.slots, self.config.value_width),
            self.param_dtype,
        )


class MemoryLayer(nn.Module):
    """One product-key memory block: query, lookup, read, gate (Memory+ 2412.09764, section 3).

    The slots and weights of its read are sown into the collection ``reads``, and the read itself
    can be perturbed through the collection ``perturbations``: the gradient of the loss with
    respect to that perturbation is the cotangent from which row gradients are made. Both live
    here and not in the pool, because a pool that three layers read would yield one perturbation
    whose cotangent is the sum over the layers.

    Attributes:
      config: shape and choices.
      width: ``d``, width of the model and of the output.
      alpha: where given, the block's output is multiplied by a learned scale that starts here
        (additive retrofit, 2605.03229); ``None`` for no scale.
      dtype: compute dtype of the projections; scores are float32 at least.
      param_dtype: dtype of the parameters.
    """

    config: MemoryConfig
    width: int
    alpha: float | None = None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t d"],
        values: Table,
        valid: Bool[Array, "b t"] | None = None,
    ) -> Float[Array, "b t d"]:
        """Reads the table at the slots that ``x`` asks for.

        Args:
          x: ``(b, t, d)``, the block's (normalised) input.
          values: ``(N, v)``, the table of the pool.
          valid: ``(b, t)``, false on pads; used by norms over the batch only.

        Returns:
          ``(b, t, d)`` in the compute dtype.
        """
        del valid
        config = self.config
        if values.shape != (config.slots, config.value_width):
            raise ValueError(
                f"values {values.shape} do not fit the memory's table "
                f"({config.slots}, {config.value_width}); give the layer a table of its own config"
            )
        # Tokens in one row: gradients of three-dimensional products cost a CPU twice the time.
        rows = x.reshape(-1, x.shape[-1])
        lookup = product_key_lookup(self._queries(rows), self._keys(), config.reads)
        weights = read_weights(lookup.scores, config.score).astype(self.dtype)
        per_token = (rows.shape[0], config.reads_per_token)
        y = read(values, lookup.slots.reshape(per_token), weights.reshape(per_token))
        per_head = (*x.shape[:2], config.heads, config.reads)
        self.sow(
            READS,
            "read",
            Read(lookup.slots.reshape(per_head), weights.reshape(per_head)),
            init_fn=_latest,
            reduce_fn=_latest,
        )
        y = self.perturb("read", y.reshape(*x.shape[:2], -1), collection=PERTURBATIONS)
        out = self._gated(rows.astype(self.dtype), y.reshape(rows.shape[0], -1)).reshape(x.shape)
        if self.alpha is None:
            return out
        alpha = self.param("alpha", nn.initializers.constant(self.alpha), (), self.param_dtype)
        return alpha.astype(out.dtype) * out

    def _queries(self, x: Float[Array, "t d"]) -> Float[Array, "t h 2 c"]:
        """Head-major queries; the first half of a head's query is sub-query 1."""
        config = self.config
        queries = nn.Dense(
            config.heads * config.key_width,
            use_bias=config.query_bias,
            kernel_init=nn.initializers.xavier_uniform(),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name="query",
        )(x)
        queries = queries.reshape(-1, config.heads, 2, config.key_width // 2)
        if config.query_norm == "layer":
            queries = nn.LayerNorm(
                epsilon=1e-5, dtype=jnp.float32, param_dtype=self.param_dtype, name="query_norm"
            )(queries)
        elif config.query_norm == "rms":
            queries = nn.RMSNorm(
                epsilon=1e-6, dtype=jnp.float32, param_dtype=self.param_dtype, name="query_norm"
            )(queries)
        elif config.qk_norm:
            queries = self._qk_normalised(queries, "query_scale", 1.0)
        return queries

    def _keys(self) -> Float[Array, "h 2 n c"]:
        config = self.config
        half = config.key_width // 2
        bound = 1 / math.sqrt(config.key_width if config.key_scale == "memory+" else half)

        def uniform(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
            return jax.random.uniform(key, shape, dtype, -bound, bound)

        shape = (config.heads, 2, config.keys_per_half, half)
        keys = self.param("keys", uniform, shape, self.param_dtype)

        # 1/√c: sub-scores start with variance one, near that of the raw products they replace.
        return self._qk_normalised(keys, "key_scale", half**-0.5) if config.qk_norm else keys

    def _qk_normalised(self, x: Float[Array, "... c"], name: str, start: float) -> Array:
        x = x.astype(jnp.promote_types(jnp.float32, x.dtype))
        scale = self.param(name, nn.initializers.constant(start), x.shape[-1:], self.param_dtype)
        mean_square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
        return x * jax.lax.rsqrt(mean_square + 1e-6) * jnp.expand_dims(scale, range(x.ndim - 1))

    def _gated(self, x: Float[Array, "t d"], y: Float[Array, "t v"]) -> Float[Array, "t d"]:
        config = self.config
        start = nn.initializers.normal(self.width**-0.5)

        def dense(features: int, name: str) -> nn.Dense:
            return nn.Dense(
                features,
                kernel_init=start,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                name=name,
            )

        if config.gate == "silu":
            return dense(self.width, "output")(y * nn.silu(dense(config.value_width, "gate")(x)))
        out = y if config.value_width == self.width else dense(self.width, "output")(y)
        if config.gate == "scalar":
            out = nn.sigmoid(dense(1, "gate")(x)) * out
        return out
