"""Compile what the kernels' own callers launch, for GPUs that need not be there.

Run as a program: prints JSON, a list of one entry a compilation, and for calls that differ only in
their constants what each would have compiled.  The launches are caught on their way to the device,
with the arguments that they really have.
"""

import json
import re
import struct
import sys
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget

from normprop.kernels import activation, dropout, montecarlo, weight
from tests.kernels.functions import CASES, READ, backward, forward, projected, scaled

TYPES = {
    torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32", torch.float64: "fp64",
    torch.int64: "i64",
}  # fmt: skip
ARCHITECTURES = (80, 90)


def source(kernel, args, kwargs):
    """What Triton compiles for these arguments, specialised as in a launch."""
    values = dict(zip(kernel.arg_names, args, strict=False)) | kwargs
    signature, constants, attributes = {}, {}, {}
    for position, parameter in enumerate(kernel.params):
        value = values[parameter.name]
        whole = isinstance(value, int) and not parameter.is_constexpr
        special = whole and not parameter.do_not_specialize
        if parameter.is_constexpr or value is None or (special and value == 1):
            signature[parameter.name] = "constexpr"
            constants[(position,)] = value
        elif isinstance(value, torch.Tensor):
            signature[parameter.name] = f"*{TYPES[value.dtype]}"
            if value.data_ptr() % 16 == 0:
                attributes[(position,)] = [["tt.divisibility", 16]]
        else:
            short = "i32" if -(2**31) <= value < 2**31 else "i64"
            signature[parameter.name] = parameter.annotation_type or short
            if special and value % 16 == 0:
                attributes[(position,)] = [["tt.divisibility", 16]]
    return triton.compiler.ASTSource(kernel, signature, constants, attributes)


CONSTANT = re.compile(r"arith\.constant (?:dense<)?([^\s>]+)>? : (?:tensor<\S*x)?f64")


def rounded(text):
    """Constants of float64 that have been float32, which leaves 29 of their last bits at 0.

    A number that is short by itself, such as a half, is none.
    """
    for found in CONSTANT.findall(text):
        if found.startswith("0x"):
            (value,) = struct.unpack(">d", bytes.fromhex(found[2:]))
        else:
            value = float(found)
        numerator = abs(value).as_integer_ratio()[0]
        short = numerator // (numerator & -numerator or 1)
        if 2**16 < short < 2**24:
            yield value


def launched(call):
    """What a call launches: the kernel, its arguments, the options and the grid."""
    launches = []

    def run(self, *args, grid, warmup, **kwargs):
        options = {k: kwargs.pop(k) for k in ("num_warps",) if k in kwargs}
        launches.append((self, args, kwargs, options, grid))

    with mock.patch.object(triton.JITFunction, "run", run):
        call()
    return launches


def keys(call):
    """By what Triton tells apart what it has compiled for a call."""
    found = []
    for kernel, args, kwargs, options, _ in launched(call):
        made = source(kernel, args, kwargs)
        constants = [(*place, getattr(v, "__name__", v)) for place, v in made.constants.items()]
        found.append(repr((kernel.__name__, made.signature, constants, made.attrs, options)))
    return found


def compiled(call, *architectures):
    """Compile for every architecture what a call launches."""
    for kernel, args, kwargs, options, _ in launched(call):
        for architecture in architectures:
            target = GPUTarget("cuda", architecture, 32)
            result = triton.compile(source(kernel, args, kwargs), target=target, options=options)
            double = any(isinstance(a, torch.Tensor) and a.dtype == torch.float64 for a in args)
            yield {
                "kernel": kernel.__name__,
                "architecture": architecture,
                "target": f".target sm_{architecture}" in result.asm["ptx"],
                "wide": ".v4" in result.asm["ptx"] or ".v2" in result.asm["ptx"],
                "double": double,
                "single": "f32" in result.asm["ttir"],
                "rounded": [*rounded(result.asm["ttir"])],
            }


LINE, OTHER = (0.3, 0.7, 0.9), (0.0, 1.0, 1.0)
"""Shift and divisors: of these none is a number of float32, and of those all are whole."""


def activations(name, dtype, line=LINE, factor=1.1):
    x = torch.zeros(4096, dtype=dtype)
    shift, divisor, backward = line
    # At 1.1 none of them is a number of float32.
    params = tuple(value * factor for value in CASES[name][0])
    read = name in READ
    yield lambda: activation.forward(name, params, x, shift, divisor, save_output=read)
    for from_output in (False, True)[: 1 + read]:
        yield lambda f=from_output: activation.backward(
            name, params, x, x, shift, divisor, backward, from_output=f
        )


def preluses(dtype, line=LINE):
    x, slope = torch.zeros(1023, dtype=dtype), torch.ones(1, dtype=dtype)
    yield lambda: activation.backward_prelu(slope, x, x, *line)
    yield lambda: activation.forward("prelu", slope, x, *line[:2])


def weights(dtype, size=1.4142135623730951):
    # Norms that one program takes and such as need many, biases, and a layer alone.
    layers = [
        weight.Layer("fan-in", size, 2, slope=size, outputs=64),
        weight.Layer("fan-out", size, shift=size, scale=size, outputs=2048, factors=(size, 1.0)),
        weight.Layer(None, size, gain=size),
    ]
    w = [torch.zeros(shape, dtype=dtype) for shape in ((64, 24, 3, 3), (2048, 64), (64, 64))]
    b = [torch.zeros(64, dtype=dtype), torch.zeros(2048, dtype=dtype), None]
    yield lambda: forward(layers, w, b)
    yield lambda: backward(layers, w, forward(layers, w, b)[2], w, b)
    some = layers[:2], w[:2], b[:2]
    yield lambda: weight.batch(*some).project_(*some[1:], w[:2], b[:2])
    yield lambda: projected(w[0], scaled(w[0], "all", 2, 1.0)[1], w[0], "all", 2, size)


def dropouts(dtype, p=0.3, line=LINE):
    x = torch.zeros(4, 8, 5, 5, dtype=dtype)
    seed = dropout.draw_seed(x.device)
    shift, divisor, backward = line
    for leading in (0, 2):
        yield lambda k=leading: dropout.forward(x, p, shift, divisor, leading=k)
        yield lambda k=leading: dropout.backward(x, seed, p, backward, x.stride(), leading=k)


def wide():
    """A tensor of 2³¹ elements without the memory: the indices are what changes."""
    x = torch.zeros(16).expand(2**27, 16)
    with (
        mock.patch.object(activation, "as_dense", lambda tensor: tensor),
        mock.patch.object(torch, "empty_like", lambda tensor: tensor),
    ):
        activation.forward("relu", (), x, 0.3, 0.7)


def simulation(dtype, mean=0.0, std=1.0, seed=7, replicates=range(4), name="gelu", params=()):
    # The standard law: a number of 0 has the bits of a short integer.
    device = torch.device("cpu")
    montecarlo.figures(name, params, mean, std, seed, replicates, 9_999, dtype, device)


def shared():
    """Of calls that differ only in their constants, what each would compile."""
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        pairs = [(preluses(dtype), preluses(dtype, OTHER))]
        pairs += [(weights(dtype), weights(dtype, 2.0))]
        pairs += [(dropouts(dtype), dropouts(dtype, 0.0, OTHER))]
        pairs += [(activations(n, dtype), activations(n, dtype, OTHER, 1.0)) for n in CASES]
        for first, second in pairs:
            for a, b in zip(first, second, strict=True):
                yield keys(a), keys(b)
    other = {"mean": 1.3, "seed": 2**62, "replicates": range(5, 2**33, 2**31)}
    for dtype in (torch.float32, torch.float64):
        for name, one, two in (("gelu", (), ()), ("hardtanh", (-1.0, 1.0), (0.0, 0.3))):
            first = keys(lambda d=dtype, n=name, p=one: simulation(d, name=n, params=p))
            yield (
                first,
                keys(lambda d=dtype, n=name, p=two: simulation(d, name=n, params=p, **other)),
            )


def grids():
    """The second and third dimensions of the grids of calls that have many of everything."""
    many, device = 70_000, torch.device("cpu")
    x = torch.zeros(many, 1, 1)
    calls = [
        lambda: montecarlo.figures("relu", (), 0.0, 1.0, 1, range(many), 1, torch.float32, device),
        lambda: dropout.forward(x, 0.3, 0.1, 0.9, leading=2),
        lambda: dropout.forward(torch.zeros(1, many, 1), 0.3, 0.1, 0.9, leading=2),
        lambda: activation.forward("relu", (), torch.zeros(2**27), 0.3, 0.7),
    ]
    for shape, groups in (((many, 1, 1), many), ((1, many, 65), 1), ((many, 1, 1), 1)):
        w = torch.zeros(shape)
        for over in ("fan-in", "fan-out", "all"):
            calls.append(lambda w=w, o=over, g=groups: scaled(w, o, g, 1.0))
    for call in calls:
        for *_, grid in launched(call):
            yield list(grid[1:])


def ones():
    """Sizes of 1, which Triton makes constants of."""
    x = torch.zeros(1)
    activation.forward("gelu", (), x, 0.3, 0.7)
    activation.backward("gelu", (), x, x, 0.3, 0.7, 0.9, from_output=False)
    dropout.forward(x, 0.3, 0.1, 0.9)
    for leading in (1, 2):
        dropout.forward(torch.zeros(1, 1, 1), 0.3, 0.1, 0.9, leading=leading)
    for shape in ((1, 1), (1, 5), (5, 1), (1, 1, 3)):
        w = torch.zeros(shape)
        for over in ("fan-in", "fan-out", "all"):
            projected(w, scaled(w, over, 1, 1.0)[1], w, over, 1, 1.0)
    montecarlo.figures("relu", (), 0.0, 1.0, 1, range(1), 1, torch.float32, torch.device("cpu"))


def everything():
    # One type for every function, the one with most to lose, and every type for one function.
    for name in CASES:
        for call in activations(name, torch.float64):
            yield from compiled(call, 80)
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        for call in activations("gelu", dtype):
            yield from compiled(call, *ARCHITECTURES)
    for dtype in (torch.float32, torch.float64):
        for group in (preluses, weights, dropouts):
            for call in group(dtype):
                yield from compiled(call, *ARCHITECTURES)
        yield from compiled(lambda d=dtype: simulation(d), *ARCHITECTURES)
    yield from compiled(wide, *ARCHITECTURES)
    yield from compiled(ones, 90)


if __name__ == "__main__":
    # The callers refuse a tensor that is not on CUDA; these kernels never run.
    for module in (activation, dropout, montecarlo, weight):
        module.check_usable = lambda tensor: None
    found = {"compilations": list(everything()), "shared": list(shared()), "grids": list(grids())}
    json.dump(found, sys.stdout)
