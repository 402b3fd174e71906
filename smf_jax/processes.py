"""Several processes as one program: joining it, and bringing arrays of all to each.

Every process runs the same program on the devices of all of them, and each has files of its own:
those of the first are the run's, the others' are scratch (`smf_jax.continual.devices`).
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from smf_jax.interrupts import Stopped
from smf_jax.last_words import last_words

WAIT = 300  # seconds that one waits for the others to be there
SILENT = 100  # seconds after which JAX takes one that is not heard of for dead, as is its default
_LINGER = 1.0  # seconds in which others may tell an error of their own
_ON = "what is done is kept: start all of them again with --resume"
_ADVICE = f"another of the processes that run as one has ended, so this one cannot go on; {_ON}"
# Of one that could tell nothing itself.
_GONE = f"stopped: killed, or aborted as another of the processes that run as one has ended; {_ON}"
# What XLA says of a computation that another has left, where it does not wait for ever.
_LEFT = re.compile(
    "^(UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|CANCELLED)|gloo|nccl|peer|connection|heartbeat|barrier",
    re.IGNORECASE,
)
_is_first = True


def join(address: str = "", processes: int = 0, process: int = -1) -> None:
    """Makes this process one of a program, before anything asks JAX for a device.

    ``address`` is the ``HOST:PORT`` of the first one. Without it JAX finds all three where it knows
    how: on Cloud TPU, under SLURM, Open MPI, and in an indexed job of Kubernetes. Raises ValueError
    if it does not, or if the processes do not find each other.
    """
    global _is_first
    if jax.distributed.is_initialized():
        return
    given = (address, processes, process) if address else (None, None, None)
    # It would take SIGTERM for itself, and what is done would not be put away (`interrupts`).
    jax.config.update("jax_enable_preemption_service", False)
    try:
        with last_words(_GONE):
            jax.distributed.initialize(
                *given, initialization_timeout=WAIT, heartbeat_timeout_seconds=SILENT
            )
            _is_first = jax.process_index() == 0
    except (ValueError, RuntimeError) as error:
        told = f"--coordinator={address} --processes={processes} --process={process}"
        what = told if address else "--distributed: nothing here tells of other processes"
        raise ValueError(
            f"{what}: {str(error).splitlines()[0]:.200}; expected HOST:PORT of the first process, "
            "how many there are and which is this, or a cluster that JAX knows"
        ) from None


@contextmanager
def together(*scratch: str) -> Iterator[None]:
    """Runs a block that needs all processes, which part at its end; after `join`.

    If another ends within it, so does this one, with a line that says how to go on: at once where
    they compute together, else when JAX aborts it, `SILENT` seconds later at most. Directories of
    ``scratch`` go then.

    Raises:
      Stopped: if it was noticed here; its status is that of an abort, as if JAX had.
    """
    with last_words(_GONE, *scratch):
        try:
            yield
            wait_for_all("the end")
        except Exception as error:
            if found := _of_others(error):
                raise Stopped(signal.SIGABRT, f"{_ADVICE} ({found:.200})") from error
            raise
        jax.distributed.shutdown()


def _of_others(error: BaseException | None) -> str:
    """What XLA tells of a computation that others have left, if an error came about by that."""
    while error is not None:
        told = str(error).partition("\n")[0]
        if isinstance(error, jax.errors.JaxRuntimeError) and _LEFT.search(told):
            return told
        error = error.__cause__ or error.__context__
    return ""


def leave(status: int) -> NoReturn:
    """Ends this process; where it is one of several that run as one, no other is waited for."""
    if status and jax.distributed.is_initialized():
        if _is_first:
            time.sleep(_LINGER)  # with it go those that wait for it
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def are_several() -> bool:
    """Whether this is one process of several."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def is_first() -> bool:
    """Whether what this process writes is kept."""
    return _is_first


def wait_for_all(what: str) -> None:
    """Goes on when every process has come to this place, which it names."""
    if are_several():
        multihost_utils.sync_global_devices(what)


def fetched(tree: Any) -> Any:
    """All leaves on the host, whole, in every process; all of them call this together."""

    def of(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and not (
            leaf.is_fully_addressable or leaf.is_fully_replicated
        ):
            return multihost_utils.process_allgather(leaf, tiled=True)
        return np.asarray(leaf)

    return jax.tree.map(of, tree) if are_several() else jax.device_get(tree)


def of_first(text: str) -> str:
    """The first process's text, in every process; together, as `fetched`."""
    raw = text.encode()
    sizes = multihost_utils.broadcast_one_to_all(np.array(len(raw)))
    sent = np.zeros(int(sizes), np.uint8)
    if is_first():
        sent[:] = np.frombuffer(raw, np.uint8)
    return bytes(np.asarray(multihost_utils.broadcast_one_to_all(sent), np.uint8)).decode()


def shared_by_owner(array: Any, shape: tuple[int, ...], dtype: Any, owner: int) -> np.ndarray:
    """An array that one process has, in every process, bit for bit; together, as `fetched`.

    The others give ``None``.
    """
    given = np.zeros(shape, dtype) if array is None else np.array(array)
    # As bytes: what is sent is a sum, which would make 0.0 of -0.0.
    raw = np.ascontiguousarray(given).reshape(-1).view(np.uint8)
    sent = multihost_utils.broadcast_one_to_all(raw, jax.process_index() == owner)
    return np.asarray(sent).astype(np.uint8).view(given.dtype).reshape(shape)
