"""Text to token ids and back, over the ``tokenizers`` library."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from smf_jax.data.chat import DEFAULT, TEMPLATE_FILE, ChatTemplate, Message, read_templates
from smf_jax.paths import PathLike, as_path, local
from smf_jax.typed_json import JsonObject, read_json

Ids = list[int]

PAD, BEGIN, END = "<|pad|>", "<|begin|>", "<|end|>"
_ALPHABET = 256  # a byte-level tokenizer starts from every byte
# Where special tokens are named, in the order in which the files are believed.
_SPECIAL_FILES = ("tokenizer_config", "special_tokens_map", "generation_config", "config")
# All that a tokenizer is read from.
FILES = ("tokenizer.json", *(f"{name}.json" for name in _SPECIAL_FILES), TEMPLATE_FILE)
_NAMED = ("bos_token", "eos_token", "pad_token", "unk_token")
_NAMED += ("sep_token", "cls_token", "mask_token")
# What else tokenizer_config.json may tell other readers without changing an id.
_KEPT = ("model_max_length", "clean_up_tokenization_spaces", "padding_side", "truncation_side")


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer and the ids that frame a sequence, which ``batching`` places, not ``encode``."""

    backend: tokenizers.Tokenizer  # of the ``tokenizers`` library
    bos: int | None  # the id that opens every sequence; None where the model has none (Qwen2)
    eos: int  # the id that ends a text
    pad: int  # the id at masked positions; any valid id serves, masked positions are never read
    stops: tuple[int, ...] = ()  # every id at which generation stops; ``eos`` is among them
    chat: ChatTemplate | None = None  # how conversations are rendered, if there is a way
    # What ``tokenizer_config.json`` says beside, for other readers.
    settings: Mapping[str, Any] = field(default_factory=dict, compare=False)

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
        return self.encode(self.template.render(messages, open_answer))

    @property
    def template(self) -> ChatTemplate:
        """The chat template; a ValueError if there is none."""
        if self.chat is None:
            raise ValueError(
                "the tokenizer has no chat template (chat_template of tokenizer_config.json, or "
                "chat_template.jinja); prompt the model with plain text"
            )
        return self.chat

    def with_chat_arguments(self, arguments: Mapping[str, Any]) -> Tokenizer:
        """This tokenizer with arguments for its chat template; a ValueError if it has none."""
        if not arguments:
            return self
        return replace(self, chat=replace(self.template, arguments=arguments))

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

    def save(self, directory: PathLike, framed: bool = True) -> None:
        """Write the files that ``load_tokenizer`` and transformers read.

        Where ``framed``, ``tokenizer.json`` makes them place ``begin`` around a text and nothing
        else, even if the one that was read left that to a flag, or adds what ends a text.
        """
        directory = as_path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        backend = self._framed() if framed else self.backend
        backend.save(str(directory / "tokenizer.json"))
        # Only tokens of their own are named: of other names transformers makes new tokens. Not by
        # `id_to_token`, which gives normalised text: "▁<s>" for "<s>".
        added = {i: token.content for i, token in self.backend.get_added_tokens_decoder().items()}
        ids = {"bos_token": self.bos, "eos_token": self.eos, "pad_token": self.pad}
        own = {name: added[i] for name, i in ids.items() if i in added}
        config: dict[str, Any] = {
            # Else transformers builds a tokenizer of its own by the family's recipe, and the
            # inputs that it makes hold some that decoders do not take.
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_input_names": ["input_ids", "attention_mask"],
            "padding_side": "left",  # an answer follows the last place of a row
            **{k: v for k, v in self.settings.items() if k in _KEPT or v in added.values()},
            **own,
        }
        if self.bos is None or "bos_token" in own:  # else only tokenizer.json can place it
            config["add_bos_token"] = self.bos is not None
        templates = {} if self.chat is None else self.chat.texts
        if templates.keys() - {DEFAULT}:
            listed = [{"name": name, "template": text} for name, text in templates.items()]
            config["chat_template"] = listed
        elif templates:
            (directory / TEMPLATE_FILE).write_text(templates[DEFAULT], encoding="utf-8")
        generation = dict(_read_json(directory / "generation_config.json").values)
        generation |= {"eos_token_id": list(self.stops), "pad_token_id": self.pad}
        generation |= {} if self.bos is None else {"bos_token_id": self.bos}
        for name, content in (("tokenizer_config", config), ("generation_config", generation)):
            text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
            (directory / f"{name}.json").write_text(text, encoding="utf-8")

    def _framed(self) -> tokenizers.Tokenizer:
        """The backend, which adds to a text what ``encode_prompt`` does."""
        if self.backend.encode("a").ids == self.encode_prompt("a"):
            return self.backend
        backend = tokenizers.Tokenizer.from_str(self.backend.to_str())
        begin = [(backend.id_to_token(i), i) for i in self.begin]
        backend.post_processor = processors.TemplateProcessing(
            single=[*(f"{text}:0" for text, _ in begin), "$A:0"], special_tokens=begin
        )
        return backend


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


def load_tokenizer(directory: PathLike, rows: int | None = None) -> Tokenizer:
    """Read the tokenizer of a Hugging Face model directory, or a saved one.

    The begin token is the one that the tokenizer itself adds, as in training: a ``bos_token_id``
    that only a configuration names (Qwen2) is not used.

    Raises:
        FileNotFoundError: If there is no ``tokenizer.json``.
        ValueError: If a file is malformed, no end token named, or tokens outnumber ``rows``.
    """
    directory = local(directory)
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
    stops = _end_tokens(directory, _first_id(backend, named["eos_token"]), files, rows)
    # The token that opens a sequence is added by the tokenizer itself, or asked for by a flag.
    framed = backend.encode("a", add_special_tokens=True).ids
    plain = backend.encode("a", add_special_tokens=False).ids
    told = files["tokenizer_config"]
    bos = _first_id(backend, named["bos_token"]) if told.get("add_bos_token", bool) else None
    bos = bos if framed[: len(plain)] == plain else framed[0]
    names = {name: texts[0] for name, texts in named.items() if texts}
    chat = read_templates(directory, told.values.get("chat_template"), names)
    pads = [_first_id(backend, named["pad_token"])]
    pads += (files[name].values.get("pad_token_id") for name in ("generation_config", "config"))
    if rows is not None:
        used = {bos, stops[0]} - {None}
        backend = _without_unused(backend, rows, used, chat, path)
    size = rows or backend.get_vocab_size()
    return Tokenizer(
        backend,
        bos=bos,
        eos=stops[0],
        pad=next((i for i in pads if type(i) is int and 0 <= i < size), stops[0]),
        stops=stops,
        chat=chat,
        settings={name: told.values[name] for name in _KEPT if name in told.values} | names,
    )


def _without_unused(
    backend: tokenizers.Tokenizer,
    rows: int,
    used: set[int],
    chat: ChatTemplate | None,
    path: Path,
) -> tokenizers.Tokenizer:
    """The tokenizer without special tokens beyond the embedding, such as a pad that is never read.

    Their text is then read as any other, so that no id without a row is made. A ValueError if
    ordinary tokens lie there, or one that is used: those of `used`, and those of a template.
    """
    vocabulary = backend.get_vocab(with_added_tokens=True)
    beyond = {token for token, i in vocabulary.items() if i >= rows}
    if not beyond and max(used) < rows:
        return backend
    special = {t.content for t in backend.get_added_tokens_decoder().values() if t.special}
    texts = [] if chat is None else chat.texts.values()
    special -= {token for token in special if any(token in text for text in texts)}
    content = json.loads(backend.to_str())
    entries = content["model"].get("vocab")
    if beyond <= special and max(used) < rows and isinstance(entries, dict):
        content["added_tokens"] = [t for t in content["added_tokens"] if t["id"] < rows]
        content["model"]["vocab"] = {token: i for token, i in entries.items() if i < rows}
        return tokenizers.Tokenizer.from_str(json.dumps(content))
    if max(used) >= rows:
        raise ValueError(
            f"{path.parent}: token {max(used)} begins or ends texts, but the embedding has {rows} "
            "rows: correct eos_token_id, or use the tokenizer that belongs to this model"
        )
    raise ValueError(
        f"{path}: the tokenizer has {max(vocabulary.values()) + 1} tokens, but the embedding has "
        f"{rows} rows: use the tokenizer that belongs to this model"
    )


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
