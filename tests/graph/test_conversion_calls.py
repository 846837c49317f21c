"""How convert() is called: wrapped models, keywords, what cannot be copied, what it refuses."""

import copy
import logging
import pickle
import random
import threading
from functools import partial

import pytest
import torch
from torch import nn

import normprop
from normprop import convert, report


def _plain():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))


def _compiled_in_place():
    model = _plain()
    model.compile(backend="eager")
    return model


WRAPPED = {
    "compiled": lambda: torch.compile(_plain(), backend="eager"),
    "compiled in place": _compiled_in_place,
    "parallel": lambda: nn.DataParallel(_plain()),
    "averaged": lambda: torch.optim.swa_utils.AveragedModel(_plain()),
    "compiled parallel": lambda: torch.compile(nn.DataParallel(_plain()), backend="eager"),
}


@pytest.mark.parametrize("example", [False, True])
@pytest.mark.parametrize("wrapper", WRAPPED)
def test_what_is_wrapped_is_converted(wrapper, example):
    x = torch.randn(3, 4)
    # With constants that do not depend on what stands behind.
    convert = partial(normprop.convert, scaling="backward")
    wanted, inputs = convert(_plain()), [x] if example else []
    made = convert(WRAPPED[wrapper](), *inputs)
    assert type(made) is nn.Sequential
    assert report(made).converted == report(wanted).converted
    assert torch.equal(made(x), wanted(x))
    assert made.state_dict().keys() == wanted.state_dict().keys()
    # And so it is as a part of another model.
    part = convert(nn.Sequential(WRAPPED[wrapper](), nn.ReLU()), *inputs)
    assert set(report(part).converted) == {"0.0", "0.1", "0.2", "1"}
    assert torch.equal(part(x), normprop.functional.relu(wanted(x)))


def test_what_an_earlier_pass_has_left_does_not_matter():
    class Keeps(nn.Module):
        def __init__(self):
            super().__init__()
            self.map, self.seen = nn.Linear(4, 4), []

        def forward(self, x):
            self.hidden = self.map(x)
            self.seen.append(self.hidden)
            return self.hidden.relu()

    model, x = Keeps(), torch.randn(3, 4)
    model(x)
    assert set(report(convert(model, x)).converted) == {"map", "relu"}


def test_a_model_that_was_made_for_inference_trains():
    with torch.inference_mode():
        model, x = nn.Sequential(nn.Linear(4, 4), nn.ELU()), torch.randn(3, 4)
        made = convert(model, x, method="project")
    assert len(report(made).converted) == 2
    made(torch.randn(3, 4)).square().sum().backward()
    assert made[0].weight.grad is not None


def test_what_cannot_be_copied_is_refused():
    model = _plain()
    model[1].lock = threading.Lock()
    with pytest.raises(TypeError, match="model must be one that copy"):
        convert(model)


class Branches(nn.Module):
    def __init__(self, other):
        super().__init__()
        self.map, self.act, self.other = nn.Linear(4, 4), nn.ReLU(), other

    def forward(self, x):
        y = self.map(x)
        return y if self.other(self, x, y) else self.act(y)


ROADS = {
    "what a layer computes": (lambda _, x, y: y.sum() > 0, "took another road"),
    "the input": (lambda _, x, y: x.sum() > 0, "2 roads"),
    "Python's dice": (lambda *_: random.random() > 0.5, "dice"),
    "torch's dice": (lambda *_: torch.rand(()) > 0.5, "2 roads"),
    "the mode": (lambda model, *_: model.training, "1 road"),
}


@pytest.mark.parametrize("kind", ROADS)
def test_a_model_of_many_roads_is_converted_and_the_report_says_what_was_seen(kind):
    other, note = ROADS[kind]
    made = convert(Branches(other), torch.randn(3, 4))
    found = report(made)
    assert set(found.converted) == {"map", "act"}
    assert note in " ".join(found.runs)
    assert note in str(found)


def test_what_a_model_raises_is_its_own():
    def other(*_):
        raise ValueError("no such input")

    with pytest.raises(ValueError, match="no such input"):
        convert(Branches(other), torch.randn(3, 4))


def test_an_assertion_or_a_log_ends_nothing():
    class Checks(nn.Module):
        def __init__(self):
            super().__init__()
            self.map = nn.Linear(4, 4)

        def forward(self, x):
            assert torch.isfinite(x).all()
            x = self.map(x)
            logging.getLogger("test").debug("%f", x.abs().max().item())
            return x

    assert set(report(convert(Checks(), torch.randn(3, 4))).converted) == {"map"}


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.map, self.act, self.pool = nn.Linear(4, 4), nn.ReLU(), nn.MaxPool1d(2)

    def forward(self, ids, *, mask=None, model=None, scaling=1.0):
        x = self.pool(self.act(self.map(ids)))
        return x if mask is None else x * mask


class Anything(Named):
    def forward(self, **given):
        return super().forward(given["ids"], mask=given["mask"])


@pytest.mark.parametrize("kind", [Named, Anything])
def test_keywords_that_are_no_options_go_to_the_model(kind):
    x, mask = torch.randn(3, 4), torch.ones(3, 2)
    made = convert(kind(), ids=x, mask=mask, scaling="forward", per="layer", method="project")
    found = report(made)
    assert made.map.scaling == "forward"
    assert (made.map.per, made.map.method) == ("layer", "project")
    assert "after=ReLU" in repr(made.pool)
    assert set(found.functions) == {"mul"}
    assert torch.isfinite(made(ids=x, mask=mask)).all()


def test_a_model_may_have_an_argument_named_model():
    assert report(convert(Named(), torch.randn(3, 4), model=3)).functions == {}


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: convert(_plain(), "forward"), TypeError, "scaling must be given by name"),
        (lambda: convert(_plain(), torch.ones(1, 4), "layer"), TypeError, "per must be given by"),
        (lambda: convert(_plain(), "project"), TypeError, "method='project'"),
        (lambda: convert(_plain(), scalling="forward"), TypeError, "did you mean scaling"),
        (lambda: convert(Anything(), methods="project"), TypeError, "did you mean method"),
        (lambda: convert(_plain(), torch.ones(1, 4), mask=1), TypeError, "Sequential.forward"),
        (lambda: convert(Anything(), ids=3), ValueError, "example inputs must be given"),
        (lambda: convert(torch.jit.script(nn.ReLU())), TypeError, "TorchScript"),
    ],
)
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_what_was_converted_is_normalised_already():
    x = torch.randn(3, 4)
    once = convert(_plain(), x)
    twice = convert(once, x)
    assert report(twice).converted == {}
    assert set(report(twice).kept) == {"0", "1", "2"}
    assert all("normalised already" in reason for reason in report(twice).kept.values())
    assert torch.equal(once(x), twice(x))


OWN = {
    "Residual": lambda inner: normprop.nn.Residual(inner),
    "Residual with a skip": lambda inner: normprop.nn.Residual(nn.Identity(), skip=inner),
    "a subclass": lambda inner: type("Mine", (normprop.nn.Residual,), {})(inner),
    "in each other": lambda inner: normprop.nn.Residual(normprop.nn.Residual(inner)),
    "beside twins": lambda inner: normprop.nn.Residual(
        nn.Sequential(inner, normprop.nn.ReLU(), normprop.nn.GatedLinear("silu", 1), _Wide())
    ),
}


class _Wide(nn.Module):
    def forward(self, x):
        return torch.cat([x, x], 1)


@pytest.mark.parametrize("example", [False, True])
@pytest.mark.parametrize("kind", OWN)
def test_branches_of_our_own_containers_are_gone_into(kind, example):
    model, x = OWN[kind](nn.Sequential(nn.Linear(4, 4), nn.Tanh())), torch.randn(3, 4)
    made = convert(model, *([x] if example else []))
    assert sorted(report(made).converted.values()) == ["Linear", "Tanh"]
    if kind == "beside twins":
        kept = list(report(made).kept.values())
        assert [reason for reason in kept if "already" not in reason] == [
            "is a _Wide, not a layer of torch.nn, and may compute anything"
        ]
    else:
        assert report(made).kept == {}
    if example:
        assert report(made).functions.get("functional.residual", "").endswith("already")


def test_functions_of_ours_are_what_they_are():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.map = nn.Linear(4, 4)

        def forward(self, x):
            y = normprop.functional.relu(self.map(x), scaling="forward")
            both = normprop.functional.cat([x[:, :2], x[:, 2:]], 1)
            return normprop.functional.residual(both, y)

    found = report(convert(Own(), torch.randn(3, 4)))
    assert found.functions == {
        f"functional.{name}": "once; is normalised already" for name in ("relu", "cat", "residual")
    }


def test_lazy_layers_wait_for_their_weights():
    model, x = nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.LazyLinear(2)), torch.randn(3, 4)
    assert "no weights yet" in report(convert(model)).kept["0"]
    assert "no weights yet" in report(convert(model, x)).kept["0"]
    model(x)
    assert set(report(convert(model, x)).converted) == {"0", "1", "2"}
    # torch does not copy a buffer that has no shape.
    with pytest.raises(TypeError, match="LazyModule"):
        convert(nn.LazyBatchNorm1d())


def test_one_module_at_two_places_is_reported_at_both():
    block = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    made = convert(nn.ModuleDict({"a": block, "b": block, "c": block[0]}))
    assert set(report(made).converted) == {"a.0", "a.1", "b.0", "b.1", "c"}
    assert made["a"] is made["b"]
    assert made["c"] is made["a"][0]


def test_a_module_that_holds_itself():
    model = _plain()
    model[1].parent = model
    for example in ((), (torch.randn(3, 4),)):
        found = report(convert(nn.Sequential(model), *example))
        assert {"0.0", "0.1", "0.2"} <= {*found.converted, *found.kept}


def test_the_report_travels():
    made = convert(_plain(), torch.randn(3, 4))
    for other in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert report(other) == report(made)
