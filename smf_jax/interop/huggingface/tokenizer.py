"""The tokenizer of a model for ``transformers``, which then tokenises as it is done here."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from smf_jax.data.bpe_files import QWEN_CUT
from smf_jax.data.tokenizer import load_tokenizer
from smf_jax.models.config import ModelConfig
from smf_jax.paths import PathLike, as_path, copy

GENERATION, TOKENIZER, CONFIG = "generation_config.json", "tokenizer.json", "tokenizer_config.json"
# For models of this family AutoTokenizer heeds no class but builds Qwen2's own tokenizer, unless
# there is one in a file of code; this one is that of tokenizer.json.
_REBUILT, _CODE_FILE = "qwen2", "tokenizer_of_file"
_CODE = "from transformers import PreTrainedTokenizerFast\n\n\n"
_CODE += "class Tokenizer(PreTrainedTokenizerFast):\n    pass\n"


def save_tokenizer(
    directory: Path, config: ModelConfig, tokenizer: Any, companions: PathLike | None = None
) -> None:
    """Writes a tokenizer and generation settings beside the weights of a model, where given.

    They are ``tokenizer``, which has a ``save``, or those of the directory ``companions``; its
    files are not copied, as the class that they name makes ``transformers`` build another tokenizer
    by that class's recipe. Errors are those of `load_tokenizer`.
    """
    if companions is not None:
        with suppress(FileNotFoundError):
            copy(as_path(companions) / GENERATION, directory / GENERATION)
        if tokenizer is None and (as_path(companions) / TOKENIZER).is_file():
            tokenizer = load_tokenizer(companions, config.vocabulary)
    if tokenizer is None:
        return
    tokenizer.save(directory)
    content = (directory / TOKENIZER).read_text(encoding="utf-8")
    if config.family == _REBUILT and json.dumps(QWEN_CUT) not in content:
        (directory / f"{_CODE_FILE}.py").write_text(_CODE)
        told = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
        told["auto_map"] = {"AutoTokenizer": [None, f"{_CODE_FILE}.Tokenizer"]}
        text = json.dumps(told, indent=2, ensure_ascii=False) + "\n"
        (directory / CONFIG).write_text(text, encoding="utf-8")
