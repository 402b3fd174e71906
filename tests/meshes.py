"""Trials on every mesh of eight devices, against one device: ``python -m tests.meshes``."""

from __future__ import annotations

import sys

import jax

from tests.run_time_types import check_shapes


def main() -> int:
    check_shapes()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_numpy_rank_promotion", "raise")
    from tests.continual import test_trial_group_mesh as meshes

    for name, case in meshes.CASES.items():
        if not case.sizes:
            continue
        meshes.test_a_mesh_gives_what_one_device_gives(name)
        told = ",".join(f"{axis}:{size}" for axis, size in case.sizes.items())
        if "trial" in case.sizes:
            meshes.test_what_a_mesh_has_saved_goes_on_anywhere_and_is_probed_alike(name)
            told += ", saved and resumed"
        zero = " of written rows" * case.at_zero
        print(f"{told}, tables{zero} by {case.layout}: as one device", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
