"""Plain NumPy oracles, in float64 and row by row, that share no line with the library."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class BruteForce(NamedTuple):
    """The best ``k`` of all ``N`` slots; `gap` is how far each score is from its neighbours."""

    scores: np.ndarray
    slots: np.ndarray
    gap: np.ndarray


def brute_force_lookup(queries: np.ndarray, keys: np.ndarray, k: int) -> BruteForce:
    """Scores every slot of the table, ``(t, h, N)``, in float64, and sorts them all."""
    q, keys = np.asarray(queries, np.float64), np.asarray(keys, np.float64)
    first = np.einsum("thc,hnc->thn", q[:, :, 0], keys[:, 0])
    second = np.einsum("thc,hnc->thn", q[:, :, 1], keys[:, 1])
    scores = (first[..., :, None] + second[..., None, :]).reshape(*q.shape[:2], -1)
    order = np.argsort(-scores, axis=-1, kind="stable")
    ranked = np.take_along_axis(scores, order, axis=-1)
    infinite = np.full((*ranked.shape[:2], 1), np.inf)
    distance = np.concatenate([infinite, -np.diff(ranked, axis=-1), infinite], axis=-1)
    gap = np.minimum(distance[..., :-1], distance[..., 1:])
    return BruteForce(ranked[..., :k], order[..., :k], gap[..., :k])


def product_form_lookup(queries: np.ndarray, keys: np.ndarray, k: int) -> BruteForce:
    """The product search with the documented tie rule: stable, over the row-major k × k list."""
    t, h = queries.shape[:2]
    n = keys.shape[2]
    scores, slots = np.zeros((t, h, k), np.float32), np.zeros((t, h, k), np.int64)
    for token in range(t):
        for head in range(h):
            first, second = (keys[head, half] @ queries[token, head, half] for half in (0, 1))
            i = np.argsort(-first, kind="stable")[:k]
            j = np.argsort(-second, kind="stable")[:k]
            sums = (first[i][:, None] + second[j][None, :]).reshape(-1)
            best = np.argsort(-sums, kind="stable")[:k]
            scores[token, head] = sums[best]
            slots[token, head] = i[best // k] * n + j[best % k]
    return BruteForce(scores, slots, np.zeros(scores.shape))


def weighted_read(values: np.ndarray, slots: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """``y[t] = Σ w · V[slot]`` in float64."""
    return np.einsum(
        "tr,trv->tv",
        np.asarray(weights, np.float64),
        np.asarray(values, np.float64)[np.asarray(slots)],
    )


def table_gradient(
    cotangent: np.ndarray, slots: np.ndarray, weights: np.ndarray, table_slots: int
) -> np.ndarray:
    """``dV[i] = Σ_{slot = i} w · g`` with ``np.add.at``, in float64."""
    gradient = np.zeros((table_slots, cotangent.shape[1]))
    products = (
        np.asarray(weights, np.float64)[:, :, None] * np.asarray(cotangent, np.float64)[:, None, :]
    )
    np.add.at(gradient, np.asarray(slots), products)
    return gradient


def accesses(slots: np.ndarray, valid: np.ndarray, table_slots: int) -> np.ndarray:
    """Accesses of every slot by the tokens that are no pads."""
    return np.bincount(np.asarray(slots)[np.asarray(valid)].ravel(), minlength=table_slots)


def rule_scores(
    rule: str, counts: np.ndarray, df: np.ndarray, acc: np.ndarray, batches: int
) -> np.ndarray:
    """The formulas of the rules, in float64; ``-inf`` where a slot was not accessed."""
    counts = np.asarray(counts, np.float64)
    p = counts / max(counts.sum(), 1)
    if rule == "tf":
        scores = p
    elif rule == "tfidf":
        scores = p * np.log((batches + 1) / (df + 1))
    elif rule in ("kl_df", "kl_acc"):
        used = (df if rule == "kl_df" else acc) + 1.0
        scores = p * np.log((p + 1e-8) / (used / used.sum() + 1e-8))
    else:
        raise NotImplementedError(rule)
    return np.where(counts > 0, scores, -np.inf)


OPTIMIZERS = ("sgd", "momentum", "adam", "adamw")


class RowLazyOptimizer:
    """One optimizer per row, kept in a dictionary: a row that is not selected has no say at all."""

    def __init__(self, name: str, decay: float = 0.0) -> None:
        self.name, self.decay = name, decay
        self.state: dict[int, tuple[int, np.ndarray, np.ndarray]] = {}

    def step(self, values: np.ndarray, slots: list[int], gradients: np.ndarray, rate: float):
        """Steps the rows of ``slots`` in place; ``gradients`` are theirs, in their order."""
        for slot, g in zip(slots, gradients, strict=True):
            zeros = np.zeros_like(g)
            count, m, v = self.state.get(slot, (0, zeros, zeros))
            count += 1
            if self.name == "sgd":
                update = g
            elif self.name == "momentum":
                m = 0.9 * m + g
                update = m
            else:
                m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
                corrected = m / (1 - 0.9**count), v / (1 - 0.999**count)
                update = corrected[0] / (np.sqrt(corrected[1]) + 1e-8)
                if self.name == "adamw":
                    update = update + self.decay * values[slot]
            values[slot] = values[slot] - rate * update
            self.state[slot] = (count, m, v)
