"""What a process says that another has left; two processes are `tests.two_processes`'."""

from __future__ import annotations

import jax
import pytest

from smf_jax import processes
from smf_jax.interrupts import Stopped
from smf_jax.processes import together

LEFT = "UNKNOWN: Gloo all-reduce failed: [pair.cc:538] Read error: Connection reset by peer\nmore"


def fails(text, saving):
    """A computation, or a save, which tells of the disk whatever is wrong."""
    try:
        raise jax.errors.JaxRuntimeError(text)
    except jax.errors.JaxRuntimeError:
        if saving:
            raise OSError("the checkpoint could not be saved; check the free space") from None
        raise


@pytest.mark.parametrize("saving", [False, True])
def test_what_another_has_left_ends_with_how_to_go_on(saving, capfd):
    told = "go.*on; .*--resume.*Connection reset by peer"
    with pytest.raises(Stopped, match=told) as found, together():
        fails(LEFT, saving)
    assert found.value.status == 134
    assert "more" not in str(found.value)
    assert not capfd.readouterr().err  # whoever catches it tells it


@pytest.mark.parametrize(
    ("text", "saving", "kind"),
    [
        ("RESOURCE_EXHAUSTED: Out of memory", False, jax.errors.JaxRuntimeError),
        ("RESOURCE_EXHAUSTED: Out of memory", True, OSError),
    ],
)
def test_an_error_of_its_own_stays_what_it_is(text, saving, kind):
    with pytest.raises(kind), together():
        fails(text, saving)


def test_of_one_process_alone_nothing_is_waited_for(monkeypatch):
    ended = []
    monkeypatch.setattr(jax.distributed, "shutdown", lambda: ended.append(True))
    with together():
        pass
    assert ended and not processes.are_several()
    with pytest.raises(SystemExit) as left:
        processes.leave(2)
    assert left.value.code == 2
