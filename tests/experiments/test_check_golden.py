"""The command that checks golden vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from experiments.check_golden import CheckGoldenConfig, main

FILE = Path(__file__).parents[1] / "golden_memories" / "qk_norm.npz"


def test_what_differs_is_told_and_decides_the_exit(tmp_path, capsys):
    assert main(CheckGoldenConfig((str(FILE),))) == 0
    assert "DIFFERS" not in capsys.readouterr().out
    with np.load(FILE) as file:
        arrays = {name: file[name] for name in file.files}
    spoilt = tmp_path / "spoilt.npz"
    np.savez(spoilt, **{**arrays, "grad_keys": arrays["grad_keys"] * (1 + 1e-5)})
    assert main(CheckGoldenConfig((str(FILE), str(spoilt)))) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if "DIFFERS" in line]
    assert len(lines) == 1 and "grad keys" in lines[0]


def test_files_that_cannot_be_checked_are_named(tmp_path):
    with pytest.raises(ValueError, match="name the files"):
        main(CheckGoldenConfig())
    with pytest.raises(FileNotFoundError, match=r"none\.npz: no such file"):
        main(CheckGoldenConfig(("none.npz",)))
    odd = tmp_path / "odd.npz"
    np.savez(odd, x=np.zeros((1, 2, 3)))
    with pytest.raises(ValueError, match=r"odd\.npz: no keys among the arrays \['x'\]"):
        main(CheckGoldenConfig((str(odd),)))
