"""A whole model from a GGUF file."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from smf_jax.data.tokenizer import Tokenizer
from smf_jax.interop.gguf.config import read_config
from smf_jax.interop.gguf.file import open_gguf
from smf_jax.interop.gguf.tokenizer import read_tokenizer
from smf_jax.interop.gguf.weights import read_params
from smf_jax.models.config import ComputeType, ModelConfig, Precision
from smf_jax.paths import PathLike, local


class GgufModel(NamedTuple):
    """What a GGUF file makes."""

    config: ModelConfig
    params: dict[str, Any]  # nested
    tokenizer: Tokenizer


def load_gguf(
    path: PathLike, dtype: ComputeType = "float32", precision: Precision | None = None
) -> GgufModel:
    """Reads a GGUF file of a family of `config.FAMILIES`, computing in ``dtype``, leaves in it too.

    Matrices are quantised anew where a ``precision`` is given.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is damaged, of another kind or has what is not read; or the ``gguf`` package
        is not installed.
    """
    file = open_gguf(local(path))
    config = read_config(file, dtype)
    tokenizer = read_tokenizer(file, config.vocabulary)  # the quick part refuses first
    params = read_params(file, config, precision)
    return GgufModel(replace(config, precision=precision), params, tokenizer)
