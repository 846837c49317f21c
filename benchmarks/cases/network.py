"""Blocks, whole training steps, and inference: the same network in every method's layers."""

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from benchmarks import gate, memory, networks, package, peers
from benchmarks.case import Case, Context, Prepared
from benchmarks.networks import Build, Kit
from benchmarks.operators import operators


@dataclasses.dataclass(frozen=True)
class Task:
    """A network and what it is given.

    Attributes:
        name: of the network.
        build: from a kit to the network.
        activation: a class of ``torch.nn``.
        methods: of ``networks.METHODS``; the normprop ones bring their fused forms with them.
        shape: of an input, without the batch dimension.
        batch: inputs in a step.
        tokens: size of the vocabulary where inputs are tokens, else 0.
        sizes: what ``build`` makes it of, for the results.
    """

    name: str
    build: Build
    activation: str
    methods: tuple[str, ...]
    shape: tuple[int, ...]
    batch: int
    tokens: int = 0
    sizes: dict = dataclasses.field(default_factory=dict)

    def inputs(self, context: Context, rows: int | None = None) -> Tensor:
        """The same inputs for every method."""
        generator = torch.Generator(context.device).manual_seed(context.seed)
        shape = (self.batch if rows is None else rows, *self.shape)
        if self.tokens:
            return torch.randint(self.tokens, shape, generator=generator, device=context.device)
        return torch.randn(shape, generator=generator, device=context.device)

    def parameters(self) -> dict:
        """Sizes and names for the results."""
        return {
            "network": self.name,
            "activation": self.activation,
            "batch": self.batch,
            "shape": list(self.shape),
            **self.sizes,
        }


IMAGES = (
    "plain",
    "naive",
    "normprop",
    "normprop projected",
    "batchnorm",
    "layernorm",
    "groupnorm",
    "weight standardisation",
)
ROWS = (
    "plain",
    "naive",
    "normprop",
    "normprop projected",
    "batchnorm",
    "layernorm",
    "unit-scaling",
)
Check = Callable[..., str | None]
FUSED = {"normprop": "normprop fused", "normprop projected": "normprop fused, projected"}
LEAN = "normprop fused, lean"
GRAPHED = ("plain", "batchnorm", "layernorm", "normprop", "normprop projected")


def blocks(channels: int, side: int, batch: int, width: int, rows: int) -> tuple[Task, ...]:
    """A convolution with ReLU, and a linear map with GELU."""
    return (
        Task(
            "convolution",
            lambda kit: networks.conv_block(kit, channels),
            "ReLU",
            IMAGES,
            (channels, side, side),
            batch,
            sizes={"channels": channels},
        ),
        Task(
            "linear",
            lambda kit: networks.linear_block(kit, width),
            "GELU",
            ROWS,
            (width,),
            rows,
            sizes={"width": width},
        ),
    )


def training(
    width: int = 64,
    sides: tuple[int, ...] = (64, 224),
    vgg: int = 32,
    batch: int = 16,
    depth: int = 32,
    dense: int = 256,
    rows: int = 128,
    blocks: int = 4,
    model: int = 128,
    length: int = 64,
) -> tuple[Task, ...]:
    """The four networks, ResNet-18 on images of several sizes.

    224 is the side that it was made for.  VGG-16 stays at the side of small images, so that its
    steps end.

    Args:
        width: channels of the first stage of both convolutional networks.
        sides: of the images of ResNet-18.
        vgg: side of the images of VGG-16.
        batch: images, and sequences, in a step.
        depth: layers of the fully connected network.
        dense: its width.
        rows: its inputs in a step.
        blocks: of the transformer.
        model: its width.
        length: tokens of a sequence.
    """
    vocabulary = 256
    return (
        *(
            Task(
                f"resnet18-{side}",
                lambda kit: networks.resnet18(kit, width),
                "ReLU",
                IMAGES,
                (3, side, side),
                batch,
                sizes={"width": width},
            )
            for side in sides
        ),
        Task(
            f"vgg16-{vgg}",
            lambda kit: networks.vgg16(kit, width),
            "ReLU",
            IMAGES,
            (3, vgg, vgg),
            batch,
            sizes={"width": width},
        ),
        Task(
            "dense",
            lambda kit: networks.dense(kit, depth, dense),
            "GELU",
            ROWS,
            (dense,),
            rows,
            sizes={"depth": depth, "width": dense},
        ),
        Task(
            "transformer",
            lambda kit: networks.transformer(kit, blocks, model, vocabulary=vocabulary),
            "GELU",
            ROWS,
            (length,),
            batch,
            tokens=vocabulary,
            sizes={"blocks": blocks, "width": model},
        ),
    )


def block_cases(tasks: tuple[Task, ...], compile: bool = False) -> Iterator[Case]:
    """Forward and backward of a block, without an optimiser."""
    group = "compiled-block" if compile else "block"
    for task in tasks:
        yield _case(group, task, lambda *a: _passes(*a, compile=compile), compile)


def training_cases(tasks: tuple[Task, ...], compile: bool = False) -> Iterator[Case]:
    """A step of SGD with momentum: gradients to none, forward, loss, backward, step.

    Beside the methods stands the plain network with copies of its weights: what it costs to make
    weights in one call, before anything is computed.
    """
    group = "compiled-training" if compile else "training"
    for task in tasks:
        yield _case(group, task, lambda *a: _step(*a, compile=compile), compile)


def inference_cases(tasks: tuple[Task, ...]) -> Iterator[Case]:
    """A forward pass in evaluation mode, normprop as it is and folded into a plain network.

    As it is in two ways: its weights made in each pass, and made once for several.
    """
    for task in tasks:
        implementations = {
            method: _implementation(task, method, _as_left(method), _inference)
            for method in task.methods
            if method not in ("normprop projected", "naive")
        }
        implementations["normprop cached"] = _implementation(
            task, "normprop", package.batched, _inference_cached
        )
        implementations["normprop folded"] = _implementation(
            task, "normprop", package.folded, _inference
        )
        yield Case(
            f"inference/{task.name}", "plain", implementations, task.parameters(), _memory(task)
        )


def graphed_cases(tasks: tuple[Task, ...]) -> Iterator[Case]:
    """The same step as one CUDA graph: what is left where nothing waits for Python."""
    for task in tasks:
        task = dataclasses.replace(task, methods=GRAPHED)
        yield _case("graphed-training", task, _graphed, graphed=True)


def _case(group: str, task: Task, make, compile: bool = False, graphed: bool = False) -> Case:
    implementations = {}
    if group.endswith("training") and not compile:
        implementations["copied weights"] = _implementation(task, "plain", peers.copied, make)
    for method in task.methods:
        if not (graphed and method in FUSED):
            implementations[method] = _implementation(task, method, _as_left(method), make)
        if method in FUSED:
            implementations[FUSED[method]] = _implementation(task, method, package.fused, make)
        if method == "normprop" and task.methods == IMAGES and group == "training":
            implementations[LEAN] = _implementation(task, method, package.lean, make)
    return Case(
        f"{group}/{task.name}",
        "plain",
        implementations,
        task.parameters(),
        _memory(task),
        compiled=compile,
        graphed=graphed,
    )


def _as_left(method: str):
    """What a user has done to a network of this method before it runs."""
    return package.batched if method in FUSED else None


def _memory(task: Task) -> int:
    # All methods are held at once: weights, gradients and momenta of up to 15 million numbers
    # each.  One of them runs, and keeps up to some 200 numbers for each of its input.
    held = 12 * 3 * 4 * 15_000_000
    return held + 4 * 200 * task.batch * math.prod(task.shape)


def _implementation(task: Task, method: str, change, make):
    def prepare(context: Context) -> Prepared:
        model = _built(task, method, context)
        if change is not None:
            model = change(model, task.inputs(context))
        check = partial(wrong, task, method, change, model, context)
        return make(task, method, model, context, check)

    return prepare


def _passes(
    task: Task, method: str, model: nn.Module, context: Context, check: Check, compile: bool = False
) -> Prepared:
    inputs = task.inputs(context).requires_grad_(not task.tokens)
    run = torch.compile(model, fullgraph=True, dynamic=False) if compile else model
    with torch.no_grad():
        dy = torch.randn_like(model(inputs))
    wanted = [*model.parameters(), *([] if task.tokens else [inputs])]

    def call():
        return torch.autograd.grad(run(inputs), wanted, dy)

    def check_both() -> str | None:
        complaint = check()
        if complaint is None and compile:
            complaint = _unlike(run, model, inputs, dy, networks.terms(model))
        return complaint

    return Prepared(call, check_both, lambda: _held(task, model, context, call))


def _step(
    task: Task, method: str, model: nn.Module, context: Context, check: Check, compile: bool = False
) -> Prepared:
    inputs = task.inputs(context)
    run = torch.compile(model, fullgraph=True, dynamic=False) if compile else model
    with torch.no_grad():
        classes = model(inputs).shape[-1]
    shape = inputs.shape if task.tokens else inputs.shape[:1]
    generator = torch.Generator(context.device).manual_seed(context.seed + 1)
    labels = torch.randint(classes, shape, generator=generator, device=context.device).flatten()
    # A rate so small that the weights, and with them all signals, stay what they are.
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-7, momentum=0.9)
    after = _after_step(model, method)

    def call():
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(run(inputs).flatten(0, -2), labels)
        loss.backward()
        optimizer.step()
        after()

    def figures():
        held = _held(task, model, context, call)
        # Compiled code is not seen operator by operator.
        return held if compile else {**held, "operators": operators(call)}

    return Prepared(call, check, figures)


def _graphed(task: Task, method: str, model: nn.Module, context: Context, check: Check) -> Prepared:
    eager, graph = _step(task, method, model, context, check), torch.cuda.CUDAGraph()

    def capture() -> dict[str, float]:
        # After the gate, as its steps move statistics over batches.
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                eager.call()
        torch.cuda.current_stream().wait_stream(side)
        with torch.cuda.graph(graph):
            eager.call()
        return {}

    return Prepared(graph.replay, check, capture)


def _after_step(model: nn.Module, method: str) -> Callable[[], object]:
    if method != "normprop projected":
        return lambda: None
    return lambda: package.project_(model)


def _inference(
    task: Task, method: str, model: nn.Module, context: Context, check: Check
) -> Prepared:
    inputs = task.inputs(context)
    model.eval()

    def call():
        with torch.inference_mode():
            return model(inputs)

    return Prepared(call, lambda: check(training=False))


CACHED = 8
"""Passes for which weights are made once."""


def _inference_cached(*given) -> Prepared:
    prepared = _inference(*given)

    def call():
        with parametrize.cached():
            for _ in range(CACHED):
                prepared.call()

    return dataclasses.replace(prepared, call=call, passes=CACHED)


def _held(task: Task, model: nn.Module, context: Context, call) -> dict[str, float]:
    """Bytes that a step saves for its backward pass, and its peak."""

    def saved(rows: int) -> int:
        inputs = task.inputs(context, rows)
        return memory.saved_bytes(model, lambda: model(inputs))

    activations, rest = memory.by_batch(saved(task.batch), saved(2 * task.batch))
    call()
    return {
        "saved_bytes": activations,
        "saved_other_bytes": rest,
        "peak_bytes": memory.peak_bytes(call, context.device, model.zero_grad),
    }


GATE_ROWS = 4
"""Inputs that the gate runs through a network: enough for statistics over the batch."""


def wrong(
    task: Task,
    method: str,
    change: Callable[[nn.Module, Tensor], nn.Module] | None,
    model: nn.Module,
    context: Context,
    training: bool = True,
) -> str | None:
    """What is wrong with a network, or ``None``.

    Networks of normprop, fused or folded or not, are held against the same weights in naive
    layers, the others against themselves.  First a twin in float64: output and, in training, all
    gradients, where no rounding takes a number to the other side of a kink.  Then the output of
    the network itself, in the type that is timed.

    Args:
        task: the network and its inputs.
        method: of ``networks.METHODS``.
        change: what was done to the network when it was built: fused, folded.
        model: the network that is timed.
        context: where it runs.
        training: whether it was built to be trained.
    """
    inputs = task.inputs(context, GATE_ROWS)
    wide = inputs.double() if inputs.is_floating_point() else inputs
    ours = _built(task, method, context).double()
    if method == "normprop projected":
        # Weights that were projected in float32 are off their ball by its rounding.
        package.project_(ours)
    # Weights that stay on their ball run as they are.
    naive = {"normprop": "naive", "normprop projected": "naive activations"}.get(method, method)
    reference = _built(task, naive, context).double()
    reference.load_state_dict(ours.state_dict())
    if change is not None:
        ours = change(ours, wide)
    reference, ours = reference.train(training), ours.train(training)
    names = [name for name, _ in reference.named_parameters()]

    def results(network: nn.Module, x: Tensor) -> list[Tensor]:
        return _results(network, x, names) if training else [_output(network, x)]

    terms = networks.terms(reference)
    moves = gate.sensitivities(reference, wide, results, context.seed)
    right = results(reference, wide)
    labels = ["output", *(f"gradient of {name}" for name in names), "gradient of the input"]
    labels = labels[: len(right)]
    complaint = gate.network(labels, results(ours, wide), right, moves, terms)
    if complaint is not None:
        return f"{complaint} in float64"
    # A copy, whose statistics over batches nobody misses.
    output = _output(copy.deepcopy(model).train(training), inputs)
    return gate.network(labels[:1], [output], right[:1], moves[:1], terms)


def _built(task: Task, method: str, context: Context) -> nn.Module:
    """The same weights for the same method, and for its naive twin."""
    torch.manual_seed(context.seed)
    return task.build(Kit(method, task.activation)).to(context.device)


def _output(network: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return network(inputs)


def _results(network: nn.Module, inputs: Tensor, names: list[str]) -> list[Tensor]:
    """Output; gradients of named parameters and of the input, for a fixed gradient of it."""
    inputs = inputs.detach().requires_grad_(inputs.is_floating_point())
    with torch.enable_grad():
        output = network(inputs)
    generator = torch.Generator().manual_seed(1)
    dy = torch.randn(output.shape, generator=generator, dtype=output.dtype).to(output.device)
    parameters = dict(network.named_parameters())
    wanted = [parameters[name] for name in names]
    wanted += [inputs] if inputs.requires_grad else []
    return [output.detach(), *torch.autograd.grad(output, wanted, dy)]


def _unlike(run, model: nn.Module, inputs: Tensor, dy: Tensor, terms: int) -> str | None:
    """What sets a compiled block apart from the eager one beyond rounding, or ``None``."""
    names = ["output, compiled", "gradients of weights, compiled"]
    parameters = list(model.parameters())
    found = []
    for network in (run, model):
        output = network(inputs)
        gradients = torch.autograd.grad(output, parameters, dy)
        found.append([output.detach(), torch.cat([g.flatten() for g in gradients])])
    right = [t.double() for t in found[1]]
    # Both round, each in its own order; a kink that one of them passes on the other side moves
    # one product among the many of a sum over batch and positions.
    terms = max(terms, dy.numel() // dy.shape[1])
    return gate.network(names, found[0], right, [float(t.norm()) for t in right], terms)
