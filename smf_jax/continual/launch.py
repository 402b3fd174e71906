"""Shares of a grid as jobs of a cluster, submitted by submitit; no scheduler of our own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Literal

from smf_jax.configuration import Configuration, setting
from smf_jax.paths import as_path, is_remote
from smf_jax.progress import say

_RAISED = re.compile(r"[A-Za-z_][\w.]*(Error|Exception|Exit|Interrupt)\b")  # as a traceback ends


@dataclass(frozen=True)
class LaunchConfig(Configuration):
    """Where the shares of a grid run, if not here."""

    launcher: Literal["none", "submitit"] = setting(
        "none",
        "submitit: --jobs shares of the grid are jobs of SLURM, or of this machine where there is "
        "none; needs the extra launch",
    )
    jobs: int = setting(1, "with --launcher: into how many shares the grid is dealt", least=1)
    job_options: str = setting(
        "",
        "with --launcher: what submitit is told of the jobs, as in "
        "timeout_min=600,slurm_partition=gpu; cluster=local runs them on this machine",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.launcher == "none" and (self.jobs != 1 or self.job_options):
            raise ValueError(f"--jobs={self.jobs}: expected with --launcher=submitit; give both")
        self.options()

    def options(self) -> dict[str, int | str]:
        """What submitit is told, by name; whole numbers as such."""
        told: dict[str, int | str] = {}
        for each in filter(None, self.job_options.split(",")):
            name, equals, value = each.partition("=")
            if not (equals and name.isidentifier() and value) or name in told:
                raise ValueError(
                    f"--job_options={self.job_options}: {each!r} is no name=value, or there twice; "
                    "expected as in timeout_min=600,slurm_partition=gpu"
                )
            is_number = value.isascii() and value.isdecimal() and len(value) < 10
            told[name] = int(value) if is_number else value
        return told


@dataclass
class Share:
    """A job: one share of a grid. Preempted or out of time, it is queued again and resumes."""

    command: str  # ``module:function`` that is given the configuration's values
    values: Mapping[str, Any]  # by flag

    def __call__(self) -> int:
        """Runs it; returns the status that the command would exit with."""
        return resolve_name(self.command)(self.values)

    def checkpoint(self, *_: Any, **__: Any) -> Any:
        """What submitit queues in its place: the same, which goes on where this one stops."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(Share(self.command, {**self.values, "resume": True}))


def launch(config: LaunchConfig, values: Mapping[str, Any], out: str, command: str) -> int:
    """Submits the shares of a grid and waits for them; returns the largest status, 1 if one failed.

    Args:
      config: how many jobs, and what submitit is told of them.
      values: the configuration of the whole grid, by flag.
      out: the directory of the run; the jobs' logs go to ``OUT.jobs`` beside it.
      command: see `Share`.

    Raises:
      ValueError: submitit is not installed, or takes an option otherwise.
    """
    try:
        import submitit
    except ImportError:
        raise ValueError(
            f'--launcher={config.launcher} needs a package: pip install -e ".[launch]"'
        ) from None
    path = as_path(out)
    folder = path.name if is_remote(path) else str(path)
    folder = Path(folder).with_name(f"{path.name}.jobs")
    options = config.options()
    try:
        executor = submitit.AutoExecutor(folder, cluster=_text(options.pop("cluster", None)))
        executor.update_parameters(**{"name": path.name, **options})
    except (ValueError, TypeError, NameError, RuntimeError) as error:
        raise ValueError(f"--job_options={config.job_options}: {error}") from None
    names = [f"{number}/{config.jobs}" for number in range(config.jobs)]
    alone = {"launcher": "none", "jobs": 1, "job_options": ""}  # a job launches no jobs
    with executor.batch():  # one job array, where there are such
        jobs = [
            executor.submit(Share(command, {**values, **alone, "shard": name})) for name in names
        ]
    say(f"{len(jobs)} jobs of {executor.cluster}, first {jobs[0].job_id}; logs in {folder}")
    return _await(jobs, names)


def _await(jobs: Sequence[Any], names: Sequence[str]) -> int:
    """Waits for jobs; says which have failed, and where their logs are."""
    worst = 0
    for job, name in zip(jobs, names, strict=True):
        job.wait()
        if (error := job.exception()) is not None:
            say(f"share {name} failed: {_cause(error)}; its log is {job.paths.stderr}")
            worst = max(worst, 1)
        else:
            worst = max(worst, int(job.result()))
    return worst


def _cause(error: BaseException) -> str:
    """Of a job's failure, which holds its whole traceback, the line that says what it was."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return next((line for line in reversed(lines) if _RAISED.match(line)), lines[0])


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
