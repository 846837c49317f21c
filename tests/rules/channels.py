"""What the tests of layers with weights share."""

import numpy as np
import torch

from tests import reference


def holds(got, wanted, small=1e-10):
    """Scalar or per-channel figures agree to 1e-13, within a bound that is true and small."""
    assert 0 <= got.error <= small
    for name, exact in zip(("fwd_mean", "fwd_std", "bwd_std"), wanted, strict=True):
        values = getattr(got, name)
        if isinstance(exact, list):
            assert isinstance(values, np.ndarray)
            assert values.dtype == np.float64
            assert values.shape == (len(exact),)
        else:
            assert type(values) is float
            values, exact = [values], [exact]
        for value, figure in zip(values, exact, strict=True):
            assert reference.agrees_to_1e13(float(value), figure), name
            assert reference.close(float(value), figure, got.error), name


def by_channel(outputs_and_backward):
    """Means, standard deviations and backward figures as three lists."""
    outputs, backward = outputs_and_backward
    return [mean for mean, _ in outputs], [std for _, std in outputs], backward


def randomised(layer, seed=0):
    """The layer, with normal parameters."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in layer.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator))
    return layer
