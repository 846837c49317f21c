"""What the tests of functions of a window or a shape share."""

import inspect
import pickle

import pytest
import torch

LAW = {"mean": 0.5, "std": 2.0}


def first(output) -> torch.Tensor:
    """The tensor of an output that may come with indices."""
    return output[0] if isinstance(output, tuple) else output


def check(function, layer, plain, x, *arguments, fixed_constants=True):
    """A function is its layer, and its signature begins as torch's.

    ``plain`` is torch's function; its arguments are those of ``function``.
    """
    for scaling in ("forward", "backward", "separate"):
        torch.manual_seed(0)
        got = function(x, *arguments, scaling=scaling, **LAW)
        torch.manual_seed(0)
        wanted = layer(scaling=scaling, **LAW)(x)
        assert torch.equal(first(got), first(wanted))
    torch.manual_seed(0)
    untouched = first(plain(x, *arguments))
    torch.manual_seed(0)
    law = {"scaling": "forward", **LAW}
    shift, forward, _ = layer(**law).constants_of(x.shape[1:])
    got = first(function(x, *arguments, **law))
    assert ((got - (untouched - shift) / forward).abs() <= 1e-14 * (1 + got.abs())).all()
    assert pickle.loads(pickle.dumps(function)) is function
    with pytest.raises(ValueError, match="scaling must be one of"):
        function(x, *arguments, scaling="both")
    with pytest.raises(TypeError, match="input must hold floating-point numbers"):
        function(x.long(), *arguments)
    keywords = [p.name for p in parameters(function) if p.kind is p.KEYWORD_ONLY]
    assert keywords[:3] == ["scaling", "mean", "std"]
    with pytest.raises(TypeError, match="constants"):
        function(x, *arguments, constants=layer().constants)


def parameters(function) -> list[inspect.Parameter]:
    """The parameters of a function."""
    return list(inspect.signature(function).parameters.values())


def names(function) -> list[str]:
    """The positional parameters of a function, in order."""
    return [p.name for p in parameters(function) if p.kind is p.POSITIONAL_OR_KEYWORD]
