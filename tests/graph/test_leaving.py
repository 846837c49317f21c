"""Values that leave a model by other ways than by return are what they were."""

import ctypes
import io

import pytest
import torch
from torch import nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
    register_module_full_backward_hook,
)

import normprop
import normprop.nn as nnp
from normprop.graph import fold, fuse

EPS = torch.finfo(torch.float64).eps
GLOBAL = []


class Shelf(nn.Module):
    """A submodule that holds something."""

    def forward(self, x):
        self.held = x
        return x


class Net(nn.Module):
    """A stem and a head that leave constants to each other; ``leave`` says what goes elsewhere."""

    def __init__(self, leave=None, activation=nnp.ReLU):
        super().__init__()
        self.stem = nn.Sequential(nnp.Linear(6, 6, scaling="forward"), activation())
        self.body = nn.Sequential(nnp.Linear(6, 6, scaling="forward"), nnp.GELU())
        self.head = nnp.Linear(6, 2, scaling="forward")
        self.shelf = Shelf()
        self.bag, self.table = [], {}
        self.register_buffer("mean", torch.zeros(6))
        self.leave = leave

    def forward(self, x):
        hidden = self.stem(x)
        if self.leave is not None:
            hidden = self.leave(self, hidden)
        return self.head(self.body(hidden))


def by_attribute(net, x):
    net.hidden = x
    return x


def by_detached_attribute(net, x):
    net.hidden = x.detach()
    return x


def by_list(net, x):
    net.bag.append(x)
    return x


def by_dict(net, x):
    net.table["x"] = (x, {"again": x * 2})
    return x


def by_global(net, x):
    GLOBAL.append(x)
    return x


def by_submodule(net, x):
    return net.shelf(x)


def by_view(net, x):
    net.hidden = x[:, :2].T
    return x


def by_buffer(net, x):
    net.mean.mul_(0.9).add_(x.detach().mean(0), alpha=0.1)
    return x


def by_plain_sum_in_a_buffer(net, x):
    net.mean += x.detach().mean(0)
    return x


def by_new_buffer(net, x):
    net.mean = x.detach().mean(0)
    return x


def by_number(net, x):
    net.hidden = x.mean().item()
    return x


def by_numpy(net, x):
    net.hidden = x.detach().numpy().copy()
    return x


def by_text(net, x):
    net.hidden = str(x.detach())
    return x


def by_file(net, x):
    file = io.BytesIO()
    torch.save(x.detach(), file)
    net.hidden = file.getvalue()
    return x


def by_address(net, x):
    # As a kernel reads it, which is handed an address.
    numbers = (ctypes.c_double * x.numel()).from_address(x.detach().contiguous().data_ptr())
    net.hidden = list(numbers)
    return x


WAYS = {
    by_attribute: lambda net: net.hidden,
    by_detached_attribute: lambda net: net.hidden,
    by_list: lambda net: net.bag[-1],
    by_dict: lambda net: net.table["x"][1]["again"],
    by_global: lambda net: GLOBAL[-1],
    by_submodule: lambda net: net.shelf.held,
    by_view: lambda net: net.hidden,
    by_buffer: lambda net: net.mean,
    by_plain_sum_in_a_buffer: lambda net: net.mean,
    by_new_buffer: lambda net: net.mean,
    by_number: lambda net: torch.tensor(net.hidden),
    by_numpy: lambda net: torch.from_numpy(net.hidden),
    by_text: lambda net: eval(net.hidden, {"tensor": torch.tensor, "torch": torch}),
    by_address: lambda net: torch.tensor(net.hidden, dtype=torch.float64),
    by_file: lambda net: torch.load(io.BytesIO(net.hidden)),
}


def same(got, wanted):
    assert got.shape == wanted.shape
    return (got - wanted).abs().max() <= 1e3 * EPS * max(1.0, wanted.abs().max())


@pytest.mark.parametrize("verb", [fold, fuse])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_it_is_what_it_was(way, verb):
    # No map in front can give what a Tanh has to give.
    model, x = Net(way, nnp.Tanh).double().eval(), torch.randn(4, 6).double()
    made = verb(model, x)
    left = []
    for net in (model, made):
        y = net(x)
        left.append((y, WAYS[way](net)))
    assert all(same(a, b) for a, b in zip(*left, strict=True))
    report = normprop.report(made)
    # The branch that nobody looks at is as it would be.
    assert "body.1" in report.moved
    assert "stem.1" in report.kept
    GLOBAL.clear()


@pytest.mark.parametrize("way", [by_attribute, by_list, by_submodule, by_view])
def test_a_loss_of_it_trains_alike(way):
    model, x = Net(way).double(), torch.randn(4, 6).double()
    fused = fuse(model, x)
    for net in (model, fused):
        (net(x).square().sum() + WAYS[way](net).square().sum()).backward()
    for a, b in zip(model.parameters(), fused.parameters(), strict=True):
        assert same(b.grad, a.grad)


def test_a_closure_has_it():
    kept = []

    def leave(net, x):
        kept.append(x)
        return x

    model, x = Net(leave).double().eval(), torch.randn(4, 6).double()
    for verb in (fold, fuse):
        made = verb(model, x)
        model(x)
        made(x)
        assert same(kept[-1], kept[-2])
        kept.clear()


def test_what_went_when_the_run_was_over_is_nobody_s():
    def passing(net, x):
        held = [x, {"x": x.detach()}]
        del held
        return x

    model, x = Net(passing).double().eval(), torch.randn(4, 6).double()
    assert not normprop.report(fold(model, x)).kept


def hook_on(path, kind):
    def register(model, see):
        module = model.get_submodule(path)
        if kind == "pre":
            return module.register_forward_pre_hook(lambda m, inputs: see(inputs[0]))
        if kind == "keywords":
            return module.register_forward_hook(lambda m, i, k, out: see(out), with_kwargs=True)
        if kind == "backward":
            return module.register_full_backward_hook(lambda m, i, out: see(out[0]))
        if kind == "backward pre":
            return module.register_full_backward_pre_hook(lambda m, out: see(out[0]))
        return module.register_forward_hook(lambda m, inputs, out: see(out))

    return register


def everywhere(register, position):
    def make(model, see):
        def hook(module, *arguments):
            if type(module) in (nnp.GELU, nn.GELU):
                see(arguments[position][0] if isinstance(arguments[position], tuple) else None)

        return register(hook)

    return make


HOOKS = {
    "container": hook_on("stem", "after"),
    "container, pre": hook_on("body", "pre"),
    "container, keywords": hook_on("stem", "keywords"),
    "leaf": hook_on("stem.1", "after"),
    "leaf, pre": hook_on("stem.1", "pre"),
    "map, pre": hook_on("body.0", "pre"),
    "map": hook_on("head", "pre"),
    "model": hook_on("", "after"),
    "container, backward": hook_on("stem", "backward"),
    "container, backward pre": hook_on("stem", "backward pre"),
    "leaf, backward": hook_on("body.1", "backward"),
}


@pytest.mark.parametrize("verb", [fold, fuse])
@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_sees_what_it_saw(name, verb):
    # Tanh passes no scale: a hook in front of it would see another number wherever one moves.
    model, x = Net(activation=nnp.Tanh).double().eval(), torch.randn(4, 6).double()
    seen = []
    handle = HOOKS[name](model, lambda value: seen.append(value.detach().clone()))
    made = verb(model, x)
    seen.clear()
    for net in (model, made):
        y = net(x.clone().requires_grad_())
        if "backward" in name and verb is fuse:
            y.square().sum().backward()
    if "backward" not in name or verb is fuse:
        assert len(seen) == 2
        assert same(seen[1], seen[0])
    handle.remove()
    assert same(made(x), model(x))


@pytest.mark.parametrize("verb", [fold, fuse])
@pytest.mark.parametrize(
    "register",
    [
        register_module_forward_hook,
        register_module_forward_pre_hook,
        register_module_full_backward_hook,
    ],
)
def test_under_a_hook_on_all_modules_nothing_moves(register, verb):
    model, x = Net().double().eval(), torch.randn(4, 6).double()
    handle = register(lambda module, *_: None)
    try:
        assert not normprop.report(verb(model, x)).moved
    finally:
        handle.remove()
    assert normprop.report(verb(model, x)).moved


def test_what_is_written_unseen_is_seen_later():
    def leave(net, x):
        view = x.view(-1)
        with torch._C.DisableTorchFunction():
            x.exp_()
        return view.view(4, 6) + x

    model, x = Net(leave, nnp.Tanh).double().eval(), torch.randn(4, 6).double()
    with torch.no_grad():
        assert same(fold(model, x)(x), model(x))


def test_in_inference_mode():
    model, x = Net(by_attribute, nnp.Tanh).double().eval(), torch.randn(4, 6).double()
    with torch.inference_mode():
        for verb in (fold, fuse):
            made = verb(model, x.clone())
            assert same(made(x), model(x))
            assert same(made.hidden, model.hidden)


def test_a_hook_that_changes_its_value_is_seen():
    model, x = Net().double().eval(), torch.randn(4, 6).double()
    model.stem.register_forward_hook(lambda m, inputs, out: out.exp())
    model.body.register_forward_pre_hook(lambda m, inputs: (inputs[0] * 2 + 1,))
    assert same(fold(model, x)(x), model(x))


def test_hooks_are_where_they_were():
    model, x = Net().double().eval(), torch.randn(4, 6).double()
    model.stem.register_forward_hook(lambda m, inputs, out: None)
    before = dict(model.stem._forward_hooks)
    fold(model, x)
    assert model.stem._forward_hooks == before


def test_the_run_leaves_nothing_in_the_model():
    model, x = Net(by_attribute).double(), torch.randn(4, 6).double()
    model.bag.append("mine")
    fuse(model, x)
    assert not hasattr(model, "hidden")
    assert model.bag == ["mine"]
    assert torch.equal(model.mean, torch.zeros(6))


@pytest.mark.parametrize("verb", [fold, fuse])
def test_what_an_earlier_pass_left_is_no_hindrance(verb):
    model, x = Net(by_attribute).double(), torch.randn(4, 6).double()
    model(x).sum().backward()
    assert model.hidden.grad_fn is not None
    made = verb(model, x)
    assert same(made.eval()(x), model.eval()(x))


def test_yielded_values_are_no_output():
    class Yields(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nnp.ReLU()

        def forward(self, x):
            yield self.stem(x)

    with pytest.raises(TypeError, match="must return tensors"):
        fold(Yields(), torch.randn(2, 6))


@pytest.mark.parametrize("verb", [fold, fuse])
def test_values_yielded_to_the_model_itself_are_its_own(verb):
    class Steps(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = nnp.ReLU()

        def forward(self, x):
            yield self.act(x)
            yield self.act(-x)

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.steps, self.head = Steps(), nnp.Linear(6, 3)

        def forward(self, x):
            return sum(self.head(step) for step in self.steps(x))

    model, x = Whole().double().eval(), torch.randn(4, 6).double()
    made = verb(model, x)
    assert same(made(x), model(x))
    assert normprop.report(made).moved == ("steps.act",)
