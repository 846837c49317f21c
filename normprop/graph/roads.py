"""All the roads that a model may take, not only that of one run.

Where Python asks a tensor for a truth, the run is repeated with the other answer.  If that raises,
the question was a check; if it takes the same road, nothing follows from it (it was logged, say);
else there are two roads.  Roads that dice choose, or the state of the model, or what it is called
with, such as a mask, are planned for together; a model whose road depends on what its layers make
of that is refused.
"""

import os
import random
from collections.abc import Container, Mapping
from dataclasses import fields, is_dataclass
from functools import partial

import numpy as np
import torch
from torch import nn

from normprop.graph.trace import Trace, trace, version_of
from normprop.graph.wrappers import other_dice_kept

_MOST = 64
"""Roads; a check, or a question from which nothing follows, costs a run, and makes none."""
_RUNS = 1024


def roads_of(
    model: nn.Module, inputs: tuple, keywords: Mapping[str, object], leaves: Container[str]
) -> tuple[tuple[Trace, ...], tuple[str, ...]]:
    """A trace of each road in the mode that the model is in, and in words what was looked at.

    It runs as often as that takes, without gradients, and is changed as its runs change it; the
    rest is as in :func:`~normprop.graph.trace.trace`.

    Raises:
        TypeError: the model returns no tensor.
        ValueError: its road depends on values that its layers compute, on dice or a count that
            nobody can watch, or there are too many roads.
    """
    return _Search(model, inputs, keywords, leaves).found()


class _Search:
    def __init__(self, model, inputs, keywords, leaves):
        self.model, self.runs = model, 0
        self.trace = partial(trace, model, inputs, leaves, keywords=keywords)
        self.traces: dict[tuple, Trace] = {}
        self.checks: set[str] = set()
        self.idle: set[str] = set()
        self.chosen: set[str] = set()
        self.changing: set[int] = set()

    def found(self) -> tuple[tuple[Trace, ...], tuple[str, ...]]:
        tensors = [*self.model.parameters(), *self.model.buffers()]
        versions = [version_of(t) for t in tensors]
        dice, counts = _dice(self.model), _counts(self.model)
        with other_dice_kept():
            once = self._run()
            self._refuse_dice(dice)
            self._refuse_counts(counts, once)
            changed = zip(tensors, versions, strict=True)
            self.changing = {id(t) for t, version in changed if version_of(t) != version}
            again = self._run()
            self._explore(again, 0)
            self._shift(again)
        return tuple(self.traces.values()), self._notes()

    def _run(self, answers=(), shifted=False, keep=True) -> Trace:
        self.runs += 1
        told = {"answers": answers, "changing": self.changing, "shifted": shifted}
        made = self.trace(seed=self.runs, **told)
        if keep:
            self.traces.setdefault(_road(made), made)
        return made

    def _explore(self, parent: Trace, start: int):
        """Take every other answer from this decision on."""
        answers = [d.answer for d in parent.decisions]
        for place in range(start, len(answers)):
            decision = parent.decisions[place]
            if len(self.traces) >= _MOST or self.runs >= _RUNS:
                raise ValueError(
                    f"the model must take few roads, which at most {_RUNS} runs can show; after "
                    f"{self.runs} runs there were {len(self.traces)} and perhaps more, chosen at "
                    f"{', '.join(sorted(self.chosen | {decision.where}))}"
                )
            try:
                child = self._run((*answers[:place], not answers[place]), keep=False)
            except Exception:
                self.checks.add(decision.where)
                continue
            if _same(parent, child):
                self.idle.add(decision.where)
                continue
            if decision.by == "value":
                raise ValueError(_decides([decision.where]))
            self.chosen.add(decision.where)
            self.traces.setdefault(_road(child), child)
            self._explore(child, place + 1)

    def _shift(self, usual: Trace):
        """Tell Python other numbers where it makes its own of a tensor."""
        if not usual.told:
            return
        try:
            other = self._run(shifted=True, keep=False)
        except Exception:
            # No number of the model's own; what it does with its own was seen.
            return
        if not _same(usual, other):
            raise ValueError(_decides(usual.told))
        self.traces.setdefault(_road(other), other)

    def _refuse_dice(self, before):
        for name, state in _dice(self.model).items():
            if name in before and before[name] != state:
                raise ValueError(
                    "what the model does must depend on no dice but torch's own, which can be "
                    f"watched; it threw those of {name}"
                )

    def _refuse_counts(self, before, run: Trace):
        for name, number in _counts(self.model).items():
            changed = name in before and repr(before[name]) != repr(number)
            if changed and number not in run.numbers:
                raise ValueError(
                    "what the model does must not depend on how often it ran, and nobody can see "
                    f"what it makes of its {name}, which a run changed from {before[name]!r} to "
                    f"{number!r}; keep it in a tensor, or fix it"
                )

    def _notes(self) -> tuple[str, ...]:
        modes = {module.training for module in self.model.modules()}
        mode = "training" if self.model.training else "evaluation"
        mode = "its own mode" if len(modes) > 1 else mode
        count, roads = self.runs, len(self.traces)
        notes = [f"{count} runs in {mode} took {roads} road{'s' * (roads > 1)}"]
        for places, what in (
            (self.chosen, "dice, the state of the model or what it is called with choose a road"),
            (self.checks, "a check, that raises otherwise"),
            (self.idle - self.checks - self.chosen, "a truth is asked for, and no road follows"),
            (set().union(*(t.told for t in self.traces.values())), "a number is asked for"),
        ):
            notes += [f"{os.path.basename(place)}: {what}" for place in sorted(places)]
        return tuple(notes)


def _decides(places) -> str:
    return (
        "what the model does must not depend on values that it computes; it made a Python value "
        f"of a tensor, and took another road for another value, at {', '.join(sorted(places))}"
    )


def _same(parent: Trace, child: Trace) -> bool:
    """Whether two runs were asked the same and took one road, numbers apart."""
    asked, again = ([d.where for d in t.decisions] for t in (parent, child))
    return asked == again and _road(parent, numbers=False) == _road(child, numbers=False)


def _road(run: Trace, numbers: bool = True) -> tuple:
    """What two runs have in common that do the same to values."""
    names: dict[int, int] = {}
    return tuple(
        (
            node.name,
            id(node.module),
            node.opaque,
            tuple(names.setdefault(v, len(names)) for v in node.inputs),
            tuple(names.setdefault(v, len(names)) for v in node.outputs),
            repr(node.arguments) if numbers else None,
        )
        for node in run.nodes
    )


_STATES = {
    random.Random: lambda held: held.getstate(),
    np.random.Generator: lambda held: held.bit_generator.state,
    np.random.RandomState: lambda held: [*map(_plain, held.get_state())],
    torch.Generator: lambda held: _plain(held.get_state().numpy()),
}


def _dice(model: nn.Module) -> dict[str, str]:
    """States of the dice of Python and numpy, and of those that modules hold."""
    found = {
        "Python's random": repr(random.getstate()),
        "numpy.random": repr([*map(_plain, np.random.get_state())]),  # noqa: NPY002
    }
    for path, module in model.named_modules():
        for name, held in vars(module).items():
            state = next((s for kind, s in _STATES.items() if isinstance(held, kind)), None)
            if state is not None:
                found[f"{name} of {path or 'the model'}"] = repr(state(held))
    return found


def _plain(state):
    return state.tobytes() if isinstance(state, np.ndarray) else state


def _counts(model: nn.Module) -> dict[str, float]:
    """Numbers of Python that modules hold, by where."""
    found: dict[str, float] = {}
    for path, module in model.named_modules():
        for name, held in vars(module).items():
            if name not in _OWN:
                _numbers(held, f"{name} of {path or 'the model'}", found, 3)
    return found


_OWN = set(vars(nn.Module()))


def _numbers(held, place, found, depth):
    if isinstance(held, bool | int | float):
        found[place] = held
    elif depth and isinstance(held, dict):
        for key, entry in held.items():
            _numbers(entry, f"{key!r} in {place}", found, depth - 1)
    elif depth and isinstance(held, list | tuple):
        for position, entry in enumerate(held):
            _numbers(entry, f"entry {position} in {place}", found, depth - 1)
    elif depth and is_dataclass(held) and not isinstance(held, type):
        for field in fields(held):
            _numbers(getattr(held, field.name, None), f"{field.name} in {place}", found, depth - 1)
