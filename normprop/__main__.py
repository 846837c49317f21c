"""``python -m normprop`` prints the post's table; ``torchrun -m normprop`` shares the work."""

import argparse
import os
import sys

import torch
import torch.distributed as dist

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
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print the cells as JSON")
    form.add_argument("--csv", action="store_true", help="print the cells as CSV")
    options = parser.parse_args(arguments)
    if options.samples < 1:
        parser.error(f"--samples must be at least 1; it was {options.samples}")
    if options.seed < 0:
        parser.error(f"--seed must be at least 0; it was {options.seed}")
    try:
        device = torch.device(options.device)
    except RuntimeError:
        parser.error(f"--device must be cpu, cuda or cuda:k; it was {options.device!r}")
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
            text = result.to_json() if options.json else None
            text = result.to_csv().rstrip("\n") if options.csv else text
            print(str(result) if text is None else text)
    finally:
        if several:
            dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
