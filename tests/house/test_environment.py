"""The environment: which Python it is made with, and what is said where it cannot be made."""

import os
import shutil
import subprocess

import pytest

FIND = ".ci/find_python"


@pytest.fixture
def commands(tmp_path):
    """`commands(python3="3.12", ...)` makes a folder of commands that pretend to be Pythons."""

    def make(**versions):
        folder = tmp_path / "bin"
        folder.mkdir()
        for name, version in versions.items():
            command = folder / name.replace("_", ".")
            # A version manager has a command for a Python that it does not start.
            command.write_text(f"#!/bin/sh\n{f'echo {version}' if version else 'exit 127'}\n")
            command.chmod(0o755)
        return folder

    return make


def find(root, folder, python="", tried=("3.11", "3.12", "3.13")):
    """Run find_python where there are these commands and those that it is written with."""
    environment = {"PATH": f"{folder}:/usr/bin:/bin", "PYTHON": python}
    return subprocess.run(
        ["/bin/sh", str(root / FIND), *tried], capture_output=True, text=True, env=environment
    )


@pytest.mark.parametrize(
    ("there", "found"),
    [
        ({"python3": "3.11", "python3_13": "3.13"}, "python3"),
        ({"python3": "3.12", "python3_11": "3.11"}, "python3"),
        ({"python3": "3.13", "python3_12": "3.12"}, "python3"),
        ({"python3": "3.9", "python3_11": "", "python3_12": "3.12"}, "python3.12"),
        ({"python3": "3.14", "python3_11": "", "python3_13": "3.13"}, "python3.13"),
        ({"python3": "", "python3_11": "3.11"}, "python3.11"),
    ],
)
def test_python3_is_taken_or_another_that_was_tried(root, commands, there, found):
    done = find(root, commands(**there))
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{found}\n", "")


def none(**more):
    """No Python but these, whatever the machine has."""
    return {"python3": "", "python3_11": "", "python3_12": "", "python3_13": "", **more}


@pytest.mark.parametrize("version", ["3.14", "3.20"])
def test_a_newer_one_gets_a_warning(root, commands, version):
    done = find(root, commands(**none(python3=version)))
    assert (done.returncode, done.stdout) == (0, "python3\n")
    assert f"python3 is Python {version}, and nobody has tried one newer than 3.13" in done.stderr


@pytest.mark.parametrize(
    ("version", "reason"),
    [("3.10", "python3 is 3.10"), ("2.7", "python3 is 2.7"), ("", "python3 does not start")],
)
def test_an_older_one_is_refused(root, commands, version, reason):
    done = find(root, commands(**none(python3=version)))
    assert (done.returncode, done.stdout) == (1, "")
    assert "Python 3.11 to 3.13 is needed" in done.stderr
    assert reason in done.stderr


def test_the_one_that_is_named_stands_alone(root, commands):
    folder = commands(python3="3.12", mine="3.13", old="3.9", new="3.14")
    assert find(root, folder, "mine").stdout == "mine\n"
    assert "old is 3.9" in find(root, folder, "old").stderr
    assert "nobody has tried" in find(root, folder, "new").stderr
    assert "nothing does not start" in find(root, folder, "nothing").stderr


# It makes an environment whose pip fails.
FAILING = """#!/bin/sh
[ "$1" = -c ] && { echo 3.11; exit; }
mkdir -p .venv/bin
cat >.venv/bin/python <<'END'
#!/bin/sh
echo "Collecting a"
echo "ERROR: a needs another Python"
exit 1
END
chmod +x .venv/bin/python
"""


def test_the_reason_for_which_pip_fails_is_shown(root, tmp_path):
    for name in ("Makefile", "constraints.txt", "pyproject.toml"):
        shutil.copy(root / name, tmp_path)
    shutil.copytree(root / ".ci", tmp_path / ".ci")
    python = tmp_path / "python"
    python.write_text(FAILING)
    python.chmod(0o755)
    done = subprocess.run(
        ["make", "book", f"PYTHON={python}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"]},
    )
    assert done.returncode != 0
    assert "ERROR: a needs another Python" in done.stderr
    assert "pip failed" in done.stderr
    assert not (tmp_path / ".venv" / ".installed").exists()
