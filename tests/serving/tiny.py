"""A server of the tiny taught model on a free port, in this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from smf_jax.serving.config import ServeConfig
from smf_jax.serving.jobs import Generation
from smf_jax.serving.server import Server
from tests.taught.tiny import FLAGS
from tests.tiny_sweep import on_devices

TRAINING = {name: FLAGS[name] for name in ("facts_per_task", "steps", "steps_per_round", "slots")}
TRAINING |= {"mend": False, "batch_size": FLAGS["batch_size"], "lr": FLAGS["lr"]}
MOST = 40  # prompts that may wait
QUESTION, ANSWER = "5 5 5 5 5 5 5", "stands"  # the fact that the last patch taught


@contextmanager
def serving(directory: Path, **flags: Any) -> Iterator[Server]:
    """A server that runs while the block does."""
    told = {"port": 0, "batch_rows": 4, "queue": MOST, **TRAINING, **flags}
    config = replace(ServeConfig.of(**told), arguments=(str(directory),))
    with on_devices(1):
        server = Server(config)
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            yield server
        finally:
            server.stop()
            thread.join(30)
            assert not thread.is_alive(), "the server did not end"


@contextmanager
def busy(server: Server) -> Iterator[None]:
    """A server whose line is full while the block runs."""
    patch_set, held = server.models.find("base"), threading.Event()

    def job(tell: Any) -> Generation:
        return Generation(patch_set, [1], tell, limit=1)

    taken = threading.Event()

    def wait(event: Any) -> None:
        taken.set()
        held.wait(60)

    server.worker.submit([job(wait)])
    try:
        assert taken.wait(60)
        server.worker.submit([job(lambda event: None) for _ in range(MOST)])
        yield
    finally:
        held.set()


def wait_until_idle(server: Server) -> None:
    """Waits until nothing is generated: what nobody waits for ends soon, but not at once."""
    until = time.monotonic() + 60
    while server.worker.load:
        assert time.monotonic() < until, "what nobody waits for goes on"
        time.sleep(0.05)


def post(server: Server, path: str, **body: Any) -> httpx.Response:
    return httpx.post(server.url + path, json=body, timeout=120)
