"""The configuration of a base: its recipe, and its world."""

from __future__ import annotations

import pytest

from smf_jax.bases.pretrain_config import PretrainConfig
from smf_jax.configuration import flags_of
from smf_jax.data.world.world import make_world


def test_a_recipe_is_all_but_where_the_base_goes():
    config = PretrainConfig.of(out="a", overwrite=True, seed=3, texts="b")
    recipe = config.recipe()
    elsewhere = {"out", "overwrite", "preset", "scale", "data_dir", "download"}
    assert recipe.keys() == flags_of(config).keys() - elsewhere - {"text_field"}
    assert PretrainConfig.of(**recipe) == config.with_values(out="", overwrite=False)
    named = config.with_values(text_field="content").recipe()
    assert named == recipe | {"text_field": "content"}, "another text is another base"


def test_the_stream_does_not_change_what_the_base_is_taught():
    config = PretrainConfig.of(known_facts=24, relations=4, world_seed=2)
    alone, streamed = (make_world(config.world_config(tasks, 4)) for tasks in (0, 3))
    assert alone.known == streamed.known
    assert list(alone.texts()) == list(streamed.texts())
    assert len(streamed.tasks) == 3 and not alone.changed and streamed.changed


@pytest.mark.parametrize(
    ("changes", "given", "message"),
    [
        (dict(known_facts=3, relations=4), {}, "--known_facts=3 with relations=4"),
        (dict(relations=99), {}, "--relations=99"),
        ({}, dict(changed=1.5), "--changed_share=1.5: expected 0 to 1"),
        ({}, dict(facts_per_task=0), "--facts_per_task=0: expected at least 1"),
        (dict(known_facts=24, relations=4), dict(tasks=9), "--changed_share=0.2 of 9 tasks"),
    ],
)
def test_a_world_that_cannot_be_is_refused_by_flag(changes, given, message):
    with pytest.raises(ValueError, match=message):
        PretrainConfig.of(**changes).world_config(**given)
