"""Tables that others ship, trained row by row: Engram's, per-layer embeddings, any embedding.

A table is named by the path of its leaf, and by a function that tells which of its rows each token
reads. The model stays as it is, whatever it was written with: its function of parameters is traced,
and the rows that it gathers are perturbed where they come out (`smf_jax.training.taps`). What comes
of it is a `MemoryModel`, for which background, selection, step and patches are those of a memory.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from smf_jax.data.batching import Batch
from smf_jax.memory.layer import Read
from smf_jax.models.layers import Logits, Segments, Tokens
from smf_jax.params import Params
from smf_jax.training.memory_model import MemoryModel, Perturbations, Reads
from smf_jax.training.taps import Uses, ids_of, tapped

# ``(tokens, valid) -> slots`` of every token, ``(b, t)`` or ``(b, t, r)``, in ``[0, N)`` on pads
# too.
IndexFn = Callable[[Tokens, Segments], Int[Array, "b t *r"]]
PlainFn = Callable[[Params, Tokens, Segments], Logits]


def token_ids(tokens: Tokens, valid: Segments) -> Int[Array, "b t"]:
    """The index of an ordinary embedding: row 0 on pads, which may carry any id."""
    return jnp.where(valid != 0, tokens, 0)


def foreign_tables(
    logits: PlainFn,
    tables: Mapping[str, IndexFn],
    *,
    frozen_uses: Collection[str] = (),
    is_upstream: Callable[[str], bool] = lambda path: False,
) -> MemoryModel:
    """The `MemoryModel` of any function ``logits(params, tokens, valid)``, for `sparse_trainer`.

    ``params`` are by path; ``tables`` has by the path of a leaf ``(N, v)`` its index function. The
    function has to gather rows of each table in one place, and those that the index names, in its
    order: a step whose batch is read otherwise is not finite, hence changes nothing; `check_index`
    tells why. By default nothing ``is_upstream`` of what is read, which ids alone decide.

    Example::

      model = foreign_tables(plain_logits(decoder), {"embedder/embedding": token_ids},
                             frozen_uses=["transpose"])  # the tied head

    No gradient is taken of what pads read, nor of other uses of a table, such as a tied head,
    though the rows that change are changed there too. Those that are accepted have to be named in
    ``frozen_uses``.

    Raises:
      ValueError: no table, or, as soon as a step is traced, rows that are gathered in no place or
        in several, or another use of the table.
    """
    if not tables:
        raise ValueError("tables={}: name at least one leaf, with the function of its index")
    names = dict(tables)

    def apply(
        params: Params,
        tokens: Tokens,
        valid: Segments,
        perturbations: Perturbations,
        places: Array | None = None,
    ) -> tuple[Logits, Reads]:
        reads = {path: _read(index, tokens, valid) for path, index in names.items()}
        if perturbations:
            # Not of pads: the index may name another row there than the model reads.
            tokens_only = jnp.expand_dims(valid != 0, (2, 3))
            added = {path: jnp.where(tokens_only, x, 0) for path, x in perturbations.items()}
            out, uses = tapped(logits, params, (tokens, valid), names, added)
            _check_uses(uses, frozen_uses)
            agree = jnp.stack([_agrees(uses, *each, valid) for each in reads.items()])
            out = jnp.where(jnp.all(agree), out, jnp.nan)
        else:
            out = logits(params, tokens, valid)
        if places is not None:
            out = jnp.take_along_axis(out, jnp.expand_dims(places, 2), axis=1)
        return out, reads

    def perturbations(
        params: Params, tokens: Tokens, valid: Segments
    ) -> Mapping[str, jax.ShapeDtypeStruct]:
        shapes = {}
        for path, index in names.items():
            slots = jax.eval_shape(partial(_read, index), tokens, valid).slots
            shape = (*slots.shape[:2], slots.shape[3], params[path].shape[1])
            dtype = jnp.promote_types(jnp.float32, params[path].dtype)
            shapes[path] = jax.ShapeDtypeStruct(shape, dtype)
        return shapes

    return MemoryModel(apply, perturbations, {path: (path,) for path in names}, is_upstream)


def check_index(
    logits: PlainFn, tables: Mapping[str, IndexFn], params: Params, batch: Batch
) -> None:
    """A ValueError where a model reads other rows for a batch than its index functions tell.

    It names the table, and the first token whose row is another.
    """

    @jax.jit
    def pairs(params: Params, tokens: Tokens, valid: Segments) -> dict[str, tuple[Array, Array]]:
        _, uses = tapped(logits, params, (tokens, valid), tables, {})
        each = {path: _read(index, tokens, valid).slots for path, index in tables.items()}
        return {path: (_gathered(uses, path, told), told) for path, told in each.items()}

    given = jnp.asarray(batch.tokens), jnp.asarray(batch.valid)
    for path, both in jax.device_get(pairs(params, *given)).items():
        found, told = (each[:, :, 0] for each in both)
        wrong = np.argwhere((found != told) & np.expand_dims(batch.valid != 0, 2))
        if len(wrong):
            row, place, number = wrong[0]
            raise ValueError(
                f"{path}: for token {place} of row {row} the model reads slot "
                f"{found[row, place, number]}, its index function names "
                f"{told[row, place, number]}; give the index that the model computes"
            )


def _read(index: IndexFn, tokens: Tokens, valid: Segments) -> Read:
    """What tokens read, as one head; every row counts whole."""
    slots = index(tokens, valid).astype(jnp.int32).reshape(*tokens.shape, 1, -1)
    return Read(slots, jnp.ones(slots.shape, jnp.float32))


def _agrees(uses: Uses, path: str, read: Read, valid: Segments) -> Bool[Array, ""]:
    """Whether the rows gathered are those told, pads aside."""
    same = _gathered(uses, path, read.slots) == read.slots
    return jnp.all(same | jnp.expand_dims(valid == 0, (2, 3)))


def _gathered(uses: Uses, path: str, told: Int[Array, "b t 1 r"]) -> Int[Array, "b t 1 r"]:
    """The slots whose rows the model gathers, if they are as many as its index function tells."""
    _check_gathers(uses, path)
    found = ids_of(uses.gathers[path][0][1])
    if found.size != told.size:
        raise ValueError(
            f"{path}: the model gathers {found.size} rows for a batch, its index function names "
            f"{told.size}; give one that names all rows of a token, (b, t, r)"
        )
    return found.reshape(told.shape)


def _check_uses(uses: Uses, frozen_uses: Collection[str]) -> None:
    for path, others in uses.others.items():
        _check_gathers(uses, path)
        if named := sorted(set(others) - set(frozen_uses)):
            raise ValueError(
                f"{path}: the model also uses the table in {', '.join(named)} (a tied head is a "
                "transpose or a dot_general), of which no gradient is taken; accept that with "
                f"frozen_uses={named}, or train another leaf"
            )


def _check_gathers(uses: Uses, path: str) -> None:
    if len(shapes := [shape for shape, _ in uses.gathers[path]]) != 1:
        raise ValueError(
            f"{path}: rows are gathered from it in {len(shapes)} places {shapes}, expected one, as "
            f"by jnp.take(table, ids, axis=0) or table[ids]; other uses: {uses.others[path]}"
        )
