"""One call of `teach`: what its tasks left or undid is taught once more."""

from __future__ import annotations

import shutil

from smf_jax.taught.asking import TaughtModel
from smf_jax.taught.config import ForgetConfig
from smf_jax.taught.directory import TaughtDirectory
from smf_jax.taught.forgetting import forget
from tests.taught.test_forgetting import fingerprint_of
from tests.taught.test_teaching import of_lesson
from tests.taught.tiny import files, teach_tiny


def test_what_was_left_or_undone_is_taught_once_more_in_a_patch_of_its_own(taught, tmp_path):
    out = shutil.copytree(taught, tmp_path / "copy")
    teach_tiny(out, files(tmp_path)["more"], **of_lesson())
    without, known = fingerprint_of(out), TaughtDirectory(str(out)).read().current()
    forget(ForgetConfig((str(out), "more")))
    found = teach_tiny(out, files(tmp_path)["more"], **{**of_lesson(), "mend": True})
    names = [entry.name for entry in found.record.patches]
    assert names == ["facts_01", "facts_02", "more-2_01", "more-2_02"]
    (entry,) = found.record.patches[3:]
    assert set(entry.questions).isdisjoint(known) and len(entry.questions) >= 2
    # The patch stays as more facts are answered with it, of this lesson and of earlier ones.
    current = found.record.current()
    assert len(current) > len(known)
    model = TaughtModel(TaughtDirectory(str(out)))
    heard = model.answers.again(model.params, list(current.values()))
    assert all(said.right for each in heard for said in each)
    # Taken back, the model is that without it, and what it taught is forgotten.
    record, _ = forget(ForgetConfig((str(out), "more-2_02")))
    assert fingerprint_of(out) == without
    assert not {fact.question for fact in record.current().values()} & set(entry.questions)
