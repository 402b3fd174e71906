"""The linen shell of a memory: a pool of value rows and the layers that read it."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, DTypeLike, Float, Int

from smf_jax.memory.config import MemoryConfig, MemoryInit
from smf_jax.memory.experts import expert_weights
from smf_jax.memory.norms import latest
from smf_jax.memory.reading import read, read_rows
from smf_jax.memory.routers import LOOKUPS, ROUTERS, layer_norm, rms_norm
from smf_jax.split_tables import is_split
from smf_jax.tables import AnyTable, empty_table

__all__ = [
    "LOOKUPS",
    "PERTURBATIONS",
    "READS",
    "MemoryConfig",
    "MemoryLayer",
    "MemoryPool",
    "Read",
]

READS = "reads"
PERTURBATIONS = "perturbations"


class Read(NamedTuple):
    """What one memory layer read, as sown into `READS`: slots, and what each row counted with."""

    slots: Int[Array, "b t h k"]
    weights: Float[Array, "b t h k"]


class MemoryPool(nn.Module):
    """One table of value rows, which its layers are given; experts need the model's ``width``."""

    config: MemoryConfig
    width: int | None = None
    param_dtype: DTypeLike = jnp.float32
    init_rows: MemoryInit = "normal"  # of values: with zero, what is read is exactly zero

    def setup(self) -> None:
        config = self.config
        self.values = self._values()
        if config.experts:
            if self.width is None:
                raise ValueError("experts=True needs the width of their input; give the pool one")
            self.expert_inputs = self._table("expert_inputs", self.width)

    def __call__(self) -> AnyTable:
        """The table ``(N, v)``; normal rows start with standard deviation ``v^-½``."""
        return self.values

    def inputs(self) -> Float[Array, "N d"] | None:
        """The second table of experts, ``u``: ``(N, d)``, rows normal with ``d^-½``; or ``None``.

        Sparse finetuning reads it and never writes it: a selected slot trains its row of values.
        """
        return self.expert_inputs if self.config.experts else None

    def _values(self) -> AnyTable:
        slots, width = self.config.slots, self.config.value_width
        if self.init_rows == "normal":
            return self._table("values", width)
        # As a variable: of a parameter the shapes may not change, and its store grows.
        start = partial(empty_table, slots, width, self.param_dtype)
        return self.variable("params", "values", start).value

    def _table(self, name: str, width: int) -> Any:
        if self.has_variable("params", name):
            given = self.get_variable("params", name)
            if is_split(given):  # a parameter would be refused for the shape of its part
                return given
        start = nn.initializers.normal(width**-0.5)
        return self.param(name, start, (self.config.slots, width), self.param_dtype)


class MemoryLayer(nn.Module):
    """One memory block: route, read, gate (Memory+ 2412.09764, section 3).

    The slots and weights of its read are sown into the collection ``reads``, and the read itself
    can be perturbed through the collection ``perturbations``: the gradient of the loss with
    respect to that perturbation is the cotangent from which row gradients are made. Both live
    here and not in the pool, because a pool that three layers read would yield one perturbation
    whose cotangent is the sum over the layers.
    """

    config: MemoryConfig  # shape and choices
    width: int  # ``d``, width of the model and of the output
    # Where given, the block's output is multiplied by a learned scale that starts here (additive
    # retrofit, 2605.03229); ``None`` for no scale.
    alpha: float | None = None
    dtype: DTypeLike = jnp.float32  # compute dtype of the projections; scores are float32 at least
    param_dtype: DTypeLike = jnp.float32  # dtype of the parameters

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t d"],
        values: AnyTable,
        valid: Bool[Array, "b t"] | None = None,
        expert_inputs: Float[Array, "N d"] | None = None,
        recent: Int[Array, "b t w"] | None = None,
    ) -> Float[Array, "b t d"]:
        """Reads the table at the slots that ``x``, a block's (normalised) input, asks for.

        ``valid`` is false on pads and used by norms over the batch only; ``expert_inputs``, of
        width ``d``, is the second table of a pool of experts; ``recent`` are the last ids at every
        place (`smf_jax.memory.ngrams.recent_tokens`), for a router that looks at them. Returns the
        compute dtype.
        """
        config = self.config
        self._check_tables(values, expert_inputs)
        # Tokens in one row: gradients of three-dimensional products cost a CPU twice the time.
        rows = x.reshape(-1, x.shape[-1])
        router = ROUTERS[config.router](config, self.dtype, self.param_dtype, name="router")
        nn.share_scope(self, router)
        ids = None if recent is None else recent.reshape(rows.shape[0], -1)
        route = router(rows, None if valid is None else valid.reshape(-1), ids)
        per_token = (rows.shape[0], config.reads_per_token)
        slots = route.slots.reshape(per_token)
        weights = route.weights.astype(self.dtype).reshape(per_token)
        if expert_inputs is not None:
            weights = expert_weights(expert_inputs, slots, weights, rows)
        per_head = (*x.shape[:2], config.heads, config.reads_per_head)
        sown = Read(slots.reshape(per_head), weights.reshape(per_head))
        self.sow(READS, "read", sown, init_fn=latest, reduce_fn=latest)
        # One perturbation for the sum, or one for each row that stands by itself.
        shape = (slots.shape[1], -1) if config.join == "concat" else (-1,)
        reading = read_rows if config.join == "concat" else read
        y = reading(values, slots, weights).reshape(*x.shape[:2], *shape)
        y = self.perturb("read", y, collection=PERTURBATIONS).reshape(rows.shape[0], -1)
        if config.output_norm == "layer":
            y = layer_norm(config, self.param_dtype, "output_norm")(y).astype(y.dtype)
        out = self._gated(rows.astype(self.dtype), y).reshape(x.shape)
        if self.alpha is None:
            return out
        alpha = self.param("alpha", nn.initializers.constant(self.alpha), (), self.param_dtype)
        return alpha.astype(out.dtype) * out

    def _check_tables(self, values: AnyTable, expert_inputs: Float[Array, "N d"] | None) -> None:
        config = self.config
        if values.shape != (config.slots, config.value_width):
            raise ValueError(
                f"values {values.shape} do not fit the memory's table "
                f"({config.slots}, {config.value_width}); give the layer a table of its own config"
            )
        inputs = None if expert_inputs is None else expert_inputs.shape
        expected = (config.slots, self.width) if config.experts else None
        if inputs != expected:
            raise ValueError(
                f"expert_inputs {inputs} do not fit experts={config.experts}, which needs "
                f"{expected}; give the layer the second table of its pool, or none"
            )

    def _dense(self, features: int, name: str, start: Any, bias: bool = True) -> nn.Dense:
        dtypes = self.dtype, self.param_dtype
        return nn.Dense(features, bias, *dtypes, kernel_init=start, name=name)

    def _gated(self, x: Float[Array, "t d"], y: Float[Array, "t v"]) -> Float[Array, "t d"]:
        config = self.config
        dense = partial(self._dense, start=nn.initializers.normal(self.width**-0.5))
        if config.gate == "silu":
            return dense(self.width, "output")(y * nn.silu(dense(config.read_width, "gate")(x)))
        if config.gate == "context":
            return self._fitted(x, y)
        out = y if config.read_width == self.width else dense(self.width, "output")(y)
        if config.gate == "scalar":
            out = nn.sigmoid(dense(1, "gate")(x)) * out
        return out

    def _fitted(self, x: Float[Array, "t d"], y: Float[Array, "t v"]) -> Float[Array, "t d"]:
        """``σ(rms(x) · rms(y Wk) / √d) · y Wv`` (2601.07372, section 2.3)."""
        start = nn.initializers.normal(self.width**-0.5)
        norm = partial(rms_norm, self.config, self.param_dtype)
        key = self._dense(self.width, "context_key", start, bias=False)(y)
        fits = norm("context_norm")(x) * norm("context_key_norm")(key)
        gate = nn.sigmoid(jnp.sum(fits, axis=1, keepdims=True) * self.width**-0.5)
        out = self._dense(self.width, "output", start, bias=False)(y)
        return gate.astype(out.dtype) * out
