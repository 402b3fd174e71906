"""Tasks of lm-evaluation-harness as a command is told of them; the harness itself is an extra."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from smf_jax.configuration import Configuration, PathText, setting
from smf_jax.data.tokenizer import Tokenizer
from smf_jax.errors import blame_flag
from smf_jax.models.decoder import Decoder
from smf_jax.params import Params
from smf_jax.paths import as_path, local


@dataclass(frozen=True)
class HarnessConfig(Configuration):
    """Which tasks are run, and how."""

    harness: str = setting(
        "",
        "tasks of lm-evaluation-harness, as in hellaswag,nq_open, under --probe_limit too",
        first=True,
    )
    harness_path: PathText = setting("", "directory with more tasks, as YAML")
    harness_chat: bool = setting(False, "put its tasks by the chat template")

    def check_installed(self) -> None:
        """Refuses tasks where the harness is absent, and a directory that is."""
        if self.harness and importlib.util.find_spec("lm_eval") is None:
            raise ValueError(
                f"--harness={self.harness} needs lm-evaluation-harness: "
                'pip install "smf_jax[lm-eval]"'
            )
        if self.harness_path and not as_path(self.harness_path).is_dir():
            raise FileNotFoundError(f"--harness_path={self.harness_path}: no such directory")

    def run(
        self, model: Decoder, params: Params, tokenizer: Tokenizer, rows: int, limit: int | None
    ) -> Iterator[dict[str, Any]]:
        """Scores of ``params`` by task; ``rows`` are asked at once, ``limit`` items of each.

        The tasks' names are checked at the call, before any of them is run.
        """
        if not self.harness:
            return iter(())
        # The harness takes seconds to import, where it is at all.
        from smf_jax.evaluation.lm_eval import SmfLM, run_tasks

        asked = SmfLM(model, params, tokenizer, rows)
        path = str(local(self.harness_path)) if self.harness_path else None
        with blame_flag(f"--harness={self.harness}: "):
            return run_tasks(asked, self.harness.split(","), limit, path, self.harness_chat)
