"""Suites ``train`` and ``generate`` at tiny sizes."""

from __future__ import annotations

from benchmarks import generate, train
from benchmarks.models import LORA, SMF
from benchmarks.train import BUILT_IN, NINE_MILLION
from tests.benchmarks.tiny import flags, names_of, report
from tests.tiny_sweep import quick_compilation


def test_sizes_and_methods_are_timed_on_both_models(monkeypatch):
    monkeypatch.setattr(train, "_COMPARED_SLOTS", {BUILT_IN: 64})
    told = report()
    with quick_compilation():
        train.run(flags(table_slots="256"), told, names=(SMF, LORA))
    found = [
        (row["name"], row["setting"]["model"], row["setting"]["table_slots"])
        for row in told.measurements
    ]
    assert found == [
        (SMF, NINE_MILLION, 256),
        (f"{SMF}, beside the others", BUILT_IN, 64),
        (LORA, BUILT_IN, 64),
    ]
    told.check("train")
    assert [check["name"] for check in told.checks] == ["train_smf_over_lora_built_in"]


def test_decoding_is_timed_with_memories_and_with_none():
    told = report()
    with quick_compilation():
        generate.run(flags(table_slots="256"), told)
    assert names_of(told) == ["generate 16 tokens", "generate 16 tokens, no memory"]
    with_memory, without = told.measurements
    assert with_memory["bytes"] > without["bytes"] > 0
