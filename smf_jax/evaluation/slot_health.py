"""How evenly a memory's slots are used, and how far their use has drifted: from access counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int


@dataclass(frozen=True)
class SlotHealth:
    """What a vector of access counts ``c`` tells about a table of ``N`` slots; ``p = c / Σc``."""

    slots: int  # ``N``
    accesses: int  # ``Σ c``
    used_share: float  # share of the slots that were read at all
    kl_to_uniform: float  # ``Σ p log(p·N)``, nats; 0 if all are read alike, ``log N`` if one is
    gini: float  # gini coefficient of the counts; 0 if all are read alike, ``1 - 1/N`` if one is
    top_1_share: float  # share of the accesses that the busiest slot takes
    busiest_percent_share: float  # the same of the busiest 1 % of the slots, rounded up


def slot_health(counts: Int[np.ndarray, " N"]) -> SlotHealth:
    """Sums up the accesses of all slots; a ValueError if there are none or a count is negative."""
    counts = _checked(counts)
    slots, accesses = len(counts), int(counts.sum())
    rising = np.sort(counts)
    share = rising[rising > 0] / accesses
    # Twice the area between the Lorenz curve and the diagonal.
    ranks = np.arange(1, slots + 1)
    gini = 2 * float(ranks @ rising) / (slots * accesses) - (slots + 1) / slots
    busiest = -(-slots // 100)
    return SlotHealth(
        slots=slots,
        accesses=accesses,
        used_share=len(share) / slots,
        kl_to_uniform=max(0.0, float(share @ np.log(share * slots))),
        gini=max(0.0, gini),
        top_1_share=float(share[-1]),
        busiest_percent_share=float(rising[-busiest:].sum() / accesses),
    )


def usage_drift(before: Int[np.ndarray, " N"], after: Int[np.ndarray, " N"]) -> float:
    """How far the use of the slots by one text has moved: ``KL(p ‖ q) = Σ p log(p / q)``, nats.

    ``p = (before + 1) / Σ(before + 1)``, counts of the model that the background belongs to, and
    ``q`` the same of another's: one access is added to each slot, as ``kl_acc`` does (S26), to keep
    it finite. A ValueError if the lengths differ, or either has no access or a negative count.
    """
    before, after = _checked(before), _checked(after)
    if before.shape != after.shape:
        raise ValueError(
            f"before has {len(before)} slots, after {len(after)}: count the same table twice"
        )
    p, q = ((counts + 1.0) / (counts.sum() + len(counts)) for counts in (before, after))
    return max(0.0, float(p @ np.log(p / q)))


def _checked(counts: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
    """Counts as int64."""
    counts = np.asarray(counts)
    if counts.ndim != 1 or not len(counts) or not np.issubdtype(counts.dtype, np.integer):
        raise ValueError(
            f"counts are {counts.dtype}{list(counts.shape)}: expected whole numbers (N,), "
            "one for each slot"
        )
    if counts.min() < 0:
        raise ValueError(f"counts[{counts.argmin()}]={counts.min()}: accesses cannot be negative")
    if not counts.any():
        raise ValueError("counts hold no access: nothing was read; count over some text")
    return counts.astype(np.int64)
