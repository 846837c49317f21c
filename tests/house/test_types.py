"""The package's types are what a user's type checker needs."""

import importlib.util
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from torch import nn

import normprop
from normprop import rules
from normprop.rules.measure import PerChannel
from tests.layers import CLASSES, figures, instance


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed")
def test_a_type_checker_accepts_a_users_script_and_the_lines_of_the_readme(root, tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (root / "README.md").read_text("utf-8"), re.S)
    assert len(blocks) >= 3
    readme = tmp_path / "readme_lines.py"
    given = ("import torch", "x = torch.randn(8, 3, 32, 32)", "model = torch.nn.Conv2d(3, 8, 3)")
    readme.write_text("\n".join((*given, *blocks)))
    script = root / "tests" / "house" / "user_script.py"
    # What is wrong inside the package is not a user's to see.
    call = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent"]
    call += [f"--cache-dir={root / '.mypy_cache'}", "--config-file=", str(readme), str(script)]
    env = {**os.environ, "MYPYPATH": str(root)}
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("module", [nn, normprop.nn], ids=lambda module: module.__name__)
def test_the_layers_that_are_typed_as_arrays_give_arrays_and_those_without_weights_numbers(module):
    seen = set()
    for name in CLASSES:
        if not hasattr(module, name):
            continue
        layer, shape = instance(module, name)
        entry = rules.lookup(layer)
        if entry is None or entry.rule is None:
            continue
        kinds = {type(figure) for figure in figures(layer, shape)[1]}
        if isinstance(layer, PerChannel):
            assert kinds == {np.ndarray}, name
        elif not list(layer.parameters()):
            assert kinds == {float}, name
        seen |= kinds
    assert seen == {np.ndarray, float}
