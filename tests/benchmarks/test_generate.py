"""Suite ``generate`` at tiny sizes."""

from __future__ import annotations

from benchmarks import generate, models, suite
from tests.benchmarks.tiny import flags, names_of, report
from tests.tiny_sweep import quick_compilation


def test_decoding_is_timed_with_memories_and_with_none():
    told = report()
    with quick_compilation():
        generate.run(flags(table_slots="256"), told)
    with_memory, without = "generate 16 tokens", "generate 16 tokens, no memory"
    assert names_of(told) == [(with_memory, 256), (without, None)]


def test_tables_that_do_not_fit_are_left_out(monkeypatch):
    monkeypatch.setattr(suite, "free_bytes", lambda: 1000)
    monkeypatch.setattr(generate, "_enter", lambda field, config, name, setting: None)
    monkeypatch.setattr(generate.Field, "run", lambda *_: None)
    told = report()
    generate.run(flags(), told)
    assert [each["what"] for each in told.skipped] == [
        "generate at 64 table slots",
        "generate at 256 table slots",
    ]


def test_a_decode_needs_every_kernel_once_a_token_and_the_rows_it_reads():
    plain = models.built_in_decoder(64, scale=0.02).with_memory(None)
    sizes = {path: leaf.size for path, leaf in models.abstract_leaves(plain).items()}
    head = sizes["embedder/embedding"]
    blocks = sum(size for path, size in sizes.items() if path.startswith("layers_"))
    found = generate.decode_cost(plain, rows=2, prompt=3, steps=5)
    assert found.bytes == 4 * (head + blocks) * 5
    assert found.operations == 2 * (2 * (3 + 4) * blocks + 2 * 5 * head)
    more = generate.decode_cost(models.built_in_decoder(64, scale=0.02), 2, 3, 5)
    assert more.bytes > found.bytes
