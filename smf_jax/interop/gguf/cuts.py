"""How the tokenizers of GGUF files cut a text before merging: ``tokenizer.ggml.pre`` by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tokenizers import Regex, normalizers, pre_tokenizers

from smf_jax.data.bpe_files import QWEN_CUT

# GPT-2's words: contractions, letters, digits and marks with the space before them.
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
# Llama 3 cuts as Qwen2 does, but leaves up to three digits together.
_LLAMA3 = QWEN_CUT.replace(r"|\p{N}|", r"|\p{N}{1,3}|")


@dataclass(frozen=True)
class Cut:
    """What a tokenizer does beside merging."""

    steps: Callable[[], list[Any]]  # makes the pre-tokenizers, in order
    composes: bool = False  # whether characters and their marks are composed first (NFC)
    whole_words: bool = False  # whether a word that is a token is one, whatever the merges say
    adds_bos: bool = False  # whether a text is opened by a token, where the file does not say so

    def pre_tokenizer(self) -> Any:
        """The pre-tokenizer, for a backend."""
        steps = self.steps()
        return steps[0] if len(steps) == 1 else pre_tokenizers.Sequence(steps)

    def normalizer(self) -> Any:
        """The normalizer, for a backend; ``None`` if it has none."""
        return normalizers.NFC() if self.composes else None


def _by(*patterns: str) -> Callable[[], list[Any]]:
    """Cuts by one pattern after the other, then reads bytes."""
    level = lambda: pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)  # noqa: E731
    return lambda: [*(pre_tokenizers.Split(Regex(p), "isolated") for p in patterns), level()]


def _gpt2_words() -> list[Any]:
    return [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]


CUTS = {
    "gpt-2": Cut(_gpt2_words),
    # What llama.cpp does with a tokenizer that its conversion did not know.
    "default": Cut(_by(r"[\p{P}$+<=>^~|]+", _GPT2, r"\p{N}+", "[0-9]{3}")),
    "smollm": Cut(lambda: [pre_tokenizers.Digits(individual_digits=True), *_gpt2_words()]),
    "qwen2": Cut(_by(QWEN_CUT), composes=True),
    "llama-bpe": Cut(_by(_LLAMA3), whole_words=True, adds_bos=True),
}
