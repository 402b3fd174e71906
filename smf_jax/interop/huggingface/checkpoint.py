"""Hugging Face checkpoints of Qwen2, Qwen3 and Llama, read and written from one table of names."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from smf_jax.checkpoints.files import whole_directory
from smf_jax.interop.huggingface.config import config_values, read_config
from smf_jax.interop.huggingface.files import (
    Stored,
    read_stored,
    stored_tensors,
    write_sharded,
)
from smf_jax.interop.tensor_files import is_kernel, transposed
from smf_jax.models.config import ComputeType, ModelConfig
from smf_jax.models.decoder import abstract_params
from smf_jax.params import flatten, unflatten

CONFIG = "config.json"
SHARD_BYTES = 5 * 10**9
ParamType = ComputeType | Literal["stored"]

# Module here -> module there. Of its leaves, a bias is a bias and everything else is the weight;
# kernels are (in, out) here and (out, in) there.
_MODULES = {
    "embedder": "model.embed_tokens",
    "layers_{i}/attention_norm": "model.layers.{i}.input_layernorm",
    "layers_{i}/attention/query": "model.layers.{i}.self_attn.q_proj",
    "layers_{i}/attention/key": "model.layers.{i}.self_attn.k_proj",
    "layers_{i}/attention/value": "model.layers.{i}.self_attn.v_proj",
    "layers_{i}/attention/output": "model.layers.{i}.self_attn.o_proj",
    "layers_{i}/attention/query_norm": "model.layers.{i}.self_attn.q_norm",
    "layers_{i}/attention/key_norm": "model.layers.{i}.self_attn.k_norm",
    "layers_{i}/feed_forward_norm": "model.layers.{i}.post_attention_layernorm",
    "layers_{i}/feed_forward/gate": "model.layers.{i}.mlp.gate_proj",
    "layers_{i}/feed_forward/up": "model.layers.{i}.mlp.up_proj",
    "layers_{i}/feed_forward/down": "model.layers.{i}.mlp.down_proj",
    "final_norm": "model.norm",
    "head": "lm_head",
}
_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
_COMPUTED = ".rotary_emb.inv_freq"  # old files store what the configuration implies
_FLOATS = ("F64", "F32", "F16", "BF16")
_COMPANIONS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
)


def huggingface_name(path: str) -> str:
    """The name in a Hugging Face file of the parameter at ``path``."""
    module, _, leaf = path.rpartition("/")
    number = re.search(r"layers_(\d+)", module)
    index = number.group(1) if number else ""
    there = _MODULES[module.replace(f"layers_{index}", "layers_{i}") if number else module]
    return there.format(i=index) + (".bias" if leaf == "bias" else ".weight")


def load_huggingface(
    directory: Path | str,
    dtype: ComputeType = "float32",
    param_dtype: ParamType | None = None,
) -> tuple[ModelConfig, dict[str, Any]]:
    """Reads a checkpoint directory of the Qwen2, Qwen3 or Llama family.

    Every tensor is checked against the configuration before the first one is read; then they are
    read one at a time, so that no more than one is held twice.

    Args:
      directory: with ``config.json`` and ``model.safetensors``, or several files and their index.
      dtype: of the computation.
      param_dtype: of the parameters; ``"stored"`` keeps each as it is in its file, ``None`` takes
        that of the computation. Bfloat16 parameters under a float32 computation take half the
        memory and give the same numbers, where the file holds bfloat16.

    Returns:
      The configuration and the nested parameters.

    Raises:
      FileNotFoundError: the directory, the configuration or a file of weights is not there.
      ValueError: a file is damaged, the model is of another kind, or tensors are missing,
        unexpected or of another shape; all of these are listed in one message.
    """
    directory = Path(directory)
    config = read_config(directory / CONFIG, dtype)
    stored = stored_tensors(directory)
    if config.tied and _HEAD in stored:  # one table; some files keep it under its other name
        stored.setdefault(_EMBEDDING, stored[_HEAD])
    paths = {huggingface_name(path): path for path in flatten(abstract_params(config))}
    _check_tensors(directory, huggingface_shapes(config), stored, config.tied)
    if config.tied and _HEAD in stored:
        _check_tied_head(directory, stored)
    param_dtype = dtype if param_dtype is None else param_dtype
    params = {}
    for name, tensor in read_stored({name: stored[name] for name in paths}):
        kind = tensor.dtype if param_dtype == "stored" else param_dtype
        params[paths[name]] = jnp.asarray(transposed(paths[name], tensor), kind)
    return config, unflatten(params)


def save_huggingface(
    directory: Path | str,
    config: ModelConfig,
    params: Mapping[str, Any],
    *,
    companions: Path | str | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes a directory that ``transformers`` loads as the same model.

    The inverse of `load_huggingface`; a model with memories is for
    `smf_jax.interop.export.model.export_model`.

    Args:
      directory: to write; must not exist. It appears whole or not at all.
      config: of a model without memory.
      params: nested parameters, or leaves by path; they keep their dtype.
      companions: a directory whose tokenizer and generation files are copied, if any.
      shard_bytes: weights beyond this many bytes are spread over several files with an index.

    Raises:
      FileExistsError: ``directory`` exists.
      ValueError: a memory stands in the model, the leaves do not fit it, or its family cannot
        express it.
    """
    flat = flatten(params)
    with whole_directory(directory) as partial:
        check_params(config, flat)
        write_huggingface(partial, config, flat, lambda path: np.asarray(flat[path]), shard_bytes)
        copy_companions(companions, partial)


def write_huggingface(
    directory: Path,
    config: ModelConfig,
    params: Mapping[str, Any],
    read: Callable[[str], np.ndarray],
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes ``config.json`` and the weights into an existing directory, file by file.

    Args:
      directory: to write into.
      config: of a model without memory.
      params: every leaf by path, anything with ``shape`` and ``dtype``.
      read: gives the leaf at a path; what one file holds is in memory at a time.
      shard_bytes: weights beyond this many bytes are spread over several files with an index.
    """
    values = config_values(config)  # refuses what the family cannot express
    paths = {huggingface_name(path): path for path in params}
    shapes = huggingface_shapes(config)
    tensors = {
        name: jax.ShapeDtypeStruct(shapes[name], params[path].dtype) for name, path in paths.items()
    }

    def tensor(name: str) -> np.ndarray:
        return transposed(paths[name], read(paths[name]))

    write_sharded(directory, tensors, tensor, shard_bytes)
    values["dtype"] = values["torch_dtype"] = str(tensors[_EMBEDDING].dtype)
    (directory / CONFIG).write_text(json.dumps(values, indent=2) + "\n")


def huggingface_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors by their names in a file."""
    return {
        huggingface_name(path): leaf.shape[::-1] if is_kernel(path) else leaf.shape
        for path, leaf in flatten(abstract_params(config)).items()
    }


def check_params(config: ModelConfig, params: Mapping[str, Any]) -> None:
    """Refuses leaves by path that are not exactly those of a model.

    Raises:
      ValueError: listing every leaf that is missing, unexpected or of another shape.
    """
    wanted = flatten(abstract_params(config))
    problems = [f"missing: {path}" for path in sorted(set(wanted) - set(params))]
    problems += [f"unexpected: {path}" for path in sorted(set(params) - set(wanted))]
    problems += [
        f"shape: {path} is {params[path].shape}, expected {wanted[path].shape}"
        for path in sorted(set(params) & set(wanted))
        if params[path].shape != wanted[path].shape
    ]
    if problems:
        raise ValueError("the parameters do not fit the model:\n  " + "\n  ".join(problems))


def copy_companions(source: Path | str | None, directory: Path) -> None:
    """Copies the tokenizer and generation files that are there, if a directory is given."""
    for name in _COMPANIONS if source is not None else ():
        if (file := Path(source or "", name)).exists():
            shutil.copyfile(file, directory / name)


def _check_tensors(
    directory: Path, shapes: dict[str, tuple[int, ...]], stored: dict[str, Stored], tied: bool
) -> None:
    """Lists everything that does not fit, in one error."""
    optional = {_HEAD} if tied else set()
    problems = [f"missing: {name} {shapes[name]}" for name in sorted(set(shapes) - set(stored))]
    problems += [
        f"unexpected: {name} {stored[name].shape}"
        for name in sorted(set(stored) - set(shapes) - optional)
        if not name.endswith(_COMPUTED)
    ]
    for name in sorted(set(shapes) & set(stored)):
        if stored[name].shape != shapes[name]:
            problems.append(f"shape: {name} is {stored[name].shape}, expected {shapes[name]}")
        if stored[name].kind not in _FLOATS:
            problems.append(f"dtype: {name} is {stored[name].kind}; quantised weights are not read")
    if problems:
        raise ValueError(
            f"the weights in {directory} do not fit its {CONFIG}:\n  " + "\n  ".join(problems)
        )


def _check_tied_head(directory: Path, stored: dict[str, Stored]) -> None:
    """Some tied checkpoints keep a copy of the embedding as their head; no more than a copy."""
    if stored[_EMBEDDING] == stored[_HEAD]:
        return
    both = dict(read_stored({name: stored[name] for name in (_HEAD, _EMBEDDING)}))
    if not np.array_equal(both[_HEAD], both[_EMBEDDING]):
        raise ValueError(
            f"{directory}/{CONFIG} says tie_word_embeddings, but {_HEAD} in "
            f"{stored[_HEAD].file.name} differs from {_EMBEDDING}; set it to false to use the head"
        )
