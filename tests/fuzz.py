"""Wrong input of every kind: each reader gives what it read, or a ValueError with a message.

python -m tests.fuzz --cases=5000 [--only=flags,csv]

Texts and files that are right are changed in a few places, or are noise from the start. A reader
that raises anything else, says nothing, or takes longer than a case may, fails.
"""

from __future__ import annotations

import argparse
import io
import json
import signal
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from experiments.cli import parse
from smf_jax.checkpoints.sealed_json import SEAL
from smf_jax.configuration import flags_of
from smf_jax.continual.ablation import read_ablation
from smf_jax.continual.config import SweepConfig
from smf_jax.continual.grid import grid
from smf_jax.continual.run_config import CONFIG, read_config, write_config
from smf_jax.continual.trial import shard
from smf_jax.data.files import read_records, read_texts
from smf_jax.data.questions import read_questions
from smf_jax.interop.export.patches import load_patch, save_patch
from smf_jax.interop.gguf.config import read_config as read_gguf_config
from smf_jax.interop.gguf.file import open_gguf
from smf_jax.interop.gguf.tokenizer import read_tokenizer
from smf_jax.interop.huggingface.checkpoint import load_huggingface, save_huggingface
from smf_jax.sparse.patch import apply_patch
from tests.interop.gguf.files import ROWS, write_model
from tests.models.tiny import PLAIN, random_params
from tests.sparse.patches import BASE, POOL, make_chain

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 20.0  # for a case; most take a hundredth of one

NUMBERS = ("0", "-1", "1e999", "nan", "99999999999999999999", "-0.0", "1_0", "0x1", "null", "٣")
NOISE = st.one_of(
    st.binary(max_size=12),
    st.text(max_size=8).map(lambda text: text.encode(errors="replace")),
    st.sampled_from([*map(str.encode, NUMBERS), b"\0", b"\xff\xfe", b'"', b"{", b"[" * 60, b",\n"]),
)
# What is changed: a place, as a share of the whole, how much of it goes, and what comes instead.
EDITS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 40), NOISE), min_size=1, max_size=4)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


def edited(seed: bytes, edits: list[tuple[float, int, bytes]]) -> bytes:
    for share, gone, noise in edits:
        at = int(share * len(seed))
        seed = seed[:at] + noise + seed[at + gone :]
    return seed


def changed_bytes(seed: bytes, head: int | None = None) -> st.SearchStrategy[bytes]:
    """Bytes with a few places changed, in their first ``head``; sometimes only noise or a part."""
    begin, rest = seed[:head], seed[len(seed[:head]) :]
    flipped = st.builds(
        lambda places: bytes(np.frombuffer(seed, np.uint8) ^ _bits(places, len(seed))),
        st.lists(st.integers(0, 8 * len(begin) - 1), min_size=1, max_size=3),
    )
    return st.one_of(
        EDITS.map(lambda edits: edited(begin, edits) + rest),
        flipped,
        st.integers(0, len(seed)).map(lambda end: seed[:end]),
        st.binary(max_size=200),
    )


def _bits(places: list[int], size: int) -> np.ndarray:
    mask = np.zeros(size, np.uint8)
    for place in places:
        mask[place // 8] ^= 1 << place % 8
    return mask


def changed_json(values: Mapping[str, Any]) -> st.SearchStrategy[bytes]:
    """A JSON object with other values at some keys, or its text changed."""
    plain = dict(values)
    put = st.dictionaries(st.sampled_from(sorted(plain)), VALUES, min_size=1, max_size=3)
    other = put.map(lambda told: json.dumps({**plain, **told}).encode())
    return other | changed_bytes(json.dumps(plain).encode())


@dataclass(frozen=True)
class Target:
    """A reader, and what it is given."""

    given: st.SearchStrategy[Any]
    read: Callable[[Any], Any]


def in_file(name: str, read: Callable[[Path], Any]) -> Callable[[bytes], Any]:
    """A reader of a file, as one of bytes."""

    def of_bytes(content: bytes) -> None:
        with tempfile.TemporaryDirectory(dir=_scratch()) as place:
            file = Path(place, name)
            file.write_bytes(content)
            read(file)

    return of_bytes


@cache
def _scratch() -> str:
    """Where there is memory for files, there."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else tempfile.gettempdir()


def flags() -> Target:
    known = flags_of(SweepConfig())
    words = st.sampled_from(
        [
            *NUMBERS,
            "smf",
            "smf:1/full:2",
            "smf:",
            "a:b:c",
            "1/",
            "0/4",
            "4/4",
            "--",
            "=",
            "gs://",
            "~x",
            "$X",
        ]
    )
    value = words | st.text(max_size=10) | st.lists(words, max_size=3).map(",".join)
    flag = st.tuples(st.sampled_from([*known, "nothing", "", "out=", "no"]), value)
    told = st.lists(
        flag.map(lambda pair: f"--{pair[0]}={pair[1]}") | st.text(max_size=8), max_size=5
    )

    def read(arguments: list[str]) -> None:
        with redirect_stdout(io.StringIO()):
            config = parse(SweepConfig, arguments)[0]
            shard(grid(config.grid, config.own), config.grid.shard)

    return Target(told, read)


def grid_files() -> Target:
    seeds = [path.read_bytes() for path in sorted((ROOT / "experiments/ablations").glob("*.toml"))]
    told = st.one_of([changed_bytes(seed) for seed in seeds])
    return Target(told, in_file("grid.toml", lambda file: read_ablation(file).cells(SweepConfig())))


def _read_all(file: Path) -> None:
    for read in (read_records, read_texts, read_questions):
        try:
            list(read(file))
        except ValueError as error:
            assert str(error)


def jsonl() -> Target:
    lines = [
        {"question": f"Who made {n}?", "answers": [f"Maker {n}"], "text": "A."} for n in (1, 2)
    ]
    messages = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "He."}]
    lines.append({"messages": messages})
    seed = "".join(json.dumps(line) + "\n" for line in lines).encode()
    parts = st.one_of(changed_bytes(seed), *map(changed_json, lines))
    return Target(parts, in_file("a.jsonl", _read_all))


def csv() -> Target:
    seed = b'question,answers,text\nWho?,"[""He""]",A.\n"Where, then?",There,"B\nC"\n'
    return Target(changed_bytes(seed), in_file("a.csv", _read_all))


def run_config() -> Target:
    with tempfile.TemporaryDirectory() as place:
        write_config(Path(place), SweepConfig(), {})
        told = json.loads(Path(place, CONFIG).read_text())
    del told[SEAL]  # whose digest would tell any change
    return Target(changed_json(told), in_file(CONFIG, lambda file: read_config(file.parent)))


@cache
def _huggingface() -> tuple[bytes, bytes]:
    with tempfile.TemporaryDirectory() as place:
        save_huggingface(model := Path(place, "model"), PLAIN, random_params(PLAIN))
        return (model / "config.json").read_bytes(), (model / "model.safetensors").read_bytes()


def model_config() -> Target:
    config, weights = _huggingface()

    def read(file: Path) -> None:
        file.with_name("model.safetensors").write_bytes(weights)
        load_huggingface(file.parent)

    return Target(changed_json(json.loads(config)), in_file("config.json", read))


def safetensors() -> Target:
    config, weights = _huggingface()

    def read(file: Path) -> None:
        file.with_name("config.json").write_bytes(config)
        load_huggingface(file.parent)

    head = 8 + int.from_bytes(weights[:8], "little")
    return Target(changed_bytes(weights, head), in_file("model.safetensors", read))


def gguf() -> Target:
    with tempfile.TemporaryDirectory() as place:
        whole = write_model(Path(place, "a.gguf")).read_bytes()

    def read(file: Path) -> None:
        found = open_gguf(file)
        read_gguf_config(found)
        read_tokenizer(found, ROWS)

    head = max(1000, len(whole) // 20)
    given = st.one_of(changed_bytes(whole, 400), changed_bytes(whole, head))
    return Target(given, in_file("a.gguf", read))


def patches() -> Target:
    (params, _), (first,) = make_chain({POOL: [1, 5]})
    with tempfile.TemporaryDirectory() as place:
        save_patch(file := Path(place, "a.safetensors"), first)
        whole = file.read_bytes()
    size = 8 + int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8:size])
    about = json.loads(header["__metadata__"]["smf_jax"])
    del about[SEAL], about["arrays"]

    def with_about(text: bytes) -> bytes:
        told = {**header["__metadata__"], "smf_jax": text.decode(errors="replace")}
        packed = json.dumps({**header, "__metadata__": told}).encode()
        return len(packed).to_bytes(8, "little") + packed + whole[size:]

    def of_patch(values: Mapping[str, Any]) -> st.SearchStrategy[bytes]:
        inner = changed_json(values["patch"]).map(
            lambda text: (
                json.dumps({**values, "patch": 0})
                .encode()
                .replace(b'"patch": 0', b'"patch": ' + text)
            )
        )
        return changed_json(values) | inner

    def read(file: Path) -> None:
        apply_patch(params, load_patch(file), base=BASE)

    given = changed_bytes(whole) | of_patch(about).map(with_about)
    arrays = {name: np.zeros(3, np.float32) for name in ("pools.0.values.slots", "x")}
    return Target(given | st.just(save(arrays)), in_file("a.safetensors", read))


TARGETS: dict[str, Callable[[], Target]] = {
    "flags": flags,
    "grid files": grid_files,
    "jsonl": jsonl,
    "csv": csv,
    "run config": run_config,
    "model config": model_config,
    "safetensors": safetensors,
    "gguf": gguf,
    "patches": patches,
}


class TooLong(BaseException):
    """A reader hangs; nothing of it may catch this."""


def _alarm(*_: Any) -> None:
    raise TooLong(f"a case takes more than {SECONDS:.0f} seconds")


def fuzz(name: str, cases: int, seed: int | None = None) -> int:
    """Gives a reader so many cases; returns how many it read without an error.

    Raises what a case fails of.
    """
    target, read = TARGETS[name](), 0

    @settings(
        max_examples=cases,
        deadline=None,
        database=None,
        derandomize=seed is None,
        suppress_health_check=cast(Any, [*HealthCheck]),
    )
    @given(target.given)
    def check(told: Any) -> None:
        nonlocal read
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            target.read(told)
            read += 1
        except (ValueError, FileNotFoundError) as error:
            assert str(error).strip(), "an error without a word"
            assert len(str(error)) < 20_000, "an error that nobody reads"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    before = signal.signal(signal.SIGALRM, _alarm)
    try:
        check()
    finally:
        signal.signal(signal.SIGALRM, before)
    return read


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--only", default=",".join(TARGETS))
    told = parser.parse_args()
    for name in told.only.split(","):
        begun = time.monotonic()
        read = fuzz(name, told.cases, seed=0)
        seconds = round(time.monotonic() - begun, 1)
        line = {"reader": name, "cases": told.cases, "read": read, "failed": 0, "seconds": seconds}
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
