"""Experts of one hidden unit (PEER 2407.04153): what their rows count with.

The output of expert ``i`` for input ``x`` is ``gelu(u_i·x) · v_i``, so that the memory computes
``Σ_j w_j · gelu(u_j·x) · v_j``: a read of the table ``v`` whose weights are ``w · gelu(u·x)``.
"""

from __future__ import annotations

from typing import Any

import jax
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float, Int

from smf_jax.memory.reading import read, residual_of, row_products, table_gradient
from smf_jax.shapes import Table


def expert_weights(
    inputs: Table, slots: Int[Array, "t r"], weights: Float[Array, "t r"], x: Float[Array, "t d"]
) -> Float[Array, "t r"]:
    """What the rows of the chosen experts count with: ``w · gelu(u·x)`` (2407.04153, eq. 2).

    ``inputs``, of width ``d``, is the table ``u``, and ``slots`` are int32 in ``[0, N)``. In the
    dtype of ``weights``; with the exact (erf) GELU, which may be negative.
    """
    hidden = jax.nn.gelu(products(inputs, slots, x), approximate=False)
    return weights * hidden.astype(weights.dtype)


@jax.custom_vjp
def products(
    inputs: Table, slots: Int[Array, "t r"], x: Float[Array, "t d"]
) -> Float[Array, "t r"]:
    """``u_j·x`` for every token's slots, never holding the ``(t, r, d)`` gathered rows.

    It is the transpose of a read, hence differentiated by one; the table's gradient is computed
    only where the table is differentiated. Float32 at least.
    """
    return row_products(inputs, slots, x)


def _forward(inputs: Any, slots: Any, x: Any) -> tuple[Array, tuple[Any, ...]]:
    residual = residual_of(inputs, slots, x)
    return products(*residual[:3]), residual


def _backward(residual: tuple[Any, ...], cotangent: Any) -> tuple[Any, None, Any]:
    inputs, slots, x, differentiated = residual
    if isinstance(cotangent, SymbolicZero):
        return None, None, None
    of_inputs = None
    if differentiated is not None:
        of_inputs = table_gradient(x, slots, cotangent, inputs.shape[0]).astype(inputs.dtype)
    return of_inputs, None, read(inputs, slots, cotangent).astype(x.dtype)


products.defvjp(_forward, _backward, symbolic_zeros=True)
