"""A taught model as an exported directory."""

from __future__ import annotations

import numpy as np
import pytest

from smf_jax.interop.export.model import load_exported
from smf_jax.tables import explicit
from smf_jax.taught.asking import TaughtModel
from smf_jax.taught.config import ExportConfig
from smf_jax.taught.directory import TaughtDirectory
from smf_jax.taught.exporting import export


def same_bits(one, other) -> bool:
    return np.asarray(explicit(one)).tobytes() == np.asarray(explicit(other)).tobytes()


@pytest.mark.parametrize("stack", [False, True])
def test_what_is_exported_is_read_back_to_the_bit(taught, tmp_path, stack):
    out = tmp_path / "out"
    record, count = export(ExportConfig((str(taught),), str(out), stack, licence="mit"))
    assert count == (1 if stack else len(record.patches))
    found, model = load_exported(out), TaughtModel(TaughtDirectory(str(taught)))
    assert [patch.task for patch in found.patches] == (
        ["+".join(patch.task for patch in model.patches)]
        if stack
        else [patch.task for patch in model.patches]
    )
    assert found.params.keys() == model.params.keys()
    for path, leaf in model.params.items():
        assert same_bits(found.params[path], leaf), path
    card = (out / "README.md").read_text()
    assert 'license: "mit"' in card and "facts, from" in card


def test_what_does_not_fit_is_refused(taught, tmp_path):
    with pytest.raises(ValueError, match="--out is empty"):
        export(ExportConfig((str(taught),)))
    with pytest.raises(ValueError, match="expected DIR: smf export"):
        export(ExportConfig((), str(tmp_path / "out")))
    with pytest.raises(FileNotFoundError, match="no such directory"):
        export(ExportConfig((str(tmp_path / "nothing"),), str(tmp_path / "out")))
    with pytest.raises(FileExistsError, match="--out=.* exists"):
        export(ExportConfig((str(taught),), str(tmp_path)))
    assert not list(tmp_path.iterdir())
