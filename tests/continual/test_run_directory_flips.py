"""One bit flipped in any file of a run: the same results, or an error that names the file."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from experiments.evaluate import ModelSection
from experiments.evaluate import find_model as evaluated
from experiments.export import InputSection
from experiments.export import find_model as exported
from experiments.report import write
from experiments.report.write import write_report
from smf_jax import checkpoints
from smf_jax.checkpoints.manifest import fingerprint
from smf_jax.continual.comparison import compare
from smf_jax.continual.run_directory import RunDirectory
from tests.tiny_sweep import rows_of

FLIPS = 12
PROMPT = "Who made it? <|pad|><|end|>"
SMF, LORA = "smf-tfidf-sgd-t64-lr30-s0", "lora-sgd-lr0.3-s0"


def of_tokenizer(tokenizer: Any) -> tuple[Any, ...]:
    return tokenizer.encode(PROMPT), tokenizer.bos, tokenizer.eos, tokenizer.pad, tokenizer.stops


def evaluate(run: Path, trial: str) -> Any:
    base, params, about = evaluated(ModelSection(run=str(run), trial=trial))
    del about["run"], about["base"]
    return fingerprint(params), of_tokenizer(base.tokenizer), base.config, about


def export(run: Path, trial: str) -> Any:
    base, patches, _, told = exported(InputSection(run=str(run), trial=trial))
    mine = [(patch.task, patch.base, patch.parent, patch.fingerprint) for patch in patches]
    return fingerprint(base.params), of_tokenizer(base.tokenizer), base.origin, mine, told


def results(run: Path) -> dict[str, Any]:
    """What every reader of a run makes of it: a value, or its error."""
    config = RunDirectory(str(run)).config
    readers = {
        "evaluate": lambda: evaluate(run, LORA),
        "export": lambda: export(run, SMF),
        "compare": lambda: (
            compare(run / "trials" / SMF / "task_00", run / "trials" / LORA / "task_01").changed
        ),
        "report": lambda: (write_report(run), text(run / "report.md"), text(run / "summary.csv")),
        "resume": lambda: RunDirectory(str(run)).check(
            config().with_values(resume=True, overwrite=False)
        ),
        "rows": lambda: rows_of(run),
    }
    found: dict[str, Any] = {}
    for name, read in readers.items():
        try:
            found[name] = repr(read())
        except (ValueError, OSError) as error:
            found[name] = error
    return found


def text(file: Path) -> str:
    return file.read_text()


def places(run: Path, rng: np.random.Generator) -> Iterator[tuple[Path, int]]:
    """Files of a run and bits in them: JSON every second time, every file as often as any other."""
    drawn = ("*.png", "*.md", "*.csv")  # which nobody reads back
    files = [
        path.relative_to(run)
        for path in sorted(run.rglob("*"))
        if path.is_file() and path.stat().st_size and not any(map(path.match, drawn))
    ]
    plain = [path for path in files if path.suffix in (".json", ".jsonl") and len(path.parts) < 3]
    while True:
        for some in (plain, files):
            path = some[rng.integers(len(some))]
            yield path, int(rng.integers(8 * (run / path).stat().st_size))


def flip(file: Path, bit: int) -> None:
    data = bytearray(file.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(bytes(data))


def named(error: Exception, file: Path) -> bool:
    """Whether an error names a file, or the checkpoint that it is a part of."""
    parts = [file, *(path for path in file.parents if checkpoints.is_complete(path))]
    return any(str(part) in str(error) for part in parts)


def silent(run: Path, at: Path, bit: int, expected: dict[str, Any]) -> list[str]:
    """What a run with one bit flipped tells otherwise, without saying that it is damaged."""
    flip(run / at, bit)
    wrong = []
    for name, found in results(run).items():
        if isinstance(found, Exception):
            if not named(found, run / at):
                wrong.append(f"{at}, bit {bit}: {name}: {found}")
        elif found != expected[name]:
            wrong.append(f"{at}, bit {bit}: {name}: another result")
    flip(run / at, bit)  # which readers leave as it is
    return wrong


def test_no_flip_is_silent(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(write, "draw_pictures", lambda *_, **__: {})  # for time
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    expected = results(run)
    assert not [found for found in expected.values() if isinstance(found, Exception)]
    drawn = list(islice(places(run, np.random.default_rng(0)), FLIPS))
    assert not [line for at, bit in drawn for line in silent(run, at, bit, expected)]
    assert results(run) == expected
