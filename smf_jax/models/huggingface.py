"""Hugging Face checkpoints of Qwen2, Qwen3 and Llama, read and written from one table of names."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from smf_jax.models.config import ComputeType, ModelConfig
from smf_jax.models.decoder import abstract_params
from smf_jax.models.huggingface_config import config_values, read_config
from smf_jax.training.state import flatten, unflatten

WEIGHTS, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"

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


class _Stored(NamedTuple):
    """One tensor as the header of its file announces it."""

    file: Path
    name: str
    shape: tuple[int, ...]
    kind: str


def huggingface_name(path: str) -> str:
    """The name in a Hugging Face file of the parameter at ``path``."""
    module, _, leaf = path.rpartition("/")
    number = re.search(r"layers_(\d+)", module)
    index = number.group(1) if number else ""
    there = _MODULES[module.replace(f"layers_{index}", "layers_{i}") if number else module]
    return there.format(i=index) + (".bias" if leaf == "bias" else ".weight")


def load_huggingface(
    directory: Path | str, dtype: ComputeType = "float32"
) -> tuple[ModelConfig, dict[str, Any]]:
    """Reads a checkpoint directory of the Qwen2, Qwen3 or Llama family.

    Every tensor is checked against the configuration before the first one is read.

    Args:
      directory: with ``config.json`` and ``model.safetensors``, or several files and their index.
      dtype: of the parameters and of the computation.

    Returns:
      The configuration and the nested parameters.

    Raises:
      FileNotFoundError: the directory, the configuration or a file of weights is not there.
      ValueError: a file is damaged, the model is of another kind, or tensors are missing,
        unexpected or of another shape; all of these are listed in one message.
    """
    directory = Path(directory)
    config = read_config(directory / CONFIG, dtype)
    stored = _read_headers(_weight_files(directory))
    if config.tied and _HEAD in stored:  # one table; some files keep it under its other name
        stored.setdefault(_EMBEDDING, stored[_HEAD])
    wanted = flatten(abstract_params(config))
    shapes = {huggingface_name(path): _shape_there(path, leaf) for path, leaf in wanted.items()}
    _check_tensors(directory, shapes, stored, config.tied)
    tensors = _read_tensors(shapes, stored)
    if config.tied and _HEAD in stored:
        _check_tied_head(directory, tensors[_EMBEDDING], stored)
    params = {}
    for path in wanted:
        tensor = tensors.pop(huggingface_name(path))
        params[path] = jnp.asarray(tensor.T if _is_kernel(path) else tensor, dtype)
    return config, unflatten(params)


def export_huggingface(
    directory: Path | str,
    config: ModelConfig,
    params: Mapping[str, Any],
    *,
    companions: Path | str | None = None,
    shard_bytes: int = 5 * 10**9,
) -> None:
    """Writes a directory that ``transformers`` loads as the same model.

    Args:
      directory: to write; must not exist.
      config: of a model without memory.
      params: nested parameters; they keep their dtype.
      companions: a directory whose tokenizer and generation files are copied, if any.
      shard_bytes: weights beyond this many bytes are spread over several files with an index.

    Raises:
      FileExistsError: ``directory`` exists.
      ValueError: a memory stands in the model, the leaves do not fit it, or its family cannot
        express it.
    """
    directory = Path(directory)
    if directory.exists():
        raise FileExistsError(f"{directory} exists; export to another directory or remove it")
    values = config_values(config)
    tensors = _tensors_there(config, params)
    directory.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=directory.name + ".", dir=directory.parent))
    try:
        partial.chmod(0o755)
        _write_tensors(partial, tensors, shard_bytes)
        for name in _COMPANIONS if companions is not None else ():
            if (source := Path(companions or "", name)).exists():
                shutil.copyfile(source, partial / name)
        values["dtype"] = values["torch_dtype"] = str(tensors[_EMBEDDING].dtype)
        (partial / CONFIG).write_text(json.dumps(values, indent=2) + "\n")
        partial.rename(directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _is_kernel(path: str) -> bool:
    return path.endswith("/kernel")


def _shape_there(path: str, leaf: jax.Array | jax.ShapeDtypeStruct) -> tuple[int, ...]:
    return leaf.shape[::-1] if _is_kernel(path) else leaf.shape


def _weight_files(directory: Path) -> list[Path]:
    """The files that hold the weights, each of which exists."""
    index = directory / INDEX
    if index.exists():
        try:
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ValueError(f"{index} is no index of weights ({error}); copy it again") from error
    else:
        names = [WEIGHTS]
    files = [directory / name for name in names]
    absent = [file.name for file in files if not file.exists()]
    if absent:
        raise FileNotFoundError(
            f"{directory} lacks {', '.join(absent)}; expected "
            + (f"every file that {INDEX} names" if index.exists() else f"{WEIGHTS} or {INDEX}")
            + "; copy the missing files, or save the model as safetensors"
        )
    return files


def _read_headers(files: Iterable[Path]) -> dict[str, _Stored]:
    """All tensors by name; a file that is cut short is found here."""
    stored = {}
    for file in files:
        try:
            with safe_open(file, "numpy") as opened:
                for name in opened.keys():  # noqa: SIM118, not a dictionary
                    part = opened.get_slice(name)
                    stored[name] = _Stored(file, name, tuple(part.get_shape()), part.get_dtype())
        except (SafetensorError, OSError) as error:
            size = file.stat().st_size
            raise ValueError(
                f"{file} ({size} bytes) is truncated or damaged: {error}; copy the file again"
            ) from error
    return stored


def _check_tensors(
    directory: Path, shapes: dict[str, tuple[int, ...]], stored: dict[str, _Stored], tied: bool
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


def _read_tensors(names: Iterable[str], stored: dict[str, _Stored]) -> dict[str, np.ndarray]:
    by_file: dict[Path, list[str]] = {}
    for name in names:
        by_file.setdefault(stored[name].file, []).append(name)
    tensors = {}
    for file, inside in by_file.items():
        with safe_open(file, "numpy") as opened:
            tensors |= {name: opened.get_tensor(stored[name].name) for name in inside}
    return tensors


def _check_tied_head(directory: Path, embedding: np.ndarray, stored: dict[str, _Stored]) -> None:
    """Some tied checkpoints keep a copy of the embedding as their head; no more than a copy."""
    head = _read_tensors([_HEAD], stored)[_HEAD]
    if not np.array_equal(head, embedding):
        raise ValueError(
            f"{directory}/{CONFIG} says tie_word_embeddings, but {_HEAD} in "
            f"{stored[_HEAD].file.name} differs from {_EMBEDDING}; set it to false to use the head"
        )


def _tensors_there(config: ModelConfig, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The parameters under their other names, checked leaf by leaf."""
    flat, wanted = flatten(params), flatten(abstract_params(config))
    problems = [f"missing: {path}" for path in sorted(set(wanted) - set(flat))]
    problems += [f"unexpected: {path}" for path in sorted(set(flat) - set(wanted))]
    problems += [
        f"shape: {path} is {flat[path].shape}, expected {wanted[path].shape}"
        for path in sorted(set(flat) & set(wanted))
        if flat[path].shape != wanted[path].shape
    ]
    if problems:
        raise ValueError("the parameters do not fit the model:\n  " + "\n  ".join(problems))
    return {
        huggingface_name(path): np.ascontiguousarray(
            np.asarray(leaf).T if _is_kernel(path) else np.asarray(leaf)
        )
        for path, leaf in flat.items()
    }


def _write_tensors(directory: Path, tensors: dict[str, np.ndarray], shard_bytes: int) -> None:
    shards: list[dict[str, np.ndarray]] = [{}]
    for name, tensor in tensors.items():
        if shards[-1] and sum(x.nbytes for x in shards[-1].values()) + tensor.nbytes > shard_bytes:
            shards.append({})
        shards[-1][name] = tensor
    if len(shards) == 1:
        save_file(shards[0], directory / WEIGHTS, metadata={"format": "pt"})
        return
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        save_file(shard, directory / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, file)
    index = {
        "metadata": {"total_size": sum(tensor.nbytes for tensor in tensors.values())},
        "weight_map": weight_map,
    }
    (directory / INDEX).write_text(json.dumps(index, indent=2) + "\n")
