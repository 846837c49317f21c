import torch

from benchmarks import gate
from benchmarks.operators import operators


def test_what_launches_is_counted_and_views_are_not():
    x = torch.randn(4, 6, requires_grad=True)
    assert operators(lambda: x.view(2, 12).mT.detach()[0]) == 0
    assert operators(lambda: (x.relu() + 1.0).mul_(2.0)) == 3
    # ones_like, expand for free, and what threshold's backward pass is.
    assert operators(lambda: torch.autograd.grad(x.relu().sum(), x)) == 4


def test_the_gate_multiplies_in_float32_and_the_clock_as_before():
    places = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [place.allow_tf32 for place in places]
    for allowed in ([True, False], [False, True]):
        for place, value in zip(places, allowed, strict=True):
            place.allow_tf32 = value
        with gate.true_float32():
            assert [place.allow_tf32 for place in places] == [False, False]
        assert [place.allow_tf32 for place in places] == allowed
    assert gate.tf32(torch.device("cuda"))["clock"] == (
        "convolutions in TF32, matrix products in float32"
    )
    for place, value in zip(places, before, strict=True):
        place.allow_tf32 = value
