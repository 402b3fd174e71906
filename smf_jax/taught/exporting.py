"""Writing a taught model for others to read: its base, its memory and its patches."""

from __future__ import annotations

from smf_jax.errors import require_writable
from smf_jax.interop.export.card import CardFacts
from smf_jax.interop.export.model import export_model
from smf_jax.interop.huggingface.config import config_values
from smf_jax.paths import as_path, is_whole
from smf_jax.sparse.patch_sets import stack_patches
from smf_jax.taught.config import ExportConfig
from smf_jax.taught.directory import TaughtDirectory
from smf_jax.taught.record import Record
from smf_jax.taught.report import counts


def export(config: ExportConfig) -> tuple[Record, int]:
    """Exports a taught model to ``--out``; returns its record and the number of patches there.

    A ValueError or FileExistsError names what does not fit; nothing is written then.
    """
    if len(config.arguments) != 1:
        raise ValueError(
            f"{len(config.arguments)} arguments given, expected DIR: smf export DIR --out=NEW"
        )
    directory, out = TaughtDirectory(config.arguments[0]), config.out
    directory.require()
    if not out:
        raise ValueError("--out is empty; name the directory to write")
    require_writable(out, "out")
    if is_whole(target := as_path(out)) or target.exists():
        raise FileExistsError(f"--out={out} exists; choose another directory or remove it")
    record, base = directory.read(), directory.load_base()
    # A base in bits is refused before its patches are read.
    config_values(base.config.with_memory(None))
    patches = directory.load_patches(record)
    directory.load_params(base, patches)  # every bit checked before anything is written
    if config.stack and patches:
        patches = [stack_patches(patches)]
    told = [f"{lesson.name}, from {lesson.file}: {counts(lesson)}." for lesson in record.lessons]
    facts = CardFacts(name=config.name or target.name, origin=base.origin, trained_on=told)
    if config.licence:
        facts = CardFacts(facts.name, facts.origin, config.licence, trained_on=told)
    export_model(out, base.config, base.params, patches, facts=facts, tokenizer=base.tokenizer)
    return record, len(patches)
