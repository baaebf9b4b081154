"""Percentiles, histograms and figures of the load test."""

import itertools
import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapi.loadtest import stats

DURATIONS = st.lists(st.floats(1e-6, 1e4), min_size=1, max_size=300)


def test_percentiles_are_values_that_were_measured():
    values = [float(n) for n in range(1, 101)]
    assert [stats.percentile(values, share) for share in (0, 0.5, 0.9, 0.99, 1)] == [1, 50, 90, 99, 100]
    assert stats.percentile([7.0], 0.5) == 7
    with pytest.raises(ValueError, match="no values"):
        stats.percentile([], 0.5)


@given(DURATIONS)
def test_no_more_than_the_share_exceeds_a_percentile(values):
    ordered = sorted(values)
    for share in (0.5, 0.9, 0.99):
        found = stats.percentile(ordered, share)
        assert found in values
        assert sum(value <= found for value in values) >= share * len(values) - 1e-9
        assert sum(value < found for value in values) < max(1, math.ceil(share * len(values)))


@given(DURATIONS)
def test_a_summary_agrees_with_the_standard_library(values):
    found = stats.summarize(values)
    assert found is not None
    assert found.count == len(values)
    assert math.isclose(found.mean, statistics.fmean(values), rel_tol=1e-9)
    assert (found.min, found.max) == (min(values), max(values))
    assert found.min <= found.p50 <= found.p90 <= found.p99 <= found.max


def test_nothing_has_no_summary():
    assert stats.summarize([]) is None
    assert stats.histogram([]) == []
    assert stats.drawn([]) == []
    assert stats.cdf([]) == []


@given(DURATIONS)
def test_every_value_is_in_one_bin_and_none_is_left_out_between(values):
    bins = stats.histogram(values)
    assert sum(one.count for one in bins) == len(values)
    assert all(earlier.high == later.low for earlier, later in itertools.pairwise(bins))
    assert bins[0].count
    assert bins[-1].high >= max(values)
    for one in bins:
        assert one.count == sum(one.low < value <= one.high for value in values)


def test_a_histogram_is_drawn_to_scale():
    bins = stats.histogram([0.004] * 8 + [0.015] * 4 + [0.9])
    lines = stats.drawn(bins, columns=len("≤ 5.00 ms   8") + 8)
    assert lines[0].endswith("████████ 8")
    assert any(line.endswith("████ 4") for line in lines)
    assert lines[-1].endswith("▉ 1") or lines[-1].endswith("█ 1")
    assert len({line.index("  ") for line in lines if not line.startswith(" ")}) <= 1, "the labels are in one column"


@given(DURATIONS, st.integers(1, 120))
def test_a_histogram_fits_its_columns_down_to_the_narrowest(values, columns):
    lines = stats.drawn(stats.histogram(values), columns)
    widest = max(map(len, lines))
    assert widest <= max(columns, 24)
    if columns > 24:
        assert widest == columns, "the fullest bin takes all the room there is"


def test_something_is_never_nothing():
    assert stats.bar(1e-9, 40) == "▏"
    assert stats.bar(0, 40) == ""
    assert stats.bar(1, 3) == "███"


@given(DURATIONS)
def test_a_cdf_rises_to_one_within_its_bound_of_points(values):
    points = stats.cdf(values, points=50)
    assert points[-1] == (max(values), 1.0)
    assert points == sorted(points)
    assert len(points) <= 50 + 1


def test_figures_are_three_and_a_unit():
    seconds = (0.00084, 0.0125, 0.9996, 1.3, 59, 720)
    assert [stats.duration(s) for s in seconds] == ["840 µs", "12.5 ms", "1.00 s", "1.30 s", "59.0 s", "12.0 min"]
    assert [stats.size(b) for b in (6.12 * 2**20, 2**30, 3 * 2**40)] == ["6.12 MB", "1.00 GB", "3.00 TB"]
