"""The slot health of a run without one, and tables read back."""

from __future__ import annotations

HEALTHY = dict(
    slots=256,
    accesses=999,
    used_share=0.5,
    kl_to_uniform=0.25,
    gini=0.75,
    top_1_share=0.01,
    busiest_percent_share=0.355,
)
HEALTH = {
    "background": {"batches": 1000, "pools": {"memory/pool_0/values": HEALTHY}},
    "recount": {"batches": 100, "pools": {"memory/pool_0/values": HEALTHY}},
    "trials": {
        f"smf-tfidf-sgd-t64-lr30-s{seed}": {
            "task": 2,
            "pools": {"memory/pool_0/values": HEALTHY | {"gini": 0.2 * (seed + 1), "drift": 0.03}},
        }
        for seed in (0, 1)
    },
}


def parse(table: str) -> list[list[str]]:
    """Read a Markdown table back."""
    lines = [line.strip("|").split("|") for line in table.splitlines()]
    return [[cell.strip() for cell in line] for line in lines]
