"""Differences have the interval of a t test, and a sentence is as true as its numbers."""

import pytest
from scipy import stats

from normprop.companion import record as records
from normprop.companion import verdicts

HIGH, LOW = [0.97, 0.98, 0.96, 0.975, 0.965], [0.90, 0.88, 0.91]


@pytest.fixture(autouse=True)
def nothing_recorded(monkeypatch):
    monkeypatch.setattr(records, "_recorded", {})


def recorded():
    return {name: value for name, (value, _) in records._recorded.items()}


@pytest.mark.parametrize(("one", "other"), [(HIGH, LOW), (LOW, HIGH), (HIGH, HIGH[::-1])])
def test_the_interval_is_that_of_a_t_test_and_no_narrower_than_welchs(one, other):
    found = verdicts.difference(one, other)
    welch = stats.ttest_ind(one, other, equal_var=False).confidence_interval(0.95)
    assert found.mean == pytest.approx(50 * (welch.low + welch.high))
    assert found.low <= 100 * welch.low + 1e-9
    assert found.high >= 100 * welch.high - 1e-9


@pytest.mark.parametrize("freedom", verdicts._QUANTILES)
def test_the_quantiles_are_students(freedom):
    assert verdicts._QUANTILES[freedom] == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-12)


@pytest.mark.parametrize(
    ("one", "other", "true"), [(HIGH, LOW, "above"), (LOW, HIGH, "below"), (HIGH, HIGH, "level")]
)
def test_one_claim_of_three_is_true(one, other, true):
    for claim in verdicts.CLAIMS:
        verdicts.said(f"x_{claim}", claim, one, other)
        assert recorded()[f"x_{claim}_holds"] is (claim == true)
    assert recorded()["x_above"] == recorded()["x_below"]


def test_the_text_has_the_difference_and_its_interval():
    assert str(verdicts.Difference(7.25, -0.04, 14.5)) == "+7.2 (−0.0 to +14.5)"


def test_a_claim_must_be_known():
    with pytest.raises(ValueError, match="claim must be one of above, below, level; it was 'best'"):
        verdicts.said("x", "best", HIGH, LOW)


@pytest.mark.parametrize("size", [0, 1, 2, 6])
def test_a_sample_must_have_a_size_that_is_known(size):
    with pytest.raises(ValueError, match=f"three to five values; it had {size}"):
        verdicts.difference(HIGH, [0.5] * size)


def test_a_run_that_diverged_classifies_nothing():
    cell = {"runs": [{"test": 0.5}, {"test": None}, {"test": 0.25}]}
    assert verdicts.tested(cell) == [0.0, 0.25, 0.5]


def test_cells_are_found_by_method_weights_and_activation():
    found = verdicts.cells("depth_1000_sgd.json")
    assert len(verdicts.tested(found["calibrated", True, "tanh"])) >= 3
