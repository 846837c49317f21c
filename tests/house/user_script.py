"""What a user may write, in the words of README. A type checker reads it; nobody runs it."""

from typing import Any, assert_type

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import normprop
import normprop.nn as nnp

x = torch.randn(2, 8)

# One figure for all elements: a number.
std: float = normprop.moments("sigmoid").bwd_std
assert_type(normprop.moments("relu", 0.5, 2.0), normprop.Moments[float])
assert_type(normprop.moments("relu", mean=0.5, std=2.0).fwd_mean, float)
assert_type(normprop.moments(torch.tanh).fwd_std, float)
assert_type(normprop.moments(lambda x: x + x.sin() ** 2, kinks=[0.0]).error, float)
std = normprop.moments(nn.MaxPool2d(3, stride=2), after="relu").bwd_std
std = normprop.moments(nn.Softmax(-1), shape=(1000,)).bwd_std
std = normprop.moments(nnp.Elementwise(torch.sin)).fwd_std

# One a channel: an array.
columns: NDArray[np.float64] = normprop.moments(nn.Linear(8, 4)).bwd_std
assert_type(normprop.moments(nnp.Conv2d(3, 64, 3)), normprop.Moments[NDArray[np.float64]])
assert_type(normprop.moments(nn.Embedding(8, 3)).fwd_std, NDArray[np.float64])
columns.max()
wrong: float = normprop.moments(nn.Linear(8, 4)).bwd_std  # type: ignore[assignment]
normprop.moments("relu").bwd_std.max()  # type: ignore[attr-defined]

# Of any module, either.
model: nn.Module = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
assert_type(normprop.moments(model), normprop.Moments[Any])

normprop.moments("relu", inverted="yes")  # type: ignore[call-overload]
normprop.moments("relu", 0.0, 1.0, True)  # type: ignore[call-overload]

estimate = normprop.simulate("sigmoid", 10_000_000)
print(estimate.bwd_std_se)

# Every verb returns a module.
twins = normprop.convert(model, x)
fast = normprop.fuse(twins, x)
plain = normprop.fold(fast, x)
assert_type(twins, nn.Module)
assert_type(fast, nn.Module)
assert_type(plain, nn.Module)
optimizer = torch.optim.SGD(fast.parameters(), 0.1)
print(normprop.report(twins), normprop.check(twins, x), normprop.table(), normprop.coverage())
output: Tensor = twins(x)

# Layers are their twins, and functions take keywords by name.
relu = nnp.ReLU(scaling="forward", mean=0.5)
linear: nn.Linear = nnp.Linear(8, 8, scaling="separate", per="layer")
deep = nn.Sequential(linear, relu, nnp.Linear(8, 8, bias=False, method="project"))
assert_type(normprop.functional.softmax(x, -1, scaling="forward", std=2.0), Tensor)
assert_type(normprop.functional.avg_pool2d(x, 2, scaling="forward", mean=0.5), Tensor)
normprop.functional.max_unpool1d(x, x, 2, scaling="sideways")  # type: ignore[arg-type]
normprop.functional.conv_transpose3d(x, x, mean=0.5)  # type: ignore[call-arg]
