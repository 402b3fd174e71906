"""What a base answers before anything is changed, kept so that no run asks it again.

The answers are those of one base in one dtype, by prompt. A run keeps those that its stream and
its probes were chosen by, as another machine's arithmetic might answer a close one differently;
``--base_cache`` keeps them for other runs.
"""

from __future__ import annotations

import json
from pathlib import Path

from smf_jax.bases.base import Base
from smf_jax.checkpoints.files import write_text
from smf_jax.checkpoints.manifest import sha256_of_json
from smf_jax.checkpoints.sealed_json import seal, unseal
from smf_jax.evaluation.asking import Asking
from smf_jax.evaluation.scorer import Scorer

ANSWERS = "base_answers.json"  # of a run
_SAID = "answers"


class AskedBase(Asking):
    """Asks a base, or looks up what it has answered to this run or to others."""

    def __init__(self, base: Base, run: Path | None, cache: Path | None, rows: int) -> None:
        """Reads what is there; a ValueError tells of a damaged file. ``rows`` run at once."""
        self._about = {
            "base": base.fingerprint(),
            "dtype": base.config.dtype,
            "tokenizer": base.tokenizer_fingerprint(),
        }
        shared = cache and cache / f"answers-{sha256_of_json(self._about)[:12]}.json"

        def keep(said: dict[str, str]) -> None:
            if shared is not None:  # another run may have asked meanwhile
                self._write(shared, {**self._read(shared), **said})

        said = {**self._read(shared), **self._read(run and run / ANSWERS)}
        model = lambda: (Scorer(base.model, rows), base.params)  # noqa: E731
        super().__init__(model, base.tokenizer, said, keep)

    def keep_in(self, run: Path) -> None:
        """Writes the answers that a run was made by into its directory."""
        self._write(run / ANSWERS, self.used)

    def _read(self, path: Path | None) -> dict[str, str]:
        """The answers in a file, none if there is no such file or it is of another base."""
        if path is None:
            return {}
        try:
            found = unseal(path.read_bytes(), str(path))
        except FileNotFoundError:
            return {}
        is_ours = all(found.get(name) == each for name, each in self._about.items())
        return found[_SAID] if is_ours else {}

    def _write(self, path: Path, said: dict[str, str]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(seal({**self._about, _SAID: said}), indent=0, sort_keys=True)
        write_text(path, text + "\n")
