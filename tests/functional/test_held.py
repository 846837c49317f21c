"""Compiled code holds fast what constants follow from, of arguments and shapes that change."""

import pytest
import torch

from normprop import functional

pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated")
IMAGES = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
CALLS = {
    "avg_pool2d": ((2,), (3,), ((2, 3),), ([3, 2],), (4,)),
    "max_pool2d": ((2,), (3,), ((2, 3),), (4, 2)),
    "lp_pool2d": ((2, 2), (2, 3), (1, 3), (2.0, 2), (1, (4, 2))),
    "adaptive_avg_pool2d": ((2,), (3,), (4,), ((2, 5),)),
    "unfold": ((2,), (3,), (4,), ((3, 2),)),
    "hardtanh": ((-1.0, 1.0), (-0.5, 0.5), (-1, 1), (-2, 2), (-0.25, 3)),
    "leaky_relu": ((0.1,), (0.2,), (0.3,), (0,), (-1,)),
    "softmax": ((1,), (2,), (3,), (-1,)),
    "interpolate": ((5,), (6,), (7,), ((9, 4),)),
}
SHAPED = {
    "softmax": lambda x: functional.softmax(x, -1),
    "softmin": lambda x: functional.softmin(x, 1),
    "adaptive_avg_pool2d": lambda x: functional.adaptive_avg_pool2d(x, 3),
    "interpolate": lambda x: functional.interpolate(x, size=(7, 5), mode="bilinear"),
    "scaled_dot_product_attention": lambda x: functional.scaled_dot_product_attention(x, x, x),
    "mse_loss": lambda x: functional.mse_loss(x, 2.0 * x),
    "cat": lambda x: functional.cat([x, x[:, :1]], 1, mean=(0.5, 0.25)),
}


@pytest.fixture(autouse=True)
def reset():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def same(got, wanted) -> bool:
    return got.shape == wanted.shape and torch.allclose(got, wanted, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", CALLS)
def test_arguments_that_change_from_call_to_call(name):
    function = getattr(functional, name)
    compiled = torch.compile(
        lambda x, arguments: function(x, *arguments, mean=0.5), backend="eager", fullgraph=True
    )
    x = IMAGES.clone().requires_grad_()
    for arguments in (*CALLS[name], *CALLS[name]):
        assert same(compiled(x, arguments), function(x, *arguments, mean=0.5))


@pytest.mark.parametrize("dynamic", [None, True])
@pytest.mark.parametrize("name", SHAPED)
def test_shapes_that_change_from_call_to_call(name, dynamic):
    compiled = torch.compile(SHAPED[name], backend="eager", fullgraph=True, dynamic=dynamic)
    for size in (8, 7, 6, 8):
        x = IMAGES[:, : size // 2, :size, :size]
        assert same(compiled(x), SHAPED[name](x))


@pytest.mark.parametrize("name", ["adaptive_avg_pool2d", "interpolate", "softmax"])
def test_a_batch_that_changes_is_not_held(name):
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(SHAPED[name], backend=backend, fullgraph=True, dynamic=True)
    for batch in (3, 5, 6):
        x = IMAGES[:1].expand(batch, -1, -1, -1)
        assert same(compiled(x), SHAPED[name](x))
    assert len(graphs) == 1
