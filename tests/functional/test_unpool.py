"""Max unpooling as a function."""

import pytest
import torch
from torch.nn import functional as F

from normprop import functional, nn
from tests.functional.inputs import LAW, names


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_unpooling_puts_values_back(dims):
    x = torch.randn(2, 3, *(8, 6, 4)[:dims], dtype=torch.float64)
    values, indices = getattr(F, f"max_pool{dims}d")(x, 2, return_indices=True)
    function = getattr(functional, f"max_unpool{dims}d")
    plain = getattr(F, f"max_unpool{dims}d")(values, indices, 2)
    share = 0.5**dims
    mean, variance = share * 0.5, share * 4 + share * (1 - share) * 0.25
    for scaling in ("forward", "backward", "separate"):
        got = function(values, indices, 2, scaling=scaling, **LAW)
        layer = getattr(nn, f"MaxUnpool{dims}d")(2, scaling=scaling, **LAW)
        assert torch.equal(got, layer(values, indices))
        wanted = (plain - mean) / (1.0 if scaling == "backward" else variance**0.5)
        assert ((got - wanted).abs() <= 1e-14 * (1 + wanted.abs())).all()
    assert names(function) == names(getattr(F, f"max_unpool{dims}d"))


def test_an_output_size_is_torchs():
    x = torch.randn(2, 3, 9, dtype=torch.float64)
    values, indices = F.max_pool1d(x, 2, return_indices=True)
    assert functional.max_unpool1d(values, indices, 2, output_size=[9]).shape == (2, 3, 9)


def test_what_is_out_of_range_is_refused():
    x, indices = torch.randn(2, 3, 4), torch.zeros(2, 3, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match="kernel_size must be made of integers"):
        functional.max_unpool1d(x, indices, 0)
    with pytest.raises(ValueError, match="scaling must be one of"):
        functional.max_unpool1d(x, indices, 2, scaling="both")
