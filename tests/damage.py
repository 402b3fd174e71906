"""A file of a run, an export or a patch is damaged: the same results, or an error that names it.

python -m tests.damage --flips=200 --truncations=100

One bit is flipped, or a file is cut short; then everything that reads it is asked again. Lines that
are gone from the end of ``results.jsonl`` are harmless: as after a kill, their tasks count as not
done and are run again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import pretrain
from experiments.evaluate import ModelSection
from experiments.evaluate import find_model as evaluated
from experiments.export import ExportConfig, InputSection
from experiments.export import find_model as exported
from experiments.export import main as export_main
from experiments.report import write
from experiments.report.write import write_report
from smf_jax import checkpoints
from smf_jax.bases.pretrain_config import PretrainConfig
from smf_jax.checkpoints.manifest import fingerprint
from smf_jax.continual.comparison import compare
from smf_jax.continual.results_files import RESULTS
from smf_jax.continual.run_directory import RunDirectory
from smf_jax.interop.export.model import is_exported, load_exported
from smf_jax.interop.export.patches import load_patch, save_patch
from smf_jax.tables import packed
from tests.tiny_sweep import TINY_BASE, Sweeper, rows_of

Results = dict[str, Any]
OF_ROWS = ("rows", "report", "export")  # tell what rows there are, the last in a card

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


def results(place: Path) -> Results:
    """What every reader makes of what `prepare` laid out: a value, or its error."""
    run = place / "run"
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
        "exported": lambda: load_all(place / "export"),
        "patch": lambda: load_patch(place / "patch.safetensors").fingerprint,
    }
    found: dict[str, Any] = {}
    for name, read in readers.items():
        try:
            found[name] = repr(read())
        except (ValueError, OSError) as error:
            found[name] = error
    return found


def load_all(directory: Path) -> Any:
    found = load_exported(directory)
    patches = [patch.fingerprint for patch in found.patches]
    return fingerprint(packed(found.params)), patches, found.config


def text(file: Path) -> str:
    return file.read_text()


def places(place: Path, rng: np.random.Generator) -> Iterator[tuple[Path, int]]:
    """Files and bits in them: JSON every second time, every file as often as any other."""
    drawn = ("*.png", "*.md", "*.csv")  # which nobody reads back
    files = [
        path.relative_to(place)
        for path in sorted(place.rglob("*"))
        if path.is_file() and path.stat().st_size and not any(map(path.match, drawn))
    ]
    plain = [path for path in files if path.suffix in (".json", ".jsonl") and len(path.parts) < 4]
    while True:
        for some in (plain, files):
            path = some[rng.integers(len(some))]
            yield path, int(rng.integers(8 * (place / path).stat().st_size))


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def cut(data: bytes, end: int) -> bytes:
    return data[:end]


def named(error: Exception, file: Path) -> bool:
    """Whether an error names a file, or the checkpoint or the export that it is a part of."""
    wholes = (path for path in file.parents if checkpoints.is_complete(path) or is_exported(path))
    parts = [file, *wholes]
    return any(str(part) in str(error) for part in parts)


def silent(place: Path, at: Path, damage: Callable[[bytes], bytes], expected: Results) -> list[str]:
    """What is told otherwise of a damaged file, without saying that it is damaged."""
    file, wrong = place / at, []
    whole = file.read_bytes()
    file.write_bytes(damaged := damage(whole))
    is_cut = file.name == RESULTS and whole.startswith(damaged)
    if is_cut:
        kept = damaged.rpartition(b"\n")[0].splitlines()
        assert len(rows_of(place / "run")) in (len(kept), len(kept) + 1)
    for name, found in results(place).items():
        if isinstance(found, Exception):
            if not named(found, file):
                wrong.append(f"{at}: {name}: {found}")
        elif found != expected[name] and not (is_cut and name in OF_ROWS):
            wrong.append(f"{at}: {name}: another result")
    file.write_bytes(whole)
    return wrong


def damage_all(
    place: Path, flips: int, truncations: int, seed: int = 0, told: Callable[[str], None] = print
) -> dict[str, Any]:
    """Damages files in turn; returns how many were told, harmless and silent."""
    rng = np.random.default_rng(seed)
    expected = results(place)
    assert not [found for found in expected.values() if isinstance(found, Exception)], expected
    kinds = ["flip"] * flips + ["truncation"] * truncations
    drawn, count = places(place, rng), {str(kind): 0 for kind in ("flip", "truncation")}
    wrong: list[str] = []
    for number, kind in enumerate(kinds, 1):
        at, bit = next(drawn)
        change = partial(flipped, bit=bit) if kind == "flip" else partial(cut, end=bit // 8)
        found = silent(place, at, change, expected)
        wrong += [f"{kind} at bit {bit}: {line}" for line in found]
        count[kind] += 1
        if number % 25 == 0 or found:
            told(json.dumps({**count, "silent": len(wrong), "last": found}))
    assert results(place) == expected
    return {**count, "silent": len(wrong), "of": wrong}


def prepare(run: Path, place: Path) -> None:
    """A copy of a run, an export of a trial of it, and its patch as a file."""
    shutil.copytree(run, place / "run")
    out = str(place / "export")
    export_main(ExportConfig.of(run=str(run), trial=SMF, out=out))
    found = RunDirectory(str(run))
    (patch,) = found.load_patches(found.find_trial(SMF)[0], 1)
    save_patch(place / "patch.safetensors", patch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--flips", type=int, default=200)
    parser.add_argument("--truncations", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--base", type=Path, help="of the tests, made anew if it is not given")
    told = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_disable_most_optimizations", True)
    write.draw_pictures = lambda *_, **__: {}  # for time
    with tempfile.TemporaryDirectory() as scratch:
        base = told.base or Path(scratch, "base")
        if told.base is None:
            pretrain.main(PretrainConfig.of(out=str(base), **TINY_BASE))
        run = Path(scratch, "finished")
        changes: dict[str, Any] = {"slots": "64", "lr": "smf:30/lora:0.3", "methods": "smf,lora"}
        assert Sweeper(base)(run, report=True, recount_batches=3, **changes) == 0
        prepare(run, place := Path(scratch, "place"))
        print(json.dumps(damage_all(place, told.flips, told.truncations, told.seed)))


if __name__ == "__main__":
    main()
