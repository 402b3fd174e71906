"""The tables of a report, read back."""

from __future__ import annotations

import math

import pytest

from experiments.report.summary import average, summarise
from experiments.report.tables import (
    health_table,
    markdown_table,
    matched_tables,
    measured,
    number,
    probe_table,
    summary_table,
    transfer_table,
)
from tests.experiments.report.tiny import HEALTH, HEALTHY, parse


def test_the_table_gives_percentages_with_intervals_over_seeds(make_rows):
    rows = make_rows(seed=0, learned=0.5) + make_rows(seed=1, learned=0.6)
    table = summary_table(average(summarise(rows)))
    cells = dict(zip(parse(table)[0], parse(table)[2], strict=True))
    assert cells["seeds"] == "2"
    assert cells["learned, seen / unseen"] == "55.0 ± 63.5 / 55.0 ± 63.5"
    assert cells["at the end, seen / unseen"] == "80.0 ± 0.0 / 80.0 ± 0.0"
    assert cells["known kept"] == "95.0 ± 0.0"
    assert cells["text loss"] == "+0.200 ± 0.000"
    assert cells["rows a task"] == "200"
    assert cells["trains"] == "8,192 (0.50%)"


def test_the_base_and_the_facts_in_its_prompt_stand_below_the_methods(make_rows):
    rows = [
        row | dict(unseen_base=base, unseen_in_context=told)
        for row, base, told in zip(make_rows(tasks=2), (0.0, 0.1), (0.8, 0.9), strict=True)
    ]
    before = make_rows(learning_rate=1e-5)  # of a run that was not told to measure them
    *_, base, told = parse(summary_table(average(summarise(before[:2] + rows))))
    assert base[:4] == ["base", "–", "– / 5.0", "– / 5.0"]
    assert told[:4] == ["facts in the prompt", "–", "– / 85.0", "– / 85.0"]


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (11 * 2**20, "11.0 MiB")]
)
def test_the_optimizer_is_given_in_readable_bytes(make_rows, size, text):
    table = summary_table(average(summarise(make_rows(optimizer_bytes=size))))
    assert text in parse(table)[2]


def test_matched_forgetting_is_given_for_what_was_learned_and_what_stayed(make_rows):
    rows = make_rows("full", learning_rate=1e-5, learned=0.2, end=0.2, known=1.0)
    rows += make_rows("full", learning_rate=1e-4, learned=0.8, end=0.4, known=0.4)
    text = matched_tables(average(summarise(rows)))
    learned, end = text.split("\n\n")[1:]
    assert parse(learned) == [
        ["learned", "25%", "50%", "75%", "90%", "95%"],
        parse(learned)[1],
        ["full", "5.0", "30.0", "55.0", "–", "–"],
    ]
    assert parse(end)[2] == ["full", "15.0", "–", "–", "–", "–"]


def test_columns_of_a_table_are_aligned():
    table = markdown_table(("name", "n"), [("a", "1"), ("longer", "1,000")])
    assert table.splitlines() == [
        "| name   |     n |",
        "| ------ | ----: |",
        "| a      |     1 |",
        "| longer | 1,000 |",
    ]


def test_the_loss_of_text_has_its_interval_too(make_rows):
    rows = make_rows(seed=0) + [row | {"text_loss": 2.4} for row in make_rows(seed=1)]
    table = parse(summary_table(average(summarise(rows))))
    # Rises of 0.2 and 0.4: t(0.975, 1) = 12.706, s = 0.1414.
    assert table[2][table[0].index("text loss")] == "+0.300 ± 1.271"


def test_matched_forgetting_has_the_interval_of_the_curves_of_the_seeds(make_rows):
    rows = []
    for seed, known in enumerate((0.4, 0.6)):
        rows += make_rows("full", learning_rate=1e-5, learned=0.2, known=1.0, seed=seed)
        rows += make_rows("full", learning_rate=1e-4, learned=0.8, known=known, seed=seed)
    learned = parse(matched_tables(average(summarise(rows))).split("\n\n")[1])
    # At 50 % half of each seed's drop: 30 and 20 percent.
    assert learned[2][2] == "25.0 ± 63.5"
    assert learned[2][4] == "–"


def test_matched_tables_follow_every_named_probe(make_rows):
    base = dict(probe_nq_f1_base=0.4, probe_wiki_perplexity_base=10.0, probe_wiki_loss_base=2.3)
    rows = make_rows(
        "full",
        learning_rate=1e-5,
        learned=0.2,
        probe_nq_f1=0.4,
        probe_wiki_perplexity=10.0,
        probe_wiki_loss=2.3,
        **base,
    )
    rows += make_rows(
        "full",
        learning_rate=1e-4,
        learned=0.8,
        probe_nq_f1=0.2,
        probe_wiki_perplexity=14.0,
        probe_wiki_loss=2.6,
        **base,
    )
    tables = [parse(table) for table in matched_tables(average(summarise(rows))).split("\n\n")[3:]]
    assert [table[0][0] for table in tables] == [
        "learned; nq f1 worse by, percent",
        "learned; wiki perplexity worse by, percent",
    ]
    # Halfway between the two rates: half of 50 and half of 40 percent.
    assert [table[2][2] for table in tables] == ["25.0", "20.0"]


def test_a_probe_that_the_base_fails_has_no_change_and_no_matched_table(make_rows):
    averages = average(summarise(make_rows(probe_nq_f1=0.1, probe_nq_f1_base=0.0)))
    assert parse(probe_table(averages))[3][1:] == ["10.0"]
    assert "nq f1" not in matched_tables(averages)


def test_the_table_shows_what_to_look_at_alone(make_rows):
    rows = make_rows(
        probe_nq_f1=0.1, probe_nq_f1_base=0.2, probe_nq_exact=0.1, probe_nq_exact_base=0.2
    )
    assert parse(probe_table(average(summarise(rows))))[0] == ["setting", "nq f1"]


def test_named_probes_stand_beside_those_of_the_base(make_rows):
    base = dict(probe_nq_f1_base=0.4, probe_gsm_loss_base=2.0)
    rows = make_rows(seed=0, probe_nq_f1=0.3, probe_gsm_loss=2.5, **base)
    rows += make_rows(seed=1, probe_nq_f1=0.4, probe_gsm_loss=2.5, **base)
    header, _, of_base, setting = parse(probe_table(average(summarise(rows))))
    assert header == ["setting", "nq f1", "gsm loss"]
    assert of_base == ["base", "40.0", "2.000"]
    assert setting[1:] == ["35.0 ± 63.5 (-12.5 %)", "2.500 ± 0.000 (-25.0 %)"]


def test_slot_health_is_the_mean_over_seeds(make_rows):
    rows = make_rows(seed=0) + make_rows(seed=1) + make_rows("full")
    table = parse(health_table(average(summarise(rows)), HEALTH))
    assert [line[0] for line in table[2:]] == [
        "background, 1000 batches",
        "base, 100 batches",
        "smf-tfidf-sgd-t64-lr30",
    ]
    assert table[2][1:] == ["50.0%", "0.250", "0.750", "1.0%", "35.5%", "–"]
    assert table[4][1:] == ["50.0%", "0.250", "0.300", "1.0%", "35.5%", "0.030"]


def test_each_pool_has_its_line(make_rows):
    pools = {f"memory/pool_{n}/values": HEALTHY | {"gini": n / 10} for n in (1, 4)}
    health = {"background": {"batches": 4, "pools": pools}, "recount": None, "trials": {}}
    table = parse(health_table(average(summarise(make_rows())), health))
    assert [line[0] for line in table[2:]] == [
        "background, 4 batches, pool_1",
        "background, 4 batches, pool_4",
    ]
    assert [line[3] for line in table[2:]] == ["0.100", "0.400"]


def test_numbers_are_written_with_their_interval_if_there_is_one():
    assert number(math.nan, ".1f") == "–"
    assert measured(0.125, 0.01, ".1f", 100) == "12.5 ± 1.0"
    assert measured(0.125, math.nan, ".1f", 100) == "12.5"
    assert measured(math.nan, math.nan, ".1f") == "–"
    assert measured(0.2, 0.1, "+.3f") == "+0.200 ± 0.100"


def test_a_line_of_the_stream_has_averages_and_transfers(make_rows):
    rows = make_rows(seed=0) + make_rows(seed=1, learned=0.7)
    header, _, line = parse(transfer_table(average(summarise(rows))))
    columns = ["average", "backward", "forward", "forgetting", "gain", "drop"]
    assert header == ["setting", *columns, "first tenth", "first fifth"]
    assert line[0] == "smf-tfidf-sgd-t64-lr30"
    assert line[2].startswith("+0.0 ± ") and line[3] == "–" and line[4].startswith("2.5 ± ")
    assert line[6] == "5.0 ± 0.0"
