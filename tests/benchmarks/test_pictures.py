"""Pictures of cost against table slots."""

from __future__ import annotations

from matplotlib.transforms import Bbox

from benchmarks.harness import Timing
from benchmarks.pictures import draw_growth
from benchmarks.results import Measurement
from tests.benchmarks.tiny import report

SLOTS = (16_384, 65_536, 262_144, 1_048_576, 4_194_304)


def result(contestants: int, slots=SLOTS):
    told = report()
    for number in range(contestants):
        for count in slots:
            seconds = (1e-3 * (number + 1), 2e-3 * (number + 1) * count**0.5)
            setting = {"table_slots": count, "tokens": 512}
            name = f"way {number} of doing it, with a long name"
            told.add(Measurement("step", name, setting, Timing(seconds)))
    told.add(Measurement("sweep", "all", {"table_slots": SLOTS[0]}, Timing((1.0,))))
    told.add(Measurement("tpu", "read", {"table_slots": SLOTS[0]}))
    return told.to_dict()


def test_a_picture_a_suite_that_measured_several_sizes_and_a_curve_a_contestant():
    pictures = draw_growth(result(3))
    assert set(pictures) == {"step"}
    (axes,) = pictures["step"].axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert len(axes.lines) == 3
    assert all(tuple(line.get_xdata()) == SLOTS for line in axes.lines)
    assert len({line.get_color() for line in axes.lines}) == 3
    low, high = axes.get_ylim()
    values = [value for line in axes.lines for value in line.get_ydata()]
    assert low <= min(values) < max(values) <= high


def test_twelve_curves_look_different():
    (axes,) = draw_growth(result(12))["step"].axes
    looks = {(line.get_color(), line.get_linestyle(), line.get_marker()) for line in axes.lines}
    assert len(looks) == 12


def test_one_size_is_no_picture():
    assert draw_growth(result(2, SLOTS[:1])) == {}


def test_the_legend_covers_nothing_and_stays_in_the_picture():
    figure = draw_growth(result(9))["step"]
    figure.draw_without_rendering()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert not box.overlaps(figure.axes[0].get_tightbbox())
    page = Bbox.from_bounds(0, 0, *(figure.get_size_inches() * figure.dpi))
    assert page.contains(box.x0, box.y0)
    assert page.contains(box.x1, box.y1)
