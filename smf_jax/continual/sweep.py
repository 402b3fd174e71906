"""A whole sweep: base, data, background, all trials of a grid, slot health; no report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

from smf_jax import checkpoints
from smf_jax.bases.asked_base import AskedBase
from smf_jax.bases.base import PARAMS, Base, cached_path, load_base, save_base
from smf_jax.bases.pretrain_config import PretrainConfig
from smf_jax.bases.pretraining import abstract_base, pretrain, recipe_of
from smf_jax.bases.retrofitting import retrofit_base
from smf_jax.checkpoints.run_lock import lock_of, locked
from smf_jax.continual.config import SweepConfig
from smf_jax.continual.devices import all_devices, as_one_program
from smf_jax.continual.engine import run_group
from smf_jax.continual.grid import grid
from smf_jax.continual.plan import check_trials, measured_background
from smf_jax.continual.run_directory import BACKGROUND, BASE, RunDirectory
from smf_jax.continual.scores import Scores, measure_base, measure_in_context, require_kinds
from smf_jax.continual.slot_health import measure_slot_health
from smf_jax.continual.stream_data import StreamData, is_chosen_by_base, load_stream_data
from smf_jax.continual.sweep_state import MakeGroup, Sweep, new_group
from smf_jax.continual.trackers.tracker import Tracker
from smf_jax.continual.tracking import Tracking, check_trackers
from smf_jax.continual.trial import Trial, by_group, shard
from smf_jax.errors import blame_flag, require_writable
from smf_jax.evaluation.scorer import Scorer
from smf_jax.paths import as_path, is_whole
from smf_jax.progress import progress_bar, say
from smf_jax.sparse.rules import RULES
from smf_jax.sparse.usage import SATURATED, Background, touched_share
from smf_jax.training.background import (
    measure_background,
    require_background,
    routing_fingerprint,
)


@dataclass(frozen=True)
class Tools:
    """What a sweep does its work with; whoever has done some of it before brings their own."""

    load_base: Callable[..., Base] = load_base  # reads a base
    pretrain: Callable[[PretrainConfig], Base] = pretrain  # makes a built-in base
    retrofit_base: Callable[..., Base] = retrofit_base  # puts memories into a base
    save_base: Callable[..., str] = save_base  # writes one
    # Reads the stream, the second time with the base to ask where that decides what it is.
    load_stream_data: Callable[..., StreamData] = load_stream_data
    # Counts how general text uses the slots.
    measure_background: Callable[..., Background] = measure_background
    make_group: MakeGroup = new_group  # makes the compiled functions of a trial group
    run_group: Callable[..., None] = run_group  # runs it
    # Told what each trial has trained after each task.
    on_task: Callable[[Trial, int, Any], None] | None = None


def run_sweep(
    config: SweepConfig, recipe: PretrainConfig, tools: Tools | None = None
) -> tuple[RunDirectory, list[str]]:
    """Runs a sweep, or goes on with it; returns its directory and a line for each failed trial.

    `recipe` is that of the built-in base, where `config` asks for one. Raises ValueError naming the
    flag that does not fit, before anything is computed or written.
    """
    with ExitStack() as held:  # the locks of the run
        out = held.enter_context(as_one_program(config.devices, config.run.out))
        if out != config.run.out:
            config = config.with_values(out=out)
        return _run_sweep(config, recipe, tools or Tools(), held)


class Checked(NamedTuple):
    """What a sweep is made of, as far as that is known without computing anything."""

    base: Base  # before any retrofit; its shapes if it is yet to be made
    stream_data: StreamData  # all of it, where the base is yet to be asked what it knows
    measured: Background | None  # that ``--background`` names
    trackers: tuple[type[Tracker], ...]


def check_sweep(
    config: SweepConfig, trials: Sequence[Trial], recipe: PretrainConfig, tools: Tools
) -> Checked:
    """Reads what a sweep names and refuses what cannot run, as `run_sweep` does; writes nothing.

    ``--out`` is not looked at.
    """
    trackers = check_trackers(config.run.track, config.run.out)
    if is_chosen_by_base(config):
        require_writable(config.base.base_cache, "base_cache", inside=True)
    base = _find_base(config, recipe, tools)
    say(f"base: {base.origin}, {base.size()}")
    stream_data = tools.load_stream_data(config, base)
    check_trials(config, trials, base, stream_data)
    measured = measured_background(config.background.background, base.tokenizer_fingerprint())
    return Checked(base, stream_data, measured, trackers)


def _run_sweep(
    config: SweepConfig, recipe: PretrainConfig, tools: Tools, held: ExitStack
) -> tuple[RunDirectory, list[str]]:
    trials = shard(grid(config.grid, config.own), config.grid.shard)
    run = RunDirectory(config.run.out, config.grid.shard)
    config = run.as_it_began(config)
    own = [trial.id for trial in trials]
    in_the_way = None if run.replaces_all(config) else own
    run.locks.settle(in_the_way)
    run.check(config)
    run.inputs(config)  # as they are before they are read
    if config.run.profile:
        require_writable(config.run.profile, "profile", inside=True)
    base, stream_data, measured, trackers = check_sweep(config, trials, recipe, tools)
    # All that can be told without computing has been told; --out is still as it was.
    start = held.enter_context(ExitStack())
    start.enter_context(run.locks.starting(in_the_way))
    held.enter_context(run.locks.writing(own, in_the_way))
    run.check(config)  # others may have started since
    began = _make_base(config, base, stream_data, run, tools)
    base, stream_data = began.base, began.stream_data
    background = None
    if any(trial.rule and RULES[trial.rule].needs_background for trial in trials):
        background = _kept_background(config, base, run)
        background = background or find_background(config, base, stream_data, measured, tools)
    run.open(config, trials)
    fingerprint = _save_start(run, began, background, tools)
    start.close()
    sweep = Sweep(
        config=config,
        base=base,
        base_fingerprint=fingerprint,
        stream_data=stream_data,
        usage=None if background is None else background.pools,
        run=run,
        make_group=tools.make_group,
        on_task=tools.on_task,
        tracking=Tracking(trackers, run.path, config.values()),
        base_scores=began.base_scores,
    )
    say(
        f"{len(trials)} trials, {len(stream_data.tasks)} tasks of {config.stream.facts_per_task} "
        f"facts, on {_devices_told(config)}"
    )
    _run_all(sweep, trials, tools)
    measure_slot_health(sweep, background, trials)
    return run, sweep.failed


def _devices_told(config: SweepConfig) -> str:
    kind = f"{len(all_devices())} {all_devices()[0].device_kind}"
    sizes = ", ".join(f"{axis} {size}" for axis, size in config.devices.sizes.items() if size > 1)
    return f"{kind}: {sizes}" if config.devices.mesh else kind


def _find_base(config: SweepConfig, recipe: PretrainConfig, tools: Tools) -> Base:
    """The base that the configuration names; its shapes if it is built in and not cached."""
    named = config.base
    if named.base != "world":
        return tools.load_base(named.base, "base", named.dtype, named.base_precision)
    path = cached_path(recipe.recipe(), named.base_cache)
    if is_whole(path):
        return tools.load_base(str(path), "base_cache", named.dtype, named.base_precision)
    require_writable(named.base_cache, "base_cache")
    return abstract_base(recipe).quantised(named.base_precision).cast(named.dtype)


class Start(NamedTuple):
    """What the trials start from."""

    base: Base  # with its memories
    stream_data: StreamData
    base_scores: Scores | None  # of the untouched base, where that is another one
    asking: AskedBase | None  # of the untouched base, where the stream or a probe depends on it


def _make_base(
    config: SweepConfig, base: Base, stream_data: StreamData, run: RunDirectory, tools: Tools
) -> Start:
    """Pretrains and asks the base and puts memories into it, where that is to be done."""
    kept, asks, asking = _kept_base(config, base, run, tools), is_chosen_by_base(config), None
    if kept is not None and not config.retrofit.is_wanted:
        base = kept
    elif kept is None or asks:
        base = _untouched(config, base, tools)
    rows = config.probes.eval_batch_size
    if asks:
        asking = AskedBase(base, run.path, as_path(config.base.base_cache), rows)
        stream_data = tools.load_stream_data(config, base, asking)
    if not config.retrofit.is_wanted:
        return Start(base, stream_data, None, asking)
    if kept is not None:
        # A run of an earlier version, which measured the retrofitted base, goes on as it began.
        scores = run.base_scores()
        if scores:
            with blame_flag(f"--out={run.path}: "):
                require_kinds(scores, stream_data.kinds)
        return Start(kept, stream_data, scores, asking)
    scorer = Scorer(base.model, rows)
    scores = measure_base(base, stream_data, scorer)
    scores |= measure_in_context(config.probes, base, stream_data, scorer)
    windows = None if stream_data.general is None else stream_data.general.rows
    batch_size = config.background.background_batch_size
    made = tools.retrofit_base(config.retrofit, base, windows, 0, batch_size)
    return Start(made, stream_data, scores, asking)


def _kept_base(config: SweepConfig, base: Base, run: RunDirectory, tools: Tools) -> Base | None:
    """What another share, or this one before, has made of the base; ``None`` if nothing is."""
    is_made, path = base.is_abstract or config.retrofit.is_wanted, run.path / BASE
    if not is_made or not path.is_dir() or run.replaces_all(config):
        return None
    return tools.load_base(str(path), "out")


def _untouched(config: SweepConfig, base: Base, tools: Tools) -> Base:
    """The base before any retrofit, pretrained if that is to be done."""
    recipe = recipe_of(base)
    if not base.is_abstract or recipe is None:
        return base
    path = cached_path(recipe.recipe(), config.base.base_cache)
    with locked(lock_of(path), str(path), wait=lambda: None):
        if not path.is_dir():
            tools.save_base(path, tools.pretrain(recipe))
    told = config.base
    return tools.load_base(str(path), "base_cache", told.dtype, told.base_precision)


def _kept_background(config: SweepConfig, base: Base, run: RunDirectory) -> Background | None:
    """The statistics of the run that goes on, ``None`` if it has none of this very base."""
    path = run.path / BASE / BACKGROUND
    if run.replaces_all(config) or not checkpoints.is_complete(path):
        return None
    kept = Background.from_arrays(*checkpoints.load(path))
    return kept if kept.fingerprint == routing_fingerprint(base.config, base.params) else None


def find_background(
    config: SweepConfig,
    base: Base,
    stream_data: StreamData,
    measured: Background | None,
    tools: Tools,
) -> Background:
    """Background statistics: those measured before, if they are this base's, or new ones."""
    told, tokenizer = config.background, base.tokenizer_fingerprint()
    if measured is not None:
        with blame_flag(f"--background={told.background}: "):
            require_background(measured, base.model, base.params, tokenizer)
        return measured
    batches = stream_data.background_batches(told.background_batches, told.background_batch_size)
    corpus = "" if stream_data.general is None else stream_data.general.corpus
    if stream_data.general is not None and stream_data.general.formats is not None:
        text, worded, prompts = stream_data.general.formats.counts(told.background_batch_size)
        mixed = f"{text} rows of text, {worded} of questions, {prompts} of prompts in a batch"
        say(f"background: {corpus}; {mixed}")
    with progress_bar(told.background_batches, "background", "batch") as progress:
        found = tools.measure_background(
            base.model,
            base.params,
            batches,
            corpus=corpus,
            tokenizer=tokenizer,
            progress=progress,
        )
    for pool, usage in found.pools.items():
        if (share := touched_share(usage)) > SATURATED:
            say(
                f"background: a batch touches {share:.0%} of the {len(usage.accesses):,} slots of "
                f"{pool}, so that few are rare; a larger --keys_per_half of the base has more"
            )
    return found


def _run_all(sweep: Sweep, trials: Sequence[Trial], tools: Tools) -> None:
    """Runs all trials, group by group, under one progress bar."""
    with progress_bar(len(trials) * len(sweep.stream_data.tasks), "sweep", "task") as progress:
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            progress(done)

        for group in by_group(trials):
            tools.run_group(sweep, group, advance)


def _save_start(
    run: RunDirectory, start: Start, background: Background | None, tools: Tools
) -> str:
    """Saves the base and its background once; a resume checks that they are the same."""
    path, base = run.path / BASE, start.base
    if start.asking is not None:
        start.asking.keep_in(run.path)
    if start.base_scores is not None:
        run.write_base_scores(start.base_scores)
    fingerprint = base.fingerprint()
    if not is_whole(path):
        tools.save_base(path, base)
    if checkpoints.read_manifest(path / PARAMS).fingerprint != fingerprint:
        raise ValueError(
            f"--out={run.path}: {path} is not the base that these flags give now; what "
            "--base names has changed, or another machine made or healed it; give another --out"
        )
    if background is not None and not is_whole(path / BACKGROUND):
        arrays, metadata = background.to_arrays()
        checkpoints.save(path / BACKGROUND, arrays, metadata)
    return fingerprint
