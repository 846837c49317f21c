"""``python -m normprop``: text, JSON and CSV, alone and under torchrun, and its errors."""

import csv
import io
import json
import subprocess
import sys

import pytest

from normprop.__main__ import main

SMALL = ["--samples", "20000"]


def run(*arguments, module=("-m", "normprop")):
    """Standard output of a fresh process; anything on standard error fails."""
    command = [sys.executable, "-W", "error", *module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stderr == ""
    return done.stdout


def test_a_terminal_gets_the_table():
    text = run(*SMALL)
    assert "20,000 numbers a layer" in text
    assert text.count("confirmed") == 12
    assert "0.2117456997" in text


def test_it_loads_neither_jupyter_nor_matplotlib():
    code = (
        "import sys, runpy; sys.argv = ['normprop', '--samples', '1000'];"
        "\ntry: runpy.run_module('normprop', run_name='__main__')"
        "\nexcept SystemExit: pass"
        "\nprint(sorted({m.split('.')[0] for m in sys.modules}))"
    )
    loaded = run(module=("-c", code)).splitlines()[-1]
    for name in ("matplotlib", "IPython", "jupyter_core", "ipykernel", "sklearn", "myst_nb"):
        assert repr(name) not in loaded


def test_programs_get_json_and_csv():
    assert len(json.loads(run("--json", *SMALL))["cells"]) == 18
    assert len(list(csv.DictReader(io.StringIO(run("--csv", *SMALL))))) == 18


@pytest.mark.slow
def test_processes_share_the_work_and_print_once():
    alone = json.loads(run("--json", *SMALL))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node=2", "-m", "normprop", "--json", *SMALL]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    shared = json.loads(done.stdout)
    for one, other in zip(alone["cells"], shared["cells"], strict=True):
        assert one["simulated"] == pytest.approx(other["simulated"], rel=1e-12, abs=1e-15)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--samples", "0"], "--samples must be at least 1; it was 0"),
        (["--seed", "-1"], "--seed must be at least 0; it was -1"),
        (["--device", "tpu9"], "--device must be cpu, cuda or cuda:k; it was 'tpu9'"),
        (["--device", "meta"], "--device must be cpu, cuda or cuda:k; it was 'meta'"),
        (["--json", "--csv"], "not allowed with argument"),
    ],
)
def test_bad_arguments_are_refused(capsys, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
