"""Suite ``tpu``: what needs no TPU compiler, and one program where there is one."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from benchmarks import tpu
from benchmarks.harness import ProgramMemory
from benchmarks.results import Measurement
from tests.benchmarks.tiny import report

TEXT = """
  %a = f32[8]{0} all-reduce(f32[8]{0} %x), replica_groups={}
  %b = (f32[8]{0}, f32[8]{0}) all-gather-start(f32[1]{0} %a), dimensions={0}
  %c = f32[8]{0} all-gather-done((f32[8]{0}, f32[8]{0}) %b)
  %d = f32[8]{0} all-reduce(f32[8]{0} %c), to_apply=%all-reduce.1
  ROOT %e = f32[8]{0} add(f32[8]{0} %d, f32[8]{0} %c)
"""


@pytest.fixture
def compiler(monkeypatch):
    """The TPU compiler, in an environment that is put back afterwards."""
    if find_spec("libtpu") is None:
        pytest.skip('libtpu is not installed: pip install "jax[tpu]"')
    for name, value in tpu._ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    tpu.prepare()


def test_without_libtpu_the_remedy_is_told(monkeypatch):
    monkeypatch.setattr(tpu, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"--suite=tpu: the package libtpu.*jax\[tpu\]"):
        tpu.prepare()


def test_collectives_are_counted_once_each():
    assert tpu.collectives(TEXT) == {"all-reduce": 2, "all-gather": 1}
    assert tpu.collectives("ROOT %e = f32[8]{0} add(%d, %c)") == {}


def test_temporaries_of_the_read_and_of_the_step_are_bounded():
    told = report()
    for name, temporaries in (("read", 64e6), ("smf memory step", 65e6), ("smf train step", 9e9)):
        memory = ProgramMemory(0, 0, 0, int(temporaries))
        setting = {"table_slots": 4, "layout": "8 chips, tokens split"}
        told.add(Measurement("tpu", name, setting, memory=memory))
    tpu.check_tpu(told)
    assert {check.name: check.holds for check in told.checks} == {
        "tpu_read_temporaries_8_chips_tokens_split": True,
        "tpu_smf_memory_step_temporaries_8_chips_tokens_split": False,
    }


@pytest.mark.parametrize("topology", ["v99:2x4", "nonsense"])
def test_a_topology_that_does_not_exist_is_named(compiler, topology):
    with pytest.raises(ValueError, match=f"--topology={topology}: .*such as v5e:2x4"):
        tpu.layouts(topology)


def test_layouts_are_one_chip_and_all_of_them_split_three_ways(compiler):
    names = [layout.name for layout in tpu.layouts("v5e:2x4")]
    splits = [f"8 chips, {what} split" for what in ("tokens", "rows", "columns")]
    assert names == ["one chip", *splits]


def test_the_memory_s_step_compiles_with_the_tokens_split(compiler):
    shape, layout = tpu.tpu_shape(0.02), tpu.layouts("v5e:2x4")[1]
    programs = dict(tpu.programs(shape, 0.02, layout))
    assert list(programs) == ["read", "smf memory step", "smf train step"]
    told = tpu.told(program := programs["smf memory step"]())
    assert told["collectives"]
    assert told["argument_bytes"] > shape.table_bytes
    assert program.memory.aliased >= shape.table_bytes
