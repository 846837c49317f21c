"""What a probe says of a network is what is there, and the network is what it was."""

import gc
import math
import random
import weakref
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint

import normprop
from normprop.graph import Fault, Row, Scales, probe, probing
from normprop.graph.anatomy import single_layers
from normprop.graph.rewrite import copied
from normprop.graph.trace import trace
from tests.graph.networks import NETWORKS, Called, build

EPS = torch.finfo(torch.float64).eps


def applied(function, width=6):
    """A function between two layers."""
    return Called(nn.Linear(6, width), function, nn.Identity())


def close(got, wanted):
    return abs(got - wanted) <= 1e3 * EPS * max(1.0, abs(wanted))


# What it says.


def test_the_figures_are_those_of_the_tensors():
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    kept = {}

    def keep_output(module, inputs, output):
        kept[str(module)] = output

    def keep_gradient(module, into, out):
        kept[f"gradient of {module}"] = out[0]

    for layer in model:
        layer.register_forward_hook(keep_output)
        layer.register_full_backward_hook(keep_gradient)
    x = torch.randn(7, 6, dtype=torch.float64)
    scales = probe(model, x)
    assert [row.path for row in scales] == ["input", "0", "1", "2"]
    assert [row.op for row in scales] == ["input", "Linear", "Tanh", "Linear"]
    for row, layer in zip(scales.rows[1:], model, strict=True):
        value, gradient = kept[str(layer)].detach(), kept[f"gradient of {layer}"]
        assert row.shape == tuple(value.shape)
        assert close(row.fwd_mean, value.mean().item())
        assert close(row.fwd_std, value.std(correction=0).item())
        assert close(row.sample_std, value.var(0).mean().sqrt().item())
        assert close(row.bwd_std, gradient.square().mean().sqrt().item())
    into = kept[f"gradient of {model[0]}"] @ model[0].weight.detach()
    assert close(scales["input"].bwd_std, into.square().mean().sqrt().item())


def test_large_tensors_are_looked_at_in_parts(monkeypatch):
    model, x = build("padded")
    whole = probe(model, x)
    monkeypatch.setattr(probing, "_AT_ONCE", 7)
    parts = probe(model, x)
    for one, other in zip(whole, parts, strict=True):
        for name in ("fwd_mean", "fwd_std", "sample_std", "bwd_std"):
            assert close(getattr(one, name), getattr(other, name))


def test_a_large_mean_takes_no_digits_of_a_small_std():
    x = torch.randn(64, 100, dtype=torch.float64)
    row = probe(nn.Identity(), x * 1e-3 + 1e6)["input"]
    # One rounding of the input itself.
    assert abs(row.fwd_std - 1e-3 * x.std(correction=0).item()) < 1e6 * EPS


def test_the_gradient_comes_from_independent_standard_normal_numbers_at_every_output():
    class Pair(nn.Module):
        def forward(self, x):
            one, other = x * 1.0, x * 2.0
            return {"one": one, "both": (one, other), "index": other.argmax(-1)}

    x = torch.randn(400, 100, dtype=torch.float64)
    scales = probe(Pair(), x)
    error = math.sqrt(0.5 / x.numel())
    for row in scales.rows[1:]:
        assert abs(row.bwd_std - 1.0) < 5 * error
    # 1² + 2², where they are independent.
    assert abs(scales["input"].bwd_std - math.sqrt(5.0)) < 5 * math.sqrt(5.0) * error


@pytest.mark.parametrize("name", NETWORKS)
def test_the_rows_are_the_calls_that_a_trace_sees(name):
    model, x = build(name)
    seen = copied(model)
    calls = trace(seen, (x,), single_layers(seen)).nodes[1:]
    wanted = [
        (node.path, node.op, shape)
        for node in calls
        if node.module is not None or node.function is not None
        for shape, dtype in node.made
        if dtype.is_floating_point
    ]
    scales = probe(model, x)
    assert [(row.path, row.op, row.shape) for row in scales.rows[1:]] == wanted
    assert scales.faults == ()
    for row in scales:
        assert row.fwd_std > 0.0
        assert row.bwd_std > 0.0


def test_twice_is_the_same():
    model, x = build("dropouts")
    assert probe(model, x) == probe(model, x)


# What stays what it was.


class Recording(nn.Module):
    """Leaves itself other than it was by every way that a forward has."""

    def __init__(self):
        super().__init__()
        self.map, self.norm = nn.Linear(6, 6), nn.BatchNorm1d(6)
        self.frozen = nn.Linear(6, 6).requires_grad_(False)
        self.bag, self.calls, self.last = [], 0, None
        self.table = nn.Embedding(4, 6, max_norm=0.1)
        self.dice = np.random.default_rng(1)

    def forward(self, x):
        self.calls += 1
        x *= 2.0
        self.last = self.map(x)
        self.bag.append(self.last)
        numbers = torch.rand(6) + random.random() + np.random.rand() + self.dice.random()  # noqa: NPY002
        return self.norm(self.frozen(x) + self.last) * numbers + self.table(torch.tensor([1]))


def _state(model):
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {
        name: (t.detach().clone(), t.requires_grad, t._version, t.grad)
        for name, t in tensors.items()
    }


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_the_model_and_the_inputs_are_what_they_were(training, context):
    model, x = Recording().train(training), torch.randn(8, 6)
    model(x.clone()).sum().backward()
    fired = []
    model.map.register_forward_hook(lambda *_: None)
    model.map.weight.register_hook(fired.append)
    x.requires_grad_()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    states = [_state(model), model.dice.bit_generator.state, dict(model.map._forward_hooks)]
    last, bag = model.last, list(model.bag)
    before = x.detach().clone()
    dice = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    with context():
        scales = probe(model, x)
    assert scales["norm"].fwd_std > 0.0
    assert scales["input"].bwd_std > 0.0
    assert model.training == model.norm.training == training
    for name, (value, asks, version, gradient) in states[0].items():
        now = _state(model)[name]
        assert torch.equal(now[0], value)
        assert now[1:3] == (asks, version)
        assert now[3] is gradient
        assert gradient is None or torch.equal(gradient, gradients[name])
    assert not fired
    assert [model.dice.bit_generator.state, dict(model.map._forward_hooks)] == states[1:]
    assert model.calls == 1
    assert model.last is last
    assert len(model.bag) == len(bag)
    assert all(now is then for now, then in zip(model.bag, bag, strict=True))
    assert torch.equal(x, before)
    assert x.requires_grad
    assert x.grad is None
    assert torch.equal(torch.get_rng_state(), dice[0])
    assert random.getstate() == dice[1]
    assert np.array_equal(np.random.get_state()[1], dice[2])  # noqa: NPY002
    assert torch.is_grad_enabled()


def test_what_the_model_reads_from_elsewhere_gets_no_gradient():
    elsewhere = torch.randn(6, requires_grad=True)
    alone = torch.randn(6, requires_grad=True)
    elsewhere.grad = gradient = torch.ones(6)
    probe(applied(lambda x: x * elsewhere + alone), torch.randn(4, 6))
    assert elsewhere.grad is gradient
    assert torch.equal(gradient, torch.ones(6))
    assert alone.grad is None


def test_an_error_of_the_model_leaves_everything_as_it_was():
    def fails(x):
        raise ArithmeticError("of the model's own")

    model, x = applied(fails), torch.randn(4, 6)
    state = torch.get_rng_state()
    kept = torch.utils.checkpoint.CheckpointFunction
    with pytest.raises(ArithmeticError, match="own"):
        probe(model, x)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.utils.checkpoint.CheckpointFunction is kept
    assert "forward" not in vars(model.before)
    # Nothing sees what runs afterwards.
    assert not normprop.functional.observed.observers
    assert not torch.overrides._get_current_function_mode_stack()


def test_no_tensor_is_kept():
    # Where nothing is kept for a gradient, nothing is alive but what is needed next.
    alive = []

    def without_gradients(x):
        with torch.no_grad():
            for _ in range(5):
                x = x * 1.5
                alive.append(sum(r() is not None for r in references))
                if not x.is_meta:
                    # Not those of the prediction, which have no numbers.
                    references.append(weakref.ref(x))
        return x

    references = []
    model, x = applied(without_gradients), torch.randn(4, 6)
    scales = probe(model, x)
    assert max(alive) <= 1
    assert scales["mul", 4].fwd_std > 0.0
    assert scales["mul", 4].bwd_std is None
    assert scales.notes[0] == "no gradient: no floating-point output of the model has one"

    hidden = []
    watched = applied(lambda x: hidden.append(weakref.ref(x)) or x.sin().exp())
    probe(watched, x)
    gc.collect()
    assert hidden[0]() is None


# NaN and infinity.


def line_of(function):
    return f"{__file__}:{function.__code__.co_firstlineno + 1}"


def log_of_zero(x):
    return x.clamp(max=0.0).relu().log()


def root_of_something_negative(x):
    return (x - 1e6).sqrt()


def zero_by_zero(x):
    return (x - x) / (x - x)


def overflow(x):
    return (x * 0 + 1000.0).exp()


def in_half(x):
    return (x * 0 + 300.0).half().square()


def in_place(x):
    return (x * 0).reciprocal_()


def steep_root(x):
    return (x - x).sqrt()


def norm_of_nothing(x):
    return x * (x - x).square().sum(-1, keepdim=True).sqrt()


def long_way(x):
    return (x * 1e-30).pow(2).pow(0.5)


@pytest.mark.parametrize(
    ("function", "direction", "what", "op"),
    [
        (log_of_zero, "forward", "infinity", "log"),
        (root_of_something_negative, "forward", "NaN", "sqrt"),
        (zero_by_zero, "forward", "NaN", "div"),
        (overflow, "forward", "infinity", "exp"),
        (in_half, "forward", "infinity", "square"),
        (in_place, "forward", "infinity", "reciprocal_"),
        (steep_root, "backward", "infinity", "sqrt"),
        (norm_of_nothing, "backward", "infinity", "sqrt"),
        (long_way, "backward", "infinity", "pow"),
    ],
)
def test_what_is_not_finite_is_found_where_it_was_made(function, direction, what, op):
    inner = applied(function)
    # Others hand it on.
    model = nn.Sequential(nn.Linear(6, 6), inner, nn.Flatten(), nn.Hardtanh())
    scales = probe(model, torch.randn(4, 6))
    found = {(fault.direction, fault.what): fault for fault in scales.faults}
    names = {"div": ("div", "__truediv__"), "pow": ("pow", "__pow__")}
    fault = found[direction, what]
    assert fault.path.rpartition(".")[0] == "1"
    assert fault.op in names.get(op, (op,))
    assert fault.where == line_of(function)
    assert not any(f.direction == "given" for f in scales.faults)
    if direction == "backward":
        assert not any(f.direction == "forward" for f in scales.faults)
        assert str(fault) in str(scales)


def test_a_layer_that_makes_it_is_named():
    model = nn.Sequential(nn.Linear(6, 6), nn.Softplus(), nn.LayerNorm(6, eps=0.0), nn.ReLU())
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.zero_()
    scales = probe(model, torch.randn(4, 6))
    fault = next(f for f in scales.faults if (f.direction, f.what) == ("forward", "NaN"))
    assert (fault.path, fault.op) == ("2", "LayerNorm")
    assert fault.where.startswith(__file__)
    assert math.isnan(scales["2"].fwd_std)
    assert not math.isnan(scales["1"].fwd_std)


def causal(scores):
    ahead = torch.ones(scores.shape[-2:]).triu(1) > 0
    return scores.masked_fill(ahead, float("-inf")).softmax(-1)


def added(scores):
    mask = torch.full(scores.shape[-2:], -math.inf).triu(1)
    return (scores + mask).softmax(-1)


def assigned(scores):
    scores = scores.clone()
    scores[..., 0, 1:] = -math.inf
    return scores.softmax(-1)


class Held(nn.Module):
    """Adds a mask that it holds."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mask", torch.full((6, 6), -math.inf).triu(1))

    def forward(self, scores):
        return (scores + self.mask).softmax(-1)


@pytest.mark.parametrize("mask", [causal, added, assigned, Held()])
def test_infinity_in_a_mask_is_no_fault(mask):
    model = Called(nn.Linear(6, 6), mask, nn.Identity())
    scales = probe(model, torch.randn(5, 6, 6))
    assert scales.faults == ()
    assert all(math.isfinite(row.fwd_std or 0.0) for row in scales)
    if mask is causal:
        row = scales["masked_fill"]
        assert row.assumed == ("infinite elements, which the model itself writes, are left out",)
        assert 0.0 < row.fwd_std < math.inf
        assert 0.0 < row.sample_std < math.inf


def test_a_row_that_a_mask_leaves_nothing_of_is_found():
    def mask(scores):
        return scores.masked_fill(torch.tensor(True), -math.inf).softmax(-1)

    fault = probe(applied(mask), torch.randn(4, 6)).faults[0]
    assert (fault.direction, fault.what, fault.op) == ("forward", "NaN", "softmax")


@pytest.mark.parametrize("what", ["NaN", "infinity"])
@pytest.mark.parametrize("where", ["weight", "running_var", "input"])
def test_what_was_there_before_is_said_apart(what, where):
    model, x = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6)).eval(), torch.randn(4, 6)
    held = {"weight": model[0].weight, "running_var": model[1].running_var, "input": x}[where]
    with torch.no_grad():
        held.view(-1)[0] = math.nan if what == "NaN" else math.inf
    scales = probe(model, x)
    path = {"weight": "0.weight", "running_var": "1.running_var", "input": "input"}[where]
    op = {"weight": "parameter", "running_var": "buffer", "input": "input"}[where]
    assert scales.faults[0] == Fault("given", what, path, op)
    if where != "input":
        assert f"{what} in 1 of 6 parameters and buffers" in scales.notes


def test_where_autograd_is_to_raise_it_says_where_all_the_same():
    with torch.autograd.set_detect_anomaly(True):
        scales = probe(applied(norm_of_nothing), torch.randn(4, 6))
        assert torch.is_anomaly_enabled()
    assert {(f.direction, f.what) for f in scales.faults} >= {("backward", "NaN")}


def test_a_training_that_has_diverged_says_where():
    model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
    model.append(nn.Linear(32, 1))
    x, optimizer = torch.randn(16, 6), torch.optim.SGD(model.parameters(), lr=1e6)
    steps = 0
    while all(p.isfinite().all() for p in model.parameters()):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
        assert (steps := steps + 1) < 100
    scales = probe(model, x)
    assert scales.faults[0].direction == "given"
    assert {f.direction for f in scales.faults} >= {"given", "forward"}
    assert "first " in str(scales)


# All that models do.


@dataclass
class Output:
    logits: Tensor
    more: tuple


class Shapes(nn.Module):
    """Gives what it gets, in whatever it is told to."""

    def __init__(self, wrap):
        super().__init__()
        self.map, self.wrap = nn.Linear(6, 3), wrap

    def forward(self, x):
        return self.wrap(self.map(x))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda y: y,
        lambda y: (y, [y.sin()]),
        lambda y: {"logits": y, "none": None},
        lambda y: Output(y, (y.cos(), 3)),
        lambda y: torch.distributions.Normal(y, 1.0, validate_args=False),
        lambda y: y.split(1, -1),
        lambda y: torch.nn.utils.rnn.pack_sequence([y, y[:2]]),
    ],
    ids=["tensor", "tuple", "dict", "dataclass", "distribution", "views", "packed"],
)
def test_whatever_a_model_returns(wrap):
    scales = probe(Shapes(wrap), torch.randn(4, 6))
    assert scales["map"].bwd_std > 0.0
    assert scales["input"].bwd_std > 0.0


def test_composed_layers_are_looked_into():
    layer = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True)
    for mode in (True, False):
        scales = probe(nn.TransformerEncoder(layer, 2).train(mode), torch.randn(4, 3, 6))
        assert all(scales[f"layers.{place}.linear2"].bwd_std > 0.0 for place in (0, 1))
        attention = scales["layers.0.self_attn.multi_head_attention_forward", 0]
        assert attention.fwd_std > 0.0
        assert scales["layers.1.norm2"].fwd_std > 0.9


@pytest.mark.parametrize("reentrant", [True, False])
def test_layers_inside_a_checkpoint(reentrant):
    class Net(nn.Module):
        def __init__(self, sparing):
            super().__init__()
            self.sparing, self.drop = sparing, nn.Dropout(0.3)
            self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 6)

        def part(self, x):
            return self.drop(self.one(x).tanh())

        def forward(self, x):
            if not self.sparing:
                return self.two(self.part(self.part(x)))
            inner = checkpoint(self.part, x, use_reentrant=reentrant)
            return self.two(checkpoint(self.part, inner, use_reentrant=reentrant))

    model, x = Net(False).double(), torch.randn(4, 6, dtype=torch.float64)
    plain = probe(model, x)
    model.sparing = True
    assert probe(model, x) == plain
    assert plain["tanh", 1].bwd_std > 0.0


def test_a_shared_layer_has_a_row_for_every_call():
    layer = nn.Linear(6, 6).double()
    model = nn.Sequential(layer, nn.Tanh(), layer)
    scales = probe(model, torch.randn(4, 6, dtype=torch.float64))
    assert [row.path for row in scales] == ["input", "0", "1", "0"]
    assert scales["0", 0].bwd_std != scales["0", 1].bwd_std


def test_in_place_is_what_it_is_out_of_place():
    class Block(nn.Module):
        def __init__(self, inplace):
            super().__init__()
            self.one, self.act = nn.Linear(6, 6), nn.ReLU(inplace=inplace)
            self.two, self.inplace = nn.Linear(6, 6), inplace

        def forward(self, x):
            y = self.two(self.act(self.one(x)))
            if self.inplace:
                y += x
                y[:, :3].mul_(0.5)
                return y
            y = y + x
            return torch.cat([y[:, :3] * 0.5, y[:, 3:]], 1)

    one, other = Block(True).double(), Block(False).double()
    other.load_state_dict(one.state_dict())
    x = torch.randn(4, 6, dtype=torch.float64)
    one, other = probe(one, x), probe(other, x)
    for path in ("input", "one", "act", "two"):
        assert close(one[path].fwd_std, other[path].fwd_std)
        assert close(one[path].bwd_std, other[path].bwd_std)
    assert close(one["add_"].fwd_std, other["add"].fwd_std)


def test_integers_have_no_scale_and_what_is_made_of_them_has():
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(10, 6)
            self.places = nn.Parameter(torch.randn(5, 6))
            self.head = nn.Linear(6, 10, bias=False)
            self.head.weight = self.table.weight

        def forward(self, index, keep=None):
            x = self.table(index) + self.places
            return self.head(x if keep is None else x * keep[..., None])

    model, index = Words().requires_grad_(False), torch.randint(10, (4, 5))
    scales = probe(model, index, keep=torch.ones(4, 5))
    assert [row.path for row in scales if row.path.startswith("input")] == ["input 1"]
    assert all(row.bwd_std > 0.0 for row in scales)
    assert scales["table"].sample_std > 0.0
    assert [row.path for row in probe(model, index)] == ["table", "add", "head"]


def test_samples_are_the_first_dimension_of_what_depends_on_the_input():
    model = nn.Linear(6, 4)
    plain = Called(model, lambda y: y * (model.weight * 1.0).sum(), nn.Identity())
    x = torch.randn(4, 6)
    scales = probe(plain, x)
    # As long as the batch, and nothing of it.
    assert scales["mul", 0].shape == (4, 6)
    assert scales["mul", 0].sample_std is None
    assert scales["mul", 1].sample_std > 0.0
    assert all(row.sample_std is None for row in probe(plain, x[:1]))
    collapsed = probe(plain, x[:1].expand(4, 6).contiguous())
    assert collapsed["mul", 1].sample_std < 1e-6
    assert collapsed["mul", 1].fwd_std > 0.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_type_is_measured_in_float64(dtype):
    class Large(nn.Module):
        def forward(self, x):
            return x * 1000.0

    x = torch.randn(50, 40).to(dtype)
    row = probe(Large(), x)["mul"]
    # 10⁶ is more than a float16 holds.
    assert close(row.fwd_std, (x * 1000.0).double().std(correction=0).item())


def test_complex_numbers_count_as_two():
    x = torch.randn(40, 50, dtype=torch.float64)
    scales = probe(applied(lambda x: torch.fft.fft(x).abs()).double(), x[:, :6])
    assert scales["fft_fft"].shape == (40, 6)
    assert scales["fft_fft"].bwd_std > 0.0
    both = torch.view_as_real(torch.fft.fft(x))
    row = probe(Called(nn.Identity(), torch.fft.fft, nn.Identity()), x)["fft_fft"]
    assert close(row.fwd_std, both.std(correction=0).item())
    assert abs(row.bwd_std - 1.0) < 5 * math.sqrt(0.5 / both.numel())


def test_what_is_not_filled_yet_has_no_figures():
    def filled(x):
        y = torch.empty(4, 6)
        y.copy_(x)
        return y.new_empty(0) if x.shape[0] > 9 else y

    scales = probe(applied(filled), torch.randn(4, 6))
    assert scales["empty"] == normprop.Measured("empty", "empty", (4, 6), *[None] * 4)
    assert scales["copy_"].fwd_std > 0.0
    none = probe(applied(lambda x: x[:0]), torch.randn(4, 6))["__getitem__"]
    assert (none.shape, none.fwd_std) == ((0, 6), None)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_nested_tensors_are_said_to_be_left_out():
    def nested(x):
        return torch.nested.as_nested_tensor([x[:2], x]).to_padded_tensor(0.0)

    scales = probe(applied(nested), torch.randn(4, 6))
    assert scales.notes[0].endswith("puts out a nested tensor, which is not looked at")
    assert scales["to_padded_tensor"].bwd_std > 0.0


def test_sparse_tensors_count_with_their_zeros():
    model = applied(lambda x: torch.sparse.mm(x.relu().to_sparse(), x.T))
    scales = probe(model, torch.randn(4, 6))
    assert close(scales["to_sparse"].fwd_std, scales["relu"].fwd_std)
    assert scales["relu"].bwd_std > 0.0


@pytest.mark.parametrize("setting", ["dtype", "device"])
def test_defaults_of_torch_are_no_matter(setting):
    model, x = applied(torch.tanh), torch.randn(4, 6)
    plain = probe(model, x)
    if setting == "dtype":
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            assert probe(model, x) == plain
        finally:
            torch.set_default_dtype(before)
    else:
        with torch.device("meta"):
            assert probe(model, x) == plain


def test_a_property_has_its_own_name():
    scales = probe(applied(lambda x: x.T @ x.mT.T), torch.randn(4, 6))
    assert [row.path for row in scales][2:] == ["T", "mT", "T", "matmul", "after"]


def test_inside_of_vmap():
    def mapped(x):
        return torch.vmap(lambda row: row * 2.0)(x)

    scales = probe(applied(mapped), torch.randn(4, 6))
    assert scales["before"].bwd_std > 0.0
    assert scales["mul"].fwd_std is None


def test_a_lazy_model():
    model = nn.Sequential(nn.LazyLinear(5), nn.ReLU())
    assert probe(model, torch.randn(4, 6))["0"].shape == (4, 5)
    assert model[0].has_uninitialized_params()


def test_a_model_without_parameters_and_inputs_of_any_kind():
    class Sum(nn.Module):
        def forward(self, pairs, *, scale):
            return sum(one * other for one, other in pairs["pairs"]) * scale

    pairs = {"pairs": [(torch.randn(4, 6), torch.randn(4, 6)) for _ in range(2)]}
    scales = probe(Sum(), pairs, scale=2.0)
    inputs = [row for row in scales if row.op == "input"]
    assert [row.path for row in inputs] == ["input", "input 1", "input 2", "input 3"]
    assert all(row.bwd_std > 0.0 for row in inputs)
    assert pairs["pairs"][0][0].grad is None


# What stands around it.


def compiled(model):
    return torch.compile(model, backend="eager")


@pytest.mark.parametrize(
    "wrap",
    [compiled, nn.DataParallel, AveragedModel, nn.parallel.DistributedDataParallel],
    ids=lambda wrap: wrap.__name__,
)
def test_wrappers_are_taken_off(wrap, alone):
    model, x = build("mlp")
    assert probe(wrap(model), x) == probe(model, x)
    assert all(p.grad is None for p in model.parameters())


def test_compiled_parts_run_as_they_are_written():
    fast = torch.compile(lambda x: x.sin() + 1.0, backend="eager")
    scales = probe(applied(fast), torch.randn(4, 6))
    assert [row.path for row in scales][2:4] == ["sin", "add"]


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["residual, post", "among norms", "by function"])
def test_on_a_gpu_it_says_the_same(name):
    model, x = build(name)
    here = probe(model.eval(), x)
    state = torch.cuda.get_rng_state()
    there = probe(model.cuda(), x.cuda())
    assert torch.equal(torch.cuda.get_rng_state(), state)
    for one, other in zip(here, there, strict=True):
        assert one.path == other.path
        for figure in ("fwd_std", "sample_std", "bwd_std"):
            assert abs(getattr(one, figure) - getattr(other, figure)) < 1e6 * EPS


# What it refuses.


class Nothing(nn.Module):
    def forward(self, x):
        return None


@pytest.mark.parametrize(
    ("model", "inputs", "error", "message"),
    [
        (len, (torch.ones(2),), TypeError, "must be a torch.nn.Module; it was builtin"),
        (nn.ReLU(), (), ValueError, "inputs must be given, among them a tensor"),
        (nn.ReLU(), (torch.ones(2, device="meta"),), ValueError, "must hold numbers"),
        (nn.Linear(2, 2, device="meta"), (torch.ones(2),), ValueError, "must hold numbers"),
        (Nothing(), (torch.ones(2),), TypeError, "must return tensors"),
    ],
)
def test_what_cannot_be_measured_is_refused(model, inputs, error, message):
    with pytest.raises(error, match=message):
        probe(model, *inputs)


# Beside what was predicted.


@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_calls_are_predicted_and_measured(name):
    model, x = build(name)
    scales = probe(model, x)
    keys = [(row.path, row.op, row.shape) for row in scales]
    assert [(row.path, row.op, row.shape) for row in scales.predicted] == keys


def test_a_layer_that_gives_back_its_input_has_a_row_as_has_what_made_it():
    conv = nn.Linear(6, 6)
    model = nn.Sequential(conv, nn.Identity(), nn.Dropout(0.5), nn.Identity()).eval()
    scales = probe(model, torch.randn(4, 6))
    assert [row.path for row in scales.predicted] == ["input", "0", "1", "2", "3"]
    assert [row.op for row in scales.predicted][1:3] == ["Linear", "Identity"]
    assert len({row.predicted.fwd_std for row in scales.rows[1:]}) == 1


def test_a_prediction_that_cannot_be_made_says_why():
    def branch(x):
        return x * 2.0 if x.mean() > 0 else x * 3.0

    scales = probe(applied(branch), torch.randn(4, 6))
    assert scales.predicted is None
    assert scales.notes[-1].startswith("no prediction: ValueError: model must not ask for")
    assert scales["mul"].fwd_std > 0.0


def test_predicted_rows_stand_beside_those_of_the_same_calls():
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU())
    measured = probe(model, torch.randn(4, 6))
    rows = [Row(r.path, r.op, r.shape, 0.0, 2.0 * r.fwd_std, None, r.bwd_std) for r in measured]
    together = probing.beside(measured, Scales(tuple(rows), notes=("said by it",)), [True] * 3)
    assert [row.predicted for row in together] == rows
    assert all(row.deviation == {"fwd_std": 0.5, "bwd_std": 1.0} for row in together)
    assert together.notes == (*measured.notes, "said by it")
    # One call fewer, and another.
    other = Row("dice", "rand", (4,), 0.5, 0.3, None, None)
    fewer = probing.beside(measured, Scales((rows[0], other, rows[2])), [True] * 3)
    assert [row.predicted for row in fewer] == [rows[0], None, rows[2]]
    assert fewer.notes[-1] == (
        "measured and predicted calls differ: 1 of 3 rows have no prediction, and 1 of 3 "
        "predicted rows were not measured"
    )
    # Constants need none.
    known = probing.beside(measured, Scales((rows[0], rows[2])), [True, False, True])
    assert [row.predicted for row in known] == [rows[0], None, rows[2]]
    assert known.notes == measured.notes
