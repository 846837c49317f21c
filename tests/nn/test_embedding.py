"""The normalised embedding: rows of norm √dim, their gradients, and torch's arguments."""

import inspect
import math
import pickle

import pytest
import torch
from torch import nn

import normprop
from normprop import functional

TOKENS = torch.tensor([[0, 3, 1], [1, 4, 1]])


def layer_of(**arguments):
    layer = normprop.nn.Embedding(5, 4, **{"dtype": torch.float64, **arguments})
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        values = torch.randn(5, 4, generator=generator, dtype=torch.float64)
        layer.weight.copy_(values)
    if arguments.get("method") == "project":
        layer.project_()
    return layer


def formula(weight):
    return 2.0 * weight / weight.norm(dim=1, keepdim=True)


def test_it_is_its_twin_with_two_more_arguments():
    mine = inspect.signature(normprop.nn.Embedding).parameters
    theirs = inspect.signature(nn.Embedding).parameters
    assert issubclass(normprop.nn.Embedding, nn.Embedding)
    assert {n: p.default for n, p in mine.items() if n in theirs} == {
        n: p.default for n, p in theirs.items()
    }
    assert list(mine) == [*theirs, "gain", "method"]


@pytest.mark.parametrize("method", ["normalize", "project"])
def test_a_token_looks_up_its_row_on_the_ball(method):
    layer = layer_of(method=method)
    got = layer(TOKENS)
    assert got.shape == (2, 3, 4)
    assert (got - formula(layer.weight.detach())[TOKENS]).abs().max() <= 2**-52 * 16
    assert (got.square().mean(-1) - 1).abs().max() <= 2**-52 * 16


def test_the_gradient_is_the_derivative():
    layer = layer_of()

    def call(weight):
        return torch.func.functional_call(layer, {"weight": weight}, (TOKENS,))

    assert torch.autograd.gradcheck(call, (layer.weight,))
    assert torch.autograd.gradgradcheck(call, (layer.weight,))


def gradients(layer):
    y = layer(TOKENS)
    dy = torch.arange(y.numel(), dtype=y.dtype).sin().view_as(y)
    (gradient,) = torch.autograd.grad(y, layer.weight, dy)
    return gradient


def test_a_sparse_gradient_is_the_dense_one():
    sparse = gradients(layer_of(sparse=True))
    assert sparse.is_sparse
    assert torch.allclose(sparse.to_dense(), gradients(layer_of()), rtol=1e-14, atol=1e-15)


def test_a_frequent_token_s_gradient_is_divided():
    got, plain = gradients(layer_of(scale_grad_by_freq=True)), gradients(layer_of())
    # Token 1 stands there three times.
    assert torch.allclose(got[1], plain[1] / 3, rtol=1e-14, atol=1e-15)
    assert torch.equal(got[[0, 3, 4]], plain[[0, 3, 4]])


def test_padding_stays_zero_and_learns_nothing():
    layer = normprop.nn.Embedding(5, 4, padding_idx=1, dtype=torch.float64)
    assert (layer(TOKENS)[TOKENS == 1] == 0).all()
    gradient = gradients(layer)
    assert (gradient[1] == 0).all()
    assert gradient.isfinite().all()
    layer = normprop.nn.Embedding(5, 4, padding_idx=1, method="project")
    assert (layer.weight[1] == 0).all()


def test_inputs_of_every_shape():
    layer = layer_of()
    assert layer(torch.tensor(2)).shape == (4,)
    assert layer(torch.zeros(0, 3, dtype=torch.long)).shape == (0, 3, 4)
    each = torch.func.vmap(layer)(TOKENS)
    assert torch.allclose(each, layer(TOKENS), rtol=1e-15, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_normalised_in_single(dtype):
    layer = layer_of().to(dtype)
    got = layer(TOKENS)
    assert got.dtype == dtype
    wanted = formula(layer.weight.detach().double())[TOKENS]
    assert ((got.double() - wanted).abs() <= torch.finfo(dtype).eps * wanted.abs()).all()


@pytest.mark.filterwarnings("ignore:.*should not be instantiated")
def test_compiled_is_eager():
    torch.compiler.reset()
    layer = layer_of()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    assert torch.allclose(compiled(TOKENS), layer(TOKENS), rtol=1e-15, atol=0)
    torch.compiler.reset()


def test_checkpoints_copies_and_given_weights():
    layer, plain = layer_of(), nn.Embedding(5, 4)
    plain.load_state_dict(layer.state_dict())
    layer.load_state_dict(plain.state_dict())
    other = pickle.loads(pickle.dumps(layer))
    assert torch.equal(other(TOKENS), layer(TOKENS))
    weight = torch.randn(5, 4)
    given = normprop.nn.Embedding.from_pretrained(weight)
    assert not given.weight.requires_grad
    assert torch.equal(given.weight, weight)
    before = weight.clone()
    normprop.nn.Embedding(5, 4, _weight=weight, method="project")
    assert torch.equal(weight, before)


def test_project_is_found_by_name():
    model = nn.Sequential(layer_of(method="project"), normprop.nn.Linear(4, 2, dtype=torch.float64))
    model[0].weight.data *= 3
    assert normprop.nn.project_(model) == 1
    assert (model[0].weight.norm(dim=1) - math.sqrt(4)).abs().max() <= 2**-52 * 16


def test_the_repr_shows_the_arguments():
    text = repr(layer_of(padding_idx=1, sparse=True, method="project"))
    assert text == "Embedding(5, 4, padding_idx=1, sparse=True, method='project')"


def test_refusals():
    with pytest.raises(ValueError, match=r"max_norm must be None.*it was 1\.0"):
        normprop.nn.Embedding(5, 4, max_norm=1.0)
    with pytest.raises(ValueError, match="method must be 'normalize' or 'project'; it was 'clip'"):
        normprop.nn.Embedding(5, 4, method="clip")
    with pytest.raises(ValueError, match="method must be 'normalize' or 'project'; it was 'clip'"):
        functional.embedding(TOKENS, torch.randn(5, 4), method="clip")
