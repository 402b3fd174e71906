"""The pictures: nothing covers anything, whatever is drawn."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.transforms import Bbox, BboxBase

from experiments.report.figures import (
    MARKERS,
    colour_of,
    draw_frontier,
    draw_matrices,
    draw_pictures,
    overlap_matrix,
)
from experiments.report.summary import average, summarise
from smf_jax.continual.grid import METHODS


def averages_of(rows):
    return average(summarise(rows))


def box_of(axes: Axes) -> BboxBase:
    box = axes.get_tightbbox()
    assert box is not None
    return box


def shown(axes: Axes) -> Any:
    """The masked array of the image in a panel."""
    return axes.images[0].get_array()


@pytest.fixture
def sweep(make_rows):
    rows = []
    for learned, rate in ((0.2, 1e-5), (0.8, 3e-5), (1.0, 1e-4)):
        for method in ("full", "lora", "replay"):
            rows += make_rows(method, learning_rate=rate, learned=learned, known=1 - learned)
    for slots in (64, 512):
        for seed in (0, 1):
            rows += make_rows(slots=slots, seed=seed, known=1.0 + 0.01 * seed)
    return rows


def test_every_method_has_a_colour_of_its_own():
    colours = {colour_of(method) for method in (*METHODS, "a method of somebody else")}
    assert len(colours) == len(METHODS) + 1


def test_the_largest_budget_has_the_full_hue(make_rows, monkeypatch):
    rows = make_rows("lora") + make_rows(slots=4096) + make_rows(slots=64) + make_rows(slots=512)
    monkeypatch.delitem(MARKERS, "lora")  # as of a method that nobody gave any
    left, _ = draw_frontier(averages_of(rows)).axes
    colours = {line.get_label(): line.get_color() for line in left.lines}
    assert list(colours) == ["smf, budget 64", "smf, budget 512", "smf, budget 4096", "lora"]
    assert colours["smf, budget 4096"] == to_rgb(colour_of("smf"))
    pale = [sum(to_rgb(colours[f"smf, budget {slots}"])) for slots in (64, 512, 4096)]
    assert pale[0] > pale[1] > pale[2]


def test_the_frontier_has_a_curve_a_sweep_in_each_panel(sweep):
    figure = draw_frontier(averages_of(sweep))
    for axes in figure.axes:
        curves = [line for line in axes.lines if not str(line.get_label()).startswith("_")]
        assert sorted(len(np.asarray(line.get_xdata())) for line in curves) == [1, 1, 3, 3, 3]
    left, right = figure.axes
    assert {tuple(np.asarray(line.get_xdata())) for line in left.lines} != {
        tuple(np.asarray(line.get_xdata())) for line in right.lines
    }


def test_all_points_of_the_frontier_lie_inside_its_axes(sweep):
    figure = draw_frontier(averages_of(sweep))
    for axes in figure.axes:
        low, high = axes.get_ylim()
        values = np.concatenate([line.get_ydata() for line in axes.lines])
        assert low <= values.min() < 0  # a base may be bettered
        assert values.max() <= high
        assert axes.get_xlim() == (0, 1)


@pytest.mark.parametrize("rules", [("tfidf",), ("tfidf", "tf", "random", "kl_df")])
def test_the_legend_covers_no_panel_and_stays_in_the_picture(make_rows, rules):
    rows = []
    for rule in rules:
        for slots in (16, 64, 512, 4096):
            rows += make_rows(slots=slots, rule=rule, trial=f"smf-{rule}-sgd-t{slots}-lr30-s0")
    figure = draw_frontier(averages_of(rows), note="smf-tfidf-sgd-t64-lr30-s1 failed")
    figure.draw_without_rendering()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert not any(box.overlaps(box_of(axes)) for axes in figure.axes)
    page = Bbox.from_bounds(0, 0, *(figure.get_size_inches() * figure.dpi))
    assert page.contains(box.x0, box.y0)
    assert page.contains(box.x1, box.y1)


@pytest.mark.parametrize("count", [1, 2, 4, 5, 6, 13])
def test_panels_and_their_titles_do_not_overlap(count):
    matrix = np.tril(np.ones((5, 5)))
    titles = [f"smf, random, per_task, momentum, budget {8**n}, lr 0.0003" for n in range(count)]
    figure = draw_matrices(dict.fromkeys(titles, matrix), "after task", "accuracy on task", "")
    figure.draw_without_rendering()
    boxes = [box_of(axes) for axes in figure.axes]
    assert len(boxes) == count + 1  # with the scale of colours
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    assert all(box.y1 <= figure.bbox.y1 for box in boxes)
    rows = {round(axes.get_position().y0, 3) for axes in figure.axes if axes.images}
    assert len(rows) == -(-count // 4)


def test_methods_without_markers_of_their_own_have_different_ones(make_rows):
    methods = ("replay_stream", "ewc", "ffn_rows")
    left, _ = draw_frontier(averages_of([row for m in methods for row in make_rows(m)])).axes
    assert len({str(line.get_marker()) for line in left.lines}) == 3


def test_overlaps_are_drawn_for_four_sweeps_at_most(make_rows):
    rows, changed = [], {}
    for place, slots in enumerate((16, 64, 256, 512, 4096)):
        rows += make_rows(slots=slots, end=0.9 - 0.1 * place)
        changed[rows[-1]["trial"]] = [np.arange(slots), np.arange(slots // 2, slots)]
    pictures = draw_pictures(averages_of(rows), changed)
    panels = [axes for axes in pictures["slots"].axes if axes.images]
    assert len(panels) == 4
    assert panels[0].texts[0].get_text() == "budget 16, lr 30"
    np.testing.assert_allclose(shown(panels[0]), [[np.nan, 0.5], [1, np.nan]])


def test_a_seed_whose_patches_are_missing_is_left_out_of_the_overlaps(make_rows):
    rows = make_rows() + make_rows(seed=1)
    one, two = dict.fromkeys(row["trial"] for row in rows)
    changed = {one: [np.arange(4), np.arange(2, 6)], two: [np.arange(4)]}
    (panel, *_) = draw_pictures(averages_of(rows), changed)["slots"].axes
    np.testing.assert_allclose(shown(panel), [[np.nan, 0.5], [0.5, np.nan]])


@pytest.mark.parametrize("changed", [{}, {"smf-tfidf-sgd-t64-lr30-s0": [np.arange(3)]}])
def test_there_is_no_picture_of_overlaps_without_two_tasks(make_rows, changed):
    pictures = draw_pictures(averages_of(make_rows(tasks=1)), changed)
    assert set(pictures) == {"frontier", "retention"}


def test_tasks_that_changed_nothing_are_drawn_blank(make_rows):
    changed = {"smf-tfidf-sgd-t64-lr30-s0": [np.arange(0), np.arange(0)]}
    figure = draw_pictures(averages_of(make_rows(tasks=2)), changed)["slots"]
    assert np.isnan(shown(figure.axes[0]).filled(np.nan)).all()


def test_overlap_is_the_share_of_the_rows_slots():
    changed = [np.array([1, 2, 3, 4]), np.array([4, 9]), np.array([], np.int64)]
    expected = [[np.nan, 0.25, 0], [0.5, np.nan, 0], [np.nan] * 3]
    np.testing.assert_array_equal(overlap_matrix(changed), expected)
