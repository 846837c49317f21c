"""A function of torch is predicted alike, by whatever name it is called."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normprop import predict
from normprop.graph.calls import TABLE

VECTORS, IMAGES = (4, 6, 8), (4, 8, 6, 6)
MASK, PLACES = torch.arange(8) < 3, torch.tensor([0, 2])
HIDING = torch.zeros(8).masked_fill(MASK, -math.inf)


def drawn(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


INDEX = torch.zeros(4, 6, 2, dtype=torch.int64)
MEASURED = drawn(8), drawn(8).square()
AFFINE = drawn(8).abs(), drawn(8)

# What stands behind the first tensor; other functions of one name take these as well.
OF_VECTORS = {
    "add": (HIDING,), "addbmm": (drawn(4, 6, 5), drawn(4, 5, 8)), "adjoint": (),
    "addmm": (drawn(6, 5), drawn(5, 8)), "alpha_dropout": (0.3, True), "amax": (-1,),
    "amin": (-1,), "baddbmm": (drawn(4, 6, 5), drawn(4, 5, 8)), "bernoulli": (0.3,), "bfloat16": (),
    "bmm": (drawn(4, 8, 3),), "broadcast_to": ((2, 4, 6, 8),), "chunk": (2, -1), "clone": (),
    "contiguous": (), "detach": (), "double": (), "dropout": (0.3, True), "expand": (2, 4, 6, 8),
    "expand_as": (drawn(2, 4, 6, 8),), "flatten": (1,), "flip": ((1,),), "fliplr": (), "flipud": (),
    "float": (), "gather": (2, INDEX), "glu": (-1,), "half": (), "index_select": (2, PLACES),
    "layer_norm": ((8,), *AFFINE), "linear": (drawn(3, 8),), "log_softmax": (-1,),
    "masked_fill": (MASK, 0.5), "matmul": (drawn(8, 3),), "max": (-1,), "mean": (-1,), "min": (-1,),
    "moveaxis": (0, 1), "movedim": (0, 1), "narrow": (1, 1, 3), "new_full": ((3,), 2.0),
    "new_ones": ((3,),), "new_zeros": ((3,),), "normalize": (2.0, -1), "full_like": (2.0,),
    "ones_like": (), "zeros_like": (), "rand_like": (), "randn_like": (), "pad": ((1, 2),),
    "permute": ((2, 0, 1),), "positive": (), "prelu": (drawn(1),), "ravel": (), "repeat": (2, 1, 3),
    "repeat_interleave": (2, 1), "reshape": ((4, 48),), "reshape_as": (drawn(4, 48),),
    "rms_norm": ((8,), AFFINE[0]), "roll": (1,), "rrelu": (0.1, 0.9, True), "rsub": (2.0,),
    "scaled_dot_product_attention": (drawn(4, 6, 8), drawn(4, 6, 8)), "select": (1, 2),
    "softmax": (-1,), "softmin": (-1,), "sort": (-1,), "split": (3, 1),
    "split_with_sizes": ((2, 4), 1), "squeeze": (0,), "sub": (0.5,), "sum": (-1,),
    "swapaxes": (0, 1), "swapdims": (0, 1), "take": (PLACES,), "take_along_dim": (INDEX, 2),
    "tensor_split": (3, 1), "tile": ((2, 1, 3),), "to": (torch.float64,), "transpose": (0, 1),
    "type": (torch.float64,), "type_as": (drawn(1),), "unbind": (1,), "unflatten": (2, (2, 4)),
    "unsqueeze": (1,), "view": (4, 48), "view_as": (drawn(4, 48),),
    "adaptive_avg_pool1d": (4,), "adaptive_max_pool1d": (4,), "avg_pool1d": (2,),
    "max_pool1d": (2,), "max_pool1d_with_indices": (2,), "conv1d": (drawn(3, 6, 3),),
    "conv_transpose1d": (drawn(6, 3, 3),), "dropout1d": (0.3, True), "interpolate": (16,),
    "adaptive_max_pool1d_with_indices": (4,), "bilinear": (drawn(4, 6, 3), drawn(5, 8, 3)),
}  # fmt: skip
OF_IMAGES = {
    "adaptive_avg_pool2d": (3,), "adaptive_max_pool2d": (3,), "avg_pool2d": (2,),
    "adaptive_max_pool2d_with_indices": (3,), "max_pool2d": (2,), "max_pool2d_with_indices": (2,),
    "channel_shuffle": (2,), "conv2d": (drawn(3, 8, 3, 3),), "dropout2d": (0.3, True),
    "conv_transpose2d": (drawn(8, 3, 3, 3),), "feature_alpha_dropout": (0.3, True),
    "group_norm": (2, *AFFINE), "pixel_shuffle": (2,), "pixel_unshuffle": (2,),
    "upsample": (12,), "upsample_bilinear": (12,), "upsample_nearest": (12,),
    "batch_norm": (*MEASURED, *AFFINE), "instance_norm": (None, None, *AFFINE),
}  # fmt: skip
# Written out: those of one name that take arguments in another order, or as others do not.
WRITTEN = {
    "where": (
        lambda x: torch.where(MASK, x, 0.5),
        lambda x: x.where(MASK, 0.5),
        lambda x: x.where(condition=MASK, other=0.5),
        lambda x: torch.masked_fill(x, ~MASK, 0.5),
        lambda x: (x * 1.0).masked_fill_(~MASK, 0.5),
    ),
    "where, of two": (
        lambda x: torch.where(MASK, x, 2.0 * x),
        lambda x: x.where(MASK, 2.0 * x),
        lambda x: (2.0 * x).where(~MASK, x),
    ),
    "where, hiding": (
        lambda x: torch.where(MASK, x, -math.inf).softmax(-1),
        lambda x: x.where(MASK, -math.inf).softmax(-1),
        lambda x: x.masked_fill(~MASK, -math.inf).softmax(-1),
    ),
    "batch_norm": (
        lambda x: F.batch_norm(x.mT, *MEASURED, *AFFINE),
        lambda x: torch.batch_norm(x.mT, *AFFINE, *MEASURED, False, 0.1, 1e-5, False),
    ),
    "batch_norm, training": (
        lambda x: F.batch_norm(x.mT, None, None, *AFFINE, True),
        lambda x: torch.batch_norm(x.mT, *AFFINE, None, None, True, 0.1, 1e-5, False),
    ),
    "instance_norm": (
        lambda x: F.instance_norm(x.mT, None, None, *AFFINE),
        lambda x: torch.instance_norm(x.mT, *AFFINE, None, None, True, 0.1, 1e-5, False),
    ),
    "embedding": (
        lambda x: x + F.embedding(PLACES.repeat(3), drawn(3, 8)),
        lambda x: x + torch.embedding(drawn(3, 8), PLACES.repeat(3)),
    ),
    "cat": tuple(
        lambda x, join=join, name=name: join([x, torch.relu(x)], **{name: -1})
        for join in (torch.cat, torch.concat, torch.concatenate)
        for name in ("dim", "axis")
    ),
    "stack": tuple(
        lambda x, name=name: torch.stack([x, torch.relu(x)], **{name: 1})
        for name in ("dim", "axis")
    ),
    "softmax": (
        lambda x: torch.softmax(x, -1),
        lambda x: F.softmax(x, dim=-1),
        lambda x: x.softmax(axis=-1),
        lambda x: torch.special.softmax(x, -1),
    ),
    "log_softmax": (
        lambda x: F.log_softmax(x, -1),
        lambda x: torch.special.log_softmax(x, dim=-1),
    ),
    "mean": (
        lambda x: x.mean(1, True),
        lambda x: x.mean(dim=1, keepdim=True),
        lambda x: torch.mean(x, axis=1, keepdims=True),
    ),
    "amax": (lambda x: x.amax(1), lambda x: torch.amax(x, axis=1)),
    "matmul": (
        lambda x: x @ drawn(8, 3),
        lambda x: torch.linalg.matmul(x, drawn(8, 3)),
        lambda x: torch.matmul(x, other=drawn(8, 3)),
    ),
    "addmm": (
        lambda x: torch.addmm(drawn(3), x[0], drawn(8, 3)),
        lambda x: torch.addmm(input=drawn(3), mat1=x[0], mat2=drawn(8, 3)),
        lambda x: torch.addmm(drawn(3), x[0], drawn(8, 3), beta=1, alpha=1),
    ),
    "mm": (lambda x: torch.mm(x[0], drawn(8, 3)), lambda x: x[0].mm(mat2=drawn(8, 3))),
    "mv": (lambda x: torch.mv(x[0], drawn(8)), lambda x: x[0].mv(drawn(8))),
    "t": (lambda x: torch.t(x[0]), lambda x: x[0].t(), lambda x: (x[0] * 1.0).t_(),
          lambda x: x[0].T, lambda x: x[0].mT, lambda x: x[0].H, lambda x: x[0].mH),
    "repeat_interleave": (
        lambda x: x.repeat_interleave(2), lambda x: torch.repeat_interleave(x.flatten(), 2, dim=0),
    ),
    "normal": (lambda x: x + torch.randn_like(x), lambda x: x + torch.empty_like(x).normal_()),
    "uniform": (lambda x: x + torch.rand_like(x), lambda x: x + torch.empty_like(x).uniform_()),
    "uniform, wider": (lambda x: x + (2.0 * torch.rand_like(x) - 1.0),
                       lambda x: x + torch.empty_like(x).uniform_(-1.0, 1.0),
                       lambda x: x + torch.empty_like(x).uniform_(**{"from": -1.0, "to": 1.0})),
    "dropout": (lambda x: F.dropout(x, 0.3), lambda x: torch.dropout(x, p=0.3, train=True),
                lambda x: F.dropout(x * 1.0, p=0.3, inplace=True)),
    "data": (lambda x: x.data, lambda x: x.detach()),
    "getitem": (lambda x: x[:, 1:4], lambda x: x.narrow(1, 1, 3)),
    "repeat": (lambda x: x.repeat(2, 1, 3), lambda x: x.repeat((2, 1, 3)),
               lambda x: torch.tile(x, dims=(2, 1, 3))),
    "zeros": (lambda x: x.new_zeros(3), lambda x: x.new_full((3,), fill_value=0.0)),
}  # fmt: skip
# Those that stand on meta tensors nowhere, are no functions, or are called by a layer alone.
NOT_CALLED = {
    "cpu", "cuda", "masked_select", "alias", "identity", "requires_grad", "einsum",
    "multi_head_attention_forward", "functional.cat", "functional.residual", "randn", "rand", "H",
    "T", "mH", "mT", "concat", "concatenate",
}  # fmt: skip


def in_three_dimensions(name):
    return name.endswith("3d") or "3d_" in name


class Applied(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        made = self.function(x)
        return (made if isinstance(made, Tensor) else made[0]) * 1.0


def figures(function, shape):
    rows = predict(Applied(function), torch.empty(shape, device="meta"))
    first, last = rows["input"], rows.rows[-1]
    said = {text for row in rows for text in row.assumed}
    return (first.bwd_std, last.fwd_mean, last.fwd_std, last.sample_std), said


def forms(name):
    """The functions and methods of that name; those that write get something of their own."""
    homes = (torch, F, Tensor)
    found = [getattr(home, name) for home in homes if callable(getattr(home, name, None))]
    for home in homes:
        if hasattr(home, f"{name}_") and name != "bernoulli":
            writes = getattr(home, f"{name}_")
            found.append(lambda x, *given, writes=writes: writes(x * 1.0, *given))
    if name == "batch_norm" or name == "instance_norm":
        found.remove(getattr(torch, name))
    return found


def agree(functions, shape):
    first, *others = (figures(function, shape) for function in functions)
    for other in others:
        assert other[1] == first[1]
        for one, two in zip(first[0], other[0], strict=True):
            # Another road may round in another order.
            assert (one is None) == (two is None)
            assert one is None or math.isclose(one, two, rel_tol=1e-12, abs_tol=1e-12)


@pytest.mark.filterwarnings("ignore:.*upsample.* is deprecated:UserWarning")
@pytest.mark.parametrize("name", OF_VECTORS | OF_IMAGES)
def test_a_function_and_a_method_of_one_name_are_one(name):
    given = (OF_VECTORS | OF_IMAGES)[name]
    shape = IMAGES if name in OF_IMAGES else VECTORS
    if name in ("addmm", "addbmm"):
        shape = VECTORS[1:]
    functions = [lambda x, form=form: form(x, *given) for form in forms(name)]
    assert functions
    agree(functions, shape)


@pytest.mark.parametrize("name", WRITTEN)
def test_arguments_may_have_another_order_or_another_name(name):
    agree(WRITTEN[name], VECTORS)


def test_every_rule_is_called():
    named = {name for name in TABLE if isinstance(name, str) and not in_three_dimensions(name)}
    assert named <= set(OF_VECTORS) | set(OF_IMAGES) | set(WRITTEN) | NOT_CALLED
