"""convert() where a forward calls functions: it calls layers there, or the report says why not."""

import copy
import importlib.util
import inspect
import io
import pickle
import sys
import textwrap

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import normprop
import normprop.nn as nnp
from normprop import convert, report, rules
from normprop.graph.example import Example
from normprop.graph.sites import _layer_types, exchange_functions
from tests.graph.test_cost import Counting

HEAD = """
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.functional import relu as rectify

WINDOW = (2, 2)


class Model(nn.Module):
    size, slope = 2, 0.3

    def __init__(self):
        super().__init__()
        self.map, self.last = nn.Linear(8, 8), nn.LazyLinear(3)
        self.act, self.p = F.relu, 0.25
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A model whose class is in a file, by what stands below its constructor."""

    def make(methods, name="Model"):
        place = tmp_path_factory.mktemp("models") / "written.py"
        place.write_text(HEAD + textwrap.indent(textwrap.dedent(methods), "    "))
        spec = importlib.util.spec_from_file_location("written", place)
        module = importlib.util.module_from_spec(spec)
        sys.modules["written"] = module
        spec.loader.exec_module(module)
        torch.manual_seed(0)
        return getattr(module, name)()

    yield make
    sys.modules.pop("written", None)


def calling(call):
    return f"""
    def forward(self, x):
        x = self.map(x)
        return self.last({call}.flatten(1))
    """


def exchanged(model, x):
    model(x)
    return exchange_functions(model, Example(model, (x,), {}))


def run(model, x):
    torch.manual_seed(3)
    return model(x)


CALLS = {
    "F.relu(x)": nn.ReLU, "F.relu(x, inplace=True)": nn.ReLU, "rectify(input=x)": nn.ReLU,
    "torch.relu(x)": nn.ReLU, "x.relu()": nn.ReLU, "(x + 1).relu_()": nn.ReLU,
    "self.act(x)": nn.ReLU, "nn.functional.relu6(x)": nn.ReLU6, "F.elu(x, 0.5)": nn.ELU,
    "F.selu(x)": nn.SELU, "F.celu(x, alpha=0.5)": nn.CELU, "torch.celu(x, 0.5)": nn.CELU,
    "F.leaky_relu(x, self.slope)": nn.LeakyReLU, "F.leaky_relu_(x, 0.2)": nn.LeakyReLU,
    "F.gelu(x)": nn.GELU, "F.gelu(x, approximate='tanh')": nn.GELU, "F.silu(x)": nn.SiLU,
    "F.mish(x)": nn.Mish, "F.hardswish(x)": nn.Hardswish, "F.hardshrink(x, 0.3)": nn.Hardshrink,
    "F.softshrink(x, 0.3)": nn.Softshrink, "F.tanhshrink(x)": nn.Tanhshrink,
    "F.softsign(x)": nn.Softsign, "F.softplus(x, 2.0)": nn.Softplus,
    "F.logsigmoid(x)": nn.LogSigmoid, "F.hardtanh(x, -0.5, 0.5)": nn.Hardtanh,
    "F.hardsigmoid(x)": nn.Hardsigmoid, "F.threshold(x, 0.1, 0.2)": nn.Threshold,
    "torch.tanh(x)": nn.Tanh, "F.tanh(x)": nn.Tanh, "x.sigmoid()": nn.Sigmoid,
    "F.rrelu(x, training=self.training)": nn.RReLU, "F.glu(x, 1)": nn.GLU,
    "F.max_pool2d(x, 2)": nn.MaxPool2d, "F.max_pool2d(x, WINDOW, 1, padding=1)": nn.MaxPool2d,
    "torch.max_pool2d(x, (3, 3), 2, 1, 1, True)": nn.MaxPool2d,
    "F.max_pool1d(x.flatten(2), self.size)": nn.MaxPool1d,
    "F.max_pool3d(x[:, None], (2, 2, 2))": nn.MaxPool3d,
    "F.avg_pool1d(x.flatten(2), 2)": nn.AvgPool1d,
    "F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)": nn.AvgPool2d,
    "F.avg_pool3d(x[:, None], 2)": nn.AvgPool3d,
    "F.adaptive_avg_pool1d(x.flatten(2), 3)": nn.AdaptiveAvgPool1d,
    "F.adaptive_avg_pool2d(x, (1, 1))": nn.AdaptiveAvgPool2d,
    "F.adaptive_avg_pool3d(x[:, None], 2)": nn.AdaptiveAvgPool3d,
    "F.adaptive_max_pool1d(x.flatten(2), 3)": nn.AdaptiveMaxPool1d,
    "F.adaptive_max_pool2d(x, (None, 1))": nn.AdaptiveMaxPool2d,
    "F.adaptive_max_pool3d(x[:, None], 2)": nn.AdaptiveMaxPool3d,
    "F.lp_pool1d(x.flatten(2), 2, 3)": nn.LPPool1d, "F.lp_pool2d(x, 2.0, 2)": nn.LPPool2d,
    "F.lp_pool3d(x[:, None], 2, 2)": nn.LPPool3d,
    "F.fractional_max_pool2d(x, 2, output_size=3)": nn.FractionalMaxPool2d,
    "F.fractional_max_pool3d(x[:, None], 2, output_ratio=0.5)": nn.FractionalMaxPool3d,
    "F.dropout(x, self.p, self.training)": nn.Dropout,
    "torch.dropout(x, 0.3, self.training)": nn.Dropout,
    "F.dropout1d(x.flatten(2), 0.3, training=self.training)": nn.Dropout1d,
    "F.dropout2d(x, training=self.training, inplace=True)": nn.Dropout2d,
    "F.dropout3d(x[:, None], training=self.training)": nn.Dropout3d,
    "F.alpha_dropout(x, 0.3, training=self.training)": nn.AlphaDropout,
    "F.feature_alpha_dropout(x, training=self.training)": nn.FeatureAlphaDropout,
    "F.interpolate(x, scale_factor=2.0, mode='bilinear')": nn.Upsample,
    "F.scaled_dot_product_attention(x, x, x)": rules.ScaledDotProductAttention,
    "x.mean((2, 3), keepdim=True)": nn.AdaptiveAvgPool2d,
    "torch.mean(x, dim=[-1, -2])": nn.Sequential,
}  # fmt: skip


def test_every_layer_that_has_a_function_is_called_here():
    assert set(CALLS.values()) - {nn.Sequential} == set(_layer_types().values())


@pytest.mark.parametrize("call", CALLS)
def test_a_layer_computes_what_its_function_did(written, call):
    torch.manual_seed(1)
    x = torch.randn(4, 6, 4, 8)
    model = written(calling(call))
    made, example, found, stays = exchanged(model, x)
    (path,), (text,) = found.keys(), found.values()
    assert type(made.get_submodule(path)) is CALLS[call]
    assert stays == {}
    assert "at written.py:" in text
    assert any(reached.startswith(path) for reached in example.reached)
    assert list(made.state_dict()) == list(model.state_dict())
    assert type(model).forward is not type(made).forward
    for mode in (True, False):
        assert torch.equal(run(made.train(mode), x), run(model.train(mode), x))


STAYS = {
    "F.dropout(x)": "does not follow self.training",
    "F.dropout(x, training=True)": "does not follow self.training",
    "F.alpha_dropout(x)": "does not follow self.training",
    "F.rrelu(x)": "does not follow self.training",
    "F.avg_pool2d(x, x.size()[2:])": "is given kernel_size=x.size()[2:], which may change",
    "x.mean(1)": "is no average of an image",
    "x[..., 0].mean((0, 1))[None]": "is no average of an image",
    "(x - x.mean((2, 3), keepdim=True))": "goes into sub, which is no layer",
    "F.max_pool2d(x, 2 if self.training else 3)": "which may change",
    "F.max_pool2d(x, 2, ceil_mode=self.training)": "is given ceil_mode=self.training, which may",
    "F.relu(*[x])": "by a star",
    "F.relu(x, **{})": "by a star",
    "(lambda f: f(x))(F.relu)": "is called as f",
    "sum(map(F.relu, [x]))": "is called inside of sum",
    "torch.utils.checkpoint.checkpoint(F.relu, x, use_reentrant=False)": "is called inside of",
    "nn.Sequential(*[m for m in self.children()])[0](x).relu()": "counts its layers",
    "F.interpolate(x, scale_factor=0.5, mode='bilinear', antialias=True)": "antialias",
    "torch.tanh_(x)": "writes in place",
    "(F.elu(x) + 1)": "goes into add, which its numbers may matter to",
    "(F.relu(x) ** 2)": "goes into",
    "(x - F.avg_pool2d(x, 3, 1, 1))": "goes into sub",
    "(x / (F.relu(x).sum() + 1))": "goes into add",
    "torch.where(F.relu(x) > 0, x, -x)": "goes into gt",
    "(x * F.relu6(x + 3) / 6)": "keeps its range, as it reaches a product",
    "(x * torch.sigmoid(x))": "keeps its range, as it reaches a product",
    "helper(x)": "no method of Model",
}


@pytest.mark.parametrize("call", STAYS)
def test_a_function_stays_where_a_layer_would_not_be_it_and_the_report_says_why(written, call):
    x = torch.randn(4, 6, 4, 8)
    helper = "\n    def helper(self): ...\n" if "helper" not in call else ""
    model = written(calling(call) + helper)
    if "helper" in call:
        vars(sys.modules["written"])["helper"] = lambda x: F.relu(x)
    made, _, found, stays = exchanged(model, x)
    assert made is model
    assert found == {}
    (text,) = stays.values()
    assert STAYS[call] in text
    assert "written.py:" in text or "test_sites.py:" in text
    said = report(convert(model, x)).functions
    assert any(STAYS[call] in line for line in said.values())
    (name,) = stays
    assert f" at {text.partition(' stays')[0]}" in said[name]


SPELLINGS = ["(Y * 2)", "(2 * Y)", "Y.mul(2)", "torch.multiply(Y, 2)", "(Y / 2)", "Y.div(2)"]
SPELLINGS += ["torch.divide(Y, 2)", "Y.true_divide(2)"]


@pytest.mark.parametrize("product", SPELLINGS)
def test_a_function_may_go_into_a_product_with_a_number_however_that_is_written(written, product):
    x = torch.randn(4, 6, 4, 8)
    model = written(calling(product.replace("Y", "F.relu(x)")))
    _, _, found, stays = exchanged(model, x)
    assert stays == {}
    assert len(found) == 1


GATED = ["(x * Y)", "x.mul(Y)", "torch.multiply(x, Y)", "Y.multiply(x)"]


@pytest.mark.parametrize("product", GATED)
def test_a_gate_stays_however_its_product_is_written(written, product):
    call = product.replace("Y", "torch.sigmoid(x)")
    _, _, found, stays = exchanged(written(calling(call)), torch.randn(4, 6, 4, 8))
    assert found == {}
    assert "as it reaches a product" in stays["sigmoid"]


def test_functions_that_no_layer_computes_are_listed_with_their_lines(written):
    call = "(torch.softmax(x, -1) + F.layer_norm(x, (8,)))"
    found = report(convert(written(calling(call)), torch.randn(4, 6, 4, 8)))
    line = HEAD.count("\n") + 4
    for name in ("softmax", "layer_norm"):
        assert f"once at written.py:{line};" in found.functions[name]
    assert "written.py" not in found.functions["add"]


def test_functions_of_parameters_alone_stay(written):
    model = written(calling("(x * F.softplus(self.map.bias) + F.relu(self.map.bias))"))
    made, _, found, stays = exchanged(model, torch.randn(4, 6, 4, 8))
    assert made is model
    assert found == stays == {}


METHODS = {
    "a method of its own": """
        def forward(self, x):
            return self.last(self._inner(self.map(x)).flatten(1))

        def _inner(self, x):
            return F.relu(x)
    """,
    "a private attribute": """
        __layers = property(lambda self: [self.map])

        def forward(self, x):
            for layer in self.__layers:
                x = F.relu(layer(x))
            return self.last(x.flatten(1))
    """,
    "inside of others": """
        def forward(self, x, *, often=1, **more):
            def twice(x):
                return [F.relu(y) for y in (self.map(x),)][0]
            return self.last(twice(x).flatten(1))
    """,
    "one of two roads": """
        def forward(self, x, shift: "Tensor" = None):
            x = self.map(x)
            if self.training and shift is None:
                x = F.relu(x)
            return self.last(x.flatten(1))
    """,
    "under another name": """
        def forward(this, x, /):
            '''What it does.'''
            return this.last(
                F.relu(
                    this.map(x)
                    .float()
                )
                .flatten(1)
            )
    """,
}


@pytest.mark.parametrize("kind", METHODS)
def test_the_rest_of_a_method_is_what_it_was(written, kind):
    x = torch.randn(4, 6, 4, 8)
    model = written(METHODS[kind])
    made, _, found, _ = exchanged(model, x)
    assert list(found) == ["relu"]
    for mode in (True, False):
        assert torch.equal(run(made.train(mode), x), run(model.train(mode), x))
    plain, own = type(model).forward, type(made).forward
    assert inspect.signature(own) == inspect.signature(plain)
    assert own.__doc__ == plain.__doc__
    name = "_inner" if "_inner" in vars(type(model)) else "forward"
    assert ".relu(" in inspect.getsource(getattr(type(made), name))
    assert "F." not in inspect.getsource(getattr(type(made), name))


def test_super_and_names_from_around_are_found():
    slope = 0.2

    class Base(nn.Module):
        def __init__(self):
            super().__init__()
            self.map = nn.Linear(4, 4)

        def forward(self, x):
            return F.leaky_relu(self.map(x), slope)

    class Child(Base):
        def forward(self, x):
            return F.gelu(super().forward(x) + x)

    torch.manual_seed(0)
    x = torch.randn(3, 4)
    for kind, wanted in ((Base, {"leaky_relu"}), (Child, {"gelu"})):
        model = kind()
        made, _, found, stays = exchanged(model, x)
        assert set(found) == wanted
        assert torch.equal(made(x), model(x))
    # A subclass calls it past what would be exchanged.
    assert "has another one" in stays["leaky_relu"]


class Block(nn.Module):
    """Twice in a network, and once more."""

    def __init__(self, width=8):
        super().__init__()
        self.one, self.two = nn.Linear(width, width), nn.Linear(width, width)
        self.relu = "a name that is taken"

    def forward(self, x):
        return F.relu(x + self.two(F.relu(self.one(x))))


def _network():
    torch.manual_seed(0)
    shared = Block()
    return nn.Sequential(nn.Linear(8, 8), shared, Block(), shared, nn.Linear(8, 3))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated")
def test_it_is_copied_pickled_compiled_and_converted_again():
    model, x = _network(), torch.randn(16, 8)
    net = convert(model, x)
    found = report(net)
    assert set(found.exchanged) == {f"{i}.relu_{k}" for i in (1, 2) for k in (1, 2)}
    assert net[1] is net[3]
    assert isinstance(net[1], Block)
    assert type(net[1]) is type(net[2]) is not Block
    wanted = net(x)
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    again = convert(net, x)
    assert report(again).exchanged == {}
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net)), loaded, again):
        assert type(other[1]) is type(net[1])
        assert torch.equal(other(x), wanted)
    torch.compiler.reset()
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), wanted)
    # A plain checkpoint goes in and out.
    model.load_state_dict(net.state_dict())
    net.load_state_dict(model.state_dict())
    said = str(report(normprop.fold(net, x)))
    assert "1, 2: the class calls layers for functions, and is unpickled with normprop" in said


def test_what_a_pass_costs_is_what_it_costs_with_layers():
    class Layers(Block):
        def __init__(self):
            super().__init__()
            self.relu, self.act = nn.ReLU(), nn.ReLU()

        def forward(self, x):
            return self.act(x + self.two(self.relu(self.one(x))))

    counts, x = [], torch.randn(16, 8)
    for kind in (Block, Layers):
        torch.manual_seed(0)
        net = convert(nn.Sequential(nn.Linear(8, 8), kind(), kind(), nn.Linear(8, 3)), x)
        # What is settled once is settled in the first pass.
        y = net(x)
        with Counting() as counting:
            net(x).sum().backward()
        counts.append((counting.count, y))
    assert counts[0][0] == counts[1][0]
    assert torch.equal(counts[0][1], counts[1][1])


def test_one_place_that_is_passed_several_times_is_one_layer():
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.maps = nn.ModuleList(nn.Linear(64, 64) for _ in range(3))
            self.head = nn.Linear(64, 3)

        def forward(self, x):
            for layer in self.maps:
                x = F.gelu(layer(x))
            return self.head(x)

    net = convert(Loop(), torch.randn(64, 64))
    assert list(report(net).exchanged) == ["gelu"]
    assert report(net).outside == {}
    assert isinstance(net.gelu, (nnp.GELU, nnp.Calibrated))


def test_a_model_that_counts_its_layers_elsewhere_is_left_alone():
    class Inner(nn.Module):
        def __init__(self):
            super().__init__()
            self.map = nn.Linear(4, 4)

        def forward(self, x):
            return F.relu(self.map(x))

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Inner()

        def forward(self, x):
            x = self.inner(x)
            for layer in self.inner.children():
                x = layer(x)
            return x

    class Named(nn.Sequential):
        def forward(self, x):
            for layer in self:
                x = F.relu(layer(x))
            return x

    x = torch.randn(3, 4)
    for model, why in (
        (Outer(), "would be computed otherwise"),
        (Named(nn.Linear(4, 4), nn.Linear(4, 4)), "a container, which counts"),
    ):
        made, _, found, stays = exchanged(model, x)
        assert made is model
        assert found == {}
        assert why in stays["relu"]


def test_classes_that_cannot_be_made_again_stay():
    class Alone(nn.Module):
        def __init__(self):
            super().__init__()
            self.map = nn.Linear(4, 4)

        def __init_subclass__(cls):
            raise TypeError("nothing may inherit")

        def forward(self, x):
            return F.relu(self.map(x))

    class Copied(nn.Module):
        def __deepcopy__(self, memo):
            return Copied()

        def forward(self, x):
            return F.relu(x)

    names = {"nn": nn, "F": F}
    exec("class Told(nn.Module):\n def forward(self, x):\n  return F.relu(x)", names)
    graph = torch.fx.symbolic_trace(Copied())
    x = torch.randn(3, 4)
    for model, why in (
        (Alone(), "has no subclass: nothing may inherit"),
        (Copied(), "copied in a way of its own"),
        (names["Told"](), "whose source is not there"),
        (graph, "copied in a way of its own"),
    ):
        made, _, found, stays = exchanged(nn.Sequential(model, nn.Linear(4, 4)), x)
        assert found == {}
        assert why in stays["relu"]
        assert torch.equal(made[0](x), model(x))


def test_a_decision_by_values_keeps_its_roads():
    class Decides(nn.Module):
        def __init__(self):
            super().__init__()
            self.map, self.last = nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x):
            y = self.map(x)
            y = F.relu(y) if y.sum() > 0 else F.silu(y)
            return self.last(y)

    torch.manual_seed(0)
    model, x = Decides(), torch.randn(5, 8)
    made, _, found, _ = exchanged(model, x)
    for given in (x, -x, torch.zeros(2, 8)):
        assert torch.equal(made(given), model(given))
    # What another road calls, nobody has seen.
    assert set(found) < {"relu", "silu"}


def test_a_dropout_whose_module_does_not_tell_its_layers_of_the_mode_stays():
    class Apart(nn.Module):
        def __init__(self):
            super().__init__()
            self.map = nn.Linear(8, 8)

        def train(self, mode=True):
            self.training = mode
            return self

        def forward(self, x):
            return self.map(F.dropout(F.relu(x), 0.5, self.training))

    _, _, found, stays = exchanged(Apart(), torch.randn(5, 8))
    assert list(found) == ["relu"]
    assert "does not follow self.training" in stays["dropout"]
