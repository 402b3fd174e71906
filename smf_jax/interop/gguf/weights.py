"""The parameters of a decoder from the tensors of a GGUF file."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from smf_jax.interop.gguf.config import ROPE_FACTORS
from smf_jax.interop.gguf.file import GgufFile
from smf_jax.interop.tensor_files import is_kernel, shape_problems, transposed
from smf_jax.models.config import ModelConfig, Precision
from smf_jax.models.decoder import abstract_params
from smf_jax.models.quantised import is_matrix, quantised_leaf
from smf_jax.params import block_of, block_path, flatten, unflatten

# Module here -> module there, those of a block below ``blk.N``; matrices are (out, in) there.
_MODULES = {
    "embedder": "token_embd",
    "attention_norm": "attn_norm",
    "attention/query": "attn_q",
    "attention/key": "attn_k",
    "attention/value": "attn_v",
    "attention/output": "attn_output",
    "attention/query_norm": "attn_q_norm",
    "attention/key_norm": "attn_k_norm",
    "attention/output_norm": "post_attention_norm",
    "feed_forward_norm": "ffn_norm",
    "feed_forward/gate": "ffn_gate",
    "feed_forward/up": "ffn_up",
    "feed_forward/down": "ffn_down",
    "feed_forward/output_norm": "post_ffw_norm",
    "final_norm": "output_norm",
    "head": "output",
}
# The rotation turns pairs of a head's numbers. Here, and in Qwen's files, a pair is (j, j + e/2);
# in those of Llama rows were reordered so that it is (2j, 2j + 1).
_PAIRS_TOGETHER = ("llama",)


def gguf_name(path: str) -> str:
    """The name in a GGUF file of the parameter at ``path``."""
    block, prefix = block_of(path), ""
    if block is not None:
        path, prefix = path.removeprefix(f"{block_path(block)}/"), f"blk.{block}."
    module, _, leaf = path.rpartition("/")
    return prefix + _MODULES[module] + (".bias" if leaf == "bias" else ".weight")


def read_params(
    file: GgufFile, config: ModelConfig, precision: Precision | None = None
) -> dict[str, Any]:
    """The nested parameters of a model, dequantised straight to the dtype it computes in.

    All tensors are checked against the configuration first, then read one at a time, so that no
    more than one is held twice. Matrices are quantised anew where a ``precision`` is given.

    Raises:
      ValueError: tensors are missing, unexpected, misshapen or of an unknown type; all are listed.
    """
    _check_tensors(file, config)
    params = {}
    for path in flatten(abstract_params(config)):
        tensor, heads = file.tensors[gguf_name(path)], _reordered_heads(config, path)
        if precision and is_matrix(path):
            # Whoever turns rows around has them all.
            whole = _halves_apart(tensor.read("float32"), heads) if heads else None
            read = tensor.rows if whole is None else lambda a, b, whole=whole: whole[a:b]
            leaves = quantised_leaf(path, precision, tensor.shape, read)
        else:
            leaves = {path: transposed(path, _halves_apart(tensor.read(config.dtype), heads))}
            if config.norm_scale == "offset" and path.endswith("/scale"):
                # Files hold what norms multiply by, the 1 included.
                leaves[path] = (tensor.read("float32") - 1).astype(config.dtype)
        params |= {name: jnp.asarray(leaf) for name, leaf in leaves.items()}
    return unflatten(params)


def _reordered_heads(config: ModelConfig, path: str) -> int:
    """How many heads the rows at ``path`` belong to, if they stand in llama.cpp's order; else 0."""
    if config.family not in _PAIRS_TOGETHER:
        return 0
    heads = {"attention/query/": config.heads, "attention/key/": config.key_value_heads}
    return next((count for module, count in heads.items() if module in path), 0)


def _halves_apart(tensor: np.ndarray, heads: int) -> np.ndarray:
    """Rows (2j, 2j + 1) of every head back to (j, j + e/2); 0 heads are as they should be."""
    if not heads:
        return tensor
    pairs = tensor.reshape(heads, -1, 2, *tensor.shape[1:])
    return pairs.swapaxes(1, 2).reshape(tensor.shape)


def _check_tensors(file: GgufFile, config: ModelConfig) -> None:
    """Lists everything that does not fit, in one error."""
    numbers = {name.split(".")[1] for name in file.tensors if name.startswith("blk.")}
    if config.layers > len(numbers):  # before so many are laid out
        key = f"{file.values['general.architecture']}.block_count"
        file.told.require(False, key, f"the {len(numbers)} blocks of the tensors; copy it again")
    wanted = jax.eval_shape(
        lambda params: {gguf_name(p): x.T if is_kernel(p) else x for p, x in params.items()},
        flatten(abstract_params(config)),
    )
    given = {name: each for name, each in file.tensors.items() if name != ROPE_FACTORS}
    problems = shape_problems(given, wanted)
    problems += filter(None, (given[name].problem() for name in sorted(wanted.keys() & given)))
    if problems:
        told = f"the tensors of {file.path} do not fit its metadata"
        sizes = f"{config.layers} blocks of width {config.width}, {config.heads} heads, "
        sizes += f"{config.key_value_heads} of keys, feed-forwards of {config.hidden_width}"
        raise ValueError("\n  ".join([f"{told}, a {config.family} of {sizes}:", *problems]))
