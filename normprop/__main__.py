"""``python -m normprop`` prints the post's table; ``torchrun -m normprop`` shares the work.

``python -m normprop --coverage`` prints the table of all layers.
"""

import argparse
import os
import sys

import torch
import torch.distributed as dist

from normprop.catalogue import coverage
from normprop.post import table


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m normprop",
        description="Print the post's table: printed, exact and simulated values, and a verdict.",
    )
    parser.add_argument("--samples", type=int, default=300_000, help="numbers a layer (300000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the simulation (0)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:k (cpu)")
    what = "print the table of all layers instead, for which nothing is simulated"
    parser.add_argument("--coverage", action="store_true", help=what)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print the cells as JSON")
    form.add_argument("--csv", action="store_true", help="print the cells as CSV")
    options = parser.parse_args(arguments)
    if options.coverage:
        simulation = ("samples", "seed", "device")
        if any(getattr(options, name) != parser.get_default(name) for name in simulation):
            parser.error("--coverage simulates nothing: it takes --json or --csv alone")
        print(_text(coverage(), options))
        return 0
    for name, least in (("samples", 1), ("seed", 0)):
        if getattr(options, name) < least:
            parser.error(f"--{name} must be at least {least}; it was {getattr(options, name)}")
    try:
        device = torch.device(options.device)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        parser.error(f"--device must be cpu, cuda or cuda:k; it was {options.device!r}")
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda needs a CUDA device; torch sees none")

    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if several:
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        result = table(options.samples, options.seed, device)
        if not several or dist.get_rank() == 0:
            print(_text(result, options))
    finally:
        if several:
            dist.destroy_process_group()
    return 0


def _text(result, options) -> str:
    if options.json:
        return result.to_json()
    return result.to_csv().rstrip("\n") if options.csv else str(result)


if __name__ == "__main__":
    sys.exit(main())
