"""Suite ``tpu``: what needs no TPU compiler, and one program where there is one."""

from __future__ import annotations

from importlib.util import find_spec
from types import SimpleNamespace

import pytest

from benchmarks import tpu
from benchmarks.accelerator import accelerator_shape
from benchmarks.harness import Program, compile_for

TEXT = """
  %a = f32[8]{0} all-reduce(f32[8]{0} %x), replica_groups={}
  %b = (f32[8]{0}, f32[8]{0}) all-gather-start(f32[1]{0} %a), dimensions={0}
  %c = f32[8]{0} all-gather-done((f32[8]{0}, f32[8]{0}) %b)
  %d = f32[8]{0} all-reduce(f32[8]{0} %c), to_apply=%all-reduce.1
"""


def test_without_libtpu_the_remedy_is_told_and_collectives_are_counted_once(monkeypatch):
    monkeypatch.setattr(tpu, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"--suite=tpu: the package libtpu.*jax\[tpu\]"):
        tpu.prepare()
    compiled = SimpleNamespace(cost_analysis=dict, as_text=lambda: TEXT)
    told = tpu.told(Program(compiled, 0.0, {"arguments": 1}))
    assert told["collectives"] == {"all-reduce": 2, "all-gather": 1}


def test_the_memory_s_step_compiles_with_the_tokens_split(monkeypatch):
    if find_spec("libtpu") is None:
        pytest.skip('libtpu is not installed: pip install "jax[tpu]"')
    for name, value in tpu.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    tpu.prepare()
    with pytest.raises(ValueError, match="--topology=v99:2x4: .*such as v5e:2x4"):
        tpu.layouts("v99:2x4")
    found = tpu.layouts("v5e:2x4")
    splits = [f"8 chips, {what} split" for what in ("tokens", "rows", "columns")]
    assert [layout.name for layout in found] == ["one chip", *splits]
    shape = accelerator_shape(0.02)
    function, *given = tpu.programs(shape, 0.02, found[1])["smf memory step"]
    program = compile_for(function, *given, donate=(0,))
    told = tpu.told(program)
    assert told["collectives"]
    assert told["argument_bytes"] > shape.table_bytes
    assert program.memory["aliased"] >= shape.table_bytes
