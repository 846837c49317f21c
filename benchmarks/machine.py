"""Where results come from: command, commit, machine, versions, date; no host's name, no path."""

import hashlib
import importlib.metadata
import os
import platform
import sys
from pathlib import Path

import torch

from normprop.companion import runs

LIBRARIES = ("torch", "numpy", "scipy", "unit-scaling", "triton")
"""Packages whose versions are written down where they are installed."""
FOLDERS = ("--out", "--book")
"""Arguments of the command line that name folders."""


def origin(argv: list[str] | None, device: torch.device, threads: int) -> dict:
    """What a file of results begins with, to be taken when a run starts."""
    found = runs.origin("benchmarks", _without_folders(argv), device.type)
    found["device"] = device.type
    found["device_name"] = _device_name(device)
    found["cores"] = os.cpu_count()
    found["threads"] = threads
    found["benchmarks"] = digest()
    for name in LIBRARIES:
        version = _version(name)
        if version is not None:
            found["versions"][name] = version
    if device.type == "cuda":
        found["versions"]["cuda"] = torch.version.cuda
    return found


def _without_folders(argv: list[str] | None) -> list[str]:
    """The arguments but those that say where results go, which may be paths of a machine."""
    kept = list(sys.argv[1:] if argv is None else argv)
    for name in FOLDERS:
        while name in kept:
            at = kept.index(name)
            del kept[at : at + 2]
    return [word for word in kept if not word.startswith(tuple(f"{name}=" for name in FOLDERS))]


def digest() -> str:
    """A digest of the sources of the benchmarks."""
    folder = Path(__file__).parent
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        found.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return found.hexdigest()[:16]


def load() -> list[float] | None:
    """Load averages over 1, 5 and 15 minutes, where the system has them."""
    return [round(x, 2) for x in os.getloadavg()] if hasattr(os, "getloadavg") else None


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()


def cpu_name() -> str:
    """The processor's name, as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name" and value.strip():
            return value.strip()
    return platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
