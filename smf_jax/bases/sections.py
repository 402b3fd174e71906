"""What the commands that make a base and those that use one can be told alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from smf_jax.configuration import Configuration, PathText, setting
from smf_jax.models.config import Precision

Dtype = Literal["float32", "bfloat16"] | None
BasePrecision = Precision | None
DTYPE_HELP = (
    "dtype that the base computes in and keeps its leaves in, memories aside; empty: its own, and "
    "float32 for a Hugging Face checkpoint"
)
BASE_PRECISION_HELP = (
    "bits that the frozen matrices of the base are held in, for method smf: int8 by row, int4 or "
    "NF4 by block; empty: as the base holds them"
)

BACKGROUND_BATCH_SIZE = 32  # windows of text, of a run that is not told


@dataclass(frozen=True)
class PresetConfig(Configuration):
    """The settings of a paper or a protocol."""

    preset: str = setting(
        "", "the settings of a paper or protocol, by the names of experiments/configs"
    )
    scale: Literal["full", "tiny"] = setting(
        "full", "full: the paper's sizes; tiny: the same path in a minute"
    )


@dataclass(frozen=True)
class DataConfig(Configuration):
    """Where data sets lie."""

    data_dir: PathText = setting("", "where prepared tensorflow-datasets lie")
    download: bool = setting(False, "prepare sets that are not; uses the network")
    text_field: str = setting(
        "", "where a record's text stands, by its name or dotted path; empty: text"
    )


@dataclass(frozen=True)
class SourceSection(Configuration):
    """The model that a base is made of."""

    base: PathText = setting(
        "", "directory (Hugging Face, a base), GGUF file, or package:NAME with one", first=True
    )
    dtype: Dtype = setting(None, DTYPE_HELP)


@dataclass(frozen=True)
class OutputSection(Configuration):
    """Where a base goes."""

    out: PathText = setting("", "directory of the base to make; must not exist", first=True)
    overwrite: bool = setting(False, "replace what stands at --out")
