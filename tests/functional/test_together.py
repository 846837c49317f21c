"""All weights of a network in one call: what each layer would make by itself, and its gradient."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from normprop.functional.parametric import Absorbed, Meaning
from normprop.functional.together import asked, bias_of, make, together, weight_of
from normprop.functional.weight import sphere

ABSORBED = [
    Absorbed(),
    Absorbed(Meaning(2.0, 0.7), Meaning(0.5, -0.3)),
    Absorbed(Meaning(0.4, 0.0), Meaning(1.0, 0.0)),
    Absorbed(Meaning(1.0, -0.2), Meaning(1.0, 0.0)),
]
LAYERS = [
    # shape, stride, groups, transposed
    ((5, 4), 1, 1, False),
    ((6, 4, 3), 2, 1, False),
    ((6, 2, 3, 2), 1, 3, False),
    ((4, 3, 2, 2, 1), (1, 2, 1), 1, False),
    ((4, 3, 3, 3), 2, 1, True),
    ((4, 2, 3, 3), 1, 2, True),
]


def part(weight, ball, per, stride, groups, transposed, normalize, absorbed, factors=(1.0, 1.0)):
    gain = 1.7 if transposed else 1.0
    geometry = {"stride": stride, "groups": groups, "transposed": transposed, "gain": gain}
    if transposed and absorbed.before.shift:
        # No shift of the input goes into a transposed convolution.
        absorbed = Absorbed(absorbed.before._replace(shift=0.0), absorbed.after)
    over, radius = sphere(weight, ball, per, **geometry)
    outputs = weight.shape[1] * groups if transposed else weight.shape[0]
    absorbed = absorbed._replace(factors=factors)
    return asked(over, radius, groups, normalize, absorbed, outputs)


def network(dtype=torch.float64, size=1.0, **chosen):
    """Every geometry, ball, grain and method, with and without a bias, and what each absorbed."""
    torch.manual_seed(0)
    parts, weights, biases = [], [], []
    for shape, stride, groups, transposed in LAYERS:
        for ball in ("forward", "backward"):
            for per in ("neuron", "layer"):
                for normalize in (True, False):
                    absorbed = ABSORBED[len(parts) % len(ABSORBED)]
                    weight = (size * torch.randn(shape, dtype=torch.float64)).to(dtype)
                    made = part(
                        weight, ball, per, stride, groups, transposed, normalize, absorbed, **chosen
                    )
                    parts.append(made)
                    weights.append(weight.requires_grad_())
                    bias = torch.randn(made.outputs, dtype=dtype).requires_grad_()
                    biases.append(None if len(parts) % 3 == 0 else bias)
    return parts, weights, biases


def each_alone(parts, weights, biases):
    """V and c of every layer, by operations that autograd knows."""
    pairs = []
    for part, weight, bias in zip(parts, weights, biases, strict=True):
        used = weight_of(part, weight)
        pairs.append((used, bias_of(part, bias, used)))
    return pairs


def gradients(pairs, weights, biases, **options):
    flat = [t for pair in pairs for t in pair if t is not None]
    generator = torch.Generator().manual_seed(1)
    arriving = [torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t) for t in flat]
    inputs = [t for t in (*weights, *biases) if t is not None]
    # A bias made of shifts alone learns nothing.
    learnt = [i for i, t in enumerate(flat) if t.requires_grad]
    flat, arriving = ([tensors[i] for i in learnt] for tensors in (flat, arriving))
    return torch.autograd.grad(flat, inputs, arriving, allow_unused=True, **options)


def values(pairs):
    return [t.detach() for pair in pairs for t in pair if t is not None]


def assert_close(got, wanted, dtype):
    assert len(got) == len(wanted)
    for a, b in zip(got, wanted, strict=True):
        if b is None:
            assert a is None
            continue
        assert a.dtype == b.dtype
        assert torch.isfinite(a).all()
        # Two sums over a layer, each of fewer than 64 products.
        assert (a - b).abs().max() <= 128 * torch.finfo(dtype).eps * b.abs().max()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [1.0, 1e-3])
def test_it_makes_what_each_layer_makes(dtype, size):
    parts, weights, biases = network(dtype, size)
    wanted = each_alone(parts, weights, biases)
    got = together(weights, biases, make(parts, weights, biases))
    assert [c is None for _, c in got] == [c is None for _, c in wanted]
    assert_close(values(got), values(wanted), dtype)
    got, wanted = (gradients(pairs, weights, biases) for pairs in (got, wanted))
    assert_close(got, wanted, dtype)


def test_neurons_of_zeros_and_of_any_size_among_others():
    parts, weights, biases = network(torch.float32)
    with torch.no_grad():
        for i, weight in enumerate(weights):
            weight[0] = 0.0
            weight[1] *= 10.0 ** (-25 if i % 2 else 15)
            weight[:, 0] *= 1e-12
    wanted = each_alone(parts, weights, biases)
    got = together(weights, biases, make(parts, weights, biases))
    assert_close(values(got), values(wanted), torch.float32)
    found = gradients(got, weights, biases)
    assert_close(found, gradients(wanted, weights, biases), torch.float32)


def test_a_factor_multiplies_the_gradient_alone():
    parts, weights, biases = network(factors=(3.0, 0.5))
    wanted = gradients(each_alone(parts, weights, biases), weights, biases)
    for options in ({}, {"create_graph": True}):
        pairs = together(weights, biases, make(parts, weights, biases))
        got = gradients(pairs, weights, biases, **options)
        factors = [3.0] * len(weights) + [0.5] * sum(b is not None for b in biases)
        scaled = [None if g is None else f * g for f, g in zip(factors, wanted, strict=True)]
        assert_close(got, scaled, torch.float64)


def test_the_gradient_can_be_differentiated_again():
    parts, weights, biases = network()
    chosen = slice(1, len(parts), 9)
    parts, weights, biases = parts[chosen], weights[chosen], biases[chosen]

    def run(*tensors):
        given = iter(tensors)
        w = [next(given) for _ in weights]
        b = [None if bias is None else next(given) for bias in biases]
        pairs = together(w, b, make(parts, w, b))
        return tuple(t for pair in pairs for t in pair if t is not None)

    inputs = [t for t in (*weights, *biases) if t is not None]
    assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True)


@pytest.mark.parametrize("road", ["batched", "vmap"])
def test_many_gradients_at_once(road):
    parts, weights, biases = (tensors[::5] for tensors in network())
    pairs = together(weights, biases, make(parts, weights, biases))
    outputs = [t for pair in pairs for t in pair if t is not None and t.requires_grad]
    inputs = [t for t in (*weights, *biases) if t is not None]
    several = [torch.randn(3, *t.shape, dtype=t.dtype) for t in outputs]

    def run(*arriving, **options):
        return torch.autograd.grad(outputs, inputs, arriving, retain_graph=True, **options)

    at_once = (
        run(*several, is_grads_batched=True) if road == "batched" else torch.vmap(run)(*several)
    )
    for i in range(3):
        alone = run(*[g[i] for g in several])
        assert_close([g[i] for g in at_once], alone, torch.float64)


def test_what_is_frozen_gets_no_gradient_and_costs_none():
    parts, weights, biases = network()
    for i, weight in enumerate(weights):
        weight.requires_grad_(i % 2 == 0)
    biases[1].requires_grad_(False)
    pairs = together(weights, biases, make(parts, weights, biases))
    for i, (used, bias) in enumerate(pairs):
        assert used.requires_grad == (i % 2 == 0)
        if bias is not None:
            learns = weights[i].requires_grad or (biases[i] is not None and biases[i].requires_grad)
            assert bias.requires_grad == learns
    sum(t.sum() for pair in pairs for t in pair if t is not None and t.requires_grad).backward()
    assert weights[1].grad is None
    assert biases[1].grad is None
    assert weights[2].grad is not None


class Counting(TorchDispatchMode):
    """Counts operators, views and ``detach`` left out."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name not in ("view", "detach", "expand", "split", "slice", "select", "alias", "t"):
            self.names.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("ball", ["forward", "backward"])
@pytest.mark.parametrize("shape", [(24, 24), (24, 24, 3, 3)])
def test_operators_are_few(shape, ball):
    layers = 20
    weights = [torch.randn(shape).requires_grad_() for _ in range(layers)]
    biases = [torch.randn(shape[0]).requires_grad_() for _ in range(layers)]

    def count(normalize):
        parts = [
            part(w, ball, "neuron", 1, 1, False, normalize, Absorbed(Meaning(1.7, 0.4)))
            for w in weights
        ]
        kept = make(parts, weights, biases)
        with Counting() as counted:
            if normalize:
                kept = make(parts, weights, biases)
            pairs = together(weights, biases, kept)
            gradients(pairs, weights, biases)
        # Random gradients are the test's own.
        names = [name for name in counted.names if name not in ("randn", "normal_", "_to_copy")]
        return len(names) / layers if normalize else len(names)

    # Weights on their ball by themselves are at hand: a few operators for all layers' gradients.
    assert count(normalize=False) <= 10
    assert count(normalize=True) <= 12


def test_the_counted_network_is_one_node():
    parts, weights, biases = network()
    pairs = together(weights, biases, make(parts, weights, biases))
    tensors = [t for pair in pairs for t in pair if t is not None]
    # What runs as it is passes through none.
    as_it_is = [t for t in tensors if any(t is p for p in (*weights, *biases))]
    assert 0 < len(as_it_is) < len(tensors) / 2
    assert len({t.grad_fn for t in tensors if not any(t is p for p in as_it_is)}) == 1
    assert all(math.isfinite(f) for f in pairs[0][0].grad_fn.gradient_factors)
