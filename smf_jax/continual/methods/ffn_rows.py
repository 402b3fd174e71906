"""A control without a memory: as few rows, of the feed-forwards that are there already."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from smf_jax.configuration import Configuration, setting
from smf_jax.continual.methods.method import Method, Setup, TrainableSummary, optimizer_of
from smf_jax.continual.trial import Trial
from smf_jax.params import Params, count_bytes
from smf_jax.training.ffn_rows import FfnRowsState, FfnRule, ffn_rows_trainer, is_down
from smf_jax.training.trainers import Trainer


@dataclass(frozen=True)
class FfnRowsConfig(Configuration):
    """Settings of rows of feed-forwards."""

    count: int = setting(512, "rows that a task may move", name="ffn_rows", least=1, most=2**31 - 1)
    rule: FfnRule = setting(
        "gradient",
        "gradient: those whose gradients are largest over the task; random: any",
        name="ffn_rule",
    )


class FfnRows(Method[FfnRowsConfig]):
    """Rows of the feed-forwards' last maps, chosen for each task."""

    name = "ffn_rows"
    about = "rows of the feed-forwards' last maps"
    colour = "#332288"
    config = FfnRowsConfig

    def check(self, setup: Setup, has_text: bool) -> None:
        """Refuses more rows than there are."""
        rows = sum(leaf.shape[0] for leaf in _downs(setup.base.params).values())
        if setup.own.count > rows:
            raise ValueError(
                f"--ffn_rows={setup.own.count}: the feed-forwards of the base have {rows} rows; "
                "lower it"
            )

    def trainer(self, setup: Setup, trial: Trial) -> Trainer[FfnRowsState]:
        """Trains the chosen rows alone."""
        own: FfnRowsConfig = setup.own
        optimizer = optimizer_of(setup.training, trial)
        return ffn_rows_trainer(
            setup.base.model, optimizer, own.count, own.rule, scored=setup.scored
        )

    def may_train(self, own: FfnRowsConfig, path: str) -> bool:
        """The last maps of feed-forwards."""
        return is_down(path)

    def trained_of(self, setup: Setup, trial: Trial, state: Any) -> TrainableSummary:
        """Counts the rows of a task, not the maps in which they stand."""
        downs = _downs(setup.base.params)
        parameters = setup.own.count * next(iter(downs.values())).shape[1]
        share = parameters / setup.base.parameters()
        return TrainableSummary(setup.own.count, parameters, share, count_bytes(state.opt_state))


def _downs(params: Params) -> Params:
    return {path: leaf for path, leaf in params.items() if is_down(path)}
