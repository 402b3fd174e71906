"""The public names of the package."""

from __future__ import annotations

import inspect

import smf_jax


def test_the_front_door_shows_documented_names_in_order():
    names = smf_jax.__all__
    assert len(names) == len(set(names)) and all(hasattr(smf_jax, name) for name in names)
    for name in names:
        shown = getattr(smf_jax, name)
        if inspect.isfunction(shown) or inspect.isclass(shown):
            assert inspect.getdoc(shown), name


def test_nothing_private_stands_in_the_door():
    public = {name for name, value in vars(smf_jax).items() if not inspect.ismodule(value)}
    assert {name for name in public if not name.startswith("_")} | {"__version__"} == set(
        smf_jax.__all__
    )
