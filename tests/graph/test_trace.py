"""What a recorded run says of who reads what."""

import pytest
import torch
from torch import nn

from normprop.graph import predict
from normprop.graph.trace import trace
from tests.graph.networks import Called


def names(run):
    return [node.name for node in run.nodes]


def node(run, name):
    (found,) = (n for n in run.nodes if n.name == name)
    return found


def around(function, **leaves):
    """A run of a linear map, a function and another map; the maps are leaves."""
    model = Called(nn.Linear(4, 4), function, nn.Linear(4, 2))
    for name, value in leaves.items():
        setattr(model, name, value)
    return trace(model, (torch.randn(3, 4),), {"before", "after"})


def test_a_chain_is_a_chain():
    run = around(lambda x: torch.relu(x).view(3, 4))
    assert names(run) == ["inputs", "before", "relu", "view", "after", "outputs"]
    for first, second in zip(run.nodes, run.nodes[1:], strict=False):
        assert second.inputs == first.outputs
        assert all(run.producer[v] is first for v in first.outputs)
    assert not run.read


def test_what_is_no_leaf_is_its_functions():
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)).eval()
    run = trace(model, (torch.randn(3, 4),), set())
    assert names(run) == ["inputs", "linear", "dropout", "outputs"]
    assert run.read == {id(p) for p in model.parameters()}


def test_shapes_and_types_are_nobody_s_business():
    run = around(lambda x: x if x.shape[0] == 3 and x.dtype.is_floating_point and x.dim() else -x)
    assert names(run) == ["inputs", "before", "after", "outputs"]


def test_in_place_gives_a_new_value():
    run = around(lambda x: x.add_(1.0))
    add = node(run, "add_")
    assert not add.opaque
    assert add.outputs != add.inputs
    assert node(run, "after").inputs == add.outputs


def test_in_place_behind_a_view_s_back_is_opaque():
    def function(x):
        view = x.view(-1)
        x.mul_(2.0)
        return view.view(3, 4)

    run = around(function)
    change = node(run, "mul_")
    assert change.opaque
    assert set(change.inputs) == {*node(run, "before").outputs, run.nodes[2].outputs[0]}


def test_setting_an_item_is_seen():
    def function(x):
        y = x.clone()
        y[0] = 0.0
        return y

    run = around(function)
    assert node(run, "__setitem__").opaque
    assert node(run, "after").inputs == node(run, "__setitem__").outputs


class Hidden(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return torch.from_numpy(x.detach().numpy() + 1.0)


def test_what_came_from_nowhere_may_come_from_anything():
    stored = {}

    def function(x):
        # Out of the recorder's sight, as an extension in C would do it.
        with torch._C.DisableTorchFunction():
            stored["y"] = x * 2
        return stored["y"]

    run = around(function)
    unseen = node(run, "something that is not seen")
    assert unseen.opaque
    assert node(run, "before").outputs[0] in unseen.inputs
    assert node(run, "after").inputs == unseen.outputs


@pytest.mark.parametrize("unseen", [lambda x: x * 2, lambda x: x.mul_(2), lambda x: (x + 1, x)[0]])
def test_what_came_from_nowhere_has_a_shape_and_a_row_that_says_so(unseen):
    def function(x):
        with torch._C.DisableTorchFunction():
            x = unseen(x)
        return torch.relu(x)

    model = Called(nn.Linear(4, 4), function, nn.Linear(4, 2))
    found = node(trace(model, (torch.randn(3, 4),), {"before"}), "something that is not seen")
    assert found.made == (((3, 4), torch.float32),)
    row = next(r for r in predict(model, torch.randn(3, 4)) if r.path == found.name)
    assert row.shape == (3, 4)
    assert "is not known" in row.assumed[0]


def test_constants_of_a_module_come_from_nowhere_else():
    model = Called(nn.Linear(4, 4), None, nn.Linear(4, 2))
    model.table = [torch.ones(4)]
    model.function = lambda x: x + model.table[0]
    run = trace(model, (torch.randn(3, 4),), {"before", "after"})
    assert names(run) == ["inputs", "before", "add", "after", "outputs"]


def test_deciding_by_what_is_stored_is_allowed():
    switch = torch.tensor(True)
    model = Called(nn.Linear(4, 4), None, nn.Linear(4, 2))
    model.register_buffer("switch", switch)
    model.function = lambda x: x if model.switch else -x
    run = trace(model, (torch.randn(3, 4),), {"before", "after"})
    assert "neg" not in names(run)


def test_nothing_is_left_behind():
    model = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(RuntimeError):
        trace(model, (torch.randn(3, 5),), {"0"})
    assert "forward" not in vars(model[0])


def test_values_of_two_runs_are_told_apart():
    model = nn.Sequential(nn.Linear(4, 4))
    one, other = (trace(model, (torch.randn(3, 4),), {"0"}).producer for _ in range(2))
    assert one.keys().isdisjoint(other)


def test_a_function_is_where_the_module_is_whose_forward_called_it():
    class Inner(nn.Module):
        def forward(self, x):
            return x.sin()

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.map = Inner(), nn.Linear(3, 2)

        def forward(self, x):
            return self.map(self.one(x)).cos().argmax(-1)

    seen = trace(nn.Sequential(Outer()), (torch.randn(4, 3),), {"0.map"})
    assert [(node.path, node.op) for node in seen.nodes[1:-1]] == [
        ("0.one.sin", "sin"),
        ("0.map", "Linear"),
        ("0.cos", "cos"),
        ("0.argmax", "argmax"),
    ]
    assert [node.made for node in seen.nodes[:-1]] == [
        (((4, 3), torch.float32),),
        (((4, 3), torch.float32),),
        (((4, 2), torch.float32),),
        (((4, 2), torch.float32),),
        (((4,), torch.int64),),
    ]


@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_gradients_are_there_where_they_are_asked_for(context):
    seen = []

    def look(x):
        seen.append((torch.is_grad_enabled(), torch.is_inference_mode_enabled()))
        return x.sin()

    model = Called(nn.Linear(3, 2), look, nn.Identity())
    x = torch.randn(4, 3)
    with context():
        plain = trace(model, (x,), {"before"})
        asked = trace(model, (x,), {"before"}, differentiable=True)
    assert seen == [(False, False), (True, False)]
    assert [node.tracked for node in plain.nodes[1:-1]] == [(False,), (False,)]
    assert [node.tracked for node in asked.nodes[1:-1]] == [(True,), (True,)]
