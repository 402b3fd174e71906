"""Hugging Face checkpoints, read and written by the tables of `families`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from smf_jax.checkpoints.files import whole_directory
from smf_jax.interop.huggingface.config import config_values, read_config
from smf_jax.interop.huggingface.families import FAMILIES
from smf_jax.interop.huggingface.tokenizer import save_tokenizer
from smf_jax.interop.tensor_files import (
    is_kernel,
    open_tensors,
    shape_problems,
    transposed,
    write_tensors,
)
from smf_jax.models.config import ComputeType, Family, ModelConfig, Precision
from smf_jax.models.decoder import abstract_params
from smf_jax.models.quantised import is_matrix, quantised_leaf
from smf_jax.params import block_of, block_path, flatten, unflatten
from smf_jax.paths import PathLike, local
from smf_jax.typed_json import read_json

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
SHARD_BYTES = 5 * 10**9
ParamType = ComputeType | Literal["stored"]

_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
_COMPUTED = ".rotary_emb.inv_freq"  # old files store what the configuration implies
_FLOATS = ("F64", "F32", "F16", "BF16")


class _Stored(NamedTuple):
    """One tensor as the header of its file announces it."""

    file: Path
    name: str
    shape: tuple[int, ...]
    kind: str

    def read(self) -> np.ndarray:
        with open_tensors(self.file) as opened:
            return opened.get_tensor(self.name)

    def rows(self, first: int, end: int) -> np.ndarray:
        """Some rows of a matrix, (out, in), of which nothing else is read."""
        with open_tensors(self.file) as opened:
            return opened.get_slice(self.name)[first:end]


def _stored_tensors(directory: Path) -> dict[str, _Stored]:
    """All tensors of a checkpoint by name, from the headers of its files."""
    files = _weight_files(directory)
    if absent := [file for file in files if not (directory / file).is_file()]:
        pickled = [name for name in _PICKLED if (directory / name).is_file()]
        beside = f" ({', '.join(pickled)} is a pickle, which is not read)" if pickled else ""
        raise FileNotFoundError(
            f"{directory} lacks {', '.join(absent)}{beside}; expected {WEIGHTS}, or {INDEX} and "
            "every file that it names; copy the missing files, or save the model as safetensors"
        )
    stored = {}
    for file in (directory / name for name in files):
        with open_tensors(file) as opened:
            for name in opened.keys():  # noqa: SIM118, not a dictionary
                part = opened.get_slice(name)
                stored[name] = _Stored(file, name, tuple(part.get_shape()), part.get_dtype())
    return stored


def _weight_files(directory: Path) -> list[str]:
    """The files that hold the weights, in the order in which ``transformers`` looks for them.

    That which ``transformers_weights`` of the configuration names, the whole file, the index.
    """
    whole, index = ((directory / file).is_file() for file in (WEIGHTS, INDEX))
    file = INDEX if index and not whole else WEIGHTS
    told, key = read_json(directory / CONFIG), "transformers_weights"
    if chosen := told.get(key, str):
        ours = chosen.endswith((".safetensors", ".safetensors.index.json")) and "/" not in chosen
        told.require(ours, key, "a safetensors file, or the index of some, beside it")
        file = chosen
    if not file.endswith(".json") or not (directory / file).is_file():
        return [file]
    index = read_json(directory / file)
    named = index.section("weight_map").all(str)
    index.require(bool(named), "weight_map", "the file of every tensor")
    return sorted(set(named.values()))


def huggingface_name(path: str, family: Family = "llama") -> str:
    """The name in a Hugging Face file of the parameter at ``path``."""
    block, prefix = block_of(path), ""
    if block is not None:
        path, prefix = path.removeprefix(f"{block_path(block)}/"), f"model.layers.{block}."
    module, _, leaf = path.rpartition("/")
    return prefix + FAMILIES[family].modules[module] + (".bias" if leaf == "bias" else ".weight")


def load_huggingface(
    directory: PathLike,
    dtype: ComputeType = "float32",
    param_dtype: ParamType | None = None,
    precision: Precision | None = None,
) -> tuple[ModelConfig, dict[str, Any]]:
    """Reads a checkpoint of one of `families`: its configuration, nested parameters.

    All tensors are checked against the configuration first, then read one at a time, so that no
    more than one is held twice. ``dtype`` is that of the computation, ``param_dtype`` that of the
    parameters, if another; ``"stored"`` keeps each as it is in its file. Bfloat16 parameters under
    a float32 computation take half the memory and change nothing where the file holds bfloat16.
    Matrices are quantised where a ``precision`` is given, some rows at a time.

    Raises:
      FileNotFoundError: the directory, the configuration or a file of weights is not there.
      ValueError: a file is damaged, the model of another kind, or tensors do not fit (all listed).
    """
    directory = local(directory)
    config = read_config(directory / CONFIG, dtype)
    stored = _stored_tensors(directory)
    if config.tied and _HEAD in stored:  # one table; some files keep it under its other name
        stored.setdefault(_EMBEDDING, stored[_HEAD])
    blocks = len({name.split(".")[2] for name in stored if name.startswith("model.layers.")})
    if config.layers > blocks:  # before so many are laid out
        told = f"{directory / CONFIG}: num_hidden_layers={config.layers}"
        raise ValueError(f"{told}, but the weights have {blocks} blocks; copy the directory again")
    _check_tensors(directory, config, stored)
    params = {}
    for path in flatten(abstract_params(config)):
        each = stored[huggingface_name(path, config.family)]
        if precision and is_matrix(path):
            leaves = quantised_leaf(path, precision, each.shape, each.rows)
        else:
            leaves = {path: each.read()}
            kind = leaves[path].dtype if param_dtype == "stored" else param_dtype or dtype
            leaves[path] = transposed(path, leaves[path].astype(kind, copy=False))
        params |= {name: jnp.asarray(leaf) for name, leaf in leaves.items()}
    return replace(config, precision=precision), unflatten(params)


def save_huggingface(
    directory: PathLike,
    config: ModelConfig,
    params: Mapping[str, Any],
    *,
    companions: PathLike | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes a directory that ``transformers`` loads as the same model, or nothing.

    The inverse of `load_huggingface`; models with memories are for `smf_jax.interop.export.model`.
    ``params`` are nested or by path and keep their dtype; those beyond ``shard_bytes`` are spread
    over several files. The tokenizer of ``companions`` and its generation settings are written
    beside them.

    Raises:
      FileExistsError: ``directory`` exists.
      ValueError: the model has a memory, other leaves, or what its family cannot express.
    """
    flat = flatten(params)
    with whole_directory(directory) as partial:
        check_params(config, flat)
        write_huggingface(partial, config, flat, lambda path: np.asarray(flat[path]), shard_bytes)
        save_tokenizer(partial, config, None, companions)


def write_huggingface(
    directory: Path,
    config: ModelConfig,
    params: Mapping[str, Any],
    read: Callable[[str], np.ndarray],
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes ``config.json`` and the weights into an existing directory, file by file.

    ``params`` are the leaves of a model without memory by path, anything with ``shape`` and
    ``dtype``; ``read`` gives the leaf at a path. What one file holds is in memory at a time.
    """
    values = config_values(config)  # refuses what the family cannot express
    name = partial(huggingface_name, family=config.family)
    shards: list[dict[str, int]] = [{}]  # bytes by path
    for path, leaf in params.items():
        size = math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize
        if shards[-1] and sum(shards[-1].values()) + size > shard_bytes:
            shards.append({})
        shards[-1][path] = size
    weight_map = {}
    for number, paths in enumerate(shards, start=1):
        several = f"model-{number:05}-of-{len(shards):05}.safetensors"
        file = several if len(shards) > 1 else WEIGHTS
        tensors = {name(path): transposed(path, read(path)) for path in paths}
        write_tensors(directory / file, tensors)
        weight_map |= dict.fromkeys(tensors, file)
    if len(shards) > 1:
        total = sum(sum(shard.values()) for shard in shards)
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (directory / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    values["dtype"] = values["torch_dtype"] = np.dtype(params["embedder/embedding"].dtype).name
    (directory / CONFIG).write_text(json.dumps(values, indent=2) + "\n")


def check_params(config: ModelConfig, params: Mapping[str, Any]) -> None:
    """Refuses leaves by path that are not those of a model: a ValueError lists what differs."""
    if problems := shape_problems(params, flatten(abstract_params(config))):
        raise ValueError("the parameters do not fit the model:\n  " + "\n  ".join(problems))


def _check_tensors(directory: Path, config: ModelConfig, stored: dict[str, _Stored]) -> None:
    """Lists everything that does not fit, in one error; a tied head is a copy of the embedding."""
    name = partial(huggingface_name, family=config.family)
    wanted = jax.eval_shape(
        lambda params: {name(p): x.T if is_kernel(p) else x for p, x in params.items()},
        flatten(abstract_params(config)),
    )
    given = {name: each for name, each in stored.items() if not name.endswith(_COMPUTED)}
    head = given.pop(_HEAD, None) if config.tied else None
    problems = shape_problems(given, wanted) + [
        f"dtype: {name} is {given[name].kind}; quantised weights are not read"
        for name in sorted(wanted.keys() & given.keys())
        if given[name].kind not in _FLOATS
    ]
    if problems:
        told = config_values(config).items()
        sizes = ", ".join(f"{key}={value}" for key, value in told if isinstance(value, int))
        head = f"the weights in {directory} do not fit its {CONFIG}, by which {sizes}"
        raise ValueError("\n  ".join([f"{head}:", *problems]))
    table = given[_EMBEDDING]
    if head and head != table and not np.array_equal(head.read(), table.read()):
        raise ValueError(
            f"{directory}/{CONFIG} says tie_word_embeddings, but {_HEAD} in {head.file.name} "
            f"differs from {_EMBEDDING}; set it to false to use the head"
        )
