"""Text to token ids and back, over the ``tokenizers`` library."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from smf_jax.data.chat import ChatTemplate, Message, parse_template
from smf_jax.typed_json import JsonObject, read_json

Ids = list[int]

PAD, BEGIN, END = "<|pad|>", "<|begin|>", "<|end|>"
_ALPHABET = 256  # a byte-level tokenizer starts from every byte
# Where special tokens are named, in the order in which the files are believed.
_SPECIAL_FILES = ("tokenizer_config", "special_tokens_map", "generation_config", "config")
_NAMED = ("bos_token", "eos_token", "pad_token", "unk_token")


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer and the ids that frame a sequence, which ``batching`` places, not ``encode``."""

    backend: tokenizers.Tokenizer  # of the ``tokenizers`` library
    bos: int | None  # the id that opens every sequence; None where the model has none (Qwen2)
    eos: int  # the id that ends a text
    pad: int  # the id at masked positions; any valid id serves, masked positions are never read
    stops: tuple[int, ...] = ()  # every id at which generation stops; ``eos`` is among them
    chat: ChatTemplate | None = None  # how conversations are rendered, if there is a way

    def __post_init__(self) -> None:
        if self.eos not in self.stops:
            object.__setattr__(self, "stops", (self.eos, *self.stops))

    @property
    def begin(self) -> Ids:
        """What opens a sequence: ``bos``, or nothing."""
        return [] if self.bos is None else [self.bos]

    @property
    def size(self) -> int:
        """One more than the largest token id: the rows that an embedding must have."""
        return max(self.backend.get_vocab(with_added_tokens=True).values()) + 1

    def encode(self, text: str) -> Ids:
        """The token ids of a text, without special tokens."""
        return self.backend.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        """The token ids of each text, without special tokens."""
        encodings = self.backend.encode_batch(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def encode_prompt(self, text: str) -> Ids:
        """The token ids of a prompt, ``bos`` in front where the model has one."""
        return self.begin + self.encode(text)

    def encode_chat(self, messages: Sequence[Message], open_answer: bool = True) -> Ids:
        """The ids of a conversation by the template; a ValueError if it is missing or refuses."""
        if self.chat is None:
            raise ValueError(
                "the tokenizer has no chat template (chat_template of tokenizer_config.json, or "
                "chat_template.jinja); prompt the model with plain text"
            )
        return self.encode(self.chat.render(messages, open_answer))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids; special tokens are left out."""
        # The backend's own way of leaving them out misses those of some older files.
        plain = [int(i) for i in ids if int(i) not in self._special]
        return self.backend.decode(plain, skip_special_tokens=False)

    def tokens_with(self, text: str) -> tuple[int, ...]:
        """Every token whose own text holds a text, such as the end of a line."""
        return tuple(i for i, piece in enumerate(self._pieces) if text in piece)

    @cached_property
    def _pieces(self) -> list[str]:
        return self.backend.decode_batch([[i] for i in range(self.size)], skip_special_tokens=False)

    @cached_property
    def _special(self) -> frozenset[int]:
        added = self.backend.get_added_tokens_decoder()
        return frozenset(i for i, token in added.items() if token.special)

    def save(self, directory: str | Path) -> None:
        """Write the files that ``load_tokenizer`` and transformers read."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self.backend.save(str(directory / "tokenizer.json"))
        config: dict[str, Any] = {
            "bos_token": None if self.bos is None else self.backend.id_to_token(self.bos),
            "add_bos_token": self.bos is not None,
            "eos_token": self.backend.id_to_token(self.eos),
            "pad_token": self.backend.id_to_token(self.pad),
            # Else transformers builds a tokenizer of its own from the model's family.
            "tokenizer_class": "PreTrainedTokenizerFast",
        }
        if self.chat is not None:
            config |= dict(self.chat.tokens) | {"chat_template": self.chat.text}
        ids: dict[str, Any] = {"eos_token_id": list(self.stops), "pad_token_id": self.pad}
        ids |= {} if self.bos is None else {"bos_token_id": self.bos}
        for name, content in (("tokenizer_config", config), ("generation_config", ids)):
            text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
            (directory / f"{name}.json").write_text(text, encoding="utf-8")


def train_tokenizer(texts: Iterable[str], size: int) -> Tokenizer:
    """Train a byte-level BPE tokenizer of at most ``size`` tokens: pad 0, begin 1, end 2, others.

    The same texts give the same tokenizer. A space before each text, which ``decode`` takes off,
    makes a word the same token at the start of a text and inside it. A ValueError if ``size`` does
    not hold every byte and the special tokens.
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
    # Other readers of the saved file, such as transformers, place the begin token by this.
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, 1)]
    )
    return Tokenizer(backend, bos=1, eos=2, pad=0)


def load_tokenizer(directory: str | Path, rows: int | None = None) -> Tokenizer:
    """Read the tokenizer of a Hugging Face model directory, or a saved one.

    The begin token is the one that the tokenizer itself adds, as in training: a ``bos_token_id``
    that only a configuration names (Qwen2) is not used.

    Raises:
        FileNotFoundError: If there is no ``tokenizer.json``.
        ValueError: If a file is malformed, no end token named, or tokens outnumber ``rows``.
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
    named = {name: _texts_of(files, name) for name in _NAMED}
    own = directory / "chat_template.jinja"
    template = files["tokenizer_config"].values.get("chat_template")
    stops = _end_tokens(directory, _first_id(backend, named["eos_token"]), files, rows)
    pad = _first_id(backend, named["pad_token"])
    # The token that opens a sequence is added by the tokenizer itself, or asked for by a flag.
    framed = backend.encode("a", add_special_tokens=True).ids
    plain = backend.encode("a", add_special_tokens=False).ids
    adds = files["tokenizer_config"].get("add_bos_token", bool)
    bos = _first_id(backend, named["bos_token"]) if adds else None
    tokenizer = Tokenizer(
        backend,
        bos=bos if framed[: len(plain)] == plain else framed[0],
        eos=stops[0],
        pad=stops[0] if pad is None else pad,
        stops=stops,
        chat=parse_template(
            own.read_text(encoding="utf-8") if own.is_file() else template,
            {name: texts[0] for name, texts in named.items() if texts},
        ),
    )
    if rows is not None and tokenizer.size > rows:
        raise ValueError(
            f"{path}: the tokenizer has {tokenizer.size} tokens, but the embedding has {rows} "
            "rows: use the tokenizer that belongs to this model"
        )
    return tokenizer


def _read_json(path: Path) -> JsonObject:
    """The object in a JSON file, or an empty one where there is no file."""
    return read_json(path) if path.is_file() else JsonObject({}, str(path))


def _texts_of(files: dict[str, JsonObject], name: str) -> list[str]:
    """The texts of a special token in the configurations that name it."""
    named = [content for content in files.values() if content.values.get(name) is not None]
    return [
        content.section(name).need("content", str)
        if isinstance(content.values[name], dict)
        else content.need(name, str)
        for content in named
    ]


def _first_id(backend: tokenizers.Tokenizer, texts: Sequence[str]) -> int | None:
    """The id of the first of a special token's texts that is a token."""
    return next((i for i in map(backend.token_to_id, texts) if i is not None), None)


def _end_tokens(
    directory: Path, named: int | None, files: dict[str, JsonObject], rows: int | None
) -> tuple[int, ...]:
    """The ids that end a text, the one of the tokenizer first."""
    ids, key = [named], "eos_token_id"
    for told in (files["generation_config"], files["config"]):
        read = told.many if isinstance(told.values.get(key), list) else told.get
        found = read(key, int, least=0, most=(rows or 2**31) - 1)
        ids += found if isinstance(found, list) else [found]
    ends = tuple(dict.fromkeys(each for each in ids if each is not None))
    if not ends:
        raise ValueError(
            f"{directory}: no file names the end-of-text token; give eos_token in "
            "tokenizer_config.json or eos_token_id in generation_config.json"
        )
    return ends
