"""Grid files: what they cross, zip and change one at a time, and what they may not say."""

from __future__ import annotations

from pathlib import Path

import pytest

from smf_jax.continual.ablation import read_ablation
from smf_jax.continual.config import SweepConfig
from smf_jax.continual.grid import grid

SHIPPED = Path(__file__).resolve().parents[2] / "experiments" / "ablations"


def cells_of(tmp_path, text: str):
    (tmp_path / "grid.toml").write_text(text)
    return read_ablation(tmp_path / "grid.toml").cells(SweepConfig())


def test_every_value_meets_every_other_and_zipped_ones_go_together(tmp_path):
    cells = cells_of(
        tmp_path,
        """
        [settings]
        tasks = 3
        [cross]
        training.steps_per_task = [5, 6]
        rule = ["tf", "tfidf"]
        [[zip]]
        slots = [16, "64,512"]
        heal_learning_rate = [1, 0.5]
        """,
    )
    found = [tuple(cell.changes.values()) for cell in cells]
    assert found == [
        (steps, rule, *pair)
        for steps in (5, 6)
        for rule in ("tf", "tfidf")
        for pair in (("16", 1.0), ("64,512", 0.5))
    ]
    last = cells[-1].config
    assert (last.stream.tasks, last.training.steps_per_task) == (3, 6)
    assert (last.grid.rule, last.grid.slots) == ("tfidf", "64,512")
    assert last.retrofit.heal_learning_rate == 0.5
    assert cells[0].name == "steps_per_task5-ruletf-slots16-heal_learning_rate1.0"
    assert cells[-1].name == "steps_per_task6-ruletfidf-slots64_512-heal_learning_rate0.5"


def test_a_chain_changes_one_setting_at_a_time_beside_the_rest(tmp_path):
    chain = "[chain]\nbatch_size = [2, 4]\npack = [true]\n"
    cells = cells_of(tmp_path, chain)
    assert [cell.name for cell in cells] == ["unchanged", "batch_size2", "batch_size4", "packTrue"]
    assert [cell.config.training.batch_size for cell in cells] == [40, 2, 4, 40]
    assert [cell.config.training.pack for cell in cells] == [False, False, False, True]
    both = cells_of(tmp_path, '[cross]\nrule = ["tf"]\n' + chain)
    names = ["unchanged", "ruletf", "batch_size2", "batch_size4", "packTrue"]
    assert [cell.name for cell in both] == names
    assert [cell.config.grid.rule for cell in both] == ["", "tf", "", "", ""]


def test_a_setting_of_a_method_is_told_by_its_path(tmp_path):
    (one, two) = cells_of(tmp_path, "[cross]\nmethods.smf.max_df = [0.1, 1]\n")
    assert (one.config.own("smf").max_df, two.config.own("smf").max_df) == (0.1, 1.0)


REFUSED = {
    "no TOML: ": "[cross",
    "'crosses' is no part; expected preset, scale, settings": "[crosses]\nbatch_size = [1]",
    "nothing is varied; give an axis": "[settings]\ntasks = 1",
    "--batch_sizes is no flag of SweepConfig; did you mean --batch_size?": (
        "[cross]\nbatch_sizes = [1]"
    ),
    "cross: stream.batch_size is no setting; did you mean training.batch_size?": (
        "[cross]\nstream.batch_size = [1]"
    ),
    "cross: retrofit.base is no setting; did you mean base.base?": "[cross]\nretrofit.base = [1]",
    "cross: training.probe_limit is no setting; did you mean probes.probe_limit?": (
        "[cross]\ntraining.probe_limit = [3]"
    ),
    "cross: batch_size=3: expected a list of values": "[cross]\nbatch_size = 3",
    "cross: batch_size=[]: expected a list of values": "[cross]\nbatch_size = []",
    "batch_size='3': expected int": '[cross]\nbatch_size = ["3"]',
    "batch_size=True: expected int": "[cross]\nbatch_size = [true]",
    "pack=1: expected bool": "[settings]\npack = 1\n[cross]\nbatch_size = [1]",
    "lr=[1]: expected str": "[chain]\nlr = [[1]]",
    "0: expected float": "[cross]\nclip = [1" + 400 * "0" + "]",
    "zip: values go together, but there are {'batch_size': 2, 'memory_heads': 1}": (
        "[[zip]]\nbatch_size = [1, 2]\nmemory_heads = [3]"
    ),
    "zip: a group is empty": "[cross]\nbatch_size = [1]\n[[zip]]",
    "batch_size is crossed or zipped twice": (
        "[cross]\nbatch_size = [1]\n[[zip]]\nbatch_size = [2]"
    ),
    "cross: batch_size is given twice": ("[cross]\nbatch_size = [1]\ntraining.batch_size = [2]"),
    "would both be named methodssmf": '[cross]\nmethods = ["smf,lora", "smf/lora"]',
    "cross: out is not varied": '[cross]\nout = ["a"]',
    "cross: tasks is not varied": "[cross]\ntasks = [1, 2]",
    "preset=3: expected text": "preset = 3\n[cross]\nbatch_size = [1]",
    "settings=3: expected a table of settings": "settings = 3\n[cross]\nbatch_size = [1]",
    "--batch_size=0: expected at least 1": "[cross]\nbatch_size = [0]",
}


def test_a_long_name_is_cut_and_stays_its_own(tmp_path):
    probes = [f"{'a' * 300}{end}=text:x" for end in "bc"]
    cells = cells_of(tmp_path, f"[cross]\nprobes = {probes!r}\n")
    assert len({cell.name for cell in cells}) == 2
    assert all(len(cell.name) < 140 for cell in cells)


@pytest.mark.parametrize("message", REFUSED)
def test_what_a_file_may_not_say_is_refused_by_name(tmp_path, message):
    with pytest.raises(ValueError) as error:
        cells_of(tmp_path, REFUSED[message])
    assert message in str(error.value)


@pytest.mark.parametrize("file", sorted(SHIPPED.glob("*.toml")), ids=lambda path: path.stem)
def test_the_grids_that_come_with_the_package_are_whole(file):
    cells = read_ablation(file).cells(SweepConfig())
    assert len(cells) > 2 and len({cell.name for cell in cells}) == len(cells)
    for cell in cells:
        assert grid(cell.config.grid, cell.config.own)
