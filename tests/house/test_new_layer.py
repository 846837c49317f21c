"""A new layer is touched in few files: the example of CONTRIBUTING, and the layers that are."""

import os
import re
import shutil
import subprocess
import sys

import pytest

# What torch would have.
TORCH = """
import torch
from torch import nn


class ISRU(nn.Module):
    def forward(self, input):
        return isru(input)


def isru(input):
    return input / (1.0 + input * input).sqrt()


ISRU.__module__ = "torch.nn.modules.activation"
nn.ISRU = nn.modules.activation.ISRU = ISRU
nn.modules.activation.__all__.append("ISRU")
nn.functional.isru = isru
"""

SERVED = """
import torch_with_isru
import torch
from torch import nn
import normprop
import normprop.nn as nnp

known = normprop.moments("isru", 0.3, 1.5)
for same in (nn.ISRU(), nn.functional.isru):
    assert normprop.moments(same, 0.3, 1.5) == known
unknown = normprop.moments(lambda x: x / (1 + x * x).sqrt(), 0.3, 1.5)
for figure in ("fwd_mean", "fwd_std", "bwd_std"):
    gap = abs(getattr(known, figure) - getattr(unknown, figure))
    assert gap <= known.error + unknown.error
assert known.error < 1e-12
seen = normprop.simulate("isru", 100_000, mean=0.3, std=1.5)
assert abs(seen.bwd_std - known.bwd_std) < 6 * seen.bwd_std_se
assert "ISRU" in str(normprop.coverage())

x = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
for scaling in ("forward", "backward", "separate"):
    layer = nnp.ISRU(scaling=scaling, mean=0.3, std=1.5)
    assert torch.equal(layer(x), normprop.functional.isru(x, scaling=scaling, mean=0.3, std=1.5))
assert torch.autograd.gradcheck(nnp.ISRU(scaling="forward"), x)
assert torch.autograd.gradgradcheck(nnp.ISRU(scaling="forward"), x)
torch.func.vmap(torch.func.grad(lambda row: nnp.ISRU()(row).sum()))(x.detach())
compiled = torch.compile(nnp.ISRU(scaling="separate"), backend="aot_eager", fullgraph=True)
for layer in (compiled, nnp.ISRU(scaling="separate")):
    (layer(x) ** 2).sum().backward()
    first, x.grad = x.grad, None
    if layer is compiled:
        wanted = first
assert torch.allclose(first, wanted, rtol=1e-12, atol=0)
wide = nnp.ISRU()(x.detach().bfloat16().float())
assert torch.equal(nnp.ISRU()(x.detach().bfloat16()), wide.bfloat16())
plain = nn.Sequential(nn.Linear(6, 5), nn.ISRU(), nn.Linear(5, 2)).double()
twins = normprop.convert(plain, x, scaling="forward")
assert [type(layer) for layer in twins] == [nnp.Linear, nnp.ISRU, nnp.Linear]
folded = normprop.fold(twins, x)
assert torch.allclose(folded(x), twins(x), rtol=1e-12, atol=1e-12)
assert not [m for m in folded.modules() if type(m).__module__.startswith("normprop.nn")]
"""


@pytest.fixture(scope="module")
def copy(root, tmp_path_factory):
    """The package and its battery with the example of CONTRIBUTING, and the files touched."""
    here = tmp_path_factory.mktemp("copy")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(root / "normprop", here / "normprop", ignore=ignored)
    shutil.copytree(root / "tests" / "nn", here / "tests" / "nn", ignore=ignored)
    (here / "torch_with_isru.py").write_text(TORCH)
    text = (root / "CONTRIBUTING.md").read_text("utf-8")
    touched = []
    for step in re.findall(r"```python\n(# \S+\.py.*?)```", text, re.S):
        head, body = step.split("\n", 1)
        path = here / re.match(r"# (\S+\.py)", head)[1]
        source = path.read_text("utf-8")
        if "__all__" in head:
            name = re.search(r"^(?:class )?(\w+)", body)[1]
            source = source.replace("__all__ = [", f'__all__ = [\n    "{name}",', 1)
            source += f"\n\n{body}"
        else:
            # Rows stand before what is made of them.
            place = "\n\n@dataclass(frozen=True)\nclass Variant"
            before, found, after = source.partition(place)
            source = f"{before}\n\n{body}{found}{after}"
        path.write_text(source, "utf-8")
        touched.append(path.relative_to(here).as_posix())
    return here, touched


def run(here, *call):
    env = {**os.environ, "PYTHONPATH": str(here)}
    done = subprocess.run(
        [sys.executable, *call], cwd=here, capture_output=True, text=True, env=env
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_the_example_of_contributing_is_served_everywhere(copy):
    here, touched = copy
    assert len([t for t in touched if t.startswith("normprop/")]) <= 3
    assert len([t for t in touched if t.startswith("tests/")]) == 1
    run(here, "-c", SERVED)


@pytest.mark.slow
def test_the_row_of_the_example_brings_all_tests_with_it(copy):
    here, _ = copy
    (here / "pytest.ini").write_text("[pytest]\nmarkers = slow\n")
    options = ["-q", "-p", "torch_with_isru", "-p", "no:cacheprovider", "-k", "ISRU"]
    said = run(
        here, "-m", "pytest", *options, "--import-mode=importlib", "tests/nn/test_battery.py"
    )
    assert int(re.search(r"(\d+) passed", said)[1]) > 10


@pytest.mark.parametrize(
    ("pattern", "most"),
    [
        (r"Mish|mish", 3),
        (r"Softsign|softsign", 3),
        (r"Tanhshrink|tanhshrink", 3),
        (r"CELU|celu", 3),
        (r"Softshrink|softshrink", 3),
        (r"LPPool[123]?d?|lp_pool[123]?d?", 4),
        (r"MaxUnpool[123]?d?|max_unpool[123]?d?", 4),
        (r"AdaptiveMaxPool[123]?d?|adaptive_max_pool[123]?d?", 4),
        (r"EmbeddingBag|embedding_bag", 4),
        (r"Bilinear", 4),
        (r"ConvTranspose[123]?d?|conv_transpose[123]?d?", 4),
    ],
    ids=lambda value: str(value).split("|")[0].split("[")[0],
)
def test_a_layer_that_is_there_stands_in_few_files(root, pattern, most):
    # Faster backward passes in fused.py and the kernels are more than a layer needs.
    package = root / "normprop"
    files = {f for f in package.rglob("*.py") if f.name not in ("__init__.py", "fused.py")}
    files = {f for f in files if f.relative_to(package).parts[0] not in ("kernels", "companion")}
    named = [f for f in files if re.search(rf"\b(?:{pattern})\b", f.read_text("utf-8"))]
    assert len(named) <= most, sorted(map(str, named))
