"""The tree carries nothing of the machine that it was written on."""

import hashlib
import re
import subprocess

import pytest

# A home, a scratch or a work directory, at the start of a path.
MACHINE_PATH = re.compile(r"(?<![\w.~)}/*-])/(?:work|root|home|tmp|Users|scratch|mnt|opt)/\w")
# An index or mirror that a lock file may have picked up.
REGISTRY = re.compile(r"(?:--(?:extra-)?index-url|--find-links|--trusted-host|files\.pythonhosted)")
TEXT = {
    "", ".bib", ".cff", ".cfg", ".css", ".csv", ".html", ".ipynb", ".js", ".json", ".md", ".py",
    ".svg", ".toml", ".txt", ".typed", ".yaml", ".yml",
}  # fmt: skip
PICTURES = {".png", ".jpg"}
# What others publish and we keep as it is, with its licence beside it, and its hash.
VENDORED = {
    "tests/book/axe/axe.min.js": (
        "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"
    ),
}


def tracked(root):
    """Return the files that git tracks or would track, or every file where git has no say."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [path for name in done.stdout.split("\0") if name and (path := root / name).is_file()]


def test_no_file_names_a_machine_or_a_mirror(root):
    found = []
    for path in tracked(root):
        if path.suffix in PICTURES or path.name == "test_boundaries.py":
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if MACHINE_PATH.search(line) or REGISTRY.search(line):
                found.append(f"{path.relative_to(root)}:{number}: {line.strip()[:100]}")
    assert found == []


def test_every_file_is_text_of_a_known_kind_or_a_small_picture(root):
    for path in tracked(root):
        if path.relative_to(root).as_posix() in VENDORED:
            continue
        assert path.suffix in TEXT | PICTURES, f"{path}: say here whether this kind is text"
        assert path.stat().st_size < 500_000, f"{path}: too big to be kept in git"


@pytest.mark.parametrize("name", VENDORED)
def test_what_others_publish_is_as_they_published_it(root, name):
    assert hashlib.sha256((root / name).read_bytes()).hexdigest() == VENDORED[name]
    assert (root / name).with_name("LICENSE").is_file()


@pytest.mark.parametrize(
    "line", ['"/home/ada/data"', "cd /root/x", "path=/tmp/x", "file:///opt/pypi/simple"[7:]]
)
def test_a_machine_path_is_seen(line):
    assert MACHINE_PATH.search(line)


@pytest.mark.parametrize("line", ["book/home/x", "https://a.org/home/x", "and/or", "a /tmpl/x"])
def test_other_slashes_are_let_through(line):
    assert not MACHINE_PATH.search(line)
