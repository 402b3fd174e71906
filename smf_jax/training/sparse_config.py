"""The static choices of a sparse step, and which of them exclude each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from smf_jax.sparse.optimizers import OptimizerConfig
from smf_jax.sparse.rules import RULES, check_rule
from smf_jax.sparse.selection import BUDGET_SCOPES, GRANULARITIES, BudgetScope, Granularity

Mask = Literal["update", "gradient"]


@dataclass(frozen=True)
class SparseConfig:
    """Static choices of a sparse step.

    Attributes:
      rule: how slots are ranked, a name out of `RULES`.
      granularity: ``per_step``: every batch ranks its own (2510.15103); ``per_micro_batch``: each
        micro-batch selects its own and masks its own gradient, the mean of these is written in
        one update (2605.03229); ``per_task``: slots are given.
      micro_batches: parts of a batch that are run one after another. With ``per_step`` they change
        rounding only: accesses are summed before they are ranked.
      size: static number of places ``s`` for rows selected together.
      budget_scope: ``per_layer``: a budget for each pool; ``shared``: one for all together.
      score_share: where given, a step selects no more than the smallest set of best slots that
        covers this share of the summed positive scores, at most the budget.
      protect_written: rows written by earlier tasks count as used in so many times all background
        batches more (``df + protect_written · B``), so that they rank after the others.
      count_normalised: whether a row's gradient is divided by the number of its reads (FwPKM,
        2601.00671).
      optimizer: how a row's gradient becomes its update.
      train_alpha: whether the scales of additive blocks train too (``+S``, 2605.03229).
      alpha_rate: learning rate of these scales, as a multiple of that of the rows.
      alpha_schedule: whether that rate follows the schedule.
      mask: ``update``: nothing but the selected rows moves. ``gradient``: the gradient is masked
        and the update is not, as 2605.03229 published: moments keep moving rows that were selected
        before, decay moves every row, and optimizer state is as large as the dense one. For
        reproducing the published numbers and measuring that leak.
    """

    rule: str = "tfidf"
    granularity: Granularity = "per_step"
    micro_batches: int = 1
    size: int = 64
    budget_scope: BudgetScope = "per_layer"
    score_share: float | None = None
    protect_written: float = 0.0
    count_normalised: bool = False
    optimizer: OptimizerConfig = OptimizerConfig()
    train_alpha: bool = False
    alpha_rate: float = 1.0
    alpha_schedule: bool = True
    mask: Mask = "update"

    def __post_init__(self) -> None:
        # Whether a background is there is seen at the first step.
        check_rule(self.rule, background=self)
        _require_choice("granularity", self.granularity, GRANULARITIES)
        _require_choice("budget_scope", self.budget_scope, BUDGET_SCOPES)
        _require_choice("mask", self.mask, get_args(Mask))
        self._check_ranges()
        self._check_combinations()

    def _check_ranges(self) -> None:
        for name in ("size", "micro_batches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.score_share is not None and not 0 < self.score_share <= 1:
            raise ValueError(f"score_share={self.score_share} is no share; give one in (0, 1]")
        if self.protect_written < 0:
            raise ValueError(f"protect_written={self.protect_written} must not be negative")
        if not self.alpha_rate > 0:
            raise ValueError(f"alpha_rate={self.alpha_rate} must be positive")

    def _check_combinations(self) -> None:
        def refuse(first: str, second: str, because: str) -> None:
            told = [f"{name}={getattr(self, name)!r}" for name in (first, second)]
            raise ValueError(f"{told[0]} and {told[1]} exclude each other: {because}")

        rule = RULES[self.rule]
        if self.granularity == "per_micro_batch" and self.micro_batches == 1:
            refuse("granularity", "micro_batches", "one micro-batch is per_step; give 2 or more")
        if self.granularity == "per_task" and rule.amounts != "counts":
            refuse("rule", "granularity", "a task is probed by counting its reads; choose per_step")
        if not rule.has_budget and self.budget_scope == "shared":
            refuse("rule", "budget_scope", "it has no budget that pools could share")
        if not rule.is_informative and self.score_share is not None:
            refuse("rule", "score_share", "its scores say nothing of a slot; choose another rule")
        if not rule.needs_background and self.protect_written:
            refuse(
                "rule",
                "protect_written",
                "protection is counted as background, which this rule does not use; choose from "
                + ", ".join(name for name, other in RULES.items() if other.needs_background),
            )
        if self.mask == "gradient" and (self.alpha_rate != 1 or not self.alpha_schedule):
            name = "alpha_rate" if self.alpha_rate != 1 else "alpha_schedule"
            refuse("mask", name, "its one optimizer has one rate")
        if not self.train_alpha and (self.alpha_rate != 1 or not self.alpha_schedule):
            name = "alpha_rate" if self.alpha_rate != 1 else "alpha_schedule"
            refuse("train_alpha", name, "no α trains; set train_alpha=True")

    @property
    def places(self) -> int:
        """Rows that one step may write in each pool, at most; a store is sized by it."""
        parts = self.micro_batches if self.granularity == "per_micro_batch" else 1
        return self.size * parts


def _require_choice(name: str, value: str, config: Sequence[str]) -> None:
    if value not in config:
        raise ValueError(f"{name}={value!r} is unknown; choose from {', '.join(config)}")
