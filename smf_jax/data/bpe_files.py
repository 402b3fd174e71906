"""A byte-level BPE from ``vocab.json`` and ``merges.txt``, as Qwen and GPT-2 publish it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from smf_jax.data.files import open_text
from smf_jax.data.tokenizer import Tokenizer
from smf_jax.paths import PathLike, as_path
from smf_jax.typed_json import parse_json

# How Qwen2 cuts a text before merging: digits stand alone, a line's end stays with its mark.
QWEN_CUT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN_SPECIAL = (
    *("endoftext", "im_start", "im_end", "object_ref_start", "object_ref_end", "box_start"),
    *("box_end", "quad_start", "quad_end", "vision_start", "vision_end", "vision_pad"),
    *("image_pad", "video_pad"),
)
_QWEN_MARKS = ("fim_prefix", "fim_middle", "fim_suffix", "fim_pad", "repo_name", "file_sep")


def read_bpe(directory: PathLike, cut: str | None, added: Sequence[AddedToken]) -> Tokenizer:
    """Reads a byte-level BPE from ``vocab.json`` and ``merges.txt``, also .xz or .gz.

    A text is cut by the pattern ``cut`` before merging; None for GPT-2's. The tokens ``added``
    get the ids that follow the vocabulary; the first of them ends a text, none begins one.

    Raises:
        FileNotFoundError: If one of the two files is not there.
        ValueError: If one is malformed, or no token is added.
    """
    if not added:
        raise ValueError("added is empty; expected at least the token that ends a text")
    directory = as_path(directory)
    text = _read(directory, "vocab.json")
    vocabulary = parse_json(text, f"{directory}/vocab.json").all(int, least=0)
    lines = _read(directory, "merges.txt").splitlines()
    merges = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    if bad := next((merge for merge in merges if len(merge) != 2), None):
        raise ValueError(f"{directory}/merges.txt: {' '.join(bad)!r} is no pair of tokens")
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, [(a, b) for a, b in merges]))
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=cut is None)
    if cut is not None:
        backend.normalizer = normalizers.NFC()
        level = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(cut), "isolated"), level])
    backend.pre_tokenizer = level
    backend.decoder = decoders.ByteLevel()
    backend.add_tokens(list(added))
    end = backend.token_to_id(added[0].content)
    if end is None:
        raise ValueError(f"{directory}: {added[0].content!r} could not be added to the vocabulary")
    return Tokenizer(backend, bos=None, eos=end, pad=end)


def read_qwen(directory: PathLike) -> Tokenizer:
    """The tokenizer of Qwen2 and Qwen2.5: ids 0 to 151,642 are merged, 22 tokens follow."""
    special = [f"<|{name}|>" for name in _QWEN_SPECIAL]
    marks = ["<tool_call>", "</tool_call>", *(f"<|{name}|>" for name in _QWEN_MARKS)]
    added = [AddedToken(text, special=True, normalized=False) for text in special]
    added += [AddedToken(text, special=False, normalized=False) for text in marks]
    return read_bpe(directory, QWEN_CUT, added)


def _read(directory: Path, name: str) -> str:
    paths = (directory / f"{name}{suffix}" for suffix in ("", ".gz", ".xz"))
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise FileNotFoundError(
            f"{directory}/{name}: no such file, nor one with .xz or .gz behind it"
        )
    with open_text(path) as file:
        return file.read()
