"""Settings of every test: strict rank promotion, eight fake devices, and where shared data is."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from importlib import metadata
from pathlib import Path

import jax
import jaxtyping
import pytest

from tests.run_time_types import check_shapes

check_shapes()  # before the package is imported
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
# Most of the time goes to compiling programs that run once: less is made of each, in a quarter of
# the time; what a program computes is the same from run to run. One test of the engine is run
# with XLA's own settings, in a process that this variable tells.
if os.environ.get("SMF_JAX_TESTS_XLA") != "default":
    jax.config.update("jax_disable_most_optimizations", True)
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # of processes that tests start
    if metadata.version("jaxlib").startswith("0.10."):  # later ones end at a flag they dropped
        plain = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {plain}".strip()
# Tracing makes many small objects, few of them in cycles.
gc.set_threshold(100_000, 50, 50)
# Many tests compile the same programs, most of them of one operation, in all processes of a run.
RUN = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
COMPILED = Path(tempfile.gettempdir(), f"smf_jax_tests_{RUN}")
jax.config.update("jax_compilation_cache_dir", str(COMPILED))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

pytest_plugins = ["tests.fixtures", "tests.object_store"]

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_unconfigure(config: pytest.Config) -> None:
    """What has been compiled goes with the last of the processes, which started the others."""
    if not hasattr(config, "workerinput"):
        shutil.rmtree(COMPILED, ignore_errors=True)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared data beside the checkout; tests that need it skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"no shared data at {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def kernels() -> None:
    """The kernels for CPUs; their tests skip where there is no compiler, or they are not wanted."""
    if os.environ.get("SMF_JAX_CPU_KERNELS") == "0":
        pytest.skip("SMF_JAX_CPU_KERNELS=0")
    if not any(map(shutil.which, ("c++", "g++", "clang++"))) and not os.environ.get("CXX"):
        pytest.skip("no C++ compiler")
    from smf_jax.cpu_kernels.library import is_available

    assert is_available(), "the kernels could not be built"


@pytest.fixture
def unchecked_shapes(monkeypatch) -> None:
    """For tests that hand in shapes that do not fit, and look at what the function says of them."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
