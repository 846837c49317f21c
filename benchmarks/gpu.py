"""What a GPU says, in one command: tests, every layer, a whole network, and what it costs.

``make gpu``, or where there is no make::

    export PYTHONPATH=.
    python -m benchmarks.gpu

Needs torch, pytest and this folder; no network.  Each line is written as it is done, to the screen
and to ``gpu.jsonl``; what was not reached is said so.  All of it ends within 8 minutes.
"""

import argparse
import copy
import itertools
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import torch
from torch import Tensor, nn

import normprop
from benchmarks import __main__ as benches
from benchmarks import gate, machine, networks
from normprop import functional, kernels
from tests.nn.battery import LAW, ROWS, SCALINGS, Row, first

ROOT = Path(__file__).resolve().parent.parent
TESTS = ("tests/kernels/test_gpu.py", "tests/test_montecarlo.py")
"""Where tests lie that need a GPU."""
WHOLE = 480.0
"""Seconds for everything."""
TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
Check = Callable[[], float]
"""Returns an error divided by its bound; raises where there is no result."""
Named = tuple[str, str, Check]
"""A check behind its part of the run and its name."""


class Log:
    """Lines of results, written as they come: ``counts`` by part, and what failed."""

    def __init__(self, folder: Path, origin: dict) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "gpu.jsonl"
        self.path.write_text("", encoding="utf-8")
        self.parts: dict[str, dict] = {}
        self._line({"origin": origin})

    def part(self, name: str) -> dict:
        """The figures of a part of the run."""
        empty = {"done": 0, "failed": 0, "skipped": 0, "worst": 0.0, "at": ""}
        return self.parts.setdefault(name, empty)

    def add(self, entry: dict) -> None:
        """Write down what a check gave."""
        row, name, error = self.part(entry["part"]), entry["name"], entry.get("error", 0.0)
        if not error <= row["worst"]:
            row["worst"], row["at"] = error, name
        failed = entry["status"] == "failed"
        row["done"] += 1
        row["failed"] += failed
        self._line(entry)
        if failed:
            reason = entry.get("reason", error)
            print(f"FAILED {entry['part']}: {name}: {reason}", flush=True)

    def follow(self, found: Iterable[dict], seconds: float) -> None:
        """Write down what checks give; of those that the time left out, one line for a part."""
        late: dict[str, list[str]] = {}
        for entry in found:
            if entry["status"] == "skipped":
                late.setdefault(entry["part"], []).append(entry["name"])
            else:
                self.add(entry)
        for part, names in late.items():
            reason = f"{max(seconds, 0.0):.0f} seconds were over"
            self.skip(part, f"{names[0]} and {len(names) - 1} more", reason, len(names))

    def skip(self, part: str, name: str, reason: str, count: int = 1) -> None:
        """Say what was not looked at."""
        self.part(part)["skipped"] += count
        self._line({"part": part, "name": name, "status": "skipped", "reason": reason})
        print(f"skipped {part}: {name}: {reason}", flush=True)

    def table(self) -> str:
        """All parts, a line each."""
        lines = [f"{'part':34} {'done':>6} {'failed':>7} {'skipped':>8}  worst error/bound, where"]
        for name, row in self.parts.items():
            counts = f"{row['done']:6} {row['failed']:7} {row['skipped']:8}"
            lines.append(f"{name:34} {counts}  {row['worst']:.2g} {row['at']}".rstrip())
        return "\n".join(lines)

    def _line(self, entry: dict) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")


def result(part: str, name: str, check: Check) -> dict:
    """What a check gives, as a line of the results."""
    entry = {"part": part, "name": name}
    try:
        error = check()
    except Exception as problem:
        text = " ".join(str(problem).split())[:300]
        return entry | {"status": "failed", "reason": f"{type(problem).__name__}: {text}"}
    # A comparison that a NaN fails.
    status = "passed" if error <= 1.0 else "failed"
    return entry | {"status": status, "error": float(f"{error:.3g}")}


# Tests


def run_tests(log: Log, device: torch.device, seconds: float) -> None:
    """Those that need a GPU; the configuration, whose plugins may not be there, stays out."""

    def check() -> float:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [
                sys.executable, "-m", "pytest", "-q", "-m", "gpu", "--noconftest",
                "-c", os.devnull, "--rootdir", str(ROOT), "-p", "no:cacheprovider",
                "--import-mode=importlib", "-rfE", *TESTS,
            ],
            cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds,
        )  # fmt: skip
        print(done.stdout[-3000:], flush=True)
        if done.returncode != 0:
            raise RuntimeError(done.stdout[-280:] + done.stderr[-200:])
        return 0.0

    if device.type == "cuda":
        log.add(result("tests", ", ".join(TESTS), check))
    else:
        log.skip("tests", ", ".join(TESTS), "they need a GPU")


# Layers


def error_of(got: list[Tensor], right: list[Tensor], dtype: torch.dtype, more: float = 1) -> float:
    """The largest error, over 64 roundings of the computing type and 4 of its own.

    Relative to the largest number of each result.
    """
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    bound = more * (64 * torch.finfo(wide).eps + 4 * torch.finfo(dtype).eps)
    worst = 0.0
    for a, b in zip(got, right, strict=True):
        if a.shape != b.shape:
            raise ValueError(f"the shape must be {tuple(b.shape)}; it was {tuple(a.shape)}")
        off = (a.detach().cpu().double() - b.detach().cpu()).abs().max().item() if b.numel() else 0
        size = b.abs().max().item() if b.numel() else 0.0
        # Of a result that is 0 every bit counts.
        error = off / (bound * (size or torch.finfo(dtype).tiny))
        worst = error if not error <= worst else worst
    return worst


def layer_of(row: Row, scaling: str, device, dtype, backend: str | None = None) -> nn.Module:
    """The same weights for every type and device: rounded to the type."""
    torch.manual_seed(0)
    more = {} if backend is None else {"backend": backend}
    law = {} if row.kind == "weights" else LAW
    layer = row.layer(scaling=scaling, **law, **more)
    if row.name == "RReLU":
        layer.eval()
    return layer.to(dtype).to(device)


def results(layer: nn.Module, x: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """Output, and gradients of input and parameters for a gradient that the type holds."""
    x = x.detach().requires_grad_()
    y = first(layer(x))
    generator = torch.Generator().manual_seed(11)
    dy = torch.randn(y.shape, generator=generator, dtype=torch.float64).to(dtype).to(y)
    return [y, *torch.autograd.grad(y, (x, *layer.parameters()), dy)]


def reference(row: Row, scaling: str, dtype: torch.dtype) -> tuple[nn.Module, Tensor]:
    """Float64 on the CPU, of the numbers that the type holds."""
    layer = layer_of(row, scaling, "cpu", dtype).double()
    return layer, row.input(dtype=dtype).double()


def twice(layer: nn.Module, x: Tensor) -> list[Tensor]:
    """The gradient of the squared gradient."""
    x = x.detach().requires_grad_()
    y = first(layer(x))
    (dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    return [torch.autograd.grad(dx.square().sum(), x)[0]]


def tangent(layer: nn.Module, x: Tensor) -> list[Tensor]:
    """Forward mode."""
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x.detach(), torch.ones_like(x))
        return [torch.autograd.forward_ad.unpack_dual(first(layer(dual))).tangent]


def strided(x: Tensor) -> Tensor:
    """The same numbers with gaps between them."""
    return torch.stack([x, x], dim=-1)[..., 0]


def channels_last(x: Tensor) -> Tensor:
    return x.to(memory_format=torch.channels_last) if x.ndim == 4 else x.mT.contiguous().mT


def has_backend(row: Row) -> bool:
    try:
        row.layer(backend="eager")
    except TypeError:
        return False
    return True


def layer_checks(device: torch.device) -> Iterator[Named]:
    """Every row of the battery, on the device against float64 on the CPU."""
    still = [row for row in ROWS if row.kind != "dropout"]
    roads = ["eager", "auto"]
    if device.type == "cuda":
        roads.insert(1, "triton")
    for row in still:
        backends = roads if has_backend(row) else [None]
        for scaling in SCALINGS:
            for backend in backends:
                for dtype in TYPES:
                    name = f"{row.name}, {scaling}, {backend or 'one road'}, {dtype}"
                    yield f"layers, {dtype}", name, _same(row, scaling, backend, dtype, device)
        for backend in backends:
            at = f"{row.name}, {backend or 'one road'}"
            for how in (strided, channels_last):
                check = _same(row, "separate", backend, torch.float32, device, how)
                yield f"layers, {how.__name__}", at, check
            for part, call in (("double backward", twice), ("forward mode", tangent)):
                yield f"layers, {part}", at, _derivative(row, backend, device, call)
        yield "layers, autocast", row.name, _autocast(row, device)
        yield "layers, check", row.name, _legality(row, device)


def _same(row, scaling, backend, dtype, device, how=lambda x: x) -> Check:
    def check() -> float:
        right = results(*reference(row, scaling, dtype), dtype)
        layer = layer_of(row, scaling, device, dtype, backend)
        return error_of(results(layer, how(row.input(dtype=dtype).to(device)), dtype), right, dtype)

    return check


def _derivative(row, backend, device, call) -> Check:
    def check() -> float:
        layer, x = reference(row, "forward", torch.float64)
        if backend == "triton" and call is tangent:
            return _refused(
                lambda: call(layer_of(row, "forward", device, x.dtype, backend), x.to(device))
            )
        try:
            right = call(layer, x)
        except (RuntimeError, NotImplementedError) as problem:
            # Where there is none on the CPU, here neither, and not another one.
            try:
                call(layer_of(row, "forward", device, torch.float64, backend), x.to(device))
            except type(problem):
                return 0.0
            raise AssertionError(f"raises on the CPU alone: {problem}") from problem
        ours = layer_of(row, "forward", device, torch.float64, backend)
        return error_of(call(ours, x.to(device)), right, torch.float64)

    return check


def _refused(call: Callable[[], object]) -> float:
    """A kernel that is asked for where there is none says so."""
    try:
        call()
    except RuntimeError as problem:
        if "backend='auto' does" in str(problem):
            return 0.0
        raise
    raise AssertionError("backend='triton' must be refused in forward mode; it ran")


def _autocast(row, device) -> Check:
    def check() -> float:
        right = results(*reference(row, "separate", torch.float32), torch.float32)
        layer = layer_of(row, "separate", device, torch.float32)
        with torch.autocast(device.type, torch.bfloat16):
            found = results(layer, row.input(dtype=torch.float32).to(device), torch.float32)
        # Factors and sums are rounded to bfloat16 one by one.
        return error_of(found, right, torch.bfloat16, 4.0)

    return check


def _legality(row, device) -> Check:
    def check() -> float:
        found = []
        for place in ("cpu", device):
            layer = layer_of(row, "separate", place, torch.float64)
            model = nn.Sequential(nn.PReLU(init=0.5), layer).double().to(place)
            said = normprop.check(model, row.input().to(place))
            found.append({k: (f.low, f.high) for k, f in said.factors.items()})
        wanted, got = found
        if repr(wanted) != repr(got):
            raise AssertionError(f"it must say {wanted}; it says {got}")
        return 0.0

    return check


def weight_checks(device: torch.device) -> Iterator[Named]:
    """Weights on their ball and their projected gradient."""
    roads = ("eager", "triton", "auto") if device.type == "cuda" else ("eager", "auto")
    for shape, groups in (((64, 33), 1), ((48, 12, 3, 3), 2), ((70_000, 1, 3), 70_000)):
        for ball in ("forward", "backward"):
            for per in ("neuron", "layer"):
                for backend in roads:
                    for dtype in TYPES:
                        check = _on_its_ball(shape, groups, ball, per, backend, dtype, device)
                        name = f"{shape}, {ball}, {per}, {backend}, {dtype}"
                        yield "weights", name, check


def _on_its_ball(shape, groups, ball, per, backend, dtype, device) -> Check:
    def check() -> float:
        generator = torch.Generator().manual_seed(5)
        w, dy = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
        found = []
        for place, kind, road in (("cpu", torch.float64, "eager"), (device, dtype, backend)):
            leaf = w.to(place, kind).requires_grad_()
            v = functional.normalize_weight(leaf, ball, per, groups=groups, backend=road)
            found.append([v, *torch.autograd.grad(v, leaf, dy.to(place, kind))])
        return error_of(found[1], found[0], dtype)

    return check


def dropout_checks(device: torch.device) -> Iterator[Named]:
    """The share of zeros, and that both passes drop the same."""
    roads = ("eager", "triton", "auto") if device.type == "cuda" else ("eager", "auto")
    shapes = {
        "Dropout": (400, 500),
        "Dropout1d": (200, 500, 3),
        "Dropout2d": (200, 500, 2, 3),
        "Dropout3d": (200, 500, 1, 2, 3),
    }
    for name, shape in shapes.items():
        for backend in roads:
            for dtype in TYPES:
                check = _drops(name, shape, backend, dtype, device)
                yield "layers, dropout", f"{name}, {backend}, {dtype}", check


def _drops(name, shape, backend, dtype, device) -> Check:
    def check() -> float:
        torch.manual_seed(0)
        x = torch.ones(shape, dtype=dtype, device=device, requires_grad=True)
        y = getattr(functional, name.lower())(x, 0.3, backend=backend)
        (dx,) = torch.autograd.grad(y.sum(), x)
        if not torch.equal(y == 0, dx == 0):
            raise AssertionError("both passes must drop the same")
        channels = (y == 0).flatten(1 if name == "Dropout" else 2).double()
        drawn = channels.numel() if name == "Dropout" else channels.shape[0] * channels.shape[1]
        # Five standard errors.
        return abs(channels.mean().item() - 0.3) / (5 * (0.21 / drawn) ** 0.5)

    return check


# A whole network


def network(seed: int = 0) -> nn.Module:
    """ResNet-18, narrow."""
    torch.manual_seed(seed)
    return networks.resnet18(networks.Kit("normprop", "ReLU"), 16)


def images(device, dtype=torch.float32) -> Tensor:
    return torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(3)).to(device, dtype)


def trained(model: nn.Module, x: Tensor, steps: int, cast=None) -> list[float]:
    """Losses of some steps."""
    labels = torch.arange(len(x), device=x.device) % 10
    optimizer = torch.optim.SGD(model.parameters(), 0.02, momentum=0.9)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        with torch.autocast(x.device.type, cast, enabled=cast is not None):
            loss = nn.functional.cross_entropy(model(x).float() if cast else model(x), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def network_checks(device: torch.device) -> Iterator[Named]:
    """Trained, fused, compiled, under autocast, in a graph, folded, simulated."""
    wide = torch.float64
    for fused in (False, True):
        kind = "fused" if fused else "as it is"
        yield "network", f"trained, {kind}", lambda f=fused: _trained(device, f)
        yield "network", f"autocast, {kind}", lambda f=fused: _learns(device, f, torch.bfloat16)
        yield "network", f"compiled, {kind}", lambda f=fused: _compiled(device, f)
        if device.type == "cuda":
            yield "network", f"CUDA graph, {kind}", lambda f=fused: _graphed(device, f)

    def folded() -> float:
        model, x = network().to(device, wide).eval(), images(device, wide)
        with torch.no_grad():
            return error_of([normprop.fold(model, x)(x)], [model(x).cpu()], wide, 64)

    yield "network", "folded", folded
    for layer in (nn.GELU(), nn.Conv2d(4, 8, 3, padding=1), nn.Dropout(0.3)):
        for dtype in (torch.float32, wide):
            name = f"simulated, {type(layer).__name__}, {dtype}"
            yield "network", name, lambda n=layer, t=dtype: _simulated(n, t, device)


def _made(device, dtype, fused: bool) -> tuple[nn.Module, Tensor]:
    model, x = network().to(device, dtype), images(device, dtype)
    return (normprop.fuse(model, x) if fused else model), x


def _trained(device, fused: bool) -> float:
    losses = [
        torch.tensor(trained(*_made(place, torch.float64, fused), 5)) for place in ("cpu", device)
    ]
    # Five steps let roundings grow.
    return error_of([losses[1]], [losses[0]], torch.float64, 1e4)


def _learns(device, fused: bool, cast) -> float:
    losses = trained(*_made(device, torch.float32, fused), 12, cast)
    return losses[-1] / losses[0]


def _compiled(device, fused: bool) -> float:
    model, x = _made(device, torch.float32, fused)
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True)
    found = []
    for run in (model, compiled):
        gradients = torch.autograd.grad(run(x).square().sum(), list(model.parameters()))
        found.append([run(x).detach(), *gradients])
    torch.compiler.reset()
    return error_of(found[1], [t.double().cpu() for t in found[0]], torch.float32, 64)


def _graphed(device, fused: bool) -> float:
    model, x = _made(device, torch.float64, fused)
    other = copy.deepcopy(model)
    labels = torch.arange(len(x), device=device) % 10
    optimizers = [torch.optim.SGD(m.parameters(), 0.02, momentum=0.9) for m in (model, other)]

    def step(network, optimizer):
        optimizer.zero_grad(set_to_none=False)
        nn.functional.cross_entropy(network(x), labels).backward()
        optimizer.step()

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step(model, optimizers[0])
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(model, optimizers[0])
    graph.replay()
    graph.replay()
    # What is captured is not run.
    for _ in range(5):
        step(other, optimizers[1])
    got, right = (list(m.state_dict().values()) for m in (model, other))
    return error_of(got, [t.cpu().double() for t in right], torch.float64, 1e4)


def _simulated(layer, dtype, device) -> float:
    torch.manual_seed(0)
    estimate = normprop.simulate(layer, 2_000_000, device=device, dtype=dtype, seed=1)
    # Replicates are few: a t-distribution has longer tails than a normal.
    scores = estimate.z(normprop.moments(layer)).values()
    return max(torch.as_tensor(z).abs().max().item() for z in scores) / 6


# All


def all_checks(device: torch.device) -> Iterator[Named]:
    """Those of networks, which take longest, come first."""
    parts = (network_checks, dropout_checks, weight_checks, layer_checks)
    return itertools.chain.from_iterable(part(device) for part in parts)


def run_checks(log: Log, checks: Iterable[Named], seconds: float) -> None:
    """One after the other, until the time is over."""
    end = time.time() + seconds
    log.follow((_run(check, end) for check in checks), seconds)


def share_checks(log: Log, device: torch.device, seconds: float, jobs: int) -> None:
    """All checks, by several processes, until the time is over."""
    end = time.time() + seconds
    # A process that has used CUDA cannot be forked; a check itself is no message.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, spawn, _begin, (str(device),)) as pool:
        count = sum(1 for _ in all_checks(device))
        waiting = [pool.submit(_run_at, index, end) for index in range(count)]
        log.follow((future.result() for future in as_completed(waiting)), seconds)


def _begin(device: str) -> None:
    global _checks
    torch.set_num_threads(1)
    _checks = list(all_checks(torch.device(device)))


def _run_at(index: int, end: float) -> dict:
    return _run(_checks[index], end)


def _run(named: Named, end: float) -> dict:
    part, name, check = named
    if time.time() >= end:
        return {"part": part, "name": name, "status": "skipped"}
    with gate.true_float32():
        return result(part, name, check)


def main(argv: list[str] | None = None) -> int:
    """The command line; returns 1 if anything failed."""
    options = _parser().parse_args(argv)
    began = time.monotonic()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        _parser().error(f"--device {device} needs CUDA, and torch finds none")
    log = Log(options.out, machine.origin(argv, device, torch.get_num_threads()))
    if device.type == "cuda" and not kernels.usable(torch.empty(0, device=device)):
        log.skip("layers", "backend='triton'", "triton is not installed")
    run_tests(log, device, 0.4 * options.checks)
    share_checks(log, device, began + options.checks - time.monotonic(), options.jobs)
    # The last case may run on for a while.
    left = min(options.budget, WHOLE - 60.0 - (time.monotonic() - began))
    if left > 0:
        arguments = ["--device", options.device, "--budget", str(round(left)), "--rounds", "9"]
        arguments += ["--seconds", "1", "--out", str(options.out), *options.bench]
        log.add(result("benchmarks", "gates", lambda: float(2 * benches.main(arguments))))
    else:
        log.skip("benchmarks", "all", "no time was left")
    text = log.table()
    (options.out / "gpu.txt").write_text(text + "\n", encoding="utf-8")
    print(f"\n{text}\n\n{time.monotonic() - began:.0f} seconds")
    return int(any(row["failed"] for row in log.parts.values()))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__.split("\n\n")[0]
    )
    add = parser.add_argument
    add("--device", default="cuda", help="cpu for a trial without a GPU")
    add("--checks", type=float, default=240.0, help="seconds for everything but benchmarks")
    add("--jobs", type=int, default=min(8, os.cpu_count() or 1), help="processes for the checks")
    add("--budget", type=float, default=300.0, help="seconds for benchmarks")
    add("--out", type=Path, default=benches.RESULTS, help="folder of the results")
    add("--bench", nargs="*", default=[], help="more arguments for the benchmarks, --bench= first")
    return parser


if __name__ == "__main__":
    sys.exit(main())
