"""The static choices of a sparse step, and which of them exclude each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from smf_jax.sparse.optimizers import OptimizerConfig
from smf_jax.sparse.rules import RULES, check_rule
from smf_jax.sparse.selection import BudgetScope, Granularity

Mask = Literal["update", "gradient"]


@dataclass(frozen=True)
class SparseConfig:
    """Static choices of a sparse step."""

    rule: str = "tfidf"  # how slots are ranked, a name out of `RULES`
    # ``per_step``: every batch ranks its own (2510.15103); ``per_micro_batch``: each micro-batch
    # selects its own and masks its own gradient, the mean of these is written in one update
    # (2605.03229); ``per_task``: slots are given.
    granularity: Granularity = "per_step"
    # Parts of a batch that are run one after another. With ``per_step`` they change rounding only:
    # accesses are summed before they are ranked.
    micro_batches: int = 1
    size: int = 64  # static number of places ``s`` for rows selected together
    budget_scope: BudgetScope = "per_layer"  # a budget for each pool; ``shared``: one for all
    # Where given, a step selects no more than the smallest set of best slots that covers this share
    # of the summed positive scores, at most the budget.
    score_share: float | None = None
    # Slots that a larger share of background batches touches are never selected; 1: all may be.
    max_df: float = 1.0
    # Rows written by earlier tasks count as used in so many times all background batches more (``df
    # + protect_written · B``), so that they rank after the others.
    protect_written: float = 0.0
    count_normalised: bool = False  # divides a row's gradient by its reads (FwPKM, 2601.00671)
    optimizer: OptimizerConfig = OptimizerConfig()  # how a row's gradient becomes its update
    train_alpha: bool = False  # whether scales of additive blocks train too (``+S``, 2605.03229)
    alpha_rate: float = 1.0  # learning rate of these scales, as a multiple of that of the rows
    alpha_schedule: bool = True  # whether that rate follows the schedule
    # ``update``: nothing but the selected rows moves. ``gradient``: the gradient is masked and the
    # update is not, as 2605.03229 published: moments keep moving rows that were selected before,
    # decay moves every row, and optimizer state is as large as the dense one.
    mask: Mask = "update"
    # Most targets of weight in a row, where known: the head is applied to no other places.
    scored: int | None = None

    def __post_init__(self) -> None:
        # Whether a background is there is seen at the first step.
        check_rule(self.rule, background=self)
        share = self.score_share
        choices = {"granularity": Granularity, "budget_scope": BudgetScope, "mask": Mask}
        for name, choice in choices.items():
            if getattr(self, name) not in get_args(choice):
                known = ", ".join(get_args(choice))
                raise ValueError(f"{name}={getattr(self, name)!r} is unknown; choose from {known}")
        for name, is_right, expected in (
            ("size", self.size >= 1, "must be at least 1"),
            ("micro_batches", self.micro_batches >= 1, "must be at least 1"),
            ("score_share", share is None or 0 < share <= 1, "is no share; give one in (0, 1]"),
            ("max_df", 0 <= self.max_df <= 1, "is no share; give one in [0, 1]"),
            ("protect_written", self.protect_written >= 0, "must not be negative"),
            ("alpha_rate", self.alpha_rate > 0, "must be positive"),
        ):
            if not is_right:
                raise ValueError(f"{name}={getattr(self, name)!r} {expected}")
        self._check_combinations()

    def _check_combinations(self) -> None:
        def refuse(first: str, second: str, because: str) -> None:
            told = [f"{name}={getattr(self, name)!r}" for name in (first, second)]
            raise ValueError(f"{told[0]} and {told[1]} exclude each other: {because}")

        rule = RULES[self.rule]
        if self.granularity == "per_micro_batch" and self.micro_batches == 1:
            refuse("granularity", "micro_batches", "one is per_step; give micro_batches=2")
        if self.granularity == "per_task" and rule.amounts != "counts":
            refuse("rule", "granularity", "a task is probed by counting its reads; choose per_step")
        if not rule.has_budget and self.budget_scope == "shared":
            refuse("rule", "budget_scope", "it has no budget that pools could share")
        if not rule.is_informative and self.score_share is not None:
            refuse("rule", "score_share", "its scores say nothing of a slot; choose another rule")
        for name, is_off in (
            ("protect_written", not self.protect_written),
            ("max_df", self.max_df == 1),
        ):
            if not rule.needs_background and not is_off:
                choices = ", ".join(name for name, other in RULES.items() if other.needs_background)
                because = "it is counted in background, which this rule does not use"
                refuse("rule", name, f"{because}; choose from {choices}")
        if self.alpha_rate != 1 or not self.alpha_schedule:
            name = "alpha_rate" if self.alpha_rate != 1 else "alpha_schedule"
            if self.mask == "gradient":
                refuse("mask", name, "its one optimizer has one rate")
            if not self.train_alpha:
                refuse("train_alpha", name, "no α trains; set train_alpha=True")

    @property
    def places(self) -> int:
        """Rows that one step may write in each pool, at most; a store is sized by it."""
        return self.size * (self.micro_batches if self.granularity == "per_micro_batch" else 1)
