"""Every number that a page pastes is the number that it should be."""

import math

import pytest

from tests.book import expected
from tests.book.expectations import Equals, Estimate, Exact, Measured, Parameter, PerRun, Within
from tests.book.notebooks import NOTEBOOKS

RUNS = ["small", "own"]


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_what_is_recorded_is_expected_and_the_other_way_round(executions, name, run):
    assert set(executions[run][name].records) == set(expected.registry(name))


# All numbers of a notebook in one test, which names those that are wrong: to know the names alone
# means to compute what is expected of each, which is not to be done where no number is looked at.


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_number_is_what_it_should_be(executions, name, run):
    execution = executions[run][name]
    complaints = []
    for record, expectation in expected.registry(name).items():
        if record not in execution.records:
            complaints.append(f"{record} is not recorded")
            continue
        complaint = expectation.complaint(
            execution.records[record], execution.records, execution.parameters, run
        )
        if complaint is not None:
            complaints.append(f"{record} {complaint}")
    assert not complaints, "\n".join(complaints)


def shifted(expectation, records):
    """An expectation of a constant that is wrong, or None if a number is held against none."""
    if isinstance(expectation, Estimate):
        # Twice the tolerance away, whichever way the simulation happened to fall.
        shift = 2 * expectation.z * records[expectation.standard_error_record]
        return Estimate(expectation.reference + shift, expectation.standard_error_record)
    if isinstance(expectation, Exact):
        shift = 2.5 * expectation.error or 1e-9
        return Exact(expectation.reference + shift, expectation.error)
    return None


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_wrong_constant_is_seen(executions, name, run):
    records = executions[run][name].records
    unseen = []
    for record, expectation in expected.registry(name).items():
        kind = getattr(expectation, run) if isinstance(expectation, PerRun) else expectation
        wrong = shifted(kind, records)
        if wrong is not None and wrong.complaint(records[record], records, {}, run) is None:
            unseen.append(record)
    assert unseen == []


def test_every_file_of_expectations_belongs_to_a_notebook():
    stems = {name.rpartition("/")[2].removesuffix(".ipynb") for name in NOTEBOOKS}
    assert expected.files() <= stems


def test_every_standard_error_is_expected_too():
    for name in NOTEBOOKS:
        registry = expected.registry(name)
        for expectation in registry.values():
            kinds = vars(expectation).values() if isinstance(expectation, PerRun) else [expectation]
            for kind in kinds:
                if isinstance(kind, Estimate):
                    assert kind.standard_error_record in registry


class TestExpectations:
    """The kinds themselves: each lets the right value through and stops the wrong one."""

    def complaint(self, expectation, value, records=None, parameters=None, run="own"):
        return expectation.complaint(value, records or {}, parameters or {}, run)

    def test_exact(self):
        assert self.complaint(Exact(math.pi, 1e-12), math.pi) is None
        assert "off by" in self.complaint(Exact(math.pi, 1e-12), math.pi + 1e-11)
        assert "must be a number" in self.complaint(Exact(1.0, 1e-12), True)

    @pytest.mark.parametrize("error", [-1.0, math.inf, math.nan])
    def test_exact_needs_a_bound(self, error):
        with pytest.raises(ValueError, match="bound of the error"):
            Exact(1.0, error)

    def test_estimate_fails_on_the_constant_of_the_post(self):
        # The post's 0.2123, held against a simulation a hundred times larger than the post's.
        records = {"se": 5.2e-5}
        exact = Estimate(0.2117456997, "se")
        post = Estimate(0.2123, "se")
        assert self.complaint(exact, 0.21172, records) is None
        assert "standard errors" in self.complaint(post, 0.21172, records)

    @pytest.mark.parametrize("records", [{}, {"se": 0.0}, {"se": -1.0}, {"se": "0.1"}])
    def test_estimate_needs_a_standard_error(self, records):
        assert "standard error" in self.complaint(Estimate(1.0, "se"), 1.0, records)

    def test_within(self):
        assert self.complaint(Within(1, 2, "why"), 1.5) is None
        assert "(why)" in self.complaint(Within(1, 2, "why"), 2.5)
        with pytest.raises(ValueError, match="a reason"):
            Within(1, 2, " ")

    def test_equals(self):
        assert self.complaint(Equals("confirmed"), "confirmed") is None
        assert self.complaint(Equals("confirmed"), "corrected") is not None
        assert self.complaint(Equals(True), 1) is not None
        with pytest.raises(TypeError, match="a string, a bool or an int"):
            Equals(0.1)

    def test_measured(self):
        assert self.complaint(Measured(), 0.7) is None
        for wrong in (0.0, -1.0, "0.7", True):
            assert "must be a positive number" in self.complaint(Measured(), wrong)

    def test_parameter(self):
        assert self.complaint(Parameter("n"), 5, parameters={"n": 5}) is None
        assert self.complaint(Parameter("n"), 6, parameters={"n": 5}) is not None
        assert "no parameter" in self.complaint(Parameter("n"), 5)

    def test_per_run(self):
        both = PerRun(own=Equals(1), small=Equals(2))
        assert self.complaint(both, 1, run="own") is None
        assert self.complaint(both, 2, run="small") is None
        assert self.complaint(both, 2, run="own") is not None
