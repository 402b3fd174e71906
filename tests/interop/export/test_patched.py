"""An exported model with one patch more or less is the one that was exported so."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from smf_jax.checkpoints.manifest import fingerprint
from smf_jax.interop.export.card import CardFacts, model_card
from smf_jax.interop.export.model import export_model, load_exported
from smf_jax.interop.export.patched import add_patch, remove_patch
from smf_jax.params import flatten
from smf_jax.sparse.patch import Patch, apply_patch, make_patch, pool_change
from smf_jax.sparse.patch_sets import stack_patches
from tests.models.tiny import random_params, with_memory

FACTS = CardFacts(name="A model", origin="nowhere")
CONFIG = with_memory("add", (1,))
POOL = "memory/pool_1/values"


def teach(params, task: str, *slots: int, parent: str | None = None) -> tuple[dict, Patch]:
    """The params and the patch after a task that changed these slots."""
    old = np.asarray(params[POOL])[list(slots)]
    new = old + np.float32(len(task))
    change = pool_change(slots, old, new, len(params[POOL]))
    base = fingerprint(BASE)
    patch = make_patch({POOL: change}, task=task, base=base, parent=parent)
    return apply_patch(params, patch), patch


BASE = {path: np.asarray(leaf) for path, leaf in flatten(random_params(CONFIG)).items()}
STATE, FIRST = teach(BASE, "first", 1, 2)
STATE, SECOND = teach(STATE, "second!", 2, 3, parent=FIRST.fingerprint)
STATE, THIRD = teach(STATE, "third one", 7, parent=SECOND.fingerprint)
ALL = (FIRST, SECOND, THIRD)


def exported(path: Path, *patches: Patch) -> Path:
    export_model(path, CONFIG, BASE, patches, facts=FACTS)
    return path


def state_of(directory: Path) -> tuple:
    """All that tells of the model; files of patches by what is in them."""
    found = load_exported(directory)
    leaves = {path: np.asarray(leaf).tobytes() for path, leaf in found.params.items()}
    names = [patch.task for patch in found.patches], [p.fingerprint for p in found.patches]
    listed = json.loads((directory / "smf_jax.json").read_text())["metadata"]["patches"]
    here = {f"patches/{file.name}" for file in (directory / "patches").glob("*")}
    assert here == {entry["file"] for entry in listed}, "no file too many"
    return leaves, names, (directory / "README.md").read_text()


def test_patches_are_put_after_those_that_are_there(tmp_path):
    grown = exported(tmp_path / "grown", FIRST)
    for patch in (SECOND, THIRD):
        add_patch(grown, patch)
    assert state_of(grown) == state_of(exported(tmp_path / "whole", *ALL))
    stack_patches(load_exported(grown).patches)  # each continues the one before
    none = exported(tmp_path / "none")
    add_patch(none, FIRST)
    assert state_of(none) == state_of(exported(tmp_path / "one", FIRST))
    assert (none / "README.md").read_text() == model_card(CONFIG, BASE, [FIRST], FACTS)


def test_patches_are_taken_back_to_the_bit_in_any_order_that_their_slots_allow(tmp_path):
    model = exported(tmp_path / "all", *ALL)
    assert remove_patch(model, "second!").fingerprint == SECOND.fingerprint
    without = load_exported(model)
    expected = apply_patch(apply_patch(BASE, FIRST), THIRD)
    for path, leaf in expected.items():
        assert np.asarray(without.params[path]).tobytes() == leaf.tobytes()
    assert [patch.task for patch in without.patches] == ["first", "third one"]
    stack_patches(without.patches)
    third = without.patches[1].fingerprint
    remove_patch(model, third[:10])
    remove_patch(model, "first")
    assert state_of(model) == state_of(exported(tmp_path / "none"))


def test_what_was_made_beside_it_comes_after_it_where_rows_allow(tmp_path):
    _, beside = teach(BASE, "beside", 9)
    model = exported(tmp_path / "all", *ALL)
    add_patch(model, beside)
    assert load_exported(model).patches[-1].parent == THIRD.fingerprint
    remove_patch(model, "beside")
    assert state_of(model) == state_of(exported(tmp_path / "again", *ALL))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: add_patch(model, FIRST), "patch 'first' does not fit, its old rows"),
        (lambda model: remove_patch(model, "first"), "cannot be reverted: later patches .*second!"),
        (lambda model: remove_patch(model, "fourth"), "'fourth' names 0 of the patches .*'first'"),
        (lambda model: remove_patch(model, ""), "'' names 0 of the patches"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_the_model_as_it_was(tmp_path, change, message):
    model = exported(tmp_path / "all", *ALL)
    before = state_of(model)
    with pytest.raises(ValueError, match=message):
        change(model)
    assert state_of(model) == before


def test_a_patch_of_another_base_is_refused_by_its_fingerprint(tmp_path):
    change = FIRST.pools[POOL]
    other = make_patch({POOL: change}, task="other", base="0" * 64)
    with pytest.raises(ValueError, match="patch 'other' belongs to base 000000000000, this is"):
        add_patch(exported(tmp_path / "none"), other)


def test_what_people_wrote_into_the_card_stays(tmp_path):
    model = exported(tmp_path / "all", *ALL)
    card = model / "README.md"
    card.write_text(card.read_text() + "\nMind the gap.\n")
    remove_patch(model, "third one")
    assert card.read_text() == model_card(CONFIG, BASE, ALL[:2], FACTS) + "\nMind the gap.\n"
    text = card.read_text()
    card.write_text(text.replace("\n## Read it\n", "\n## Notes\n\nMine.\n\n## Read it\n"))
    add_patch(model, THIRD)
    assert "\n## Notes\n\nMine.\n\n## Read it\n" in card.read_text()
    assert "| third one |" in card.read_text().partition("## Notes")[0]
    remove_patch(model, "third one")
    assert card.read_text().replace("## Notes\n\nMine.\n\n", "") == text
    card.write_text("Mine alone.\n")
    add_patch(model, THIRD)
    assert card.read_text() == "Mine alone.\n"
    card.unlink()
    remove_patch(model, "third one")
    assert not card.exists()


def test_a_card_that_is_no_text_is_told_of_before_anything_is_written(tmp_path):
    model = exported(tmp_path / "all", FIRST)
    (model / "README.md").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match="README.md: no text in UTF-8"):
        add_patch(model, SECOND)
    assert [patch.task for patch in load_exported(model).patches] == ["first"]
    with pytest.raises(FileNotFoundError, match="is no exported model"):
        add_patch(tmp_path, SECOND)


def test_what_a_kill_left_is_gone_with_the_next_change(tmp_path, monkeypatch):
    model = exported(tmp_path / "all", FIRST)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("smf_jax.interop.export.patched.write_text", killed)
        with pytest.raises(KeyboardInterrupt):
            add_patch(model, SECOND)
    assert len(list((model / "patches").iterdir())) == 2
    assert [patch.task for patch in load_exported(model).patches] == ["first"]
    add_patch(model, SECOND)
    state_of(model)  # which looks for files too many
    assert not list(tmp_path.glob(".*.lock"))
