"""How facts are taught to a pretrained model where nothing else is said; docs/results.md has why.

``experiments/configs/smollm2.py`` measures these very settings against other methods.
"""

from __future__ import annotations

from smf_jax.bases.retrofit_config import RetrofitConfig
from smf_jax.continual.config import SweepConfig
from smf_jax.continual.sections import (
    BackgroundConfig,
    GridConfig,
    ProbeConfig,
    StreamConfig,
    TrainingConfig,
)

ROWS = 1536  # that a step changes, in all tables together: of three, a third in each

RECIPE = SweepConfig(
    grid=GridConfig(methods="smf", slots=str(ROWS // 3), lr="0.5", optimizer="adam"),
    stream=StreamConfig(facts_per_task=8),
    background=BackgroundConfig(
        background_batches=100, background_batch_size=16, recount_batches=0
    ),
    probes=ProbeConfig(probe_shots=3, probe_answer_tokens=8, eval_batch_size=48),
    retrofit=RetrofitConfig(retrofit="add"),
    # Adam moves a row by its rate however small the gradient: a cosine ends that where a task is
    # learned. Words of the question have no weight: rows that model them are read by all questions.
    training=TrainingConfig(
        steps_per_task=24, batch_size=32, pack=True, schedule="cosine", prompt_loss_weight=0.0
    ),
)


def middle_layers(depth: int) -> tuple[int, ...]:
    """The blocks of a model that are given a table: 10, 15, 20 of 30.

    Those at a third, a half and two thirds of the depth; the half alone where these are not three.
    """
    places = tuple(sorted({depth // 3, depth // 2, 2 * depth // 3}))
    return places if len(places) == 3 else (depth // 2,)
