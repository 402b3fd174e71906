"""Making bases: the recipe decides, nothing is left behind when it does not work."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from experiments import pretrain
from smf_jax.bases import pretraining
from smf_jax.bases.base import load_base
from smf_jax.bases.pretrain_config import PretrainConfig
from smf_jax.bases.pretraining import recipe_of
from smf_jax.data.batching import pack_texts
from smf_jax.data.world.world import make_world
from smf_jax.models.generate import generate, left_pad
from smf_jax.params import unflatten
from tests.tiny_sweep import TINY_BASE, content, on_devices, write_lines


def flags(out: Path | str = "unused", **changes) -> PretrainConfig:
    return PretrainConfig.of(**{**TINY_BASE, "out": str(out), **changes})


def test_a_base_is_what_its_outline_says(tiny_base):
    base, abstract_base = load_base(str(tiny_base), "base"), pretraining.abstract_base(flags())
    assert abstract_base.is_abstract
    assert abstract_base.config == base.config
    assert abstract_base.tokenizer_fingerprint() == base.tokenizer_fingerprint()
    assert {p: leaf.shape for p, leaf in abstract_base.params.items()} == {
        p: leaf.shape for p, leaf in base.params.items()
    }
    assert recipe_of(base) == recipe_of(abstract_base) == flags("")


def test_the_share_of_known_facts_is_that_of_greedy_answers(tiny_base):
    base = load_base(str(tiny_base), "base")
    known = make_world(flags().world_config()).known
    tokenizer = base.tokenizer
    answers = [
        (paraphrase.prompt, paraphrase.answer) for fact in known for paraphrase in fact.held_out
    ]
    prompts = [[tokenizer.bos, *tokenizer.encode(prompt)] for prompt, _ in answers]
    longest = max(len(tokenizer.encode(answer)) for _, answer in answers)
    tokens, valid = left_pad(prompts, pad=tokenizer.pad)
    given = generate(base.model, unflatten(base.params), tokens, valid, longest + 1)
    share = pretraining.known_share(base, make_world(flags().world_config()))
    said = [
        row[: row.index(tokenizer.eos)] if tokenizer.eos in row else [] for row in given.tolist()
    ]
    right = [
        ids == tokenizer.encode(answer) for ids, (_, answer) in zip(said, answers, strict=True)
    ]
    assert share == sum(right) / len(answers) > 0


def test_further_text_is_learned_from(tmp_path):
    texts = write_lines(tmp_path / "t.jsonl", *[{"text": "Zyzzyva qualms zyzzyva."}] * 200)
    abstract_base = pretraining.abstract_base(flags(texts=str(texts)))
    assert len(abstract_base.tokenizer.encode("zyzzyva")) < len(
        pretraining.abstract_base(flags()).tokenizer.encode("zyzzyva")
    )


def test_a_base_without_memory_can_be_made():
    assert pretraining.abstract_base(flags(memory_layers="")).config.memory is None
    shared = pretraining.abstract_base(
        flags(layers=2, memory_layers="0,1", shared_pool=True)
    ).config.memory
    assert shared is not None and (shared.layers, shared.pools) == ((0, 1), (0,))


def test_training_that_is_not_finite_leaves_nothing_behind(tmp_path, monkeypatch):
    def diverge(*_):
        raise FloatingPointError("step 3 of 40: loss or gradient is not finite")

    monkeypatch.setattr(pretraining, "fit", diverge)
    with on_devices(1), pytest.raises(FloatingPointError, match="step 3 of 40"):
        pretrain.main(flags(tmp_path / "base"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(out=""), "--out is empty; name the directory"),
        (dict(steps=0), "--steps=0: expected at least 1"),
        (dict(warmup_steps=40), "--warmup_steps=40 leaves no step of --steps=40"),
        (dict(query_bias=False), "--whiten_queries with --noquery_bias: .* --nowhiten_queries"),
        (dict(learning_rate=0.0), "--learning_rate=0.0: expected a number above 0"),
        (dict(learning_rate=float("nan")), "--learning_rate=nan"),
        (dict(prompt_loss_weight=-0.1), "--prompt_loss_weight=-0.1: expected at least 0"),
        (dict(batch_size=0), "--batch_size=0: expected at least 1"),
        (dict(vocabulary=99), "--vocabulary=99: .*at least 259"),
        (dict(heads=0), "--heads=0: expected at least 1"),
        (dict(heads=3), "--width=32 is not a multiple of twice --heads=3"),
        (dict(heads=32), "--width=32 is not a multiple of twice --heads=32"),
        (dict(memory_layers="1"), "--memory_layers=1: layers .1. are outside .*0 to 0"),
        (dict(memory_layers="0,0"), "--memory_layers=0,0 names a layer twice"),
        (dict(memory_layers="one"), "--memory_layers=one: expected layer numbers"),
        (dict(reads=17), "--reads=17 per head exceed keys_per_half=16"),
        (dict(max_positions=8), "--max_positions=8: the longest paraphrase takes"),
        (dict(known_facts=7), "--known_facts=7 with relations=4"),
        (dict(relations=999), "--relations=999"),
        (dict(texts="no.txt"), "--texts.*no.txt: no such file"),
    ],
)
def test_bad_input_is_refused_by_flag_before_any_compute(tmp_path, monkeypatch, changes, message):
    monkeypatch.setattr(pretraining, "init_params", None)
    monkeypatch.setattr(pretraining, "fit", None)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        pretrain.main(flags(**{"out": tmp_path / "base", **changes}))
    assert not list(tmp_path.iterdir())


def test_further_text_is_read_as_it_is_told(tmp_path, monkeypatch):
    texts = tmp_path / "t.jsonl"
    texts.write_text('{"content": "Someone lives in the town."}\n')
    with pytest.raises(ValueError, match="name the one to read with --text_field"):
        pretrain.main(flags(out=tmp_path / "base", texts=str(texts)))
    told = dict(out=tmp_path / "base", texts=str(texts), text_field="content")
    with pytest.raises(
        ValueError, match="--text_tokens=3 does not fill one window of .*; raise it"
    ):
        pretrain.main(flags(**told, text_tokens=3))
    monkeypatch.setattr(pretraining, "fit", lambda *_, **__: sys.exit("read"))
    monkeypatch.setattr(pretraining, "pack_texts", reading := Reading())
    with pytest.raises(SystemExit, match="read"):
        pretrain.main(flags(**told))
    assert "Someone lives in the town." in reading.texts


class Reading:
    """Packs texts, and keeps what they were."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, tokenizer, texts, *more):
        self.texts += (texts := list(texts))
        return pack_texts(tokenizer, texts * 9, *more)


def test_a_base_that_exists_is_replaced_only_when_asked(tiny_base, monkeypatch):
    monkeypatch.setattr(pretrain, "pretrain", None)
    before = content(tiny_base)
    with pytest.raises(FileExistsError, match="--out=.* exists; .*--overwrite"):
        pretrain.main(flags(tiny_base))
    with pytest.raises(FileExistsError, match="is no base, so --overwrite does not"):
        pretrain.main(flags(tiny_base.parent, overwrite=True))
    monkeypatch.undo()
    with pytest.raises(ValueError, match="--steps=0"):
        pretrain.main(flags(tiny_base, overwrite=True, steps=0))
    assert content(tiny_base) == before
