import re
from dataclasses import replace

import numpy as np
import pytest

from smf_jax.interop.export.card import CardFacts, licence_of, model_card
from smf_jax.params import flatten
from smf_jax.sparse.patch import make_patch, pool_change
from tests.models.tiny import PLAIN, random_params, with_memory

FACTS = CardFacts(
    name="A patched model",
    origin="Hugging Face checkpoint Tiny",
    licence="mit",
    base_model="them/tiny",
    trained_on=("Stream: facts.", "Trial `x`."),
    scores={"seen": "0.9800"},
)


def card(config, patches=(), facts=FACTS) -> str:
    return model_card(config, flatten(random_params(config)), patches, facts)


def a_patch(task: str):
    rows = np.zeros((2, 10), np.float32)
    pools = {"memory/pool_1/values": pool_change(np.array([3, 5]), rows, rows + 1, 36)}
    return make_patch(pools, task=task, base="b" * 64)


def test_header_names_licence_and_base():
    text = card(with_memory("add"))
    found = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    assert found is not None
    header = found.group(1).splitlines()
    assert header[:2] == ['license: "mit"', "library_name: smf_jax"]
    assert "pipeline_tag: text-generation" in header
    assert 'base_model: "them/tiny"' in header
    assert "- product-key-memory" in header
    assert "- sparse-memory-finetuning" not in card(PLAIN)


def test_it_tells_what_the_model_is_and_how_to_read_it():
    text = card(with_memory("add"), [a_patch("first|task"), a_patch("second")])
    for told in (
        "# A patched model",
        "They stand in block 1 of 2, beside the feed-forward",
        "36 slots of width 10; every token reads 3 of them with each of 2 heads",
        r"| 1 | first\|task | 2 |",
        "| 2 | second | 2 |",
        'load_exported(".")',
        'load_memories(model, ".")',
        "(`patches=n` applies the first n patches, and 0 none)",
        "* Base: Hugging Face checkpoint Tiny.\n* Stream: facts.\n* Trial `x`.",
        "| seen | 0.9800 |",
        "mit, as named for the base",
    ):
        assert told in text, told


@pytest.mark.parametrize(
    ("mode", "told"),
    [("replace", "whose weights are zeros"), ("add", "scaled by a learned α")],
)
def test_it_tells_where_memories_stand(mode, told):
    assert told in card(with_memory(mode))
    shared = with_memory(mode, (0, 1), shared_pool=True)
    assert "in blocks 0, 1 of 2, which read one table, " in card(shared)


def test_without_memory_and_without_a_licence():
    text = card(PLAIN, facts=replace(FACTS, licence="unknown", scores={}, base_model=""))
    assert "without memory" in text
    assert "pytorch_memory" not in text
    assert "## Measured" not in text
    assert "base_model" not in text
    assert "Not known: no licence was named" in text


def test_the_licence_of_a_base_is_that_of_its_own_card(tmp_path):
    assert licence_of(tmp_path) == "unknown"
    (tmp_path / "README.md").write_text("# no header\nlicense: mit\n")
    assert licence_of(tmp_path) == "unknown"
    (tmp_path / "README.md").write_text('---\ntags:\n- x\nlicense: "apache-2.0"\n---\n# x\n')
    assert licence_of(tmp_path) == "apache-2.0"
    (tmp_path / "README.md").write_bytes(b"---\nlicense: mit\n---\nd\xe9j\xe0 vu\n")
    assert licence_of(tmp_path) == "mit", "whatever else stands there"
