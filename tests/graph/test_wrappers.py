"""Models are found in what stands around them, tensors in whatever a model returns."""

from collections import OrderedDict, deque, namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import normprop
from normprop.graph.wrappers import dice_of_its_own, run_as_written, tensors_in, unwrapped


def compiled(model):
    return torch.compile(model, backend="eager")


@pytest.mark.parametrize("wrap", [compiled, nn.DataParallel, AveragedModel])
def test_the_model_is_found_in_its_wrapper(wrap):
    model = nn.Sequential(nn.Linear(3, 3))
    wrapper = wrap(model)
    inner = wrapper.module if wrap is AveragedModel else model
    assert unwrapped(wrapper) is inner
    assert unwrapped(compiled(nn.DataParallel(wrapper))) is inner


def test_the_model_is_found_in_one_that_runs_on_many_machines(alone):
    model = nn.Linear(3, 3)
    assert unwrapped(compiled(nn.parallel.DistributedDataParallel(model))) is model


def test_a_plain_model_is_what_it_was():
    model = nn.ModuleDict({"module": nn.Linear(2, 2)})
    assert unwrapped(model) is model


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("make", [torch.jit.script, lambda m: torch.jit.trace(m, torch.ones(1, 2))])
def test_a_scripted_model_is_refused_wherever_it_is(make):
    scripted = make(nn.Linear(2, 2))
    with pytest.raises(TypeError, match="this ScriptModule is a model of TorchScript"):
        unwrapped(scripted)
    with pytest.raises(TypeError, match=r"its 1\.0 is a model of TorchScript"):
        unwrapped(nn.Sequential(nn.ReLU(), nn.Sequential(scripted)))


def test_what_is_no_module_is_refused():
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module; it was function"):
        unwrapped(compiled)


def test_compiled_parts_run_as_they_were_written():
    seen = []

    def look(x):
        seen.append(torch.compiler.is_compiling())
        return x + 1

    fast = torch.compile(look, backend="eager")
    with run_as_written():
        fast(torch.ones(2))
    assert seen == [False]


@dataclass
class Plain:
    logits: Tensor
    states: tuple


@dataclass(slots=True)
class Slotted:
    loss: Tensor
    more: Plain


@dataclass
class Output(OrderedDict):
    """A dictionary whose fields are its items, as Hugging Face's outputs are."""

    logits: Tensor = None
    cache: object = None

    def __post_init__(self):
        for name, value in vars(self).copy().items():
            if value is not None:
                self[name] = value


Pair = namedtuple("Pair", "left right")


class Stack(list):
    """A list of a class of its own."""


class Cache:
    def __init__(self, *keys):
        self.keys, self.length = list(keys), 3


@pytest.mark.parametrize(
    "wrap",
    [
        lambda a, b, c: (a, [b, {"c": c}]),
        lambda a, b, c: OrderedDict(a=a, rest=deque([b, c])),
        lambda a, b, c: Pair(a, Pair(b, c)),
        lambda a, b, c: Plain(a, (b, {"c": c})),
        lambda a, b, c: Slotted(a, Plain(b, (None, c))),
        lambda a, b, c: Output(a, Cache(b, c)),
        lambda a, b, c: {"out": Output(a), "more": Stack([b, Stack([c])])},
        lambda a, b, c: SimpleNamespace(a=a, name="abc", rest=Cache(b, c)),
        lambda a, b, c: (torch.distributions.Normal(a, b, validate_args=False), c),
    ],
)
def test_every_tensor_of_a_result_is_found_in_its_order(wrap):
    a, b, c = (torch.full((2,), float(n)) for n in range(1, 4))
    # A distribution has tensors of its own, views of these.
    assert [t[0].item() for t in tensors_in(wrap(a, b, c))] == [1.0, 2.0, 3.0]


def test_what_holds_itself_is_looked_at_once():
    held = [torch.ones(1)]
    held.append(held)
    assert len(tensors_in(held)) == 1
    assert tensors_in((nn.Linear(2, 2), "text", None, 3, torch)) == []


@pytest.mark.parametrize("verb", ["check", "convert", "fuse", "fold", "probe"])
def test_dice_of_devices_that_are_not_used_are_left_alone(verb, monkeypatch):
    def all_devices(seed):
        raise AssertionError("every GPU would be seeded")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", all_devices)
    model, x = nn.Sequential(nn.Linear(3, 3), nn.Dropout(), nn.ReLU(inplace=True)), torch.ones(2, 3)
    state = torch.get_rng_state()
    getattr(normprop, verb)(model, x)
    assert torch.equal(torch.get_rng_state(), state)


def test_dice_of_its_own_are_seeded():
    state = torch.get_rng_state()
    with dice_of_its_own([torch.ones(1)], 7):
        drawn = torch.rand(3)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(drawn, torch.rand(3, generator=torch.Generator().manual_seed(7)))


@pytest.mark.gpu
def test_dice_on_gpus_are_what_they_were():
    held, states = torch.ones(1, device="cuda"), torch.cuda.get_rng_state_all()
    with dice_of_its_own([torch.ones(1)], 7):
        torch.rand(3)
    assert all(map(torch.equal, torch.cuda.get_rng_state_all(), states))
    with dice_of_its_own([held], 7):
        assert not torch.equal(torch.cuda.get_rng_state(held.device), states[0])
    assert all(map(torch.equal, torch.cuda.get_rng_state_all(), states))
