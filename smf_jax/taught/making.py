"""The base of a taught model, its background, and what it is asked beside facts: made once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from smf_jax.bases.asked_base import AskedBase
from smf_jax.bases.base import Base, load_base, save_base
from smf_jax.bases.retrofit_config import RetrofitConfig, parse_layers
from smf_jax.bases.retrofitting import retrofit_base
from smf_jax.continual.config import SweepConfig
from smf_jax.continual.format_rows import LEAST
from smf_jax.continual.grid import grid
from smf_jax.continual.plan import check_trials, measured_background
from smf_jax.continual.stream_data import StreamData, encode_stream
from smf_jax.continual.sweep import Tools, find_background
from smf_jax.data.facts import Fact, Task
from smf_jax.data.readers import Reader
from smf_jax.data.shares import share_of
from smf_jax.evaluation.asking import Asking
from smf_jax.evaluation.probe import ProbeContext, ProbeOptions
from smf_jax.evaluation.probes.known import KNOWN, KnownProbe
from smf_jax.paths import remove
from smf_jax.progress import say
from smf_jax.sparse.usage import Background
from smf_jax.taught.chat_wordings import in_chats
from smf_jax.taught.config import TeachConfig
from smf_jax.taught.directory import BASE, TaughtDirectory
from smf_jax.taught.lessons import blame_argument, key_of
from smf_jax.taught.recipe import ROWS, middle_layers
from smf_jax.taught.record import Record

_ASKED = "asked"  # what the base has answered so far, until the known questions are kept


@dataclass(frozen=True)
class Making:
    """What a model is made of before its first lesson."""

    config: SweepConfig
    base: Base  # as it was named, or as it is kept
    data: StreamData  # of the lesson's tasks; with general text where no background is measured


def read_base(config: TeachConfig, record: Record, directory: TaughtDirectory) -> Base:
    """The model as it is kept, with its memory, or as it was named where none is made yet."""
    if _is_made(directory):
        return directory.load_base()
    with blame_argument("base", "MODEL"):
        return load_base(record.model["path"], "base", config.dtype, config.base_precision)


def _is_made(directory: TaughtDirectory) -> bool:
    return directory.has_background and directory.has_text


def with_layers(config: TeachConfig, base: Base, directory: TaughtDirectory) -> TeachConfig:
    """The same with the blocks of the memory, where these are left to the model.

    They are those of a base that is kept already, whatever an earlier version has chosen.
    """
    if base.config.memory is not None or parse_layers(config.retrofit.layers, "layers"):
        return config
    kept = directory.placement if directory.has_base else None
    layers = middle_layers(base.config.layers) if kept is None else kept.layers
    return config.with_values(layers=",".join(map(str, layers)))


def with_rows(config: TeachConfig, base: Base) -> TeachConfig:
    """The same with the rows of a step, if they are not told; the blocks of the memory are."""
    if config.training.slots is not None:
        return config
    memory, told = base.config.memory, config.retrofit
    if memory is not None:
        tables = len(memory.pools)
    else:
        tables = 1 if told.shared_pool else len(parse_layers(told.layers, "layers"))
    return config.with_values(slots=max(1, ROWS // tables))


def read_making(
    config: TeachConfig,
    reader: Reader,
    base: Base,
    directory: TaughtDirectory,
    tasks: Sequence[Task],
) -> Making:
    """Reads and checks all that is needed; nothing is computed, nothing written."""
    if _is_made(directory):
        sweep = of_kept_base(config, directory)
        return Making(sweep, base, _encoded(sweep, base, _using(sweep, base, reader), tasks))
    if not config.texts.background:
        raise ValueError(
            "--background is empty: rows are chosen against general text; give a file of it"
        )
    sweep = config.sweep(base="MODEL", **_memory_of(config, base))
    using = _using(sweep, base, reader)
    return Making(sweep, base, _with_formats(config, sweep, base, using, tasks))


def _memory_of(config: TeachConfig, base: Base) -> dict[str, Any]:
    """The settings of the retrofit; none of a base that has a memory."""
    if base.config.memory is None:
        return config.retrofit.values()
    if config.retrofit != TeachConfig().retrofit:
        raise ValueError(
            f"--layers={config.retrofit.layers}, or another flag of the memory: MODEL has one in "
            f"layers {base.config.memory.layers}; leave these flags out"
        )
    return RetrofitConfig().values()


def of_kept_base(config: TeachConfig, directory: TaughtDirectory) -> SweepConfig:
    """The settings of the engine for a base and a background that are made."""
    return config.sweep(
        **RetrofitConfig().values(),
        base=str(directory.path),
        background=directory.background_path(),
        background_questions="",
    )


def _using(config: SweepConfig, base: Base, reader: Reader) -> ProbeContext:
    options = ProbeOptions.of(config.probes)
    return ProbeContext(reader, base.tokenizer, base.config.max_positions, options)


def _encoded(
    config: SweepConfig,
    base: Base,
    using: ProbeContext,
    tasks: Sequence[Task],
    others: Sequence[Fact] = (),
) -> StreamData:
    """The tasks, encoded, and what goes with them; refuses what could not run."""
    with blame_argument("stream=world", "FACTS"):
        data = encode_stream(config, base, using, tasks, others)
    check_trials(config, grid(config.grid, config.own), base, data)
    return data


def _with_formats(
    config: TeachConfig,
    sweep: SweepConfig,
    base: Base,
    using: ProbeContext,
    tasks: Sequence[Task],
) -> StreamData:
    """The same with a background that holds other questions, where there are any."""
    told, probes = config.texts, ""
    if told.known:
        if "," in told.known:
            raise ValueError(f"--known={told.known}: a comma is in the name; copy the file")
        using.reader.open_questions(told.known, "known")  # so that errors name this flag
        probes = f"known=known:{told.known}"
    others, source, flag = _others(told.others, told.known, using.reader)
    changes = {"probes": probes, "background_questions": source}
    if not others:
        changes["background_questions"] = ""
    sweep = sweep.with_values(**changes)
    if config.facts.chat:
        others = in_chats(others, base.tokenizer)
    try:
        return _encoded(sweep, base, using, tasks, others)
    except ValueError as error:
        if not str(error).startswith("--background_formats="):
            raise
        raise ValueError(
            f"--{flag}={source}: of {len(others)} questions fewer than {LEAST} ask something else "
            "than the facts, with another answer, or none fits into their length; give others by "
            "--others"
        ) from None


def _others(others: str, known: str, reader: Reader) -> tuple[tuple[Fact, ...], str, str]:
    """Questions for the formats of the background, their file and its flag."""
    if others:
        found = reader.questions(others, "others")
        if len(found) < LEAST:
            raise ValueError(
                f"--others={others} holds {len(found)} questions, expected {LEAST} or more"
            )
        return found, others, "others"
    found = ()
    if known:
        asked = reader.questions(known, "known")
        found = tuple(f for f in asked if f.question and share_of(f.question.text) == "aside")
    if len(found) >= LEAST:
        return found, known, "known"
    say(
        "the background is text alone, and words that every question has will look rare: more "
        f"stays known with --others=FILE, {LEAST} other questions or more"
    )
    return (), "", ""


def make(
    config: TeachConfig, reader: Reader, directory: TaughtDirectory, making: Making
) -> tuple[Base, Background]:
    """The base with its memory and background, and the known questions; made where they are not."""
    sweep, base, general = making.config, making.base, making.data.general
    say(f"model: {base.origin}, {base.size()}")
    if config.texts.known:
        _keep_known(config, reader, directory, making)
    if not directory.has_base:
        if sweep.retrofit.is_wanted:
            windows = None if general is None else general.rows
            rows = sweep.background.background_batch_size
            base = retrofit_base(sweep.retrofit, base, windows, 0, rows)
        save_base(directory.path / BASE, base)
    base = directory.load_base()
    if not directory.has_text and making.data.texts:
        name, windows = next(iter(making.data.texts.items()))
        directory.save_text(windows, name)
    if directory.has_background:
        path = directory.background_path()
        background = measured_background(path, base.tokenizer_fingerprint())
        assert background is not None
        return base, background
    background = find_background(sweep, base, making.data, None, Tools())
    directory.save_background(background)
    return base, background


def _keep_known(
    config: TeachConfig, reader: Reader, directory: TaughtDirectory, making: Making
) -> None:
    """Asks the model before its first lesson which of the known questions it answers."""
    base, source = making.base, config.texts.known
    if directory.has_known:
        say(f"--known={source}: the questions that the model answers are kept from before")
        return
    cache = directory.path / _ASKED
    asking: Asking = AskedBase(base, None, cache, making.config.probes.eval_batch_size)
    taught = frozenset(key_of(fact)[0] for task in making.data.tasks for fact in task.facts)
    using = _using(making.config, base, reader)._replace(asking=asking, taught=taught)
    with blame_argument("probes", "--known"):
        probe = KNOWN.read(source, using)
    assert isinstance(probe, KnownProbe)
    directory.save_known(probe, source)
    remove(cache)
