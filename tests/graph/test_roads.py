"""A model is planned for on all of its roads, or refused with the line that chooses."""

import inspect
import random

import numpy as np
import pytest
import torch
from torch import nn

import normprop
import normprop.nn as nnp
from normprop import functional
from normprop.graph import fold, fuse
from tests.graph.networks import Called

EPS = torch.finfo(torch.float64).eps
FORWARD = {"scaling": "forward"}


def net(function):
    """Two maps and what is between them; a Tanh keeps no scale that comes to it."""
    before = nn.Sequential(nnp.Linear(6, 6, **FORWARD), nnp.ReLU(**FORWARD))
    return Called(before, function, nnp.Linear(6, 3, **FORWARD)).double()


def same(got, wanted):
    return (got - wanted).abs().max() <= 1e3 * EPS * max(1.0, wanted.abs().max())


def assert_alike(made, model, x, seeds=range(20)):
    for seed in seeds:
        torch.manual_seed(seed)
        wanted = model(x)
        torch.manual_seed(seed)
        assert same(made(x), wanted)


def line_of(function):
    """The file of a function, and the number of its last line, where it decides."""
    lines, first = inspect.getsourcelines(function)
    return f"{inspect.getsourcefile(function)}:{first + len(lines) - 1}"


X = torch.randn(4, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


# Values that decide.


def by_truth(x):
    return x if x.sum() > 0 else -x


def by_number(x):
    return x if x.sum().item() > 0 else -x


def by_list(x):
    return x if x.sum(1).tolist()[0] > 0 else -x


def by_arithmetic(x):
    return x if (2 * x.mean().item() + 1) / 3 > 0.1 else -x


def by_float(x):
    return sum(x for _ in range(int(x.argmax()) % 7 + 1))


def by_equality(x):
    return x if torch.equal(x, x.abs()) else -x


def by_loop(x):
    while x.norm() > 9:
        x = x / 2
    return x


@pytest.mark.parametrize("verb", [fold, fuse])
@pytest.mark.parametrize(
    "function", [by_truth, by_number, by_list, by_arithmetic, by_float, by_equality]
)
def test_a_value_that_decides_is_refused_by_its_line(function, verb):
    with pytest.raises(ValueError, match="must not depend on values that it computes") as caught:
        verb(net(function), X)
    assert line_of(function) in str(caught.value)


def test_a_loop_until_a_value_is_refused():
    with pytest.raises(ValueError, match="must not depend on values"):
        fold(net(by_loop), X)


# Values that are looked at.


def asserted(x):
    assert torch.isfinite(x).all()
    return x


def checked(x):
    if torch.isnan(x).any() or x.abs().max().item() > 1e9:
        raise ValueError("what comes must be finite")
    return x


LOG = []


def logged(x):
    LOG.append(x.mean().item())
    LOG.append(f"{float(x.detach().std()):.3f} {x.numel()} {x.tolist()}")
    return x


def warned(x):
    if x.max() > 1e6:
        LOG.append("large")
    return x


def scaled(x):
    return x * x.abs().mean().item() + float(x.detach().max())


def cut(x):
    return x[: int(x.argmax()) % 4 + 1]


def masked(x):
    return x[x.sum(1) > -100]


LOOKS = [asserted, checked, logged, warned, scaled, cut, masked]


@pytest.mark.parametrize("verb", [fold, fuse])
@pytest.mark.parametrize("function", LOOKS)
def test_a_value_that_is_looked_at_is_what_it_was(function, verb):
    model = net(function).eval()
    made = verb(model, X)
    LOG.clear()
    for x in (X, -X, 3 * X):
        assert same(made(x), model(x))
        half = len(LOG) // 2
        for got, wanted in zip(LOG[:half], LOG[half:], strict=True):
            assert got == pytest.approx(wanted) or got.split()[0] == wanted.split()[0]
        LOG.clear()


def test_as_many_checks_as_a_deep_network_has():
    def several(x):
        for _ in range(70):
            assert torch.isfinite(x).all()
        return x

    assert normprop.report(fold(net(several), X)).runs[0] == "72 runs in evaluation took 1 road"


def test_the_report_says_what_was_looked_at():
    runs = normprop.report(fold(net(asserted), X)).runs
    assert runs[0] == "3 runs in evaluation took 1 road"
    assert runs[1].startswith("test_roads.py:")
    assert runs[1].endswith("a check, that raises otherwise")
    report = normprop.report(fuse(net(lambda x: x), X))
    assert report.runs[0].startswith("2 runs in training")
    assert "seen  2 runs in evaluation took 1 road" in str(report)


# Dice.


class Drops(nn.Module):
    def __init__(self, inner, thrown):
        super().__init__()
        self.inner, self.thrown = inner, thrown

    def forward(self, x):
        if self.training and (self.dice.random() < 0.3 if self.thrown is None else self.thrown()):
            return x
        return self.inner(x)


def dropping(thrown, layers=2):
    blocks = (
        Drops(nn.Sequential(nnp.Linear(6, 6, **FORWARD), act(**FORWARD)), thrown)
        for act in (nnp.GELU, nnp.ReLU, nnp.Tanh)[:layers]
    )
    ends = nnp.Linear(6, 6, **FORWARD), nnp.ReLU(**FORWARD)
    return nn.Sequential(*ends, *blocks, nnp.Linear(6, 3, **FORWARD)).double()


TORCH_DICE = {
    "truth": lambda: torch.rand([]) < 0.3,
    "number": lambda: torch.rand(1).item() < 0.3,
    "seldom": lambda: torch.rand([]) < 1e-9,
    "integer": lambda: torch.randint(0, 3, ()).item() == 0,
    "bernoulli": lambda: torch.empty(1).bernoulli_(0.3).bool(),
    "generator": lambda: torch.rand([], generator=torch.default_generator) > 0.7,
}


@pytest.mark.parametrize("name", TORCH_DICE)
def test_every_road_that_dice_choose_is_planned_for(name):
    model = dropping(TORCH_DICE[name])
    fused = fuse(model, X)
    assert_alike(fused, model, X)
    # The rare road, too.
    for network in (model, fused):
        for module in network.modules():
            if isinstance(module, Drops):
                module.thrown = lambda: True
    assert_alike(fused, model, X, [0])
    runs = normprop.report(fused).runs
    assert any(
        "the state of the model or what it is called with choose a road" in note for note in runs
    )
    assert runs[0].endswith("4 roads")


def test_more_roads_than_can_be_tried_are_refused():
    model = nn.Sequential(*(dropping(TORCH_DICE["truth"])[2] for _ in range(9)), nnp.ReLU())
    with pytest.raises(ValueError, match=r"must take few roads.* there were 64 and perhaps more"):
        fuse(model.double(), X)
    # None of them is taken in evaluation.
    assert_alike(fold(model, X), model.eval(), X, [0])


OTHER_DICE = {
    "Python's random": (lambda: random.random() < 0.3, None),
    "numpy.random": (lambda: np.random.rand() < 0.3, None),  # noqa: NPY002
    "dice of 2": (None, random.Random(3)),
    "its own dice of 3": (None, np.random.default_rng(3)),
}


@pytest.mark.parametrize("name", OTHER_DICE)
def test_dice_that_nobody_can_watch_are_refused(name):
    thrown, dice = OTHER_DICE[name]
    model = dropping(thrown)
    for block in model[2:4]:
        block.dice = dice
    state = random.getstate(), repr(np.random.get_state(legacy=False))  # noqa: NPY002
    with pytest.raises(ValueError, match="must depend on no dice but torch's own"):
        fuse(model, X)
    assert (random.getstate(), repr(np.random.get_state(legacy=False))) == state  # noqa: NPY002
    fold(model, X)


def test_dice_that_choose_numbers_choose_no_road():
    def noisy(x):
        mask = torch.empty(len(x), 1, dtype=x.dtype).bernoulli_(0.5)
        return x * mask + torch.randn_like(x) * 0.1 + nn.functional.dropout(x, 0.5)

    model = net(noisy)
    fused = fuse(model, X)
    assert_alike(fused, model, X)
    assert normprop.report(fused).runs[0].endswith("1 road")


# Counts.


class Counts(nn.Module):
    """Another road in every third run, by a count that is kept in some way."""

    def __init__(self, way):
        super().__init__()
        self.before, self.after = nnp.Linear(6, 6, **FORWARD), nnp.Linear(6, 3, **FORWARD)
        self.act = nnp.Tanh(**FORWARD)
        self.way, self.count, self.options = way, 0, {"steps": [0]}
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def forward(self, x):
        x = self.act(self.before(x))
        return self.after(x if self.way(self) else x.exp())


def attribute(self):
    self.count += 1
    return self.count % 3


def nested(self):
    self.options["steps"][0] += 1
    return self.options["steps"][0] % 3


def buffer(self):
    self.steps += 1
    return self.steps % 3 != 0


def buffer_as_a_number(self):
    self.steps.add_(1)
    return self.steps.item() < 3


@pytest.mark.parametrize("verb", [fold, fuse])
@pytest.mark.parametrize("way", [attribute, nested])
def test_a_count_of_python_s_is_refused(way, verb):
    model = Counts(way).double()
    with pytest.raises(ValueError, match="must not depend on how often it ran"):
        verb(model, X)
    assert (model.count, model.options) == (0, {"steps": [0]})


@pytest.mark.parametrize("verb", [fold, fuse])
@pytest.mark.parametrize("way", [buffer, buffer_as_a_number])
def test_a_count_in_a_buffer_is_planned_for(way, verb):
    model = Counts(way).double()
    made = verb(model, X)
    assert model.steps == 0
    assert made.steps == 0
    for _ in range(5):
        assert same(made.eval()(X), model.eval()(X))


def test_a_number_that_changes_with_the_runs_is_no_constant():
    def annealed(x):
        return x * (1.0 + annealed.calls.pop()) + annealed.calls[-1]

    annealed.calls = [float(n) for n in range(99)]
    model = net(annealed).eval()
    folded = fold(model, X)
    for calls in ([1.0, 7.0], [0.5, 0.25]):
        annealed.calls = list(calls)
        wanted = model(X)
        annealed.calls = list(calls)
        assert same(folded(X), wanted)


def test_a_log_is_no_count():
    def log(x):
        log.model.last = x.mean().item()
        return x

    model = net(log)
    log.model = model
    model.last = 0.0
    fold(model, X)


# Modes.


@pytest.mark.parametrize("verb", [fold, fuse])
def test_both_modes_are_what_they_were(verb):
    class Modes(nn.Module):
        def __init__(self):
            super().__init__()
            self.before, self.after = nnp.Linear(6, 6), nnp.Linear(6, 6)
            self.act, self.other = nnp.Tanh(), nnp.GELU()

        def forward(self, x):
            x = self.act(self.before(x))
            return self.after(self.other(x) if self.training else x)

    model = Modes().double()
    made = verb(model, X)
    modes = (True, False) if verb is fuse else (False,)
    for mode in modes:
        assert same(made.train(mode)(X), model.train(mode)(X))


def test_a_model_of_which_a_part_is_in_another_mode():
    class Parts(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.act = nn.Sequential(nnp.Linear(6, 6), nnp.Tanh()), nnp.GELU()
            self.head = nnp.Linear(6, 3)

        def forward(self, x):
            x = self.body(x)
            return self.head(x if self.training == self.body.training else self.act(x))

    model = Parts().double()
    model.body.eval()
    fused = fuse(model, X)
    assert same(fused(X), model(X))
    assert any("in its own mode" in note for note in normprop.report(fused).runs)


# What the model is called with, and what it returns.


class Worded(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.act = nnp.Embedding(9, 6), nnp.ReLU()
        self.head = nnp.Linear(6, 3)

    def forward(self, input_ids=None, attention_mask=None, *, model=None):
        hidden = self.act(self.embedding(input_ids) + 0)
        if attention_mask is not None:
            hidden = hidden * attention_mask[..., None]
        return {"logits": self.head(hidden), "hidden": [(hidden,)]}


@pytest.mark.parametrize("verb", [fold, fuse])
def test_keywords(verb):
    net = Worded().double().eval()
    given = {"input_ids": torch.randint(9, (2, 5)), "attention_mask": torch.ones(2, 5).double()}
    made = verb(net, **given, model="any")
    got, wanted = made(**given), net(**given)
    assert same(got["logits"], wanted["logits"])
    assert same(got["hidden"][0][0], wanted["hidden"][0][0])
    with pytest.raises(ValueError, match="example inputs must be given"):
        verb(net, model="any")


def test_every_road_that_the_input_chooses_is_planned_for():
    class Masked(nn.Module):
        """Looks at its mask first, as language models do."""

        def __init__(self):
            super().__init__()
            self.before, self.after = nnp.Linear(6, 6), nnp.Linear(6, 3)
            self.act, self.other = nnp.Tanh(), nnp.GELU()

        def forward(self, x, mask):
            x = self.act(self.before(x))
            if not (mask == 1).all():
                x = self.other(x) * mask
            return self.after(x)

    model, part = Masked().double().eval(), (X > 0).double()
    for verb in (fold, fuse):
        for mask in (torch.ones_like(X), part):
            made = verb(model, X, mask=mask)
            assert same(made(X, part), model(X, part))
            assert same(made(X, torch.ones_like(X)), model(X, torch.ones_like(X)))
            assert normprop.report(made).runs[0].endswith("2 roads")


def test_language_models_with_masks():
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.BertConfig(**sizes, intermediate_size=32, max_position_embeddings=16)
    plain = transformers.BertForSequenceClassification(config)
    model = normprop.convert(plain).double().eval()
    ids, mask = torch.randint(0, 50, (2, 7)), torch.ones(2, 7, dtype=torch.long)
    given = {"input_ids": ids, "attention_mask": mask}
    hidden = {"input_ids": ids, "attention_mask": mask.clone().index_fill_(1, torch.tensor(6), 0)}
    for verb in (fold, fuse):
        made = verb(model, **given)
        assert normprop.report(made).moved
        for keywords in (given, hidden):
            assert same(made(**keywords).logits, model(**keywords).logits)


# Functions of this package.


@pytest.mark.parametrize("verb", [fold, fuse])
@pytest.mark.parametrize(
    "function",
    [
        lambda x: functional.relu(x),
        lambda x: functional.relu(x, scaling="forward").relu(),
        lambda x: functional.residual(x, x.tanh()),
        lambda x: functional.cat([x, x], 1)[:, :6],
        lambda x: functional.dropout(x, 0.5, training=False),
        lambda x: functional.linear(x, torch.eye(6, dtype=x.dtype), scaling="separate"),
        lambda x: functional.sigmoid(x.view(-1), mean=0.5).view_as(x),
        lambda x: functional.softmax(x, -1),
        lambda x: functional.elementwise(x, torch.sin),
    ],
)
def test_functions_of_this_package_are_known_as_what_they_are(function, verb):
    model = net(function).eval()
    assert same(verb(model, X)(X), model(X))


@pytest.mark.parametrize("verb", [fold, fuse])
def test_layers_that_join(verb):
    branch = nn.Sequential(nnp.Linear(6, 6), nnp.ReLU(), nnp.Linear(6, 6))
    model = nn.Sequential(
        nnp.Linear(6, 6), nnp.ReLU(), nnp.Residual(branch), nnp.Tanh(), nnp.Linear(6, 3)
    )
    model = model.double().eval()
    assert same(verb(model, X)(X), model(X))


# Wrappers.


@pytest.mark.parametrize("verb", [fold, fuse])
@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        torch.optim.swa_utils.AveragedModel,
        lambda m: torch.compile(m, backend="eager"),
        lambda m: nn.Sequential(torch.compile(m, backend="eager"), nn.Identity()),
        lambda m: nn.Sequential(nn.DataParallel(m[:2]), *m[2:]),
    ],
)
def test_a_model_is_taken_out_of_what_it_is_wrapped_in(wrap, verb):
    model = nn.Sequential(nnp.Linear(6, 6), nnp.Tanh(), nnp.Linear(6, 3)).double().eval()
    made = verb(wrap(model), X)
    assert same(made(X), model(X))
    assert len(normprop.report(made).moved) == 1
    assert type(made) is nn.Sequential


class Uncopied(nn.Module):
    def __init__(self):
        super().__init__()
        self.act, self.generator = nnp.ReLU(), (n for n in range(3))

    def forward(self, x):
        return self.act(x)


@pytest.mark.parametrize("verb", [fold, fuse])
def test_what_cannot_be_copied_or_looked_into_is_refused(verb):
    with pytest.raises(TypeError, match=r"must be one that copy\.deepcopy copies; this Uncopied"):
        verb(Uncopied(), X)
