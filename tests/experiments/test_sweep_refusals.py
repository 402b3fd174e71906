"""What a sweep refuses: one clear error, before any compute, an old run at --out as it was."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from experiments import sweep
from smf_jax.continual.config import SweepConfig
from tests.tiny_sweep import content, write_lines

BAD = {
    "a budget of 0": (dict(slots="0"), "--slots=0: '0' .* 1 or more"),
    "a negative budget": (dict(slots="-3"), "--slots=-3: '-3' .* 1 or more"),
    "a budget above N": (dict(slots="16,257"), "--slots=257: .*256 slots; give budgets up to"),
    "no budget": (dict(slots="smf:"), "--slots=smf:: ''"),
    "a rule": (dict(rule="tf-idf"), "--rule=tf-idf: 'tf-idf' is not known; choose from tfidf"),
    "a method": (dict(methods="smf,sgd"), "--methods=smf,sgd: 'sgd' .*choose from smf, full"),
    "an optimizer": (dict(optimizer="best"), "--optimizer=best: .*choose from sgd"),
    "a granularity": (dict(granularity="daily"), "--granularity=daily: .*per_step"),
    "a rate": (dict(lr="full:0"), "--lr=full:0: '0' is not a learning rate"),
    "a rate of no number": (dict(lr="nan"), "--lr=nan: 'nan' is not a learning rate"),
    "a scope": (dict(lr="lorra:1e-3"), "--lr=lorra:1e-3: method 'lorra' is not known"),
    "a seed": (dict(seeds="-1"), "--seeds=-1: '-1' is not a seed"),
    "a share": (dict(shard="2/2"), "--shard=2/2: .*from 0 to n - 1"),
    "a schedule": (dict(schedule="linear"), "--schedule=linear is unknown; choose from constant"),
    "a warm-up": (dict(schedule="cosine", warmup_steps=6), "--warmup_steps=6 .*--steps_per_task=6"),
    "no tasks": (dict(tasks=0), "--tasks=0: expected at least 1"),
    "too many tasks": (dict(tasks=40), "changed_share=0.2 of 40 tasks .*lower"),
    "no steps": (dict(steps_per_task=0), "--steps_per_task=0: expected at least 1"),
    "no background batches": (dict(background_batches=0), "--background_batches=0: expected"),
    "a share of changed facts": (dict(changed_share=1.5), "--changed_share=1.5: expected 0 to 1"),
    "a replay share": (dict(replay_share=1.0), "--replay_share=1.0: expected a share"),
    "a clip": (dict(clip=-1.0), "--clip=-1.0: expected at least 0"),
    "a store": (dict(store_rows=-1), "--store_rows=-1: expected at least 0"),
    "a rank": (dict(lora_rank=33), "rank=33 does not fit layers_0/.*choose 1 to 32"),
    "a target": (dict(lora_targets="query,qkv"), "--lora_targets=.*'qkv'.*must name"),
    "what is kept": (
        dict(keep_checkpoints="best"),
        "--keep_checkpoints=best: expected all, last",
    ),
    "a retrofit": (dict(retrofit="insert"), "--retrofit=insert is unknown; choose from none, add"),
    "a second memory": (dict(retrofit="add"), "--retrofit=add: .*already; leave the flag out"),
    "a base": (dict(base="nowhere"), "--base=nowhere: no such directory; give"),
    "a stream": (dict(stream="no.jsonl"), "--stream=no.jsonl: no such file"),
    "a relation of the world": (dict(relation="P19"), "--relation=P19 picks .*--stream=FILE"),
    "a background": (dict(background="no.txt"), "--background=no.txt: no such file"),
    "a probe": (dict(probes="nq"), "--probes=nq: 'nq' should be NAME=FILE"),
    "a probe's file": (dict(probes="nq=no.jsonl"), "--probes=no.jsonl: no such file"),
    "a probe's kind": (
        dict(probes="nq=f2:a.jsonl"),
        "--probes=.*'f2' is unknown; .* f1, known, gsm8k",
    ),
    "a probe of nothing": (dict(probes="a="), "--probes=a=: 'a=' should be NAME=FILE"),
    "resume and overwrite": (dict(resume=True, overwrite=True), "--resume .*--overwrite .*one of"),
    "no directory": (dict(out="", overwrite=True), "--out names no directory"),
    "more steps than memory": (
        dict(steps_per_task=10**7, batch_size=10**6),
        r"^--steps_per_task=10000000, batch_size=1000000 takes [\d,]+ GiB, and this machine",
    ),
    "more background than memory": (
        dict(background_batches=10**7, background_batch_size=10**6),
        "^--background_batches=10000000, background_batch_size=1000000 takes .* GiB",
    ),
    "no micro-batches": (
        dict(granularity="smf:per_micro_batch"),
        "^--granularity='per_micro_batch' and micro_batches=1 .*give micro_batches=2",
    ),
    "less than no protection": (dict(protect_written=-1.0), "^--protect_written=-1.0 must not"),
    "layers of no retrofit": (dict(layers="one"), "^--layers=one: expected layer numbers"),
    "a profile in a file": (dict(profile=__file__), "^--profile=.*: .* is no directory that may"),
    "a user that is not": (dict(out="~nobody_here/a"), "^--out=~nobody_here/a: no such user"),
    "a set that does not exist": (dict(stream="tfds:trivai_qa:train"), "--stream.*trivia_qa"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_refused_by_name_before_any_compute(refused, what):
    changes, message = BAD[what]
    refused(message, **changes)


def test_flags_of_a_retrofit_that_is_not_asked_for_are_told_of(refused, capsys):
    refused("--slots=257", slots="257", alpha=0.5, heal_steps=7)
    assert "--alpha=0.5, --heal_steps=7: unused, as --retrofit=none" in capsys.readouterr().out


def test_every_error_is_told_in_one_line(refused):
    for what in ("a budget of 0", "a budget above N", "a rank", "a background", "a second memory"):
        changes, message = BAD[what]
        assert "\n" not in refused(message, **changes)


QUESTION = {"question": "Who made it?", "answers": ["A maker"], "relation": "P50"}
BAD_LINES = {
    "malformed": ('{"question": "Who', r"bad.jsonl, line 2: malformed JSON"),
    "empty": ("", r"bad.jsonl, line 2: empty; expected one JSON object"),
    "answerless": ({"question": "Who?", "answers": [" "]}, "line 2: the question has no answer"),
    "without an answer": ({"question": "Who?"}, "line 2: the question has no answer"),
    "a list that is none": (
        {"question": "Who?", "answer": "['A maker"},
        "line 2: 'answer': .* looks like",
    ),
    "a key twice": ('{"question": "Who?", "answer": "I", "answer": "you"}', "line 2: the key 'ans"),
    "without a question": ({"answers": ["A maker"]}, "line 2: no question: expected text"),
}


@pytest.mark.parametrize("what", BAD_LINES)
@pytest.mark.parametrize("flag", ["stream", "probes"])
def test_a_bad_line_is_named_by_flag_file_and_number(refused, tmp_path, flag, what):
    line, message = BAD_LINES[what]
    file = write_lines(tmp_path / "bad.jsonl", QUESTION, line, QUESTION)
    value = str(file) if flag == "stream" else f"mine={file}"
    told = refused(message, **{flag: value})
    assert told.startswith(f"--{flag}")
    assert "\n" not in told


def test_files_that_do_not_serve_are_refused(refused, tmp_path):
    good = write_lines(tmp_path / "good.jsonl", QUESTION)
    refused(
        "--stream --relation=P1: .*unknown relations .'P1'.; the file has P50",
        stream=str(good),
        relation="P1",
    )
    refused("--tasks=2 of facts_per_task=4 need 8 facts, .* has 1 ", stream=str(good))
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(b"\x1f\x8b\x08\x00\x00\x00")
    refused("--stream.*damaged or cut short", stream=str(cut))
    refused("--stream.*no questions", stream=str(write_lines(tmp_path / "none.jsonl")))
    long = QUESTION | {"question": "why " * 600}
    refused(
        "longest question takes .* leave out long",
        stream=str(
            write_lines(
                tmp_path / "l.jsonl",
                *[long | {"question": f"{n} {long['question']}"} for n in range(8)],
            )
        ),
    )
    text = write_lines(tmp_path / "text.jsonl", {"text": "A short text."})
    refused("--background=.*text.jsonl: .*give more text", background=str(text))
    refused("--background.*line 1: no text in the field 'text'", background=str(good))


def test_an_unprepared_set_is_refused_without_the_network(refused, tmp_path):
    told = refused(
        "not prepared in .*--download",
        stream="tfds:trivia_qa/rc:validation",
        data_dir=str(tmp_path),
    )
    assert told.startswith("--stream")
    told = refused(
        "not prepared in .*--download", background="tfds:lm1b:train", data_dir=str(tmp_path)
    )
    assert told.startswith("--background")


def test_checkpoints_that_do_not_serve_are_refused(refused, plain_checkpoint, tmp_path):
    def damaged(name: str) -> Path:
        return Path(shutil.copytree(plain_checkpoint, tmp_path / name))

    missing = damaged("missing")
    (missing / "model.safetensors").unlink()
    refused("--base=.*missing: .*lacks model.safetensors.*copy the missing", base=str(missing))
    cut = damaged("cut")
    whole = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    refused("--base=.*cut: .*truncated or damaged.*copy the file again", base=str(cut))
    misfit = damaged("misfit")
    values = json.loads((misfit / "config.json").read_text())
    (misfit / "config.json").write_text(json.dumps(values | {"intermediate_size": 24}))
    told = refused("do not fit its config.json", base=str(misfit))
    for layer in (0, 1):
        for name in ("gate", "up", "down"):
            assert f"model.layers.{layer}.mlp.{name}_proj.weight is " in told
    large = damaged("large")
    tokenizer = json.loads((large / "tokenizer.json").read_text())
    tokenizer["added_tokens"].append(
        tokenizer["added_tokens"][-1] | {"id": 999, "content": "<|x|>", "special": False}
    )
    tokenizer["model"]["vocab"]["<|x|>"] = 999
    (large / "tokenizer.json").write_text(json.dumps(tokenizer))
    refused("--base=.*1000 tokens, but the embedding has .* rows", base=str(large))
    refused("--dtype=float8 is unknown; choose from", base=str(plain_checkpoint), dtype="float8")
    neither = tmp_path / "neither"
    neither.mkdir()
    refused("--base=.* is neither a base .* nor a Hugging Face", base=str(neither))


def test_what_a_plain_checkpoint_lacks_is_said(refused, plain_checkpoint, tmp_path):
    questions = [QUESTION | {"question": f"Who made thing {n}?"} for n in range(8)]
    stream = write_lines(tmp_path / "stream.jsonl", *questions)
    texts = write_lines(tmp_path / "t.jsonl", *[{"text": f"Thing {n} stands."} for n in range(400)])
    plain = dict(base=str(plain_checkpoint), stream=str(stream), heal_steps=0)
    memory = plain | dict(retrofit="add", background=str(texts), keys_per_half=8, reads=3)
    refused("--stream=world: .*give a file", base=str(plain_checkpoint))
    refused(
        "no memory, which method smf trains; give --retrofit=add", **plain, rule="tf", methods="smf"
    )
    of = dict(retrofit="add", methods="smf", keys_per_half=8, reads=3)
    refused("--background is empty .* --rule=tf", **plain, **of)
    refused("replay mixes base data in", **plain, methods="full,replay")
    refused(
        "--heal_steps=5 needs text; give --background",
        **plain | dict(heal_steps=5, retrofit="add", memory_init="normal"),
        methods="smf",
        rule="tf",
    )
    refused("--reads=9 .*exceed keys_per_half=8.*k <= n", **memory | dict(reads=9))
    refused("--layers=0,2: layers .2. are outside .* 0 to 1", **memory, layers="0,2")
    refused("--layers=two: expected layer numbers", **memory, layers="two")
    refused("--memory_heads=0 must be at least 1", **memory, memory_heads=0)
    refused("--gate='tanh' is unknown; choose from", **memory, gate="tanh")
    refused("--slots=65: this memory has 64 slots", **memory, slots="16,65")


def test_a_directory_that_exists_is_not_touched(refused, old_run, tiny_base):
    refused(f"--out={old_run} exists; give --resume .*--overwrite", overwrite=False)
    before = content(tiny_base)
    for given in (dict(overwrite=True), dict(resume=True, overwrite=False)):
        refused("exists and is no run", out=str(tiny_base), **given)
        refused("exists and is no run", out=str(tiny_base / "tokenizer.json"), **given)
    assert content(tiny_base) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(stream="no.jsonl"), "--stream=no.jsonl: no such file"),
        (dict(slots="16385"), "--slots=16385: this memory has 16384 slots"),
        (dict(lora_rank=999), "rank=999 does not fit"),
    ],
    ids=["stream", "slots", "lora_rank"],
)
def test_no_base_is_made_before_the_rest_is_checked(tmp_path, no_compute, changes, message):
    cache = tmp_path / "cache"
    given = {"out": str(tmp_path / "run"), "base_cache": str(cache), "tasks": 2, **changes}
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        sweep.main(SweepConfig.of(**given), no_compute)
    assert not any(tmp_path.iterdir())
