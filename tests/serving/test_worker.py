"""The thread that computes: what runs together, what waits, what ends."""

from __future__ import annotations

import threading

import pytest

from smf_jax.serving.jobs import Done, Failed, Generation, ReadWeights, Scored, Scoring, Tracing
from smf_jax.serving.served_models import ServedModels
from smf_jax.serving.worker import Busy, Worker
from smf_jax.taught.asking import prompts_of
from smf_jax.taught.directory import TaughtDirectory
from smf_jax.taught.provenance import Reads, provenance
from tests.serving.tiny import ANSWER, QUESTION
from tests.tiny_sweep import on_devices


@pytest.fixture(scope="module")
def models(taught):
    with on_devices(1):
        yield ServedModels(TaughtDirectory(str(taught)))


@pytest.fixture
def worker(models):
    found = Worker(models.base, rows=4, queue=12)
    yield found
    found.close()


class Heard(list):
    """What a job tells."""

    def __init__(self) -> None:
        self.over = threading.Event()

    def __call__(self, event) -> None:
        self.append(event)
        if not hasattr(event, "tokens") or isinstance(event, Scored):
            self.over.set()

    def wait(self):
        assert self.over.wait(120)
        return self

    def ids(self) -> list[int]:
        return [token.id for event in self[:-1] for token in event.tokens]


def run(worker, *jobs):
    worker.submit(jobs)
    return [heard(job).wait() for job in jobs]


def heard(job) -> Heard:
    assert isinstance(job.tell, Heard)
    return job.tell


def test_prompts_of_several_sets_run_side_by_side_and_none_is_mixed_up(models, worker):
    (ids,) = prompts_of(models.base, [QUESTION])
    names = ["base", "taught", "base+facts_01"] * 4
    alone = {
        name: run(worker, Generation(models.find(name), ids, Heard(), limit=9))[0].ids()
        for name in names[:3]
    }
    jobs = [Generation(models.find(name), ids, Heard(), limit=9) for name in names]
    found = run(worker, *jobs)
    assert [heard.ids() for heard in found] == [alone[name] for name in names]
    assert models.base.tokenizer.decode(alone["taught"]).strip() == ANSWER
    assert len({tuple(each) for each in alone.values()}) == 3
    assert found[0][-1] == Done("length") and found[1][-1].reason == "stop"
    assert found[1][-1].end.id in models.base.tokenizer.stops


def test_a_text_is_scored_and_traced(models, worker):
    taught, (ids,) = models.find("taught"), prompts_of(models.base, [QUESTION])
    scored, traced = run(worker, Scoring(taught, ids, Heard(), 1), Tracing(taught, ids, Heard()))
    (event,) = scored
    assert [token.id for token in event.tokens] == ids[1:]
    assert all(token.log_probability <= token.others[0][1] < 0 for token in event.tokens)
    expected = provenance(Reads(models.base.model).of(taught.params, ids), taught.patches)
    assert traced == [ReadWeights(*expected)]
    assert run(worker, Tracing(models.find("base"), ids, Heard())) == [[ReadWeights(0.0, ())]]


def test_a_full_line_takes_no_more_and_all_or_none(models, worker):
    base, held, taken = models.find("base"), threading.Event(), threading.Event()

    def hold(event) -> None:
        taken.set()
        held.wait(60)

    def job(tell):
        return Generation(base, [1, 2], tell, limit=1)

    worker.submit([job(hold)])
    assert taken.wait(60)
    waiting = [job(Heard()) for _ in range(10)]
    worker.submit(waiting)
    with pytest.raises(Busy, match="10 prompts wait already"):
        worker.submit([job(Heard()) for _ in range(3)])
    waiting[0].gone = True  # whoever has left makes room
    last = [job(Heard()) for _ in range(3)]
    worker.submit(last)
    held.set()
    for each in [*waiting[1:], *last]:
        assert heard(each).wait()[-1] == Done("length")
    assert not heard(waiting[0]) and worker.load == 0


def test_a_job_that_nobody_waits_for_ends_early(models, worker):
    job = Generation(models.find("base"), [1, 2], Heard(), limit=60, temperature=5.0)
    other = Generation(models.find("base"), [1, 2], Heard(), limit=60, temperature=5.0, seed=1)

    told = heard(job)

    def leave(event):
        job.gone = True
        told(event)

    job.tell = leave
    worker.submit([job, other])
    heard(other).wait()
    assert sum(len(event.tokens) for event in told) < 60 and not told.over.is_set()


def test_what_fails_harms_no_other(models, worker, capsys):
    taught = models.find("taught")
    broken = type(taught)((), (), (), {}, "")  # without parameters
    bad, good = run(
        worker, Generation(broken, [1], Heard(), limit=2), Generation(taught, [1], Heard(), limit=2)
    )
    assert isinstance(bad[-1], Failed) and isinstance(good[-1], Done)
    assert "Traceback" in capsys.readouterr().err


def test_a_closed_worker_tells_those_who_wait(models):
    worker = Worker(models.base, rows=4, queue=4)
    worker.close()
    with pytest.raises(Busy, match="closing"):
        worker.submit([Generation(models.find("base"), [1], Heard(), limit=2)])
