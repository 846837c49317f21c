import dataclasses
import json

import pytest
import torch

from benchmarks import runner
from benchmarks.case import Case, Context, Prepared, UnavailableError
from benchmarks.runner import Journal, Options, run_all, run_case

CONTEXT = Context(torch.device("cpu"))
QUICK = Options(rounds=3, seconds=1.0, least=1e-5)


class Calls:
    """An implementation that counts how often it runs."""

    def __init__(self, complaint=None, problem=None):
        self.complaint, self.problem, self.count = complaint, problem, 0

    def __call__(self, context):
        if self.problem is not None:
            raise self.problem
        return Prepared(self._run, lambda: self.complaint, lambda: {"saved_bytes": 16})

    def _run(self):
        self.count += 1


def case(name="tiny/1", memory=0, **implementations):
    return Case(name, "plain", implementations, {"size": 1}, memory=memory)


def by_name(result):
    return {entry["name"]: entry for entry in result["implementations"]}


def test_a_case_is_measured_side_by_side():
    plain, ours = Calls(), Calls()
    result = run_case(case(plain=plain, normprop=ours), CONTEXT, QUICK)
    assert result["status"] == "measured"
    assert (result["group"], result["baseline"], result["threads"]) == ("tiny", "plain", 1)
    entries = by_name(result)
    assert entries["plain"]["ratio"] == [1.0, 1.0, 1.0]
    for entry in entries.values():
        assert entry["rounds"] == 3
        low, median, high = entry["seconds"]
        assert 0 < low <= median <= high
        assert entry["figures"] == {"saved_bytes": 16}
    # The baseline stands beside all; the package's own beside everyone else.
    assert set(entries["plain"]["versus"]) == {"normprop"}
    assert entries["normprop"]["versus"] == {}
    assert json.loads(json.dumps(result)) == result


def test_what_is_done_several_times_in_a_call_counts_once(monkeypatch):
    monkeypatch.setattr(
        runner,
        "interleaved",
        lambda calls, **_: ({n: [6.0] for n in calls}, dict.fromkeys(calls, 1)),
    )

    def several(context):
        return dataclasses.replace(Calls()(context), passes=4)

    entries = by_name(run_case(case(plain=Calls(), normprop=several), CONTEXT, QUICK))
    assert entries["normprop"]["seconds"] == [1.5, 1.5, 1.5]
    assert entries["normprop"]["ratio"] == [0.25, 0.25, 0.25]


def test_a_wrong_implementation_is_reported_and_never_timed():
    plain, wrong = Calls(), Calls(complaint="y is off")
    result = run_case(case(plain=plain, normprop=wrong), CONTEXT, QUICK)
    entry = by_name(result)["normprop"]
    assert entry == {"name": "normprop", "status": "failed", "reason": "y is off"}
    assert wrong.count == 0
    assert plain.count > 0
    assert "FAILED" in runner.line(result)


def test_an_implementation_that_breaks_leaves_the_others_alone():
    result = run_case(
        case(
            plain=Calls(),
            broken=Calls(problem=RuntimeError("out of\nluck")),
            absent=Calls(problem=UnavailableError("not installed")),
        ),
        CONTEXT,
        QUICK,
    )
    entries = by_name(result)
    assert entries["plain"]["status"] == "measured"
    assert entries["broken"]["status"] == "failed"
    # The file's name, not the path of a machine.
    assert entries["broken"]["reason"].startswith("RuntimeError at test_runner.py, line ")
    assert entries["broken"]["reason"].endswith(": out of luck")
    assert entries["absent"] == {
        "name": "absent",
        "status": "unavailable",
        "reason": "not installed",
    }


def test_without_its_baseline_a_case_has_no_ratio():
    ours = Calls()
    result = run_case(case(plain=Calls(complaint="wrong"), normprop=ours), CONTEXT, QUICK)
    assert result["status"] == "failed"
    assert ours.count == 0
    assert by_name(result)["normprop"]["status"] == "skipped"


def test_a_case_without_room_is_skipped_with_the_reason():
    plain = Calls()
    result = run_case(case(plain=plain, memory=1 << 60), CONTEXT, QUICK)
    assert result["status"] == "skipped"
    assert "needs about 1073741824.0 GiB" in result["reason"]
    assert plain.count == 0


def test_threads_are_the_case_s_own_and_set_back():
    seen = []

    def prepare(context):
        return Prepared(lambda: seen.append(torch.get_num_threads()), lambda: None)

    before = torch.get_num_threads()
    one = Case("tiny/1", "plain", {"plain": prepare}, threads=1)
    run_case(one, Context(torch.device("cpu"), threads=2), QUICK)
    assert set(seen) == {1}
    assert torch.get_num_threads() == before


def test_a_baseline_must_be_there():
    with pytest.raises(ValueError, match="baseline must be one of normprop"):
        case(normprop=Calls())


def test_a_run_goes_on_where_it_was(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl", {"source": "a"})
    first, second = Calls(), Calls()
    cases = [case("tiny/1", plain=first), case("tiny/2", plain=second)]

    stopped = run_all(cases, CONTEXT, QUICK, journal, say=lambda text: None)
    done = next(stopped)
    stopped.close()
    count = first.count
    assert (count > 0, second.count) == (True, 0)

    again = list(run_all(cases, CONTEXT, QUICK, journal, say=lambda text: None))
    assert again[0] == done
    assert first.count == count
    assert second.count > 0
    assert [result["name"] for result in again] == ["tiny/1", "tiny/2"]


def test_a_journal_of_other_settings_does_not_count(tmp_path):
    path = tmp_path / "journal.jsonl"
    Journal(path, {"source": "a"}).add({"name": "tiny/1"})
    assert Journal(path, {"source": "a"}).read() == {"tiny/1": {"name": "tiny/1"}}
    assert Journal(path, {"source": "b"}).read() == {}


def test_a_torn_line_is_neither_read_nor_written_into(tmp_path):
    path = tmp_path / "journal.jsonl"
    journal = Journal(path, {})
    journal.add({"name": "tiny/1"})
    whole = path.read_text()
    path.write_text(whole + whole[:-20])
    assert journal.read() == {"tiny/1": {"name": "tiny/1"}}
    journal.add({"name": "tiny/2"})
    assert set(journal.read()) == {"tiny/1", "tiny/2"}


def test_a_run_of_little_time_says_what_it_did_not_reach(tmp_path):
    journal, said = Journal(tmp_path / "journal", {}), []
    cases = [case(f"tiny/{n}", plain=Calls()) for n in range(2)]
    results = list(run_all(cases, CONTEXT, QUICK, journal, said.append, budget=0.0))
    assert [r["status"] for r in results] == ["skipped", "skipped"]
    assert said[0] == "tiny/0: skipped, not reached in 0 seconds"
    # The next run goes on.
    results = list(run_all(cases, CONTEXT, QUICK, journal, said.append, budget=60.0))
    assert [r["status"] for r in results] == ["measured", "measured"]


def test_a_case_that_would_not_end_in_time_does_not_begin(tmp_path):
    long = dataclasses.replace(case("tiny/long", plain=Calls()), seconds=61.0)
    cases = [long, case("tiny/short", plain=Calls())]
    results = list(run_all(cases, CONTEXT, QUICK, Journal(tmp_path / "journal", {}), budget=60.0))
    assert [r["status"] for r in results] == ["skipped", "measured"]


def test_the_main_cases_come_first():
    names = ["moments-closed/relu", "activation/relu/1000", "training/dense", "other/x", "block/y"]
    found = [c.name for c in runner.by_importance([case(n, plain=Calls()) for n in names])]
    assert found == ["training/dense", "activation/relu/1000", "block/y", *names[::3]]
