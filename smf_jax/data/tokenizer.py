"""Text to token ids and back, over the ``tokenizers`` library."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

PAD, BEGIN, END = "<|pad|>", "<|begin|>", "<|end|>"
_ALPHABET = 256  # a byte-level tokenizer starts from every byte


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer with the ids that frame a sequence.

    ``encode`` never adds special tokens; ``batching`` places ``bos`` and ``eos``.
    """

    backend: tokenizers.Tokenizer
    # The id of the first token of every sequence; None where the model has none (Qwen2).
    bos: int | None
    # The id that ends a text.
    eos: int
    # The id at masked positions; any valid id serves, masked positions are never read.
    pad: int
    # Every id at which generation stops; ``eos`` is among them.
    stops: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.eos not in self.stops:
            object.__setattr__(self, "stops", (self.eos, *self.stops))

    @property
    def size(self) -> int:
        """One more than the largest token id: the rows that an embedding must have."""
        return max(self.backend.get_vocab(with_added_tokens=True).values()) + 1

    def encode(self, text: str) -> list[int]:
        """The token ids of a text, without special tokens."""
        return self.backend.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of each text, without special tokens."""
        encodings = self.backend.encode_batch(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids; special tokens are left out."""
        # The backend's own way of leaving them out misses those of some older files.
        plain = [int(i) for i in ids if int(i) not in self._special]
        return self.backend.decode(plain, skip_special_tokens=False)

    @cached_property
    def _special(self) -> frozenset[int]:
        added = self.backend.get_added_tokens_decoder()
        return frozenset(i for i, token in added.items() if token.special)

    def save(self, directory: str | Path) -> None:
        """Write ``tokenizer.json`` and ``tokenizer_config.json``, as ``load_tokenizer`` reads."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self.backend.save(str(directory / "tokenizer.json"))
        config = {
            "bos_token": None if self.bos is None else self.backend.id_to_token(self.bos),
            "add_bos_token": self.bos is not None,
            "eos_token": self.backend.id_to_token(self.eos),
            "pad_token": self.backend.id_to_token(self.pad),
        }
        text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        (directory / "tokenizer_config.json").write_text(text, encoding="utf-8")


def train_tokenizer(texts: Iterable[str], size: int) -> Tokenizer:
    """Train a byte-level BPE tokenizer; the same texts give the same tokenizer.

    A space is set before each text (and taken off again by ``decode``), so that a word is the
    same token at the start of a text and inside it.

    Args:
        texts: What the merges are learned from.
        size: The number of tokens, at most: few texts may not fill it.

    Returns:
        The tokenizer, with the special tokens pad 0, begin 1 and end 2.

    Raises:
        ValueError: If ``size`` does not hold every byte and the special tokens.
    """
    special = [PAD, BEGIN, END]
    if size < _ALPHABET + len(special):
        raise ValueError(
            f"vocabulary size {size}: a byte-level tokenizer needs at least "
            f"{_ALPHABET + len(special)} tokens (every byte and {len(special)} special ones)"
        )
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return Tokenizer(backend, bos=1, eos=2, pad=0)


def load_tokenizer(directory: str | Path, rows: int | None = None) -> Tokenizer:
    """Read the tokenizer of a Hugging Face model directory, or a saved one.

    The begin token is the one that the tokenizer itself would add, since that is what the model
    was trained on: a ``bos_token_id`` that is only named in a configuration (Qwen2) is not used.

    Args:
        directory: A directory with ``tokenizer.json`` and the usual files beside it.
        rows: The rows of the model's embedding; checked when given.

    Returns:
        The tokenizer.

    Raises:
        FileNotFoundError: If there is no ``tokenizer.json``.
        ValueError: If a file is malformed, no end token is named, or the tokenizer has more
            tokens than the embedding has rows.
    """
    directory = Path(directory)
    path = directory / "tokenizer.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; a model directory must hold its tokenizer as tokenizer.json "
            "(the fast tokenizer's file: transformers' save_pretrained writes it)"
        )
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception for every malformed file
        raise ValueError(f"{path}: not a tokenizer that can be read: {error}") from error
    backend.no_padding()
    backend.no_truncation()
    files = {name: _read_json(directory / f"{name}.json") for name in _SPECIAL_FILES}
    stops = _end_tokens(directory, backend, files)
    pad = _token(backend, files, "pad_token")
    tokenizer = Tokenizer(
        backend,
        bos=_begin_token(backend, files),
        eos=stops[0],
        pad=stops[0] if pad is None else pad,
        stops=stops,
    )
    if rows is not None and tokenizer.size > rows:
        raise ValueError(
            f"{path}: the tokenizer has {tokenizer.size} tokens, but the embedding has {rows} "
            "rows: use the tokenizer that belongs to this model"
        )
    return tokenizer


# Where special tokens are named, in the order in which the files are believed.
_SPECIAL_FILES = ("tokenizer_config", "special_tokens_map", "generation_config", "config")


def _read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, or an empty one where there is no file."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def _token(
    backend: tokenizers.Tokenizer, files: dict[str, dict[str, Any]], name: str
) -> int | None:
    """The id of a special token that a configuration names by its text, if one does."""
    for content in files.values():
        entry = content.get(name)
        text = entry.get("content") if isinstance(entry, dict) else entry
        if isinstance(text, str) and (found := backend.token_to_id(text)) is not None:
            return found
    return None


def _begin_token(backend: tokenizers.Tokenizer, files: dict[str, dict[str, Any]]) -> int | None:
    """The token that opens a sequence: added by the tokenizer itself, or asked for by a flag."""
    opening = backend.encode("a", add_special_tokens=True).ids
    plain = backend.encode("a", add_special_tokens=False).ids
    if opening[: len(plain)] != plain:
        return opening[0]
    if files["tokenizer_config"].get("add_bos_token"):
        return _token(backend, files, "bos_token")
    return None


def _end_tokens(
    directory: Path, backend: tokenizers.Tokenizer, files: dict[str, dict[str, Any]]
) -> tuple[int, ...]:
    """The ids that end a text, the one of the tokenizer first."""
    named = _token(backend, files, "eos_token")
    ends = [] if named is None else [named]
    for name in ("generation_config", "config"):
        ids = files[name].get("eos_token_id")
        for found in ids if isinstance(ids, list) else [ids]:
            if isinstance(found, int) and found not in ends:
                ends.append(found)
    if not ends:
        raise ValueError(
            f"{directory}: no file names the end-of-text token; give eos_token in "
            "tokenizer_config.json or eos_token_id in generation_config.json"
        )
    return tuple(ends)
