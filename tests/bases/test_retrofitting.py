"""Retrofits as a command: the base's own numbers, healing that trains the memory alone."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import cast

import jax
import numpy as np
import pytest

from experiments import retrofit
from smf_jax import checkpoints
from smf_jax.bases import retrofitting
from smf_jax.bases.base import load_base
from smf_jax.bases.retrofit_config import RetrofitCommandConfig, RetrofitConfig
from smf_jax.bases.retrofitting import check_retrofit
from smf_jax.bases.text_windows import text_windows
from smf_jax.models.config import ModelConfig
from smf_jax.models.decoder import Decoder
from smf_jax.params import Params, count_bytes, unflatten
from smf_jax.sparse.usage import touched_share
from smf_jax.tables import explicit
from tests.tiny_sweep import content, on_devices, write_lines

SMALL = dict(keys_per_half=8, memory_heads=2, reads=3, key_width=8, heal_steps=0)


def flags(base: Path | str, out: Path | str, **changes) -> RetrofitCommandConfig:
    return RetrofitCommandConfig.of(**{**SMALL, "base": str(base), "out": str(out), **changes})


@partial(jax.jit, static_argnums=0)
def logits(config: ModelConfig, params: Params) -> jax.Array:
    tokens = np.random.default_rng(0).integers(0, config.vocabulary, (3, 40))
    return cast(jax.Array, Decoder(config).apply({"params": unflatten(params)}, tokens))


def test_rows_at_zero_leave_the_logits_of_the_base_bit_for_bit(plain_checkpoint, tmp_path, capsys):
    out = tmp_path / "made"
    assert retrofit.main(flags(plain_checkpoint, out, layers="0,1")) == 0
    assert "queries stay as they are: there is no text" in capsys.readouterr().out
    before, after = load_base(str(plain_checkpoint), "base"), load_base(str(out), "base")
    expected = np.asarray(logits(before.config, before.params))
    assert np.asarray(logits(after.config, after.params)).tobytes() == expected.tobytes()
    new = {path.rpartition("/")[2] for path in after.params.keys() - before.params.keys()}
    assert new == {"values", "kernel", "bias", "keys", "key_scale", "query_scale"}, "no gate, no α"


def test_without_alpha_the_logits_are_those_of_the_base_bit_for_bit(plain_checkpoint, tmp_path):
    out = tmp_path / "made"
    given = flags(plain_checkpoint, out, layers="0,1", memory_init="normal", alpha=0.0)
    assert retrofit.main(given) == 0
    before, after = load_base(str(plain_checkpoint), "base"), load_base(str(out), "base")
    expected = np.asarray(logits(before.config, before.params))
    assert np.asarray(logits(after.config, after.params)).tobytes() == expected.tobytes()
    woken = {p: leaf + 0.5 if p.endswith("/alpha") else leaf for p, leaf in after.params.items()}
    assert np.any(np.asarray(logits(after.config, woken)) != expected)
    for path, leaf in before.params.items():
        assert np.asarray(after.params[path]).tobytes() == np.asarray(leaf).tobytes()
    assert after.config.memory is not None
    assert after.config.memory.layers == (0, 1)
    assert after.origin == "Hugging Face checkpoint plain, add"
    of_base = checkpoints.read_metadata(out / "leaves")["inputs"]["base"]
    weights = hashlib.sha256((plain_checkpoint / "model.safetensors").read_bytes()).hexdigest()
    assert of_base["path"] == str(plain_checkpoint)
    assert of_base["files"]["model.safetensors"] == weights


@pytest.fixture(scope="module")
def healed(plain_checkpoint, tmp_path_factory):
    """Retrofits healed in several ways, by name; and the base."""
    place = tmp_path_factory.mktemp("healed")
    lines = [{"text": f"Thing {n} stands beside thing {n + 1}."} for n in range(99)]
    texts = write_lines(place / "texts.jsonl", *lines)
    base = load_base(str(plain_checkpoint), "base")
    shared = dict(
        memory_init="normal",
        layers="1",
        heal_steps=3,
        heal_texts=str(texts),
        heal_length=16,
        heal_batch_size=4,
    )

    def made(**changes):
        given = flags(plain_checkpoint, place / "made", **{**shared, **changes})
        windows = text_windows([line["text"] for line in lines], base, given.text, "heal")
        with on_devices(1):
            return retrofitting.retrofit_base(given.retrofit, base, windows)

    return base, made


def moved(before: Params, after: Params) -> set[str]:
    return {path for path, leaf in after.items() if np.any(leaf != before.get(path))}


ROUTING = {f"memory/layer_1/{leaf}" for leaf in ("keys", "query_scale", "key_scale")}
QUERY = {f"memory/layer_1/query/{leaf}" for leaf in ("kernel", "bias")}


def test_healing_trains_the_memory_alone_and_leaves_its_routing(healed):
    base, made = healed
    fresh = made(retrofit="replace", heal_steps=0, whiten_queries=False).params
    plain = made(retrofit="replace", whiten_queries=False).params
    assert set(base.params) - set(plain) == {
        f"layers_1/feed_forward/{name}/kernel" for name in ("gate", "up", "down")
    }
    for path, leaf in plain.items():
        if not path.startswith("memory/"):
            assert np.asarray(leaf).tobytes() == np.asarray(base.params[path]).tobytes(), path
    memory = {path for path in plain if path.startswith("memory/")}
    assert moved(fresh, plain) == memory - ROUTING - QUERY
    trained = made(retrofit="replace", whiten_queries=False, heal_routing=True).params
    assert moved(fresh, trained) == memory


def test_queries_are_whitened_before_and_after_healing(healed, monkeypatch):
    _, made = healed
    given = []
    monkeypatch.setattr(
        retrofitting, "whiten_queries", lambda model, params, batch: given.append(params) or params
    )
    made(retrofit="add", heal_steps=0)
    assert len(given) == 1
    after = made(retrofit="add")
    assert len(given) == 3 and moved(given[1], given[2]) and not moved(given[2], after.params)
    monkeypatch.undo()
    white = made(retrofit="add", heal_steps=0).params
    assert moved(given[0], white) == QUERY


def explicit_all(base):
    return {path: explicit(leaf) for path, leaf in base.params.items()}


def test_a_table_is_sized_so_that_text_leaves_slots_rare(healed, capsys, monkeypatch):
    base, made = healed
    monkeypatch.setattr(retrofitting, "SIZES", (3, 4, 5, 6, 64, 256))
    measured, measure = [], retrofitting.measure_background

    def counted(model, params, batches):
        found = measure(model, params, batches)
        measured.append(max(found.pools.values(), key=touched_share))
        return found

    monkeypatch.setattr(retrofitting, "measure_background", counted)
    whitened, whiten = [], retrofitting.whiten_queries
    monkeypatch.setattr(
        retrofitting, "whiten_queries", lambda *given: whitened.append(1) or whiten(*given)
    )
    given = dict(retrofit="add", memory_init="zero", heal_steps=0, keys_per_half=0, layers="0,1")
    after = made(**given)
    assert len(whitened) == 1, "the queries of all sizes are the same"
    sizes, shares = [each.accesses.size for each in measured], list(map(touched_share, measured))
    assert sizes[0] == 9 and sizes[-1] == after.config.memory.memory.slots == 256**2
    assert len(sizes) < 6, "what a smaller table tells of a larger one is not measured"
    assert min(shares[:-1]) > 0.1 >= shares[-1]
    told = f"table: 256² = 65,536 slots, of which a batch of text touches {shares[-1]:.1%}\n"
    assert told in capsys.readouterr().out
    of_that_size = made(**given | {"keys_per_half": 256})
    jax.tree.map(np.testing.assert_array_equal, explicit_all(after), explicit_all(of_that_size))
    monkeypatch.setattr(retrofitting, "SIZES", (3, 4))
    assert made(**given).config.memory.memory.slots == 16
    assert "few are rare, and no larger table is chosen by itself" in capsys.readouterr().out
    with pytest.raises(ValueError, match="--keys_per_half=0 fits the table to text, and there is"):
        retrofitting.retrofit_base(RetrofitConfig(retrofit="add"), base, None)


def test_distillation_heals_towards_the_removed_feed_forward(healed, capsys):
    base, made = healed
    by_text = made(retrofit="replace").params
    capsys.readouterr()
    distilled = made(retrofit="replace", heal_loss="distill")
    assert "healing: squared error" in capsys.readouterr().out
    assert distilled.params.keys() == by_text.keys(), "what was removed does not come back"
    assert "memory/pool_1/values" in moved(by_text, distilled.params)
    assert not moved(base.params, {p: distilled.params[p] for p in base.params if p in by_text})


def test_the_outline_is_that_of_what_is_made(plain_checkpoint):
    base = load_base(str(plain_checkpoint), "base")
    given = RetrofitConfig().with_values(**SMALL, retrofit="add")
    abstract_base = retrofitting.check_retrofit(given, base, has_text=False)
    made = retrofitting.retrofit_base(given, base, None)
    assert abstract_base.is_abstract and not made.is_abstract
    assert abstract_base.config == made.config
    assert {p: leaf.shape for p, leaf in abstract_base.params.items()} == {
        p: leaf.shape for p, leaf in made.params.items()
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(retrofit="none"), "--retrofit=none is unknown; choose add or replace"),
        (dict(base="nowhere"), "--base=nowhere: no such directory"),
        (dict(base=""), "--base=: no such directory; give"),
        (dict(dtype="float64"), "--dtype=float64 is unknown; choose from float32, bfloat16"),
        (dict(layers="2"), "--layers=2: layers .2. are outside .* 0 to 1"),
        (dict(reads=9), "--reads=9 per head exceed keys_per_half=8"),
        (dict(heal_steps=-1), "--heal_steps=-1: expected at least 0"),
        (dict(heal_steps=5), "--heal_steps=5 with --memory_init=zero: .* nothing to heal; give"),
        (
            dict(heal_steps=5, memory_init="normal"),
            "--heal_steps=5 needs text; give --heal_texts=FILE, or",
        ),
        (dict(heal_texts="no.txt"), "--heal_texts.*no.txt: no such file"),
        (dict(heal_texts="short.txt"), "--heal_texts=short.txt: .*give more text"),
        (dict(heal_loss="mse"), "--heal_loss=mse is unknown; choose from text, distill"),
        (
            dict(heal_loss="distill"),
            "--heal_loss=distill with --retrofit=add: .* give --retrofit=replace or --heal_loss=t",
        ),
        (
            dict(query_bias=False, heal_texts="short.txt"),
            "--whiten_queries with --noquery_bias: .* give --nowhiten_queries or --query_bias",
        ),
        (dict(heal_batch_size=0), "--heal_batch_size=0: expected at least 1"),
        (dict(heal_length=0), "--heal_length=0: expected at least 1"),
        (
            dict(heal_texts="short.txt", heal_length=4096),
            "--heal_length=4096 is more than the .* positions of the base; lower it",
        ),
        (
            dict(heal_texts="short.txt", heal_length=16, heal_tokens=10),
            "--heal_tokens=10 does not fill one window of --heal_length=16; raise it",
        ),
        (dict(heal_learning_rate=-1.0), "--heal_learning_rate=-1.0: expected a number above 0"),
        (dict(out=""), "--out is empty"),
    ],
)
def test_bad_input_is_refused_by_flag_before_any_compute(
    plain_checkpoint, tmp_path, monkeypatch, changes, message
):
    monkeypatch.chdir(tmp_path)
    Path("short.txt").write_text("Too short.")
    for module, name in (
        (retrofitting, "retrofit"),
        (retrofitting, "fit"),
        (retrofit, "save_base"),
    ):
        monkeypatch.setattr(module, name, None)
    given = {"base": plain_checkpoint, "out": tmp_path / "made", **changes}
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        retrofit.main(flags(**given))
    assert [path.name for path in tmp_path.iterdir()] == ["short.txt"]


def test_a_base_with_memories_is_refused_and_an_old_one_kept(tiny_base, tmp_path):
    with pytest.raises(ValueError, match="--retrofit=add: the base .* already; leave the flag out"):
        retrofit.main(flags(tiny_base, tmp_path / "made"))
    before = content(tiny_base)
    with pytest.raises(FileExistsError, match="--out=.* exists; choose"):
        retrofit.main(flags(tiny_base, tiny_base))
    with pytest.raises(ValueError, match="already"):
        retrofit.main(flags(tiny_base, tiny_base, overwrite=True))
    assert content(tiny_base) == before


def test_a_base_in_bits_is_counted_by_its_bytes(plain_checkpoint, monkeypatch):
    config = RetrofitConfig.of(**SMALL | {"retrofit": "add", "layers": "1"})
    whole = load_base(str(plain_checkpoint), "base")
    held = check_retrofit(config, base := whole.quantised("nf4"), False)
    there = {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": count_bytes(held.params)}
    monkeypatch.setattr("smf_jax.errors.os.sysconf", there.__getitem__)
    assert check_retrofit(config, base, False).config == held.config
    for too_large, of in ((config, whole), (config.sized(9), base)):
        with pytest.raises(ValueError, match="^--keys_per_half=[89] takes .* lower it"):
            check_retrofit(too_large, of, False)
