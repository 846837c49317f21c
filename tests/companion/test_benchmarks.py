import json
import math
import platform
import subprocess
import sys

import pytest

from normprop.companion import benchmarks
from normprop.companion.benchmarks import Results, interleaved, quantiles, ratios


class Machine:
    """A clock that says what calls cost, instead of waiting, and remembers who had a turn."""

    def __init__(self, costs):
        self.costs, self.turns, self.running = costs, [], None

    def call(self, name):
        def run():
            self.running = name

        return run

    @property
    def calls(self):
        return {name: self.call(name) for name in self.costs}

    def clock(self, call, repetitions):
        call()
        self.turns.append((self.running, repetitions))
        return self.costs[self.running] * repetitions


def test_each_call_has_one_turn_a_round_in_an_order_that_changes():
    machine = Machine({"a": 1.0, "b": 2.0, "c": 3.0})
    times, _ = interleaved(machine.calls, rounds=40, clock=machine.clock)
    warm = 2 * 3
    turns = [name for name, _ in machine.turns[warm:]]
    rounds = [tuple(turns[k : k + 3]) for k in range(0, len(turns), 3)]
    assert len(rounds) == 40
    assert all(sorted(order) == ["a", "b", "c"] for order in rounds)
    # Of the 6 orders each is missing from 40 rounds with probability (5/6)^40 < 0.1 %.
    assert len(set(rounds)) == 6
    assert times == {"a": [1.0] * 40, "b": [2.0] * 40, "c": [3.0] * 40}


def test_the_order_follows_from_the_seed():
    orders = []
    for seed in (0, 0, 1):
        machine = Machine({"a": 1.0, "b": 1.0, "c": 1.0})
        interleaved(machine.calls, rounds=10, seed=seed, clock=machine.clock)
        orders.append(machine.turns)
    assert orders[0] == orders[1] != orders[2]


def test_a_turn_lasts_long_enough_whatever_the_call_costs():
    machine = Machine({"fast": 1e-6, "slow": 0.5, "nothing": 0.0})
    costs = {"fast": 1e-6, "slow": 0.5}
    machine.costs = costs
    _, counts = interleaved(machine.calls, rounds=3, least=2e-3, clock=machine.clock)
    assert counts["slow"] == 1
    assert 2e-3 <= counts["fast"] * 1e-6 < 2.5e-2
    assert [n for name, n in machine.turns if name == "fast"][-3:] == [counts["fast"]] * 3


def test_too_long_a_case_ends_after_five_rounds():
    def clock(call, repetitions):
        return 1.0 * repetitions

    times, _ = interleaved({"a": lambda: None}, rounds=30, seconds=1e-12, clock=clock)
    assert len(times["a"]) == 5


def test_nothing_to_measure_is_an_error():
    with pytest.raises(ValueError, match="at least one call"):
        interleaved({}, rounds=3)
    for wrong in ({"rounds": 0}, {"rounds": 1, "least": 0.0}, {"rounds": 1, "seconds": -1.0}):
        with pytest.raises(ValueError, match="rounds must be at least 1"):
            interleaved({"a": lambda: None}, **wrong)


def test_the_clock_counts_all_calls():
    calls = []
    taken = benchmarks.cpu_clock(lambda: calls.append(1), 7)
    assert len(calls) == 7
    assert taken > 0


def test_quantiles_are_interpolated():
    assert quantiles([5.0]) == (5.0, 5.0, 5.0)
    # Places 0.8, 2 and 3.2 of 0 to 4.
    found = quantiles([40.0, 10.0, 0.0, 30.0, 20.0])
    assert found == pytest.approx((8.0, 20.0, 32.0), abs=1e-13)


def test_ratios_are_taken_within_a_round():
    # The machine halves its speed in the second round: no ratio notices.
    times = {"base": [1.0, 2.0], "other": [3.0, 6.0]}
    assert ratios(times, "base") == {"base": [1.0, 1.0], "other": [3.0, 3.0]}


GOALS = (("cuda", "not measured"), ("cpu", "missed"))


@pytest.fixture
def file(tmp_path):
    entry = {
        "name": "ours",
        "status": "measured",
        "seconds": [1.0, 2.0, 3.0],
        "ratio": [0.5, 0.6, 0.7],
        "versus": {"ours too": [1.0, 1.1, 1.2]},
        "figures": {"saved_bytes": 8},
    }
    refused = {"name": "theirs", "status": "failed", "reason": "y is off"}
    case = {
        "name": "a/1",
        "group": "a",
        "status": "measured",
        "parameters": {"size": 1},
        "baseline": "base",
        "implementations": [entry, refused],
    }
    other = {**case, "name": "a/2", "status": "skipped", "reason": "room", "implementations": []}
    goals = [{"name": "g", "device": d, "verdict": v} for d, v in GOALS]
    content = {"schema": 1, "device": "cpu", "goals": goals, "cases": [case, other]}
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(content))
    return path


def test_results_are_read(file):
    results = Results(file)
    assert results.origin == {"schema": 1, "device": "cpu"}
    assert results.goal("g")["verdict"] == "missed"
    with pytest.raises(KeyError, match="no goal 'h' for cpu"):
        results.goal("h")
    assert [(e.case, e.implementation) for e in results] == [("a/1", "ours"), ("a/1", "theirs")]
    assert results.names("a") == ["a/1"]
    assert results.parameters("a/2") == {"size": 1}
    assert results.ratio("a/1", "ours") == 0.6
    assert results.ratio("a/1", "ours", "ours too") == 1.1
    assert results.median_ratio("a", "ours") == 0.6
    assert results.entry("a/1", "ours").figures == {"saved_bytes": 8}


def test_what_was_not_measured_has_no_numbers(file):
    results = Results(file)
    with pytest.raises(KeyError, match="failed, y is off"):
        results.entry("a/1", "theirs")
    with pytest.raises(KeyError, match="no case"):
        results.entry("a/1", "nobody")


def test_another_layout_is_refused(file):
    file.write_text(file.read_text().replace('"schema": 1', '"schema": 99'))
    with pytest.raises(ValueError, match="must have schema 1"):
        Results(file)


def test_quantiles_and_ratios_of_real_calls_are_finite():
    times, _ = interleaved({"a": lambda: sum(range(100)), "b": lambda: None}, rounds=3, least=1e-4)
    for name, values in ratios(times, "b").items():
        assert all(math.isfinite(v) and v > 0 for v in values), name


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_memory_that_is_kept_has_its_pages_already():
    # In a process of its own, which it changes for good.
    code = """if True:
        import resource
        import numpy as np
        from normprop.companion.benchmarks import keep_memory

        def faults():
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            for _ in range(20):
                np.ones(1 << 20)
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

        fresh = faults()
        assert keep_memory()
        faults()
        print(fresh, faults())
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    fresh, kept = map(int, done.stdout.split())
    # 20 arrays of 8 MB, by pages of 4 kB or of 2 MB.
    assert fresh >= 20 * 4
    assert kept < 20
