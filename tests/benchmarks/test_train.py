"""Suite ``train`` at tiny sizes."""

from __future__ import annotations

from benchmarks import train
from benchmarks.harness import Timing
from benchmarks.methods import LORA, SMF
from benchmarks.results import Measurement
from benchmarks.train import BUILT_IN, NINE_MILLION, check_train
from tests.benchmarks.tiny import flags, report
from tests.tiny_sweep import quick_compilation


def test_sizes_and_methods_are_timed_on_both_models(monkeypatch):
    monkeypatch.setattr(train, "_COMPARED_SLOTS", {BUILT_IN: 64})
    told = report()
    with quick_compilation():
        train.run(flags(table_slots="256"), told, names=(SMF, LORA))
    found = [(m.name, m.setting["model"], m.setting["table_slots"]) for m in told.measurements]
    assert found == [
        (SMF, NINE_MILLION, 256),
        (f"{SMF}, beside the others", BUILT_IN, 64),
        (LORA, BUILT_IN, 64),
    ]
    assert all(each.cost.operations > 0 for each in told.measurements)
    assert [check.name for check in told.checks] == ["train_smf_over_lora_built_in"]


def test_growth_is_of_the_larger_model_and_lora_of_the_built_in_one():
    told = report()
    for name, model, slots, seconds in (
        (SMF, NINE_MILLION, train.SMALLEST, 1.0),
        (SMF, NINE_MILLION, train.LARGEST, 1.2),
        (f"{SMF}, beside the others", BUILT_IN, train.SMALLEST, 0.08),
        (LORA, NINE_MILLION, 65_536, 0.01),
        (LORA, BUILT_IN, train.SMALLEST, 0.1),
    ):
        setting = {"model": model, "table_slots": slots}
        told.add(Measurement("train", name, setting, Timing((seconds,))))
    check_train(told)
    assert {check.name: (round(check.value, 6), check.bound) for check in told.checks} == {
        "train_growth_16384_to_4194304": (1.2, 1.3),
        "train_smf_over_lora_built_in": (0.8, 1.0),
    }


def test_methods_that_need_too_much_memory_are_left_out(monkeypatch):
    monkeypatch.setattr(
        train, "fits", lambda report, field, what, program: report.skip(what, "too much")
    )
    monkeypatch.setattr(train, "compile_for", lambda *_, **__: None)
    told = report()
    field = train.Field()
    train._enter(field, flags(), told, BUILT_IN, 64, SMF)
    assert field.calls() == []
    assert told.skipped[0]["what"] == "train, smf, built-in base at 64 table slots"
