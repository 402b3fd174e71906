"""One call of `teach`: what its tasks left or undid is taught once more."""

from __future__ import annotations

import shutil

from smf_jax.taught.asking import TaughtModel
from smf_jax.taught.checks import Checked
from smf_jax.taught.config import ForgetConfig
from smf_jax.taught.directory import TaughtDirectory
from smf_jax.taught.forgetting import forget
from tests.taught.test_forgetting import fingerprint_of
from tests.taught.test_teaching import of_lesson
from tests.taught.tiny import FACTS, files, teach_tiny


def test_what_was_left_or_undone_is_taught_once_more_in_a_patch_of_its_own(taught, tmp_path):
    out = shutil.copytree(taught, tmp_path / "copy")
    without, known = fingerprint_of(out), TaughtDirectory(str(out)).read().current()
    forget(ForgetConfig((str(out), "facts")))
    found = teach_tiny(out, files(tmp_path)["facts"], **{**of_lesson(), "mend": True})
    names = [entry.name for entry in found.record.patches]
    assert names == ["facts-2_01", "facts-2_02", "facts-2_03"]
    entry, current = found.record.patches[2], found.record.current()
    # All but what was known by then: one was undone by the second task, two were not learned.
    asked = {fact["question"] for fact in FACTS}
    assert set(entry.questions) == asked - set(entry.beside) and len(entry.beside) == 1
    # The patch stays as more facts are answered with it.
    assert len(current) == 2 > len(known)
    model = TaughtModel(TaughtDirectory(str(out)))
    heard = model.answers.again(model.params, list(current.values()))
    assert all(said.right for each in heard for said in each)
    # Taken back, the model is that without it, and what it taught is forgotten.
    record, _ = forget(ForgetConfig((str(out), "facts-2_03")))
    assert fingerprint_of(out) == without
    assert not {fact.question for fact in record.current().values()} & set(entry.questions)


def test_once_more_is_not_kept_where_it_does_not_help(taught, tmp_path, capsys):
    out = shutil.copytree(taught, tmp_path / "copy")
    found = teach_tiny(out, files(tmp_path)["more"], **{**of_lesson(), "mend": True})
    assert "so the patch is not kept" in "".join(capsys.readouterr())
    assert [entry.name for entry in found.record.patches] == ["facts_01", "facts_02", "more_01"]
    kept = {path.name for path in (out / "patches").iterdir()}
    assert kept == {entry.file.rpartition("/")[2] for entry in found.record.patches}
    # What was measured in the end is the model without it.
    assert found.lesson is not None and found.lesson.after is not None
    model = TaughtModel(found.directory)
    checked = Checked(found.directory, model.base, found.record)
    assert checked.of(model.answers, model.params).text_loss == found.lesson.after.text_loss
