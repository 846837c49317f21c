"""Tests in parallel: a file is one worker's, the book is one worker's, and names are the same."""

import shutil
import subprocess
import sys

import pytest

WORKER = """
import os, pathlib
import pytest

@pytest.mark.parametrize("number", range(4))
def test_a(number):
    place = pathlib.Path({place!r}) / f"{name}-{{os.environ['PYTEST_XDIST_WORKER']}}"
    place.write_text(os.environ["OMP_NUM_THREADS"])
"""


@pytest.fixture
def suite(root, tmp_path):
    """A folder with the conftest of these tests."""
    (tmp_path / "tests" / "book").mkdir(parents=True)
    shutil.copy(root / "tests" / "conftest.py", tmp_path / "tests")
    (tmp_path / "pytest.ini").write_text("[pytest]\ntestpaths = tests\n")
    return tmp_path


def run(suite, *arguments):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=suite, capture_output=True, text=True)


def test_each_file_and_the_book_have_one_worker(suite, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for name in ("test_one", "test_two", "book/test_three", "book/test_four"):
        text = WORKER.format(place=str(suite), name=name.replace("/", "-"))
        (suite / "tests" / f"{name}.py").write_text(text)
    done = run(suite, "-n", "2")
    assert "16 passed" in done.stdout, done.stdout + done.stderr
    made = {path.name.rpartition("-")[::2]: path for path in suite.glob("*-gw*")}
    assert sorted(name for name, _ in made) == [
        "book-test_four",
        "book-test_three",
        "test_one",
        "test_two",
    ]
    assert len({worker for name, worker in made if name.startswith("book")}) == 1
    assert {path.read_text() for path in made.values()} == {"1"}


def test_long_files_come_first(suite):
    many, few = "range(9)", "range(2)"
    for name, number, mark in (("a", few, ""), ("b", many, ""), ("c", few, "@pytest.mark.slow")):
        (suite / "tests" / f"test_{name}.py").write_text(
            f"import pytest\n@pytest.mark.parametrize('i', {number})\n{mark}\ndef test_it(i):\n"
            f"    with open({str(suite / 'ran')!r}, 'a') as file:\n        file.write('{name}')\n"
        )
    with (suite / "pytest.ini").open("a") as file:
        file.write("markers = slow\n")
    done = run(suite, "-n", "1")
    assert "13 passed" in done.stdout, done.stdout + done.stderr
    assert (suite / "ran").read_text() == "cc" + 9 * "b" + "aa"


def test_a_name_with_an_address_is_refused(suite):
    (suite / "tests" / "test_it.py").write_text(
        "import pytest\n"
        "@pytest.mark.parametrize('value', [object()], ids=str)\n"
        "def test_a(value):\n    pass\n"
    )
    done = run(suite)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "a test's name must not hold an address" in done.stderr + done.stdout
