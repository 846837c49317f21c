"""All weights of a network in one call, whoever put the network together."""

import copy
import io
import pickle
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint
from torch.utils.hooks import RemovableHandle

import normprop
from normprop.functional.parametric import Meaning
from normprop.functional.together import Maker
from normprop.nn import batch_weights_
from normprop.nn.together import together_of
from tests.nodes import nodes_behind

own = normprop.nn


class Images(nn.Module):
    """Maps of every kind, with branches, and one that is used twice."""

    def __init__(self, **ball):
        super().__init__()
        self.first = own.Conv2d(3, 6, 3, padding=1, padding_mode="reflect", **ball)
        self.deep = own.Conv2d(6, 6, 3, padding=1, groups=3, bias=False, **ball)
        self.up = own.ConvTranspose2d(6, 4, 2, stride=2, **ball)
        self.act = own.ReLU()
        self.head = own.Linear(4, 4, **ball)

    def forward(self, x):
        x = self.act(self.first(x))
        x = self.act(self.deep(x)) + x
        x = self.up(self.deep(x)).mean((2, 3))
        return self.head(self.head(x))


BALLS = [
    {"scaling": scaling, "per": per, "method": method}
    for scaling in ("forward", "backward")
    for per in ("neuron", "layer")
    for method in ("normalize", "project")
]
X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def made(**ball):
    torch.manual_seed(0)
    return Images(**ball).double()


def results(network, x=X):
    x = x.clone().requires_grad_()
    y = network(x)
    wanted = [x, *(p for p in network.parameters() if p.requires_grad)]
    found = torch.autograd.grad(y.square().sum(), wanted, allow_unused=True)
    return [y, *(g for g in found if g is not None)]


def same(network, other, x=X, rtol=1e-10):
    pairs = zip(results(network, x), results(other, x), strict=True)
    return all(torch.allclose(a, b, rtol=rtol, atol=rtol) for a, b in pairs)


def nodes(output, name):
    return sum(type(node).__name__.startswith(name) for node in nodes_behind(output))


@pytest.mark.parametrize("ball", BALLS, ids=str)
def test_it_is_the_same_network_with_one_node_for_all_weights(ball):
    alone, network = made(**ball), batch_weights_(made(**ball))
    assert same(network, alone)
    assert list(network.state_dict()) == list(alone.state_dict())
    assert nodes(network(X), "_Together") == (1 if ball["method"] == "normalize" else 0)
    assert nodes(network(X), "_Scaled") == 0
    with torch.no_grad():
        assert torch.allclose(network(X), alone(X), rtol=1e-12)


def test_convert_leaves_a_network_so():
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Tanh()).double()
    for network in (normprop.convert(plain), normprop.convert(plain, X)):
        assert nodes(network(X), "_Together") == 1
        assert same(network, normprop.nn.together.alone(copy.deepcopy(network)))
        # Converted once more, or as a part, there is one who makes them, and it is fused as before.
        again = normprop.convert(network)
        assert nodes(again(X), "_Together") == 1
        assert len(again._forward_pre_hooks) == 1
        whole = normprop.convert(nn.Sequential(network, nn.Flatten(), nn.Linear(16, 2).double()))
        assert same(normprop.fuse(whole, X), whole)
        assert torch.allclose(normprop.fold(whole, X)(X), whole(X))


def test_a_map_alone_gets_no_hooks():
    layer = normprop.convert(nn.Linear(3, 3))
    assert together_of(layer) is None
    assert not layer._forward_pre_hooks
    assert together_of(batch_weights_(nn.Sequential(nn.Linear(3, 3)))) is None


def test_what_is_refused():
    with pytest.raises(TypeError, match=r"network must be a torch\.nn\.Module; it was 3"):
        batch_weights_(3)


def test_twice_is_once():
    network = batch_weights_(batch_weights_(made()))
    assert len(network._forward_pre_hooks) == 1


def test_a_part_that_makes_its_own_is_left_to_it():
    inner = batch_weights_(made())
    outer = batch_weights_(nn.Sequential(inner, own.Linear(4, 4).double()))
    assert nodes(outer(X), "_Together") == 2
    assert same(outer, nn.Sequential(made(), outer[1]))


def test_maps_that_it_cannot_serve_go_on_by_themselves():
    network, alone = batch_weights_(made()), made()
    for each in (network, alone):
        each.first.scaling = "separate"
        parametrize.register_parametrization(each.head, "weight", nn.Identity())
        each.up.register_forward_pre_hook(lambda module, inputs: None)
    assert same(network, alone)
    for each in (network, alone):
        each.deep.scaling, each.first.scaling = "separate", "forward"
    assert same(network, alone)


def test_what_is_written_exchanged_or_frozen_is_seen():
    network, alone = batch_weights_(made()), made()
    changes = (
        lambda net: net.first.weight.data.mul_(3.0).add_(0.1),
        lambda net: setattr(net, "up", own.ConvTranspose2d(6, 4, 2, stride=2).double()),
        lambda net: net.up.weight.requires_grad_(False),
        lambda net: setattr(net.head, "bias", nn.Parameter(torch.ones(4, dtype=torch.float64))),
        lambda net: net.load_state_dict(made(gain=2.0).state_dict(), strict=False),
        lambda net: setattr(net.head, "gain", 2.0),
        lambda net: setattr(net.first, "per", "layer"),
    )
    for change in changes:
        for each in (network, alone):
            torch.manual_seed(1)
            change(each)
        assert same(network, alone)
        with torch.no_grad():
            assert torch.allclose(network.eval()(X), alone(X), rtol=1e-12)


def test_it_goes_with_copies_and_files():
    network = batch_weights_(made())
    results(network)
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        with torch.no_grad():
            other.first.weight.mul_(2.0).add_(0.2)
        alone = made()
        alone.load_state_dict(other.state_dict())
        assert same(other, alone)
        assert nodes(other(X), "_Together") == 1
        assert same(network, made())


def test_a_map_called_by_itself_makes_its_own():
    network = batch_weights_(made())
    assert nodes(network.first(X), "_Together") == 0
    assert torch.equal(network.first(X), made().first(X))


def test_checkpoints_transforms_and_functional_calls():
    network, alone = batch_weights_(made()), made()
    for reentrant in (False, True):
        assert torch.allclose(*(gradients(checked(each, reentrant)) for each in (network, alone)))
    values = {name: p.detach() * 2.0 + 0.1 for name, p in network.named_parameters()}

    def loss(values, network):
        return torch.func.functional_call(network, values, X).square().sum()

    got, wanted = (torch.func.grad(loss)(values, each) for each in (network, alone))
    assert all(torch.allclose(got[name], wanted[name]) for name in wanted)
    found, right = (torch.func.functional_call(each, values, X) for each in (network, alone))
    assert torch.allclose(found, right)
    assert same(network, alone)


def checked(network, reentrant):
    def run(x):
        return checkpoint(network, x, use_reentrant=reentrant)

    return network, run


def gradients(found):
    network, run = found
    network.zero_grad()
    x = X.clone().requires_grad_()
    run(x).square().sum().backward()
    return torch.cat([t.grad.flatten() for t in (x, *network.parameters())])


# Forward mode makes torch load decompositions that it wrote in its own deprecated TorchScript.
forward_mode = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")


@forward_mode
def test_second_derivatives_and_forward_mode():
    network, alone = batch_weights_(made()), made()

    def twice(network):
        x = X.clone().requires_grad_()
        wanted = [x, *network.parameters()]
        first = torch.autograd.grad(network(x).square().sum(), wanted, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), wanted)

    assert all(map(torch.allclose, twice(network), twice(alone)))
    with torch.autograd.forward_ad.dual_level():
        tangents = []
        for each in (network, alone):
            each.requires_grad_(False)
            dual = torch.autograd.forward_ad.make_dual(X, torch.ones_like(X))
            tangents.append(torch.autograd.forward_ad.unpack_dual(each(dual)).tangent)
    assert torch.allclose(*tangents)


@forward_mode
def test_forward_mode_by_weights():
    network, alone = batch_weights_(made()), made()
    tangents = []
    for each in (network, alone):
        names, values = zip(*each.named_parameters(), strict=True)
        values = tuple(v.detach() for v in values)

        def run(*values, each=each, names=names):
            return torch.func.functional_call(each, dict(zip(names, values, strict=True)), X)

        with torch.autograd.forward_ad.dual_level():
            duals = [torch.autograd.forward_ad.make_dual(v, torch.ones_like(v)) for v in values]
            tangents.append(torch.autograd.forward_ad.unpack_dual(run(*duals)).tangent)
    assert torch.allclose(*tangents)


def test_autocast_and_half_precision():
    network, alone = batch_weights_(made().float()), made().float()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(network(X.float()), alone(X.float()), rtol=0.05, atol=0.05)
    half = X.to(torch.bfloat16)
    network, alone = network.to(torch.bfloat16), alone.to(torch.bfloat16)
    assert torch.allclose(network(half), alone(half), rtol=0.05, atol=0.05)


def test_what_was_made_is_let_go():
    network = batch_weights_(made())
    results(network)
    assert all(layer.made is None for layer in network.modules() if hasattr(layer, "made"))


class Between(nn.Module):
    """A network that does something between its call and that of its maps."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.inner = nn.Sequential(own.Linear(4, 4), own.Tanh(scaling="forward"))
        self.last = own.Linear(4, 3)

    def forward(self, x):
        return self.last(self.how(self.inner, x))


def with_others(inner, x):
    others = {k: p.flip(0) for k, p in inner.named_parameters()}
    return torch.func.functional_call(inner, others, (x,))


def with_another_weight(inner, x):
    own_weight = inner[0].weight
    inner[0].weight = nn.Parameter(own_weight.detach().flip(0))
    found = inner(x)
    inner[0].weight = own_weight
    return found


def with_another_bias(inner, x):
    own_bias, inner[0].bias = inner[0].bias, None
    found = inner(x)
    inner[0].bias = own_bias
    return found


def with_a_write(inner, x):
    with torch.no_grad():
        inner[0].weight.mul_(torch.linspace(-1, 2, 4).unsqueeze(1))
    return inner(x)


def recorded(inner, x):
    with torch.enable_grad():
        return inner(x)


def not_recorded(inner, x):
    with torch.no_grad():
        return inner(x)


def in_a_transform(inner, x):
    return torch.vmap(inner)(x)


@pytest.mark.parametrize("outside", [torch.enable_grad, torch.no_grad])
@pytest.mark.parametrize(
    "how",
    [
        with_others, with_another_weight, with_another_bias, with_a_write, recorded, not_recorded,
        in_a_transform,
    ],
)  # fmt: skip
def test_what_happens_between_the_call_of_a_network_and_that_of_a_map(how, outside):
    x, found = torch.randn(5, 4, generator=torch.Generator().manual_seed(1)), []
    for batched in (True, False):
        torch.manual_seed(0)
        network = Between(how)
        network = batch_weights_(network) if batched else network
        inside = []
        network.inner.register_forward_hook(lambda *call, inside=inside: inside.append(call[2]))
        with outside():
            network(x)
            y = network(x)
        written = how is with_a_write and y.requires_grad
        if written and batched:
            # One node has read all weights, and says that it cannot go back.
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                y.sum().backward()
            # Biases that run as they are have theirs by then.
            network.zero_grad()
        for output in (y, inside[-1]):
            if output.requires_grad and how is not in_a_transform and not written:
                output.sum().backward(retain_graph=True)
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        found.append([y.detach(), *gradients])
    assert len(found[0]) == len(found[1])
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in zip(*found, strict=True))


def faked(network, x):
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert network(torch.empty(x.shape, dtype=x.dtype)).dtype == x.dtype
    return network


def recorded_by(tracing_mode):
    def record(network, x):
        return make_fx(network, tracing_mode=tracing_mode, _allow_non_fake_inputs=True)(x)

    return record


def saved(network, x):
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(network, x), file)
    file.seek(0)
    return torch.jit.load(file)


RECORDERS = {
    "fake": faked,
    "real": recorded_by("real"),
    "symbolic": recorded_by("symbolic"),
    "export": lambda network, x: torch.export.export(network, (x,)).module(),
    "jit": saved,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("scaling", ["forward", "backward"])
@pytest.mark.parametrize("recorder", RECORDERS)
def test_who_records_operators_gets_all_and_leaves_nothing(recorder, scaling):
    torch.manual_seed(0)
    plain = nn.Sequential(
        nn.Conv2d(3, 7, 3, padding=1), nn.ReLU(), nn.Conv2d(7, 5, 3), nn.GELU(), nn.Flatten(),
        nn.Linear(80, 6), nn.PReLU(), nn.Linear(6, 4), nn.Tanh(),
    ).double()  # fmt: skip
    converted = normprop.convert(plain, X, scaling=scaling)
    for network in (converted, normprop.fuse(converted, X)):
        # Before it has run: what is kept from then on is kept by the recorder's run.
        found = RECORDERS[recorder](network, X)
        other = 2.0 * X + 1.0
        assert torch.allclose(found(other), copy.deepcopy(network)(other), rtol=1e-6, atol=1e-9)
        for got, wanted in zip(results(network), results(copy.deepcopy(network)), strict=True):
            assert type(got) is torch.Tensor
            assert torch.equal(got, wanted)


@pytest.mark.parametrize("training", [True, False])
def test_several_threads_run_it_at_once(training):
    network = batch_weights_(made())
    inputs = [X * (1.0 + i) for i in range(8)]
    alone = made()
    right = [results(alone, x) for x in inputs]
    right = right if training else [found[:1] for found in right]

    def run(x):
        for _ in range(20):
            if training:
                found = results(network, x)
            else:
                with torch.no_grad():
                    found = [network(x)]
        return found

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(run, inputs))
    finally:
        sys.setswitchinterval(before)
    for mine, own_results in zip(found, right, strict=True):
        for a, b in zip(mine, own_results, strict=True):
            assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", ["normalize", "project"])
def test_it_trains_as_its_maps_do(method):
    def trained(network):
        optimizer = torch.optim.SGD(network.parameters(), 0.05, momentum=0.9)
        for _ in range(10):
            optimizer.zero_grad()
            network(X).square().sum().backward()
            optimizer.step()
            if method == "project":
                own.project_(network)
        return [p.detach() for p in network.parameters()]

    together, alone = trained(batch_weights_(made(method=method))), trained(made(method=method))
    assert all(
        torch.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in zip(together, alone, strict=True)
    )


@pytest.mark.parametrize("verb", [normprop.convert, lambda model, x: normprop.fuse(model, x)])
def test_a_verb_looks_at_the_layers_and_past_what_makes_their_weights(verb):
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten()).double()
    x = torch.randn(8, 3, 6, 6, dtype=torch.float64)
    network = verb(normprop.convert(plain, x), x)
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        network(x).square().sum().backward()
        optimizer.step()
    # A write that is not a step's: views of what was written are not to be asked anything.
    network[0].weight.detach().mul_(1.5)
    rows = {row.path for row in normprop.probe(network, x)}
    assert {"0", "2"} <= rows
    assert rows == {row.path for row in normprop.probe(normprop.nn.together.alone(network), x)}
    batch_weights_(network)
    assert normprop.predict(network, x)["0"].fwd_std > 0
    assert torch.allclose(normprop.fold(network, x)(x), network.eval()(x))
    normprop.check(network, x)


# Torch warns of what Dynamo does: it asks an input for its gradient, and makes a Function.
@pytest.mark.filterwarnings("ignore:.*grad attribute of a Tensor that is not a leaf")
@pytest.mark.filterwarnings("ignore:.*should not be instantiated")
@pytest.mark.parametrize("verb", ["batch_weights_", "convert", "fuse"])
@pytest.mark.parametrize("in_place", [True, False])
def test_a_part_that_is_compiled_makes_its_own(verb, in_place):
    torch.compiler.reset()
    plain = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
    x = torch.randn(8, 4)
    network = normprop.convert(plain, x)
    if verb == "batch_weights_":
        network = batch_weights_(batch_weights_(network, on=False))
    network = normprop.fuse(network, x) if verb == "fuse" else network
    wanted = network(x)
    if in_place:
        network[2].compile(backend="eager", fullgraph=True)
    else:
        network[2] = torch.compile(network[2], backend="eager", fullgraph=True)
    assert torch.allclose(network(x), wanted, atol=1e-6)
    torch.compiler.reset()


def test_hooks_of_a_network_from_a_file_keep_their_numbers():
    data = pickle.dumps(batch_weights_(made()))
    before = RemovableHandle.next_id
    try:
        # As in a process of its own, where nobody has had a hook.
        RemovableHandle.next_id = 0
        network, seen = pickle.loads(data), []
        network.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs)))
        network.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs)))
        assert same(network, made())
    finally:
        RemovableHandle.next_id = max(before, RemovableHandle.next_id)
    assert seen == [1, 1]
    assert nodes(network(X), "_Together") == 1


def test_it_can_be_taken_off_and_leaves_nothing():
    network = batch_weights_(batch_weights_(made()), on=False)
    assert not network._forward_pre_hooks_with_kwargs
    assert not network._forward_hooks_always_called
    assert not network._forward_pre_hooks
    assert not network._forward_hooks
    assert nodes(network(X), "_Together") == 0
    fused = normprop.fuse(made(), X)
    assert nodes(batch_weights_(fused, on=False)(X), "_Together") == 1


def test_maps_that_came_since_are_served_when_asked_again():
    network = batch_weights_(made())
    network.head = own.Linear(4, 4).double()
    assert network.head not in together_of(network).layers
    assert network.head in together_of(batch_weights_(network)).layers
    assert len(together_of(network).layers) == 4


@pytest.mark.parametrize("method", ["normalize", "project"])
def test_nothing_is_held_after_a_pass(method):
    network = batch_weights_(made(method=method, gain=2.0))
    values = {name: p.detach().requires_grad_() * 2.0 for name, p in network.named_parameters()}
    y = torch.func.functional_call(network, values, X)
    held = [weakref.ref(value) for value in values.values()]
    del values, y
    assert not any(ref() is not None for ref in held)
    network(X)
    assert together_of(network).made is None


@pytest.mark.parametrize("training", [True, False])
def test_nothing_that_a_graph_made_is_held_by_a_fused_network(training):
    plain = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)).double()
    x = torch.randn(8, 4, dtype=torch.float64)
    network = normprop.fuse(normprop.convert(plain, x, method="project"), x)
    assert network(x).requires_grad
    values = {name: p.detach().requires_grad_() * 2.0 for name, p in network.named_parameters()}
    with torch.set_grad_enabled(training):
        y = torch.func.functional_call(network, values, x)
    held = [weakref.ref(value) for value in values.values()]
    del values, y
    assert not any(ref() is not None for ref in held)
    # And what belongs to its own parameters comes again.
    assert torch.equal(network(x), copy.deepcopy(network)(x))


def test_it_may_be_imported_in_inference_mode():
    lines = (
        "import torch",
        "with torch.inference_mode():",
        "    from normprop import nn",
        "    net = nn.batch_weights_(torch.nn.Sequential(nn.Linear(3, 3, bias=False), nn.ReLU()))",
        "    first = net(torch.ones(2, 3))",
        "net = nn.batch_weights_(torch.nn.Sequential(nn.Linear(3, 3, bias=False), nn.ReLU()))",
        "net(torch.ones(2, 3)).sum().backward()",
        "assert net[0].weight.grad is not None and first.shape == (2, 3)",
    )
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True, timeout=120)


def test_an_attribute_of_a_users_module_is_no_fused_map():
    class Mine(nn.Linear):
        absorbed = 3.0

    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), Mine(3, 3))
    normprop.fuse(normprop.convert(model), torch.randn(2, 3))
    one = normprop.convert(nn.Sequential(nn.Linear(3, 3)))
    # Nothing was there to absorb, and yet it is fused.
    fused = normprop.fuse(one, torch.randn(2, 3))
    with pytest.raises(ValueError, match="model must not be fused"):
        normprop.convert(fused)


def fused_and_projected():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).double()
    x = torch.randn(5, 8, dtype=torch.float64)
    return normprop.fuse(normprop.convert(plain, x, method="project"), x), x


@pytest.mark.parametrize("road", ["again", "batched"])
@pytest.mark.parametrize("method", ["normalize", "project"])
@pytest.mark.parametrize("name", ["weight", "bias"])
def test_what_several_maps_share_gets_its_gradient_once(name, method, road):
    torch.manual_seed(0)
    how = {"method": method, "dtype": torch.float64}
    layers = [m for _ in range(4) for m in (own.Linear(8, 8, **how), own.ReLU())]
    network = nn.Sequential(*layers, own.Linear(8, 8, **how))
    setattr(network[4], name, getattr(network[2], name))
    x = torch.randn(5, 8, dtype=torch.float64)
    more = {"create_graph": True} if road == "again" else {"is_grads_batched": True}
    for one in (batch_weights_(network), normprop.fuse(network, x)):
        loss, shared = one(x).square().sum(), getattr(one[2], name)
        (wanted,) = torch.autograd.grad(loss, shared, torch.ones_like(loss), retain_graph=True)
        ones = torch.ones(1, dtype=loss.dtype) if road == "batched" else torch.ones_like(loss)
        (found,) = torch.autograd.grad(loss, shared, ones, **more)
        assert torch.allclose(found.reshape(wanted.shape), wanted, rtol=1e-9)


def test_a_step_that_moves_no_version_counter_is_seen_where_weights_are_kept():
    network = batch_weights_(nn.Sequential(own.Linear(6, 8), nn.Tanh(), own.Linear(8, 3)))
    x, step = torch.randn(5, 6), torch.optim.SGD(network.parameters(), 0.5, fused=True)
    with parametrize.cached():
        with torch.no_grad():
            network(x)
        network(x).square().sum().backward()
        step.step()
        with torch.no_grad():
            assert torch.equal(network(x), copy.deepcopy(network)(x))


class Tied(nn.Module):
    """A map that runs with the rows of an embedding, which has another ball."""

    def __init__(self):
        super().__init__()
        self.head = own.Linear(8, 12, bias=False, method="project")
        self.act, self.rows = own.Tanh(), own.Embedding(12, 8, method="project")
        self.head.weight = self.rows.weight

    def forward(self, input):
        return self.head(self.act(self.rows(input)))


def test_what_was_made_of_a_weight_that_another_layer_moved_is_made_again():
    torch.manual_seed(0)
    x = torch.arange(5)
    network = normprop.fuse(Tied(), x)
    for _ in range(2):
        own.project_(network)
        assert torch.equal(network(x), copy.deepcopy(network)(x))


def test_a_parameter_of_inference_is_no_hindrance():
    network, x = fused_and_projected()
    network.requires_grad_(False)
    with torch.inference_mode():
        bias = torch.zeros(4, dtype=torch.float64)
    network[2].bias = nn.Parameter(bias, requires_grad=False)
    with torch.no_grad():
        network(x)
        network[0].weight.mul_(1.5)
        own.project_(network)
        assert torch.equal(network(x), copy.deepcopy(network)(x))


@pytest.mark.parametrize("fuses", [False, True])
@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
def test_evaluation_makes_its_weights_once_where_its_user_says_that_nobody_writes(
    guard, fuses, monkeypatch
):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).double()
    x = torch.randn(5, 8, dtype=torch.float64)
    network = normprop.convert(plain, x)
    network = normprop.fuse(network, x) if fuses else network
    made = []
    make = Maker.make
    monkeypatch.setattr(Maker, "make", lambda *args: made.append(1) or make(*args))

    def run(times=3):
        made.clear()
        with guard():
            found = [network(x) for _ in range(times)]
        assert all(torch.equal(y, found[0]) for y in found)
        return found[0], len(made)

    with guard():
        right = network(x)
    # By itself a network cannot know who writes past the version counters.
    assert run()[1] == 3
    with parametrize.cached():
        y, count = run()
        assert count == 1
        assert torch.equal(y, right)
        # What is written is seen nevertheless, where anything tells.
        with torch.no_grad():
            network[2].weight.neg_()
        y, count = run()
        assert count == 1
        assert not torch.allclose(y, right)
        # A pass that learns has a history of its own, each time.
        for _ in range(2):
            network.zero_grad()
            network(x).square().sum().backward()
            assert network[0].weight.grad is not None
        other = copy.deepcopy(network)
        with guard():
            assert torch.equal(other(x), y)
            other[0].weight.data.mul_(-1.0)
            assert torch.equal(other(x), y)
    with guard():
        assert not torch.allclose(other(x), y)
    assert run()[1] == 3


def test_what_others_choose_leaves_what_was_made_where_it_was():
    network, x = fused_and_projected()
    network(x)
    places = [v.data_ptr() for v in together_of(network).made.weights]
    own.Linear(3, 3).gain = 2.0
    with torch.no_grad():
        network[0].weight.mul_(1.5)
    own.project_(network)
    assert [v.data_ptr() for v in together_of(network).made.weights] == places


@pytest.mark.parametrize("method", ["normalize", "project"])
def test_every_choice_is_seen_however_it_is_made(method):
    plain = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).double()
    x = torch.randn(5, 8, dtype=torch.float64)
    network = normprop.fuse(normprop.convert(plain, x, method=method), x)
    before = network(x)
    network[2].absorbed = network[2].absorbed._replace(after=Meaning(2.0))
    after = network(x)
    assert not torch.allclose(after, before)
    assert torch.equal(after, copy.deepcopy(network)(x))
    vars(network[0])["gain"] = 3.0
    assert torch.equal(network(x), copy.deepcopy(network)(x))


def test_a_write_while_weights_are_made_is_seen_by_the_next_pass(monkeypatch):
    network, x = fused_and_projected()
    make, written = Maker.make, []

    def and_write(self, *given):
        made = make(self, *given)
        if not written:
            written.append(True)
            with torch.no_grad():
                network[2].weight.mul_(2.0)
        return made

    monkeypatch.setattr(Maker, "make", and_write)
    network(x)
    assert written
    assert torch.equal(network(x), copy.deepcopy(network)(x))


def test_a_network_of_an_older_file_has_made_nothing():
    network = batch_weights_(made())
    kept = vars(together_of(network))
    assert not {"served", "made", "seen", "placed"} & set(together_of(network).__getstate__())
    assert "served" not in kept
    assert same(network, made())
