"""Write the table of real networks: what convert does to them, and their scales before and after.

    python -m scripts.real_networks    writes normprop/companion/results/networks.json

The networks are those of tests/graph/real.py, in float64, on images of N(0, 1) and random words.
Of every network and of its conversion it holds the standard deviation of the signal and of the
gradient at the layers, predicted and measured: at the first layer and the last, the smallest and
the largest.
"""

import json
from collections import Counter
from pathlib import Path

import torch
from torch import nn

import normprop
from normprop.graph.anatomy import is_layer
from normprop.graph.scales import Row, Scales
from tests.graph.real import NETWORKS

TARGET = Path(normprop.__file__).parent / "companion" / "results" / "networks.json"
SAMPLES = 32
DIGITS = 4


def table() -> dict:
    """All networks, and what they were measured with."""
    return {
        "torch": torch.__version__.partition("+")[0],
        "samples": SAMPLES,
        "networks": [entry(name) for name in NETWORKS],
    }


def entry(name: str) -> dict:
    """What becomes of a network."""
    model, args, kwargs = NETWORKS[name].build(SAMPLES, torch.float64)
    made = normprop.convert(model, *args, **kwargs)
    done = normprop.report(made)
    return {
        "name": name,
        "by": NETWORKS[name].by,
        "parameters": sum(p.numel() for p in model.parameters()),
        "converted": len(done.converted),
        "kept": dict(Counter(done.kept.values())),
        "before": figures(model, normprop.probe(model, *args, **kwargs)),
        "after": figures(made, normprop.probe(made, *args, **kwargs)),
    }


def figures(model: nn.Module, scales: Scales) -> dict:
    """The scales of the layers, measured and predicted."""
    layers = {path for path, module in model.named_modules() if is_layer(module)}
    rows = [row for row in scales if row.path in layers and row.bwd_std is not None]
    predicted = [row.predicted for row in rows if row.predicted is not None]
    return {
        "layers": len(rows),
        "measured": extremes(rows),
        "predicted": extremes(predicted) if predicted else None,
    }


def extremes(rows: list[Row]) -> dict[str, list[float]]:
    """Of signal and gradient, at the first layer and the last, the smallest and the largest."""
    found = {}
    for figure in ("fwd_std", "bwd_std"):
        stds = [getattr(row, figure) for row in rows if getattr(row, figure) is not None]
        found[figure] = [rounded(x) for x in (stds[0], stds[-1], min(stds), max(stds))]
    return found


def rounded(number: float) -> float:
    """To as many digits as a table shows and any machine gives."""
    return float(f"{number:.{DIGITS}g}")


if __name__ == "__main__":
    TARGET.write_text(json.dumps(table(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"wrote {TARGET}")
