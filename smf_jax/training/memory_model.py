"""A model as the fast step sees it: logits, the reads of its memories, and who reads which table.

Any Flax model in which a `smf_jax.memory.layer.MemoryLayer` stands can be trained; see
`memory_model`, and ``examples/own_model.py`` for a whole one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from smf_jax.memory.layer import PERTURBATIONS, READS, MemoryLayer, Read
from smf_jax.models.config import MemoryPlacement
from smf_jax.models.decoder import Decoder, LogitsFn, upstream_of_reads
from smf_jax.models.layers import Logits, Segments, Tokens
from smf_jax.params import Params, flatten, memory_layer_path, pool_path, unflatten

# By path of a memory layer, ``(b, t, v)``: what is added to its read.
Perturbations = dict[str, Array]
Reads = dict[str, Read]
_DEEP = 4  # blocks below the lowest memory from which on it pays to keep what they give
_NAME = "/read"  # of what a layer sows, and of what it perturbs


class MemoryModel(NamedTuple):
    """A model with memories, as pure functions of its parameters by path."""

    # ``(params, tokens, valid, perturbations) -> (logits, reads)``; reads by the path of their
    # layer, perturbations likewise, or none at all. A fifth argument, where it is given, are the
    # places ``(b, m)`` at which logits are asked for; ``lower`` is what `below_memory` gave.
    apply: Callable[..., tuple[Logits, Reads]]
    # ``(params, tokens, valid) -> shapes`` of the perturbations of this very batch.
    perturbations: Callable[[Params, Tokens, Segments], Mapping[str, jax.ShapeDtypeStruct]]
    # Path of each table ``(N, v)`` -> paths of the layers that read it.
    tables: Mapping[str, tuple[str, ...]]
    # Whether a path has a say in which slots are read; once it changes, a background is stale.
    is_upstream: Callable[[str], bool]

    # ``(params, tokens, valid) -> (b, t, d)`` that enters the lowest block with a memory, where it
    # pays to keep it.
    below_memory: Callable[[Params, Tokens, Segments], Array] | None = None
    # The settings of the memories, as JSON has them; empty if they are not known.
    routing: Mapping[str, Any] = MappingProxyType({})

    @property
    def layers(self) -> tuple[str, ...]:
        """The paths of all memory layers, table by table."""
        return tuple(layer for layers in self.tables.values() for layer in layers)

    @property
    def logits(self) -> LogitsFn:
        """Logits from params by path, tokens and the mask of valid ones."""
        return lambda params, tokens, valid, *places: self.apply(
            params, tokens, valid, {}, *(each for each in places if each is not None)
        )[0]


def memory_model(
    module: nn.Module,
    tables: Mapping[str, Sequence[str]],
    *,
    inputs: Callable[[Tokens, Segments], tuple[Array, ...]] = lambda tokens, valid: (tokens, valid),
    is_upstream: Callable[[str], bool] = lambda path: True,
) -> MemoryModel:
    """The `MemoryModel` of a linen module in which memory layers stand.

    Its blocks have to be a Python loop; each may be rematerialised. ``nn.scan`` over blocks drops
    what the layers sow and perturb, which is an error as soon as a step is traced.

    Example::

      model = memory_model(Transformer(), {"pool/values": ["block_1/memory", "block_3/memory"]})
      trainer = sparse_trainer(model, SparseConfig(), capacity=4096)

    The module gives logits ``(b, t, vocabulary)`` for what ``inputs`` makes of tokens and the mask
    of valid ones, ``(b, t)``. By path of the ``values`` of each `MemoryPool`, ``tables`` have the
    paths of the `MemoryLayer`s that are given it, joined with ``/``. By default every path
    ``is_upstream`` (see `MemoryModel`), so that a background belongs to one state of the model. No
    table, one that no layer reads, or a layer that reads two is a ValueError.
    """
    known = {table: tuple(layers) for table, layers in tables.items()}
    layers = [layer for of_table in known.values() for layer in of_table]
    if not known or not all(known.values()) or len(set(layers)) < len(layers):
        raise ValueError(
            f"tables={known}: expected the path of at least one table, each with the layers that "
            "read it, and every layer once"
        )

    def apply(
        params: Params,
        tokens: Tokens,
        valid: Segments,
        perturbations: Perturbations,
        places: Array | None = None,
        lower: Array | None = None,
    ) -> tuple[Float[Array, "b _m vocabulary"], Reads]:
        variables = {"params": unflatten(params)}
        if perturbations:
            named = {f"{layer}{_NAME}": zeros for layer, zeros in perturbations.items()}
            variables[PERTURBATIONS] = unflatten(named)
        # The head of another model than ours is its own affair.
        is_ours = isinstance(module, Decoder)
        asked: Any = {"places": places, "lower": lower} if is_ours else {}
        logits, sown = module.apply(variables, *inputs(tokens, valid), **asked, mutable=[READS])
        if places is not None and not asked:
            logits = jnp.take_along_axis(logits, jnp.expand_dims(places, 2), axis=1)
        return logits, _by_layer(sown, READS)

    def perturbations(
        params: Params, tokens: Tokens, valid: Segments
    ) -> Mapping[str, jax.ShapeDtypeStruct]:
        def run(params: Params) -> Any:
            variables = {"params": unflatten(params)}
            with nn.intercept_methods(partial(_refuse_other_table, params, known)):
                return module.apply(variables, *inputs(tokens, valid), mutable=[PERTURBATIONS])[1]

        return _by_layer(jax.eval_shape(run, params), PERTURBATIONS)

    return MemoryModel(apply, perturbations, known, is_upstream)


def as_memory_model(model: Decoder | MemoryModel) -> MemoryModel:
    """The same if it is one already, else that of our decoder, which has to have a memory."""
    if isinstance(model, MemoryModel):
        return model
    placement = model.config.memory
    if placement is None:
        raise ValueError("the model has no memory: pretrain or retrofit one (model.memory=None)")
    tables: dict[str, list[str]] = {}
    for layer in placement.layers:
        table = pool_path(placement.pool_of(layer))
        tables.setdefault(table, []).append(memory_layer_path(layer))
    found = memory_model(model, tables, is_upstream=partial(upstream_of_reads, model.config))
    found = found._replace(routing=_routing(placement))

    def below_memory(params: Params, tokens: Tokens, valid: Segments) -> Array:
        variables: Any = {"params": unflatten(params)}
        return cast(Array, model.apply(variables, tokens, valid, method=Decoder.below_memory))

    return found._replace(below_memory=below_memory) if min(placement.layers) >= _DEEP else found


def _routing(placement: MemoryPlacement) -> dict[str, Any]:
    """What decides, beside the parameters, which slots the memories read."""
    layers = {"layers": list(placement.layers), "shared_pool": placement.shared_pool}
    return {**asdict(placement.memory), **layers}


def _by_layer(collections: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What the layers put into a collection, by their path."""
    flat = flatten(collections.get(name, {}))
    return {path.removesuffix(_NAME): found for path, found in flat.items()}


def _refuse_other_table(
    params: Params,
    tables: Mapping[str, tuple[str, ...]],
    call: Callable[..., Any],
    arguments: tuple[Any, ...],
    options: dict[str, Any],
    context: nn.module.InterceptorContext,
) -> Any:
    """Calls a method; an error if a memory layer is given another table than it is said to read."""
    # Rows of the wrong table would be trained, in silence. A table that came through a lifted
    # transform is not recognised, and is let pass.
    if isinstance(context.module, MemoryLayer) and context.method_name == "__call__":
        values, layer = [*arguments, options.get("values")][1], "/".join(context.module.path)
        for table, layers in tables.items():
            if values is params.get(table) and layer not in layers:
                raise ValueError(
                    f"{layer} reads {table}, whose layers are {list(layers)}; name it in tables"
                )
    return call(*arguments, **options)
