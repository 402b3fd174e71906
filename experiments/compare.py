"""`python -m experiments.compare A B`: what differs between two checkpoints of a run."""

from __future__ import annotations

import dataclasses
import json

from experiments.cli import run
from smf_jax.configuration import Configuration, PathText, setting
from smf_jax.continual.comparison import compare, to_text
from smf_jax.paths import as_path


@dataclasses.dataclass(frozen=True)
class CompareConfig(Configuration):
    """What to compare and how to tell."""

    checkpoints: tuple[str, ...] = ()
    base: PathText = setting("", "the base, where it does not stand in the run directory")
    json: bool = setting(False, "print JSON instead of text")


def main(config: CompareConfig) -> int:
    """Prints the comparison."""
    if len(config.checkpoints) != 2:
        raise ValueError(
            f"{len(config.checkpoints)} checkpoints given, expected two: "
            "python -m experiments.compare A B"
        )
    first, second = map(as_path, config.checkpoints)
    found = compare(first, second, as_path(config.base) if config.base else None)
    print(json.dumps(dataclasses.asdict(found)) if config.json else to_text(found))
    return 0


if __name__ == "__main__":
    run(
        main,
        CompareConfig,
        "what differs between two checkpoints of a run",
        "python -m experiments.compare runs/NAME/base runs/NAME/trials/ID/task_00",
        positional="checkpoints",
    )
