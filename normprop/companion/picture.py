"""Copy a figure out of a chapter: ``python -m normprop.companion.picture CHAPTER FIGURE OUT``."""

import argparse
import sys
import tempfile
from pathlib import Path


def picture(notebook: Path, figure: str) -> str:
    """Execute a notebook and return the SVG of the figure of that name.

    Args:
        notebook: a chapter, stored without outputs.
        figure: the ``name`` in the metadata of the figure's cell.

    Raises:
        ValueError: no cell has a figure of that name, or it gave no SVG.
    """
    import papermill

    with tempfile.TemporaryDirectory() as folder:
        executed = papermill.execute_notebook(
            notebook,
            Path(folder) / notebook.name,
            kernel_name="python3",
            cwd=notebook.parent,
            progress_bar=False,
        )
    names = []
    for cell in executed.cells:
        name = cell.metadata.get("mystnb", {}).get("figure", {}).get("name")
        names += [name] if name else []
        if name == figure:
            for output in cell.outputs:
                if "image/svg+xml" in output.get("data", {}):
                    return output["data"]["image/svg+xml"]
            raise ValueError(f"the cell of {figure!r} must display an SVG; it displays none")
    raise ValueError(f"the figure must be one of {', '.join(names)}; it was {figure!r}")


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and write the file."""
    parser = argparse.ArgumentParser(
        prog="python -m normprop.companion.picture",
        description="Execute a chapter and write one of its figures to a file.",
    )
    parser.add_argument("notebook", type=Path)
    parser.add_argument("figure", help="name of the figure, such as fig-gradient-depth")
    parser.add_argument("out", type=Path, help="an .svg file")
    options = parser.parse_args(arguments)
    options.out.write_text(picture(options.notebook, options.figure), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
