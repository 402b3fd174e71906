"""``results.jsonl`` of a run: a line for each task of a trial, on disk before the next begins."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from smf_jax.checkpoints.files import write_text
from smf_jax.checkpoints.sealed_json import seal, unseal
from smf_jax.continual.results import ResultRow
from smf_jax.continual.trial import Trial
from smf_jax.paths import is_remote

RESULTS = "results.jsonl"


class ResultsFiles:
    """The rows of a run, each share's in a file of its own, and JSON files beside them."""

    def __init__(self, path: Path, shard: str) -> None:
        """Of the run at ``path``; nothing is touched."""
        self.path = path
        self.shard = shard
        self._is_share = not shard.endswith("/1")
        self._ending = f"-{shard.replace('/', '-of-')}" if self._is_share else ""
        self._results = self.sidecar("results", "jsonl")

    def rows(self) -> list[dict[str, Any]]:
        """All rows of all shards, in the order of trials and tasks as they were written."""
        # Another machine may be writing a line of its shard this very moment.
        files = sorted(self.path.glob("results*.jsonl"))
        return [row for file in files for _, row in _whole_lines(file)]

    def append(self, row: ResultRow) -> None:
        """Adds a row to the results and waits until it is on disk; NaN becomes null."""
        clean = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in row.to_json().items()
        }
        line = json.dumps(seal(clean)) + "\n"
        if is_remote(self.path):  # object stores append nothing; a file has one writer
            lines = _whole_lines(self._results) if self._results.is_file() else ()
            write_text(self._results, "".join(old for old, _ in lines) + line)
            return
        with self._results.open("a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def drop_cut_line(self) -> None:
        """Drops a last line that a kill cut short; its task is run again."""
        if self._results.is_file():
            write_text(self._results, "".join(line for line, _ in _whole_lines(self._results)))

    def forget(self, trial: Trial, done: int) -> None:
        """Drops the rows of a trial from a task on, which is run again.

        They may stand in the file of a share of another number; it is not at work, or it had them.
        """
        for file in self.path.glob("results*.jsonl"):
            lines = list(_whole_lines(file))
            kept = [line for line, row in lines if row["trial"] != trial.id or row["task"] < done]
            if len(kept) < len(lines):
                write_text(file, "".join(kept))

    def sidecar(self, name: str, kind: str = "json") -> Path:
        """Where this share keeps a file beside its results; other shares have their own."""
        return self.path / f"{name}{self._ending}.{kind}"

    def write_sidecar(self, name: str, content: Any) -> None:
        """Writes a JSON file beside the results, whole or not at all."""
        write_text(self.sidecar(name), json.dumps(seal(content), indent=2) + "\n")


def _whole_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The lines of a results file with their rows, but for a last one that a kill cut short.

    Raises ValueError naming a line that is no row, or not the row that was written.
    """
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        if not line.endswith((b"\n", b"\r")) and not _is_json(line[:-1]):
            return  # with a whole row before its end it was not cut, but changed
        if line.strip():
            row = unseal(line, f"{path}, line {number}")
            yield line.decode(), row


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
