"""Chapter 7: separate scales. Factors from the definitions, angles from laws of wide networks."""

import math

from tests import reference
from tests.book.expectations import Equals, Exact, Parameter, PerRun, Within

SMALL = {"width": 64, "batch": 16, "seeds": 3}


def ratio(name) -> float:
    """σ_f/σ_b at N(0, 1)."""
    _, fwd_std, bwd_std = reference.elementwise(name, 0, 1)
    return float(fwd_std / bwd_std)


RELU, TANH, SIGMOID = (ratio(name) for name in ("relu", "tanh", "sigmoid"))
CHI = math.pi / (math.pi - 1)


def block_cosine(blocks, r) -> float:
    """The angle of (1, √χ) and (1, r√χ), to the power of the blocks."""
    dot = 1 + CHI * r
    return (dot / math.hypot(1, math.sqrt(CHI)) / math.hypot(1, r * math.sqrt(CHI))) ** blocks


def shared_cosine(times) -> float:
    """The geometric sums, in closed form."""
    root = math.sqrt(CHI)
    first = (root**times - 1) / (root - 1)
    second = (CHI**times - 1) / (CHI - 1)
    return first / math.sqrt(times * second)


def neuron_cosine(spread, depth, width) -> float:
    return math.exp(-(depth - 1) * (spread * spread + 1 / width) / 2)


# What a width of n leaves of the law: the shares of the paths are off by some 1/√n each, and the
# networks are few. At 20 blocks ReLU's signal has left 1, which weakens the turn.
WIDTH = "a law of infinite width, measured at width 256, or at 64 with three networks"


def angle(name, cosine, own=(0.7, 1.3), small=(0.3, 2.0)):
    """A cosine near its law: bounds for -log cos, which is what adds up over layers."""
    turn = -math.log(cosine)
    yield f"{name}_predicted", Exact(cosine, 1e-12)
    yield (
        name,
        PerRun(
            own=Within(math.exp(-own[1] * turn), math.exp(-own[0] * turn), WIDTH),
            small=Within(math.exp(-small[1] * turn), math.exp(-small[0] * turn), WIDTH),
        ),
    )
    yield (
        f"{name}_se",
        PerRun(
            own=Within(0.0, 0.1, "six cosines, each with a spread below 0.2"),
            small=Within(0.0, 0.3, "three cosines, each with a spread below 0.5"),
        ),
    )


def neuron(name, spread, depth):
    own, small = (neuron_cosine(spread, depth, width) for width in (256, 64))
    yield f"neuron_{name}_law", PerRun(own=Exact(own, 1e-13), small=Exact(small, 1e-13))
    # Few columns carry the gradient at a large spread: cosines have a floor of their own there.
    floor = 0.08 if spread else 0.0
    yield (
        f"neuron_{name}",
        PerRun(
            own=Within(own**1.3 - floor, own**0.7 + floor, WIDTH),
            small=Within(small**1.8 - 3 * floor, small**0.4 + 3 * floor, WIDTH),
        ),
    )
    yield f"neuron_{name}_se", Within(0.0, 0.2, "cosines of a few networks")


EXPECTED = {
    "scaled_gradient": Exact(0.25, 0.0),
    "width": Parameter("width"),
    "seeds": Parameter("seeds"),
    # A chain, in float64: products of a few rounded numbers.
    "chain_legal": Equals(True),
    "chain_cosine_gap": Exact(0.0, 1e-14),
    "chain_factor_gap": Exact(0.0, 1e-13),
    # Eight activations and the last layer's √(24/6).
    "factor_first": Exact(2 * RELU**3 * TANH**3 * SIGMOID**2, 1e-12),
    "factor_largest": Exact(2 * TANH, 1e-12),
    "factor_last": Exact(1.0, 0.0),
    # Optimisers: who notices the factors, and who does not.
    "gap_SGD_one_rate": Within(0.05, 1.0, "factors of 0.85 to 1.84 change the way by their size"),
    "gap_SGD_rescaled": Exact(0.0, 1e-11),
    "gap_Adam_one_rate": Within(0.0, 1e-3, "ε = 1e-8 against gradients above 1e-4"),
    "gap_decay_rescaled": Within(0.01, 1.0, "the decay is rescaled by 0.85 to 1.84"),
    "gap_clipping_rescaled": Within(0.05, 1.0, "the clipped norm is another one"),
    # Joins.
    **{k: v for n in (1, 10, 20) for k, v in angle(f"relu_{n}", block_cosine(n, RELU))},
    **{k: v for n in (1, 10, 20) for k, v in angle(f"threefold_{n}", block_cosine(n, 3.0))},
    **dict(angle("third_10", block_cosine(10, 1 / 3))),
    "same_legal": Equals(True),
    "same_low": Exact(RELU, 1e-13),
    "same_high": Exact(RELU, 1e-13),
    # Float32 sums of 4096 or 65536 products.
    "same": Exact(1.0, 1e-5),
    "same_se": Exact(0.0, 1e-5),
    "mixed_legal": Equals(False),
    "mixed_low": Exact(RELU, 1e-13),
    "mixed_high": Exact(SIGMOID, 1e-13),
    **dict(angle("mixed", (1 / RELU + 1 / SIGMOID) / math.sqrt(2 * (RELU**-2 + SIGMOID**-2)))),
    **{
        key: value
        for times in (5, 10)
        for key, value in (
            (f"shared_{times}_legal", Equals(False)),
            (f"shared_{times}_low", Exact(RELU**times, 1e-13)),
            (f"shared_{times}_high", Exact(RELU, 1e-13)),
            *angle(f"shared_{times}", shared_cosine(times)),
        )
    },
    # (r - 1)·a at r = 3, a = 2. The field is a polynomial of degree 2 in each number alone, for
    # which central differences are exact up to rounding over the step of 1e-3.
    "curl": Exact(4.0, 1e-11),
    "repaired_gap": Exact(0.0, 1e-5),
    "repaired_legal": Equals(True),
    "repaired_factor": Exact(RELU, 1e-13),
    # Per neuron.
    **dict(neuron("iid_10", 0.0, 10)),
    **dict(neuron("iid_20", 0.0, 20)),
    **dict(neuron("half_10", 0.5, 10)),
    **dict(neuron("half_20", 0.5, 20)),
    **dict(neuron("one_5", 1.0, 5)),
    **dict(neuron("one_10", 1.0, 10)),
    **dict(neuron("one_20", 1.0, 20)),
    "orthogonal_gap": Exact(0.0, 1e-12),
    # √χ to the 39th; ln ½ over the logarithm for one block.
    "rate_ratio": Exact(CHI**19.5, 1e-9 * CHI**19.5),
    "half_blocks": Exact(-math.log(2) / math.log(block_cosine(1, RELU)), 1e-8),
}
