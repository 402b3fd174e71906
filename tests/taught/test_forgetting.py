"""Taking patches back: every bit, in any order that leaves later ones whole."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest

from smf_jax.interop.export.patches import save_patch
from smf_jax.sparse.patch import make_patch, pool_change
from smf_jax.tables import explicit
from smf_jax.taught.asking import TaughtModel, ask
from smf_jax.taught.config import AskConfig, ForgetConfig
from smf_jax.taught.directory import TaughtDirectory
from smf_jax.taught.forgetting import forget, forget_fact
from tests.taught.test_teaching import of_lesson
from tests.taught.tiny import FACTS, files, teach_tiny
from tests.tiny_sweep import content, on_devices


@pytest.fixture
def model(taught, tmp_path):
    return shutil.copytree(taught, tmp_path / "model")


def do(*arguments: object):
    return forget(ForgetConfig(tuple(map(str, arguments))))


def fingerprint_of(path) -> str:
    found = TaughtModel(TaughtDirectory(str(path)))
    return replace(found.base, params=found.params).fingerprint()


def test_all_patches_taken_back_leave_the_base_to_the_bit(model):
    before = content(model / "base")
    base = TaughtDirectory(str(model)).load_base().fingerprint()
    assert fingerprint_of(model) != base
    record, gone = do(model, "facts")
    assert [entry.name for entry in gone] == ["facts_01", "facts_02"] and not record.patches
    assert fingerprint_of(model) == base
    assert content(model / "base") == before and not content(model / "patches")
    assert {fact.status for fact in record.lessons[0].facts} == {"forgotten"}


def test_the_last_patch_taken_back_leaves_the_model_before_it(model, tmp_path):
    before = fingerprint_of(model)
    teach_tiny(model, files(tmp_path)["more"], **of_lesson())
    assert fingerprint_of(model) != before
    do(model, "more_01")
    assert fingerprint_of(model) == before


def test_what_a_forgotten_patch_had_undone_is_answered_again(model):
    asked = AskConfig(arguments=(str(model), FACTS[0]["question"]), max_tokens=4)
    with on_devices(1):
        assert ask(asked)[0].said != "Maker"
        do(model, "facts_02")
        assert ask(asked)[0].said == "Maker"


def test_what_was_forgotten_can_be_taught_again(model, tmp_path):
    do(model, "facts")
    found = teach_tiny(model, files(tmp_path)["facts"], **of_lesson())
    assert found.lesson is not None and found.lesson.name == "facts-2"
    assert [entry.name for entry in found.record.patches] == ["facts-2_01", "facts-2_02"]


def test_a_patch_whose_rows_were_written_over_is_refused(model):
    before = content(model)
    with pytest.raises(ValueError, match=r"(?s)facts_01 cannot be.*facts_02 was taught later.*"):
        do(model, "facts_01")
    assert content(model) == before
    with pytest.raises(ValueError, match="PATCH=task_7: no such patch.*facts_01, facts_02"):
        do(model, "task_7")
    with pytest.raises(FileNotFoundError, match="no such directory"):
        do(model.with_name("nothing"), "facts_01")
    with pytest.raises(ValueError, match="expected DIR and PATCH"):
        do(model)
    assert content(model) == before


def test_a_patch_in_the_middle_goes_where_later_ones_changed_other_rows(model):
    directory = TaughtDirectory(str(model))
    record, patches = directory.read(), directory.load_patches(directory.read())
    (pool,) = patches[0].pools
    used = np.concatenate([patch.pools[pool].slots for patch in patches])
    free = np.setdiff1d(np.arange(patches[0].pools[pool].table_slots), used)[:2]
    old = np.zeros((2, patches[0].pools[pool].old.shape[1]), np.float32)
    change = pool_change(free, old, old + 1, patches[0].pools[pool].table_slots)
    told, parent = patches[0].base, patches[1].fingerprint
    other = make_patch({pool: change}, task="other_01", base=told, parent=parent)
    entry = replace(record.patches[1], name="other_01", rows=2, **directory.save_patch(2, other))
    directory.write(replace(record, patches=(*record.patches, entry)))
    left, _ = do(model, "facts_02")
    assert [entry.name for entry in left.patches] == ["facts_01", "other_01"]
    found = TaughtModel(directory)
    assert found.patches[1].parent == found.patches[0].fingerprint
    assert np.asarray(found.params[pool][free]).tobytes() == (old + 1).tobytes()


def test_a_patch_of_another_model_is_refused(model):
    directory = TaughtDirectory(str(model))
    record = directory.read()
    (patch, *_) = directory.load_patches(record)
    stranger = replace(patch, base="0" * 64)
    save_patch(model / record.patches[0].file, stranger)
    with pytest.raises(ValueError, match="is a patch of base 000000000000"):
        do(model, "facts_02")


def test_a_record_that_was_changed_is_refused(model):
    file = model / "taught.json"
    file.write_text(file.read_text().replace("Maker", "Baker"))
    with pytest.raises(ValueError, match="changed since it was written"):
        do(model, "facts_02")
    file.write_text("{}")
    with pytest.raises(ValueError, match="expected a taught model"):
        do(model, "facts_02")


def test_one_fact_goes_and_every_other_row_stays(model):
    fact = FACTS[2]
    was = TaughtModel(TaughtDirectory(str(model)))
    with on_devices(1):
        record, found = forget_fact(ForgetConfig((str(model),), fact=fact["question"]))
        assert (
            ask(AskConfig(arguments=(str(model), fact["question"]), max_tokens=4))[0].said
            != (fact["answer"])
        )
    assert found.fact.status == "forgotten" and found.rows > 0
    assert [each.status for each in record.lessons[0].facts][2] == "forgotten"
    now = TaughtModel(TaughtDirectory(str(model)))
    (pool,) = was.patches[0].pools
    # What differs is as many rows of its patch, which are as they were before that patch.
    table, before = explicit(now.params[pool]), explicit(was.params[pool])
    changed = np.flatnonzero((table != before).any(axis=1))
    second = was.patches[1].pools[pool]
    assert changed.size == found.rows and np.isin(changed, second.slots).all()
    old = second.old[np.searchsorted(second.slots, changed)]
    assert table[changed].tobytes() == old.tobytes()
    assert now.patches[0].fingerprint == was.patches[0].fingerprint
    assert record.patches[1].rows == was.patches[1].rows - found.rows
    # The rest of the patch can be taken back still.
    do(model, "facts_02")
    assert fingerprint_of(model) != was.base.fingerprint()


def test_a_fact_that_is_none_is_refused(model):
    before = content(model)
    with pytest.raises(ValueError, match="--fact=Who is it.*expected one"):
        forget_fact(ForgetConfig((str(model),), fact="Who is it"))
    with pytest.raises(ValueError, match="expected DIR alone"):
        forget_fact(ForgetConfig((str(model), "facts_01"), fact="5 5"))
    assert content(model) == before
