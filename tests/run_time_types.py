"""The check of shapes and dtypes that the tests put around every function of the package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import jax
import jaxtyping
import numpy as np
from beartype import beartype


def check_shapes() -> None:
    """Checks the shapes and dtypes of every call of the package, which is yet to be imported."""
    # Annotations say what a function gives, a JAX array; where it takes one, NumPy's will do, as
    # everywhere in JAX, and an abstract one while shapes are worked out.
    jaxtyping.Array = jax.Array | np.ndarray | jax.ShapeDtypeStruct
    jaxtyping.install_import_hook("smf_jax", "tests.run_time_types.checked")


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Checks, at each call, the annotations that tell a shape; pyright has the others.

    ``function`` is the empty one with the annotations of a real one that `jaxtyping` makes for
    its checkers.
    """
    told = function.__annotations__
    function.__annotations__ = {name: hint for name, hint in told.items() if _tells_shape(hint)}
    return beartype(function)


def _tells_shape(hint: Any) -> bool:
    if isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    return any(map(_tells_shape, get_args(hint)))
