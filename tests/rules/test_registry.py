"""The facts that a layer's entry holds, against the layers themselves."""

from typing import get_args

import pytest
import torch
from torch import nn

from normprop import rules
from normprop.rules.registry import Algebra, Family, Grade
from tests.nn.battery import ROWS, first

rows = pytest.mark.parametrize(
    "row", [row for row in ROWS if row.kind != "group"], ids=lambda row: row.name
)


def entry(row):
    return rules.entry_of_type(getattr(nn, row.name))


def runs(row, training):
    """The plain layer with fixed parameters, in a mode, as a function of its input."""
    layer = row.plain().train(training)

    def run(x):
        torch.manual_seed(0)
        return first(layer(x)).detach()

    return layer, run


@rows
@pytest.mark.parametrize("training", [True, False])
def test_a_commuting_layer_lets_affine_maps_pass(row, training):
    layer, run = runs(row, training)
    known, x = entry(row), row.input()
    if known.algebra not in ("commuting", "homogeneous"):
        return
    shift = 0.0 if known.needs_zero(layer) else 0.75
    assert torch.allclose(run(1.5 * x + shift), 1.5 * run(x) + shift, atol=1e-12)
    if known.algebra == "commuting" and not known.needs_zero(layer):
        assert torch.allclose(run(-1.5 * x), -1.5 * run(x)) or "Max" in row.name


@rows
def test_a_map_is_linear_but_for_its_bias(row):
    _, run = runs(row, True)
    x, y = row.input(), row.input().flip(0)
    linear = torch.allclose(run(x + y) - run(y), run(x) - run(0 * x), atol=1e-12)
    moves = ("map", "commuting")
    assert linear or entry(row).algebra not in moves or "Max" in row.name
    if entry(row).algebra == "map":
        assert linear


@rows
def test_a_clamp_has_its_limits(row):
    layer, run = runs(row, True)
    if entry(row).algebra == "clamp":
        x = 10 * row.input()
        assert torch.equal(run(x), x.clamp(*entry(row).limits(layer)))


@rows
@pytest.mark.parametrize("training", [True, False])
def test_a_layer_that_draws_says_so(row, training):
    layer, _ = runs(row, training)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    layer(row.input())
    assert torch.equal(before, torch.get_rng_state()) != entry(row).draws(layer)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("tracks", [True, False])
@pytest.mark.parametrize("name", ["BatchNorm1d", "InstanceNorm1d"])
def test_a_layer_that_keeps_a_state_says_so(name, tracks, training):
    layer = getattr(nn, name)(3, track_running_stats=tracks).train(training)
    before = {k: v.clone() for k, v in layer.state_dict().items()}
    layer(torch.randn(4, 3, 5))
    changed = any(not torch.equal(v, before[k]) for k, v in layer.state_dict().items())
    assert changed == rules.entry_of_type(type(layer)).keeps_state(layer)


@rows
def test_a_quiet_layer_puts_out_its_input(row):
    values = set(row.input().flatten().tolist())
    found = set(first(row.plain()(row.input())).flatten().tolist())
    padding = {0.0, row.arguments.get("value", 0.0)}
    if entry(row).quiet:
        assert found <= values | padding
        assert not entry(row).converts


def test_every_layer_of_torch_belongs_to_a_family():
    types = {t for t in vars(nn).values() if isinstance(t, type) and issubclass(t, nn.Module)}
    # A deprecated subclass has what its parent has.
    found = {t.__name__: rules.entry_that_applies(t) for t in types}
    left = {name for name, known in found.items() if known is None or known.family is None}
    # A bag has no twin: its scale depends on how many tokens are in it.
    assert left <= {"EmbeddingBag"}


@pytest.mark.parametrize(
    ("fact", "known"), [("grade", Grade), ("family", Family), ("algebra", Algebra)]
)
def test_every_fact_is_one_that_exists(fact, known):
    types = [rules.ScaledDotProductAttention, *vars(nn).values()]
    entries = (rules.entry_of_type(t) for t in types if isinstance(t, type))
    found = {getattr(entry, fact) for entry in entries if entry is not None}
    assert found - {None} == set(get_args(known))
