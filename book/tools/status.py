"""The run status of the book: when each notebook was last run, how long that took, and with what.

    python book/tools/status.py     # prints the page for the committed runs
"""

from __future__ import annotations

from pathlib import Path

import nbformat

from repository import ROOT
from results import table


def page(folder: Path) -> str:
    """The page as MyST Markdown, from the notebooks in `folder`."""
    rows, total = [], 0
    for path in sorted(folder.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        title = next(line[2:] for cell in notebook.cells if cell.cell_type == "markdown"
                     for line in cell.source.splitlines() if line.startswith("# "))  # fmt: skip
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        failed = sum(output.output_type == "error" for cell in code for output in cell.outputs)
        run = notebook.metadata.get("adlib", {}).get("run", {})
        total += run.get("seconds", 0)
        rows.append([f"[{title}](../notebooks/{path.stem}.ipynb)", run.get("date", "–").replace("-", "\u2011"),
                     f"{run['seconds']}\u00a0s" if run else "–", str(len(code)), "failed" if failed else "passed",
                     f"Python {run['python']}, torch {run['torch']}, {run['cores']} cores" if run else "–"])
    lines = ["# Run status", "",
             "This page is made with the book. A cell that fails stops the build, so a page with a failure is never",
             "published; what the table adds is when, how long, and with what.", "",
             *table(["notebook", "last run (UTC)", "time", "code cells", "state", "with"], rows), "",
             f"All notebooks together: {total / 60:.1f} minutes, on a CPU, with their quick profile.", "",
             "`make book` runs every notebook. `make test` runs them again with nbval, some of them with another seed",
             "and another product, and the exercises with their published solutions.", ""]  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    print(page(ROOT / "notebooks"))
