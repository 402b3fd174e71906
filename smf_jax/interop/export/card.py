"""The model card of an exported model: what it is, how to read it, what is known about it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smf_jax.interop.gguf.file import open_gguf
from smf_jax.interop.gguf.package import SUFFIX
from smf_jax.models.config import ModelConfig
from smf_jax.params import count_parameters, is_memory
from smf_jax.paths import local
from smf_jax.sparse.patch import Patch

_UNKNOWN = "unknown"
_BESIDE = "beside the feed-forward, scaled by a learned α"
_INSTEAD = "in place of the feed-forward, whose weights are zeros in the base's files"
_HEADING, _READ = "## Patches", "## Read it"
_PATCHES = """What each task taught, in order: slots, old rows, new rows. The memory's file holds \
the rows before the first of them."""
_LICENCE_UNKNOWN = """Not known: no licence was named when this was exported. That of the base \
applies; ask whoever gave you this directory."""


@dataclass(frozen=True)
class CardFacts:
    """What a model card tells beyond what stands in the model itself."""

    name: str
    origin: str  # of the base
    licence: str = _UNKNOWN  # of base and additions, an identifier such as ``apache-2.0``
    base_model: str = ""  # name of the base on a hub, if it has one
    trained_on: Sequence[str] = ()  # a line for each thing that is known
    scores: Mapping[str, float | str] = field(default_factory=dict)  # measured, by name


def model_card(
    config: ModelConfig, params: Mapping[str, Any], patches: Sequence[Patch], facts: CardFacts
) -> str:
    """The text of ``README.md`` with the header that hubs read; ``params`` before the patches."""
    tags = ["smf_jax", "jax", config.family]
    if config.memory is not None:
        tags += ["product-key-memory", "sparse-memory-finetuning", "continual-learning"]
    header = ["---", f"license: {json.dumps(facts.licence)}", "library_name: smf_jax"]
    header += ["pipeline_tag: text-generation", "tags:", *(f"- {tag}" for tag in tags)]
    header += [f"base_model: {json.dumps(facts.base_model)}"] if facts.base_model else []
    parts = ["\n".join([*header, "---"]), f"# {facts.name}", _summary(config, params)]
    parts += [*_patch_section(patches), _READ, _reading(config)]
    known = [f"Base: {facts.origin}.", *facts.trained_on]
    parts += ["## Trained on", "\n".join(f"* {line}" for line in known)]
    if facts.scores:
        parts += ["## Measured", _table(("", ""), list(facts.scores.items()))]
    named = f"{facts.licence}, as named for the base and for what was added to it."
    parts += ["## Licence", _LICENCE_UNKNOWN if facts.licence == _UNKNOWN else named]
    return "\n\n".join(parts) + "\n"


def with_patches(card: str, patches: Sequence[Patch]) -> str:
    """A card that tells of other patches; all else, and what people added to it, stays."""
    before, found, after = card.partition(f"\n{_READ}\n")
    if not found:
        return card
    before, _, told = before.partition(f"\n{_HEADING}\n")
    # What stands under another heading is somebody's own.
    own = re.search(r"^#+ .*", told, re.MULTILINE | re.DOTALL)
    parts = [before.rstrip(), *_patch_section(patches), *([own[0].rstrip()] if own else [])]
    return "\n\n".join(parts) + f"\n{found}{after}"


def _patch_section(patches: Sequence[Patch]) -> list[str]:
    """The parts that tell of the patches, none without any."""
    if not patches:
        return []
    rows = [
        (number, patch.task.replace("|", "\\|"), f"{patch.rows:,}", patch.fingerprint[:12])
        for number, patch in enumerate(patches, start=1)
    ]
    table = _table(("", "task", "rows changed", "state after it"), rows)
    return [_HEADING, _PATCHES, table]


def licence_of(home: Path) -> str:
    """The licence that a directory's own model card or a GGUF file names, or ``unknown``."""
    if home.suffix == SUFFIX and home.is_file():
        return open_gguf(local(home)).told.get("general.license", str) or _UNKNOWN
    card = home / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    header = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    found = re.search(r"^license:\s*(\S+)", header[1], re.MULTILINE) if header else None
    return found[1].strip("\"'") if found else _UNKNOWN


def _summary(config: ModelConfig, params: Mapping[str, Any]) -> str:
    memory = [leaf for path, leaf in params.items() if is_memory(path)]
    total = count_parameters(dict(params))
    if config.memory is None:
        return (
            f"A plain {config.family} decoder of {total:,} parameters, {config.layers} blocks of "
            f"width {config.width}, without memory."
        )
    placement, shape = config.memory, config.memory.memory
    blocks = ", ".join(map(str, placement.layers))
    plural = "s" if len(placement.layers) > 1 else ""
    place = _BESIDE if placement.mode == "add" else _INSTEAD
    kind = "hashed n-gram" if shape.is_hashed else "product-key"
    shared = ", which read one table" if placement.shared_pool else ""
    return (
        f"A {config.family} decoder with {kind} memories: {total:,} parameters, of which "
        f"{count_parameters(memory):,} are the memories'. They stand in block{plural} {blocks} of "
        f"{config.layers}{shared}, {place}. A table has {shape.slots:,} slots of "
        f"width {shape.value_width}; every token reads {shape.reads_per_head} of them with each of "
        f"{shape.heads} heads."
    )


def has_pytorch_reader(config: ModelConfig) -> bool:
    """Whether ``pytorch_memory.py`` can read the memories: product keys, behind gates of theirs."""
    if config.memory is None:
        return False
    return not config.memory.memory.is_hashed and config.memory.memory.gate != "context"


def _reading(config: ModelConfig) -> str:
    ours = """With `smf_jax`, every leaf checked against its digest:

```python
from smf_jax.data.tokenizer import load_tokenizer
from smf_jax.models.completion import complete_texts
from smf_jax.models.decoder import Decoder
from smf_jax.interop.export.model import load_exported

config, leaves, patches = load_exported(".")
tokenizer = load_tokenizer(".")
print(complete_texts(Decoder(config), leaves, tokenizer, ["Who wrote"], max_tokens=16))
```"""
    base = """`transformers` loads the directory as it is:

```python
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained(".")
```"""
    if config.memory is None:
        return f"{base}\n\n{ours}"
    if not has_pytorch_reader(config):
        return f"{ours}\n\nMemories of this kind are read by `smf_jax` alone; of the base, {base}"
    return f"""{ours}

In PyTorch, the base by `transformers`, the memories by `pytorch_memory.py`, which lies here
(`patches=n` applies the first n patches, and 0 none):

```python
from pytorch_memory import load_memories
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained(".", dtype="float32")
load_memories(model, ".")
```

Without the last line it is the base alone."""


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(map(str, cells)) + " |" for cells in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])
