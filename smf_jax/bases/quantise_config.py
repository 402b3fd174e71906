"""What the command that rounds a base to four bits can be told."""

from __future__ import annotations

from dataclasses import dataclass

from smf_jax.bases.sections import DataConfig, OutputSection, SourceSection
from smf_jax.configuration import LIMIT, Configuration, PathText, part, setting
from smf_jax.models.rounding import FourBit


@dataclass(frozen=True)
class QuantiseSource(SourceSection):
    """The model that is rounded, and to what."""

    base_precision: FourBit = setting(
        "nf4", "bits that its matrices are held in: nf4 or int4, by block", first=True
    )


@dataclass(frozen=True)
class QuantiseText(Configuration):
    """The text that it is rounded on."""

    round_texts: PathText = setting(
        "", "general text to round on: a file, a directory or tfds:NAME:SPLIT", first=True
    )
    round_length: int = setting(256, "tokens of a window of it", least=1)
    round_tokens: int = setting(
        32_768, "tokens of --round_texts that are read", least=1, most=LIMIT
    )


@dataclass(frozen=True)
class QuantiseConfig(Configuration):
    """What ``experiments.quantise`` is told."""

    source: QuantiseSource = part(QuantiseSource(), "Base")
    data: DataConfig = part(DataConfig(), "Text")
    text: QuantiseText = part(QuantiseText(), "Text")
    run: OutputSection = part(OutputSection(), "Output")
