"""The committed table of real networks is of the networks that the tests run."""

import json

import pytest

from normprop.companion import results
from tests.graph.real import NETWORKS

TABLE = json.loads(results.path("networks.json").read_text("utf-8"))
FOUND = {one["name"]: one for one in TABLE["networks"]}
AGAIN = "python -m scripts.real_networks writes the table again"


def test_it_has_every_network():
    assert list(FOUND) == list(NETWORKS)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["VGG", "ResNet without BatchNorm", "U-Net"])
def test_the_figures_are_what_the_script_makes(name):
    from scripts.real_networks import entry

    made, kept = entry(name), FOUND[name]
    assert made["converted"] == kept["converted"], AGAIN
    assert made["kept"] == kept["kept"], AGAIN
    for when in ("before", "after"):
        for road in ("measured", "predicted"):
            for figure, values in made[when][road].items():
                assert values == pytest.approx(kept[when][road][figure], rel=0.02), AGAIN
