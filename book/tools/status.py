"""The run status of the book: when each notebook was last run, how long that took, and with what."""

from __future__ import annotations

from pathlib import Path

import nbformat

from results import table


def title(path: Path) -> str:
    """The title of a notebook: its first heading."""
    text = "\n".join(c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "markdown")
    return next(line[2:] for line in text.splitlines() if line.startswith("# "))


def table_of_runs(folder: Path) -> str:
    """One row for each notebook in `folder`, as Markdown."""
    rows, total = [], 0
    for path in sorted(folder.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        code = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
        failed = any(output.output_type == "error" for outputs in code for output in outputs)
        run = notebook.metadata.get("adlib", {}).get("run", {})
        total += run.get("seconds", 0)
        rows.append([f"[{title(path)}](../notebooks/{path.name})", run.get("date", "–").replace("-", "\u2011"),
                     f"{run['seconds']}\u00a0s" if run else "–", str(len(code)), "failed" if failed else "passed",
                     f"Python {run['python']}, torch {run['torch']}, {run['cores']} cores" if run else "–"])
    header = ["notebook", "last run (UTC)", "time", "code cells", "state", "with"]
    whole = f"All together: {total / 60:.1f} minutes, on a CPU, with their quick profile."
    return "\n".join([*table(header, rows), "", whole])
