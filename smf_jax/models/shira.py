"""Sparse high-rank adapters (SHiRA, 2406.13175): a few weights of the linear maps, at random."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from smf_jax.models.lora import linear_maps
from smf_jax.params import Params

ENTRIES, PLACES = "entries", "places"


def entries_of_maps(sizes: Sequence[int], share: float, count: int = 0) -> list[int]:
    """How many weights of each map are chosen: ``count`` over all, or a share of them if it is 0.

    Each map has its part by its size, to a weight. A ValueError if that is none or more than all.
    """
    total = sum(sizes)
    wanted = count or round(share * total)
    if not 0 < wanted <= total:
        told = f"count={count}" if count else f"share={share}"
        raise ValueError(f"{told} makes {wanted:,} of {total:,} weights; choose 1 to {total:,}")
    ends = [round(wanted * end / total) for end in accumulate(sizes)]
    return [end - start for start, end in pairwise([0, *ends])]


def init_places(
    params: Mapping[str, Any], targets: Sequence[str], share: float, count: int, key: Array
) -> Params:
    """A fixed random mask, as the flat places of its ones in each kernel ``(in, out)``.

    ``params`` are nested or by path; ``share`` and ``count`` are those of `entries_of_maps`.

    Returns:
      ``{"layers_0/mlp/up/places": (n,) int32, rising, …}`` for every map whose name is a target.
    """
    maps = linear_maps(params, targets)
    numbers = entries_of_maps([kernel.size for _, kernel in maps.values()], share, count)
    return {
        f"{module}/{PLACES}": _draw(kernel.size, drawn, jax.random.fold_in(key, number))
        for (number, (module, kernel)), drawn in zip(maps.items(), numbers, strict=True)
        if drawn
    }


def _draw(size: int, count: int, key: Array) -> Int[Array, " n"]:
    """Distinct places, one at random in each of ``count`` equal runs of a kernel's weights.

    Without replacement from all alike would sort as many random numbers as the kernel has weights.
    """
    length, longer = divmod(size, count)
    runs = jnp.arange(count, dtype=jnp.int32)
    starts = runs * length + jnp.minimum(runs, longer)
    return jax.random.randint(key, (count,), starts, starts + length + (runs < longer))


def apply_entries(params: Mapping[str, Array], entries: Mapping[str, Array]) -> Params:
    """Parameters by path with ``W + S`` for the maps that have entries; others as they are.

    ``entries`` holds ``MODULE/places`` ``(n,)`` and ``MODULE/entries`` ``(n,)``, what is added
    there; the sum is taken in the wider dtype. All other weights keep their bits.
    """
    changed = dict(params)
    for path, places in entries.items():
        module, _, leaf = path.rpartition("/")
        if leaf != PLACES:
            continue
        kernel = jnp.asarray(params[f"{module}/kernel"])
        flat = kernel.reshape(-1)
        found = flat.at[places].get(mode="promise_in_bounds", unique_indices=True)
        new = (found + entries[f"{module}/{ENTRIES}"]).astype(flat.dtype)
        written = flat.at[places].set(new, mode="promise_in_bounds", unique_indices=True)
        changed[f"{module}/kernel"] = written.reshape(kernel.shape)
    return changed
