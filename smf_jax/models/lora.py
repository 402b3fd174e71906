"""Low-rank adapters (LoRA, 2106.09685) on the linear maps of a decoder: the baseline."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike

from smf_jax.models.layers import matmul
from smf_jax.params import Params, block_of, flatten, unflatten

ATTENTION_TARGETS = ("query", "key", "value", "output")
FEED_FORWARD_TARGETS = ("gate", "up", "down")


def linear_maps(params: Mapping[str, Any], targets: Sequence[str]) -> dict[int, tuple[str, Array]]:
    """The linear maps of the blocks whose name is a target, each with its kernel ``(in, out)``.

    ``params`` are nested or by path. The keys are the maps' places among those of all names.

    Raises:
      ValueError: there are no targets, or no linear map is called by one.
    """
    kernels = {
        path.removesuffix("/kernel"): leaf
        for path, leaf in flatten(params).items()
        if block_of(path) is not None and path.endswith("/kernel")
    }
    names = sorted({module.rpartition("/")[2] for module in kernels})
    unknown = [target for target in targets if target not in names]
    if unknown or not targets:
        raise ValueError(f"targets={tuple(targets)} must name linear maps among {names}")
    return {
        number: (module, kernel)
        for number, (module, kernel) in enumerate(kernels.items())
        if module.rpartition("/")[2] in targets
    }


def init_lora(
    params: Mapping[str, Any], rank: int, targets: Sequence[str], key: Array
) -> dict[str, Array]:
    """Adapters for every linear map of the blocks whose name is a target, such as ``query``.

    ``params`` are nested; memories are never adapted. ``b`` starts at zero, so that nothing changes
    at first.

    Returns:
      ``{"layers_0/attention/query/a": (in, r), "layers_0/attention/query/b": (r, out), …}``.

    Raises:
      ValueError: ``rank`` below 1 or above a map's narrower side, or a target that no linear map
        is called by.
    """
    adapters = {}
    for number, (module, kernel) in linear_maps(params, targets).items():
        width, features = kernel.shape
        if not 1 <= rank <= min(width, features):
            raise ValueError(
                f"rank={rank} does not fit {module} of {width} to {features}; choose 1 to "
                f"{min(width, features)}"
            )
        bound, of_map = width**-0.5, jax.random.fold_in(key, number)
        a = jax.random.uniform(of_map, (width, rank), minval=-bound, maxval=bound)
        adapters |= {f"{module}/a": a, f"{module}/b": jnp.zeros((rank, features))}
    return adapters


@contextmanager
def apply_lora(adapters: Mapping[str, Array], alpha: float) -> Iterator[None]:
    """Within this context the maps that `init_lora` adapted compute ``x W + x a b · alpha / r``.

    The context acts while a function is traced, so it stands inside of what is jitted::

        @jax.jit
        def loss(adapters, params, tokens):
            with apply_lora(adapters, alpha=16):
                logits = model.apply({"params": params}, tokens)

    Raises:
      ValueError: at the end, if an adapter was not used: the model has no such map, or the model
        was called as a function traced before.
    """
    modules = {path.rpartition("/")[0] for path in adapters}
    used = set()

    def intercept(
        call: Callable[..., Any], args: tuple, kwargs: dict, context: nn.module.InterceptorContext
    ) -> Any:
        path = "/".join(context.module.path)
        y = call(*args, **kwargs)
        if path not in modules or context.method_name != "__call__":
            return y
        used.add(path)
        (x,) = args
        a, b = _halves(adapters, path, y.dtype)
        return y + matmul(matmul(x.astype(y.dtype), a), b) * (alpha / a.shape[1])

    with nn.intercept_methods(intercept):
        yield
    if idle := sorted(modules - used):
        raise ValueError(
            f"adapters of {idle} were not used; apply the model they were made for, inside the "
            "context and inside the jitted function"
        )


def merge_lora(
    params: Mapping[str, Any], adapters: Mapping[str, Array], alpha: float
) -> dict[str, Any]:
    """Nested parameters, adapters merged, ``W + a b · alpha / r``; others shared, not copied."""
    merged: Params = flatten(params)
    for module in sorted({path.rpartition("/")[0] for path in adapters}):
        kernel = merged.get(f"{module}/kernel")
        if kernel is None:
            raise ValueError(f"the adapter of {module} fits no linear map of the model")
        a, b = _halves(adapters, module, jnp.promote_types(jnp.float32, kernel.dtype))
        change = jnp.einsum("ir,ro->io", a, b) * (alpha / a.shape[1])
        merged[f"{module}/kernel"] = (kernel + change).astype(kernel.dtype)
    return unflatten(merged)


def _halves(adapters: Mapping[str, Array], module: str, dtype: DTypeLike) -> tuple[Array, Array]:
    """The adapter's ``a`` ``(in, r)`` and ``b`` ``(r, out)``."""
    return adapters[f"{module}/a"].astype(dtype), adapters[f"{module}/b"].astype(dtype)
