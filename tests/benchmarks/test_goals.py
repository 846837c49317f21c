import pytest

from benchmarks import goals
from benchmarks.goals import judge_all


def case(name, parameters=None, **entries):
    group = name.partition("/")[0]
    implementations = [
        {"name": title.replace("_", " "), "status": "measured", **entry}
        for title, entry in entries.items()
    ]
    return {
        "name": name,
        "group": group,
        "status": "measured",
        "parameters": parameters or {},
        "implementations": implementations,
    }


def triple(value):
    return [0.9 * value, value, 1.1 * value]


def row(cases, name, device="cpu"):
    (found,) = [r for r in judge_all(cases, device) if (r["name"], r["device"]) == (name, device)]
    return found


def relu(size, ratio):
    parameters = {"activation": "relu", "size": size}
    return case(f"activation/relu/{size}", parameters, normprop={"ratio": triple(ratio)})


def test_the_worst_case_counts():
    cases = [relu(10**6, 1.2), relu(10**7, 1.7), relu(10**8, 1.3), relu(1000, 9.0)]
    found = row(cases, "activation-eager")
    assert found["verdict"] == "missed"
    assert (found["measured"], found["case"]) == (1.7, "activation/relu/10000000")
    assert found["median"] == 1.3
    assert row(cases[:1], "activation-eager")["verdict"] == "met"
    assert row(cases, "activation-small")["measured"] == 9.0


def test_a_miss_is_shown():
    text = goals.as_text(judge_all([relu(10**6, 1.7)], "cpu"), "cpu")
    assert "MISSED  large activation" in text
    assert "≤ 1.6; 1.7 at worst, activation/relu/1000000; 1.7 in the median" in text
    assert "Goals of cuda: not measured in this run." in text


def test_more_is_better_where_it_is():
    entry = {"ratio": triple(1.25)}
    found = row([case("simulate/relu", normprop=entry)], "simulate")
    assert (found["measured"], found["verdict"]) == (0.8, "met")
    assert (
        row([case("simulate/relu", normprop={"ratio": triple(1.3)})], "simulate")["verdict"]
        == "missed"
    )


def test_rows_of_the_other_device_stay_empty():
    rows = judge_all([relu(10**6, 1.0)], "cpu")
    other = [r for r in rows if r["device"] == "cuda"]
    assert other
    assert all(r["measured"] is None and r["verdict"] == "not measured" for r in other)
    assert {r["verdict"] for r in judge_all([], "cpu")} == {"not measured"}


def test_saved_bytes_are_compared_network_by_network():
    def entry(size):
        return {"ratio": triple(1.0), "figures": {"saved_bytes": size}}

    nets = [
        case("training/vgg16", {"network": "vgg16"}, plain=entry(100), normprop_fused=entry(100)),
        case("training/dense", {"network": "dense"}, plain=entry(10), normprop_fused=entry(11)),
    ]
    assert row(nets[:1], "saved")["verdict"] == "met"
    found = row(nets, "saved")
    assert (found["measured"], found["verdict"]) == (1.1, "missed")
    assert found["case"] == "training/dense, normprop fused"


def test_the_growth_of_a_layer_is_set_against_the_plain_one_s():
    def chain(depth, plain, ours):
        return case(
            f"depth/{depth}",
            {"depth": depth},
            plain={"seconds": triple(plain * depth)},
            normprop={"seconds": triple(ours * depth)},
        )

    found = row([chain(10, 1.0, 3.0), chain(1000, 2.0, 6.0)], "depth")
    assert (found["measured"], found["verdict"]) == (1.0, "met")
    found = row([chain(10, 1.0, 3.0), chain(1000, 2.0, 9.0)], "depth")
    assert (found["measured"], found["verdict"]) == (1.5, "missed")
    assert row([chain(10, 1.0, 3.0)], "depth")["verdict"] == "not measured"


def test_bandwidth_counts_five_numbers_an_element():
    entries = {
        "copy": {"seconds": triple(2.0), "ratio": triple(1.0)},
        "normprop": {"seconds": triple(5.0), "ratio": triple(1.0)},
    }
    parameters = {"activation": "relu", "size": 10**8}
    found = row([case("activation/relu/100000000", parameters, **entries)], "bandwidth", "cuda")
    assert (found["measured"], found["verdict"]) == (1.0, "met")


def test_every_promise_is_unique_and_bounded():
    names = [(goal.name, goal.device) for goal in goals.goals()]
    assert len(set(names)) == len(names)
    assert all(goal.bound > 0 for goal in goals.goals())


@pytest.mark.parametrize(
    ("value", "text"), [(1.6, "1.6"), (0.237, "0.237"), (100.0, "100"), (19.53, "19.53"), (0, "0")]
)
def test_numbers_are_short(value, text):
    assert goals._number(value) == text
