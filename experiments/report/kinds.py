"""The table of kinds of question: each setting, the base, and the base told a task's facts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from experiments.report.summary import Setting
from experiments.report.tables import measured
from smf_jax.continual.results import KIND, STRICT

KINDS = """\
Exact answers after the last task, in percent, to questions about all facts of the stream that are
asked as they stand and were never taught. strict: the mean over the kinds. Facts in the prompt: of
each task by itself; where a prompt begins a sentence, only if the line ends behind the answer.
docs/metrics.md has the formula."""


def kinds_cells(averages: Sequence[Setting]) -> list[tuple[str, ...]]:
    """The cells of the table, its header first; none where facts are in no kinds of question.

    A line a setting, mean over its seeds, then what is no method, as far as it was measured.
    """
    outcomes = [outcome for setting in averages for outcome in setting.outcomes]
    probes = outcomes[0].probes if outcomes else ()
    keys = [
        key for key in probes if key.startswith(KIND) and all(key in o.probes for o in outcomes)
    ]
    if not keys:
        return []
    keys.append(STRICT)  # which stands beside any kind
    lines = [(s.trial.setting, *_cells(keys, s.mean, s.interval)) for s in averages]
    untrained = {"base": "probe_bases", "facts in the prompt": "kinds_in_context"}
    for name, field in untrained.items():
        found = [getattr(outcome, field) for outcome in outcomes]
        shares = next((s for s in found if not all(math.isnan(s[key]) for key in keys)), None)
        if shares is not None:  # of the first trial that measured it
            lines.append((name, *_cells(keys, shares, {})))
    return [("setting", *(key.removeprefix(KIND) for key in keys)), *lines]


def _cells(
    keys: Sequence[str], shares: Mapping[str, float], intervals: Mapping[str, float]
) -> list[str]:
    return [measured(shares[key], intervals.get(key, math.nan), ".1f", 100) for key in keys]
