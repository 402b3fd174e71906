"""Slot health of a run: how the base's text uses the slots before the stream and after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

from smf_jax.bases.base import Base
from smf_jax.checkpoints.sealed_json import unseal
from smf_jax.continual.run_directory import RunDirectory
from smf_jax.continual.sweep_state import Sweep
from smf_jax.continual.trial import Trial
from smf_jax.data.batching import Batch, in_chunks
from smf_jax.evaluation.slot_health import slot_health, usage_drift
from smf_jax.models.decoder import upstream_of_reads
from smf_jax.params import Params
from smf_jax.progress import progress_bar
from smf_jax.sparse.usage import Background
from smf_jax.training.reads import read_counts

HEALTH = "slot_health"
Counts = Mapping[str, np.ndarray]
Health = dict[str, Any]


class Recount:
    """Counts the accesses of one text, by a base and by models that were trained from it."""

    def __init__(self, base: Base, text: Sequence[Batch], rows: int) -> None:
        """Takes up parts of ``(rows, t)`` text, of which `rows` run at once; computes nothing."""
        self.base = base
        self._text = text
        self._rows = rows
        self._read = jax.jit(lambda params, batch: read_counts(base.model, params, batch))

    @cached_property
    def before(self) -> Counts:
        """Accesses by the base, ``(N,)`` int64 by pool path."""
        return self._count(self.base.params)

    def after(self, params: Params) -> Counts:
        """Accesses by another model; those of the base where no leaf that routing hangs on moved.

        Leaves that stayed must be the base's own arrays.
        """
        changed = [path for path, leaf in params.items() if leaf is not self.base.params[path]]
        moved = any(upstream_of_reads(self.base.config, path) for path in changed)
        return self._count(params) if moved else self.before

    def _count(self, params: Params) -> Counts:
        counts: dict[str, np.ndarray] = {}

        def add(chunk: Batch) -> None:
            # One after the other: a vector of N for each chunk would be more than the model.
            for pool, read in jax.device_get(self._read(params, chunk)).items():
                counts[pool] = counts.get(pool, 0) + read.astype(np.int64)

        for part in self._text:
            in_chunks(add, part, min(self._rows, len(part.tokens)))
        return counts


def measure_slot_health(
    sweep: Sweep, background: Background | None, trials: Sequence[Trial]
) -> None:
    """Writes ``slot_health.json``: of the background, and of each trial's model after its tasks.

    What are counted again are the first `--recount_batches` batches of the background, with the
    base and with each trial's last model, so that a drift between them is the stream's doing.
    What an earlier run has measured is kept.
    """
    base, config = sweep.base, sweep.config.background
    if base.config.memory is None:
        return
    found: Health = {"background": None, "recount": None, "trials": {}}
    if background is not None:
        counts = {pool: np.asarray(usage.accesses) for pool, usage in background.pools.items()}
        batches = max(int(usage.batches) for usage in background.pools.values())
        found["background"] = {"batches": batches, "pools": _healths(counts)}
    count = min(config.recount_batches, config.background_batches)
    if sweep.stream_data.general is not None and count:
        rows = config.background_batch_size
        batches = sweep.stream_data.background_batches(config.background_batches, rows)
        text = [
            Batch(*(field[:count].reshape(-1, field.shape[-1]) for field in part))
            for part in batches
        ]
        recount = Recount(base, text, sweep.config.probes.eval_batch_size)
        settings = {"base": sweep.base_fingerprint, "batches": count, "rows": rows}
        found |= _recounted(settings, sweep.run, trials, recount)
    sweep.run.write_sidecar(HEALTH, found)


def _recounted(
    settings: Mapping[str, Any], run: RunDirectory, trials: Sequence[Trial], recount: Recount
) -> Health:
    """The health of the base and of each trial's last model, over the text of the recount."""
    base = recount.base
    earlier = _earlier(run.sidecar(HEALTH), settings)
    found = {}
    with progress_bar(len(trials), "recount", "trial") as progress:
        for number, trial in enumerate(trials, 1):
            task = run.completed(trial)[0] - 1
            if earlier and earlier["trials"].get(trial.id, {}).get("task") == task:
                found[trial.id] = earlier["trials"][trial.id]
            elif task >= 0:
                params = run.load_model(trial, task, base.params, settings["base"])
                pools = _healths(recount.after(params), recount.before)
                found[trial.id] = {"task": task, "pools": pools}
            progress(number)
    whole = earlier["recount"] if earlier else {**settings, "pools": _healths(recount.before)}
    return {"recount": whole, "trials": found}


def read_slot_health(directory: Path) -> Health:
    """What all shards of a run have measured; the keys are those of ``slot_health.json``."""
    whole: Health = {"background": None, "recount": None, "trials": {}}
    for path in sorted(directory.glob(f"{HEALTH}*.json")):
        part = unseal(path.read_bytes(), str(path))
        whole["background"] = part["background"] or whole["background"]
        whole["recount"] = part["recount"] or whole["recount"]
        whole["trials"] |= part["trials"]
    return whole


def _earlier(path: Path, settings: Mapping[str, Any]) -> Health | None:
    """An earlier file, if it was measured in the same way."""
    try:
        part = unseal(path.read_bytes(), str(path))
        same = all(part["recount"][name] == value for name, value in settings.items())
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return part if same else None


def _healths(counts: Counts, before: Counts | None = None) -> dict[str, Any]:
    """The numbers of every pool, with the drift where there is something to compare with."""
    pools = {}
    for pool, vector in counts.items():
        pools[pool] = asdict(slot_health(vector))
        if before is not None:
            pools[pool]["drift"] = usage_drift(before[pool], vector)
    return pools
