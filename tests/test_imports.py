"""The import tree: no cycles, no Flax in what is pure, and tests that mirror the modules."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PURE = ("smf_jax.shapes", "smf_jax.memory.product_keys", "smf_jax.memory.reading", "smf_jax.sparse")
FLAX_OR_ABOVE = ("flax", "smf_jax.models", "smf_jax.training", "smf_jax.memory.layer")
# Every room with the rooms that it may import, itself aside: a tree that is read downwards.
GROUND = (
    *("shapes", "version", "errors", "configuration", "interrupts", "progress"),
    *("params", "losses", "sharding", "cpu_kernels", "typed_json", "tables", "hashing"),
    *("mesh", "split_tables", "processes", "last_words"),
)
BELOW_BASES = (
    *("checkpoints", "data", "memory", "sparse", "models", "training", "evaluation", "interop"),
)
ROOMS = {
    "paths": (),
    **dict.fromkeys(GROUND, ("paths",)),
    "hashing": (),
    "mesh": (),
    "split_tables": ("shapes", "mesh"),
    "last_words": (),
    "processes": ("interrupts", "last_words"),
    "sharding": ("mesh", "split_tables", "processes", "tables"),
    "tables": ("shapes", "split_tables", "processes"),
    "params": ("paths", "tables"),
    "progress": ("interrupts", "processes"),
    "checkpoints": ("paths", "interrupts", "progress", "processes"),
    "data": ("paths", "errors", "typed_json"),
    "memory": (
        *("shapes", "configuration", "cpu_kernels", "tables", "hashing"),
        *("mesh", "split_tables"),
    ),
    "sparse": (
        *("shapes", "params", "cpu_kernels", "checkpoints", "typed_json", "tables", "hashing"),
        *("mesh", "split_tables"),
    ),
    "models": ("params", "data", "memory"),
    "training": (*GROUND, "checkpoints", "data", "memory", "sparse", "models"),
    "evaluation": ("paths", *GROUND, "data", "models"),
    "interop": (
        *("paths", "params", "typed_json", "tables"),
        *("checkpoints", "data", "memory", "sparse", "models"),
    ),
    "bases": (*("paths", *GROUND), *BELOW_BASES),
    "continual": (*("paths", *GROUND), *BELOW_BASES, "bases"),
    "taught": (*("paths", *GROUND), *BELOW_BASES, "bases", "continual"),
    # The command line: the shell, and the verbs of `smf`.
    "command": ("paths", "errors", "configuration", "interrupts", "checkpoints", "processes"),
    "serving": (*("paths", *GROUND), *BELOW_BASES, "bases", "continual", "taught"),
    "__main__": ("progress", "command", "taught", "serving"),
}


@cache
def modules() -> dict[str, Path]:
    """Every module of the library and of the experiments, packages under their own name."""
    found = {}
    for package in ("smf_jax", "experiments", "benchmarks", "examples"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


@cache
def imports(module: str) -> frozenset[str]:
    """What a module imports, anywhere in it: modules of this repository, and names of others."""
    names = set()
    for node in ast.walk(ast.parse(modules()[module].read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively: {node.module}"
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= (submodules & modules().keys()) or {node.module}
    return frozenset(names)


def reached(module: str) -> set[str]:
    """Everything that a module imports, through others too."""
    seen, waiting = set(), [module]
    while waiting:
        for name in imports(waiting.pop()) - seen:
            seen.add(name)
            if name in modules():
                waiting.append(name)
    return seen


def within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def test_the_walk_sees_the_modules():
    assert "smf_jax.models.decoder" in reached("smf_jax.continual.trial_group")
    assert "flax.linen" in reached("smf_jax.memory.layer")


@pytest.mark.parametrize("module", modules())
def test_no_module_imports_itself_through_others(module):
    assert module not in reached(module)


@pytest.mark.parametrize("module", [name for name in modules() if within(name, PURE)])
def test_what_is_pure_imports_no_flax_and_nothing_above_it(module):
    assert not {name for name in reached(module) if within(name, FLAX_OR_ABOVE)}


def test_the_library_never_imports_what_stands_on_it():
    library = [name for name in modules() if within(name, ("smf_jax",))]
    above = ("experiments", "benchmarks", "examples", "tests", "torch", "tensorflow")
    shipped = "smf_jax.interop.export.pytorch_memory"  # a file for readers of an export, not for us
    found = {(m, name) for m in library for name in imports(m) if within(name, above)}
    assert {module for module, _ in found} == {shipped}


def room(module: str) -> str:
    return module.split(".")[1]


def test_every_room_of_the_library_has_its_place_in_the_tree():
    # The front door, `smf_jax` itself, shows names of all rooms.
    rooms = {room(name) for name in modules() if within(name, ("smf_jax",)) and "." in name}
    assert rooms == set(ROOMS)


@pytest.mark.parametrize("package", ROOMS)
def test_rooms_import_only_what_stands_below_them(package):
    below = {package, *ROOMS[package]}
    for module in (name for name in modules() if within(name, (f"smf_jax.{package}",))):
        own = {name for name in imports(module) if within(name, ("smf_jax",)) and "." in name}
        assert not {name for name in own if room(name) not in below}, module


def test_what_a_person_types_imports_no_benchmarks_but_for_their_command():
    found = {
        (module, name)
        for module in modules()
        if within(module, ("experiments",))
        for name in imports(module)
        if within(name, ("benchmarks",))
    }
    assert {module for module, _ in found} == {"experiments.benchmark"}


@pytest.mark.parametrize("test", sorted((ROOT / "tests").rglob("test_*.py")), ids=lambda p: p.name)
def test_every_test_file_stands_for_a_module(test):
    parts = test.relative_to(ROOT / "tests").with_suffix("").parts
    module = ".".join([*parts[:-1], parts[-1].removeprefix("test_")])
    # A module with much to test may have a second file, test_MODULE_ASPECT.py.
    names = (module, module.rpartition("_")[0])
    mirrored = {found for name in names for found in (f"smf_jax.{name}", name)} & modules().keys()
    assert mirrored or module in ("imports", "docs", "front_door", "fuzz", "kills"), (
        f"{test} tests no module"
    )
