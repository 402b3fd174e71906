"""Options of selection against NumPy over made-up reads, and micro-batches of a model."""

from __future__ import annotations

from functools import cache, partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smf_jax.data.packing import pack_rows
from smf_jax.models.decoder import Decoder
from smf_jax.params import pool_path
from smf_jax.sparse.rows import ReadTrace
from smf_jax.sparse.usage import PoolUsage
from smf_jax.training.memory_grads import (
    Context,
    History,
    memory_grads,
    select_and_gather,
    select_for_task,
)
from smf_jax.training.memory_model import as_memory_model
from smf_jax.training.reads import ReadGradients, differentiate_reads
from smf_jax.training.sparse_config import SparseConfig
from tests import oracles
from tests.training import tiny

# Pool: table slots, layers that read it.
POOLS = {"memory/pool_0/values": (80, 1), "memory/pool_3/values": (50, 2)}
FIRST, SECOND = POOLS
BATCHES, SIZE, BUDGET, WIDTH = 8, 64, 7, 5
VALID = np.random.default_rng(1).random((3, 6)) < 0.8


@cache
def reads() -> Any:
    """Reads of every layer; what pads read has no gradient."""
    rng = np.random.default_rng(0)
    traces = {}
    for pool, (slots, layers) in POOLS.items():
        traces[pool] = [
            ReadTrace(
                cast(Any, rng.integers(0, slots - 10, (VALID.size, 4)).astype(np.int32)),
                cast(Any, rng.random((VALID.size, 4)).astype(np.float32)),
                cast(
                    Any,
                    (rng.standard_normal((VALID.size, WIDTH)) * VALID.reshape(-1, 1)).astype(
                        np.float32
                    ),
                ),
            )
            for _ in range(layers)
        ]
    return ReadGradients(jnp.float32(1.5), traces, {})


@cache
def usage():
    rng = np.random.default_rng(3)
    made = {}
    for pool, (slots, _) in POOLS.items():
        df = rng.integers(0, BATCHES + 1, slots)
        made[pool] = PoolUsage(
            jnp.asarray(df, jnp.int32),
            jnp.asarray(2 * df, jnp.int32),
            jnp.asarray(BATCHES, jnp.int32),
        )
    return made


def context(budget=BUDGET, history=None, task_slots=None):
    settings = tiny.settings(budget=budget)
    return Context(usage(), history, task_slots, settings, jnp.asarray(0))


def found(config, given=None):
    """By pool the slots in their order, and the gradient by slot."""
    slots_of = {pool: slots for pool, (slots, _) in POOLS.items()}
    select = jax.jit(
        lambda context: select_and_gather(
            config, reads(), jnp.asarray(VALID), context, slots_of, jax.random.key(0)
        )
    )
    result = select(context() if given is None else given)
    slots, gradients = {}, {}
    for pool, ids in jax.device_get(result.slots).items():
        used = ids < slots_of[pool]
        slots[pool] = ids[used].tolist()
        rows = np.asarray(result.gradients[pool])
        assert not rows[~used].any() and len(set(slots[pool])) == used.sum()
        gradients[pool] = dict(zip(slots[pool], rows[used], strict=True))
    return slots, gradients


def counts(pool):
    traces = reads().traces[pool]
    found = (oracles.accesses(t.slots, VALID.ravel(), POOLS[pool][0]) for t in traces)
    return sum(found, np.zeros((), int))


def whole_gradient(pool):
    traces = reads().traces[pool]
    found = (
        oracles.table_gradient(t.cotangent, t.slots, t.weights, POOLS[pool][0]) for t in traces
    )
    return sum(found, np.zeros(()))


def scores(rule, pool, more: Any = 0.0):
    df, acc, _ = (np.asarray(x) for x in usage()[pool][:3])
    if rule == "gradient":
        made = np.linalg.norm(whole_gradient(pool), axis=1)
    elif rule == "mass":
        masses = np.zeros(POOLS[pool][0])
        for trace in reads().traces[pool]:
            np.add.at(masses, trace.slots[VALID.ravel()], trace.weights[VALID.ravel()])
        made = oracles.rule_scores("tfidf", masses, df + more, acc, BATCHES)
    else:
        made = oracles.rule_scores(rule, counts(pool), df + more, acc + more, BATCHES)
    return np.where(counts(pool) > 0, made, -np.inf)


def best(scores, number):
    order = np.argsort(-scores, kind="stable")
    return order[np.isfinite(scores[order])][:number].tolist()


def close(rows, whole):
    """Rows by slot against those of a whole gradient."""
    assert rows and np.abs(whole).max() > 0
    for slot, row in rows.items():
        np.testing.assert_allclose(row, whole[slot], rtol=0, atol=3e-6 * np.abs(whole).max())


@pytest.mark.parametrize("rule", ["tfidf", "kl_acc", "mass", "gradient"])
def test_rules_select_from_the_reads_of_the_batch(rule):
    slots, gradients = found(SparseConfig(rule=rule, size=SIZE))
    for pool in POOLS:
        assert slots[pool] == best(scores(rule, pool), BUDGET)
        close(gradients[pool], whole_gradient(pool))
        others = [best(scores(other, pool), BUDGET) for other in ("tfidf", "mass", "gradient")]
        assert others[0] != others[1] != others[2] != others[0], "rules differ"


def test_a_shared_budget_is_one_for_all_pools():
    slots, _ = found(SparseConfig(size=SIZE, budget_scope="shared"))
    first, second = scores("tfidf", FIRST), scores("tfidf", SECOND)
    chosen = best(np.concatenate([first, second]), BUDGET)
    assert slots[FIRST] == [slot for slot in chosen if slot < len(first)]
    assert slots[SECOND] == [slot - len(first) for slot in chosen if slot >= len(first)]
    assert slots[FIRST] and slots[SECOND]


def test_an_adaptive_budget_covers_its_share():
    slots, _ = found(SparseConfig(size=SIZE, score_share=0.4), context(budget=60))
    for pool in POOLS:
        positive = -np.sort(-scores("tfidf", pool)[scores("tfidf", pool) > 0])
        ahead = np.concatenate([[0], np.cumsum(positive)[:-1]])
        number = int((ahead < 0.4 * positive.sum()).sum())
        assert slots[pool] == best(scores("tfidf", pool), number) and 1 < number < 60


def test_count_normalised_rows_are_divided_by_their_reads():
    slots, gradients = found(SparseConfig(size=SIZE, count_normalised=True), context(60))
    for pool in POOLS:
        assert counts(pool)[slots[pool]].max() > 1
        close(gradients[pool], whole_gradient(pool) / np.maximum(counts(pool), 1)[:, None])


def test_rows_of_earlier_tasks_rank_after_the_others():
    config = SparseConfig(size=SIZE, protect_written=1.0)
    plain, _ = found(SparseConfig(size=SIZE))
    written = {
        pool: jnp.zeros(slots, bool).at[jnp.asarray(plain[pool])].set(True)
        for pool, (slots, _) in POOLS.items()
    }
    slots, _ = found(config, context(history={p: History.of(w) for p, w in written.items()}))
    for pool in POOLS:
        more = BATCHES * np.asarray(written[pool])
        assert slots[pool] == best(scores("tfidf", pool, more), BUDGET)
        assert not set(slots[pool]) & set(plain[pool])
    everything = {pool: History.of(jnp.ones(slots, bool)) for pool, (slots, _) in POOLS.items()}
    last, _ = found(config, context(history=everything))
    assert all(len(last[pool]) == BUDGET for pool in POOLS), "protected rows may still be taken"
    nothing = {pool: History.of(jnp.zeros(slots, bool)) for pool, (slots, _) in POOLS.items()}
    assert found(config, context(history=nothing))[0] == plain


def test_slots_that_general_text_uses_often_are_never_taken():
    df = {pool: np.asarray(usage()[pool].document_frequency) for pool in POOLS}
    plain, _ = found(SparseConfig(size=SIZE), context(60))
    assert all(df[pool][plain[pool]].max() > BATCHES // 4 for pool in POOLS)
    slots, gradients = found(SparseConfig(size=SIZE, max_df=0.25), context(60))
    for pool in POOLS:
        is_rare = df[pool] <= BATCHES // 4
        allowed = np.where(is_rare, scores("tfidf", pool), -np.inf)
        assert slots[pool] == best(allowed, 60) and 1 < len(slots[pool]) < len(plain[pool])
        close(gradients[pool], whole_gradient(pool))
    # Rows that earlier tasks wrote rank after the others, and are not forbidden by that.
    history = {pool: History.of(jnp.ones(size, bool)) for pool, (size, _) in POOLS.items()}
    config = SparseConfig(size=SIZE, max_df=0.25, protect_written=1.0)
    protected, _ = found(config, context(60, history=history))
    assert {pool: set(of) for pool, of in protected.items()} == {
        p: set(s) for p, s in slots.items()
    }


def test_the_slots_of_a_task_that_are_read_are_taken_and_no_others():
    rng = np.random.default_rng(0)
    of_task = {
        pool: jnp.asarray(rng.integers(0, 5, slots), jnp.int32)
        for pool, (slots, _) in POOLS.items()
    }
    config = SparseConfig(granularity="per_task", size=SIZE, budget_scope="shared")
    task_slots = select_for_task(config, of_task, context(budget=40))
    given = {pool: np.asarray(ids)[np.asarray(ids) < POOLS[pool][0]].tolist()
             for pool, ids in task_slots.items()}  # fmt: skip
    assert sum(len(of_pool) for of_pool in given.values()) == 40
    slots, gradients = found(config, context(task_slots=task_slots))
    for pool in POOLS:
        assert slots[pool] == [slot for slot in given[pool] if counts(pool)[slot]]
        assert 0 < len(slots[pool]) < len(given[pool])
        close(gradients[pool], whole_gradient(pool))


def test_per_task_without_its_slots_is_refused():
    with pytest.raises(ValueError, match="granularity='per_task': select the task's slots before"):
        found(SparseConfig(granularity="per_task", size=SIZE))


CONFIG, TABLE = tiny.model_config(), pool_path(0)
MODEL = as_memory_model(Decoder(CONFIG))
ROWS, PARTS = 4, 2


@cache
def of_model(config):
    """Slots and gradients of a batch of the tiny model, whose two halves differ."""
    settings = tiny.settings(budget=BUDGET)
    given = Context(tiny.usage(CONFIG), None, None, settings, jnp.asarray(0))
    run = partial(memory_grads, MODEL, config, tiny.params(CONFIG), {})
    return jax.jit(run)(given, tiny.batch(rows=ROWS))


def parts_of_batch():
    """The trace, the pads and the loss of each half of that batch, alone."""
    batch = tiny.batch(rows=ROWS)
    run = jax.jit(partial(differentiate_reads, MODEL, tiny.params(CONFIG), {}))
    for rows in np.split(np.arange(ROWS), PARTS):
        part = type(batch)(*(field[rows] for field in batch))
        found = run(part)
        yield found.traces[TABLE][0], part.valid.ravel(), float(found.loss)


def test_micro_batches_select_their_own_rows_and_mask_their_own_gradients():
    config = SparseConfig(size=SIZE, granularity="per_micro_batch", micro_batches=PARTS)
    result = of_model(config)
    df, acc, batches = (np.asarray(x) for x in tiny.usage(CONFIG)[TABLE][:3])
    masked, union, losses = np.zeros((tiny.SLOTS, tiny.MEMORY.value_width)), set(), []
    for trace, valid, loss in parts_of_batch():
        read = oracles.accesses(trace.slots, valid, tiny.SLOTS)
        own = best(oracles.rule_scores("tfidf", read, df, acc, int(batches)), BUDGET)
        whole = oracles.table_gradient(trace.cotangent, trace.slots, trace.weights, tiny.SLOTS)
        masked[own] += whole[own] / PARTS
        union |= set(own)
        losses.append(loss)
    ids = np.asarray(result.slots[TABLE])
    assert ids.shape == (config.places,) and len(union) > BUDGET
    assert ids[ids < tiny.SLOTS].tolist() == sorted(union)
    rows = np.asarray(result.gradients[TABLE])[: len(union)]
    close(dict(zip(sorted(union), rows, strict=True)), masked)
    assert float(result.loss) == pytest.approx(np.mean(losses), rel=1e-6)


def test_a_step_in_micro_batches_selects_and_sums_as_the_whole_batch():
    whole = of_model(SparseConfig(size=SIZE))
    split = of_model(SparseConfig(size=SIZE, micro_batches=PARTS))
    np.testing.assert_array_equal(split.slots[TABLE], whole.slots[TABLE])
    largest = np.abs(whole.gradients[TABLE]).max()
    np.testing.assert_allclose(
        split.gradients[TABLE], whole.gradients[TABLE], rtol=0, atol=3e-6 * largest
    )


def test_random_micro_batches_draw_of_their_own():
    config = SparseConfig(
        rule="random", size=SIZE, granularity="per_micro_batch", micro_batches=PARTS
    )
    ids = np.asarray(of_model(config).slots[TABLE])
    assert BUDGET < (ids < tiny.SLOTS).sum() <= PARTS * BUDGET


@pytest.mark.parametrize("rule", ["tfidf", "mass", "gradient"])
def test_sequences_that_share_rows_select_the_same_rows_with_the_same_gradients(rule):
    batch, made = tiny.batch(rows=9), tiny.model_config((1,))
    packed = pack_rows(batch, [9]).rows
    assert len(packed.tokens) < 9
    config, model = SparseConfig(rule=rule, size=16), as_memory_model(Decoder(made))
    params = tiny.params(made)
    own = Context(tiny.usage(made), None, None, tiny.settings(budget=9), jnp.asarray(0))
    step = jax.jit(partial(memory_grads, model, config, params, {}, own))
    apart, together = step(batch), step(packed)
    np.testing.assert_allclose(together.loss, apart.loss, rtol=1e-5)
    for pool, slots in apart.slots.items():
        assert set(np.asarray(slots).tolist()) == set(np.asarray(together.slots[pool]).tolist())
        order, other = np.argsort(slots), np.argsort(together.slots[pool])
        rows, same = apart.gradients[pool][order], together.gradients[pool][other]
        np.testing.assert_allclose(same, rows, atol=1e-5)
        assert np.abs(rows).max() > 1e-3
