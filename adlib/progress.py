"""One progress bar for all that takes long, where somebody looks."""

from __future__ import annotations

import sys
from typing import Any

from tqdm.auto import tqdm


def watched() -> bool:
    """Whether a bar would be seen: in a terminal or a notebook. In a log file it would be noise.

    tqdm's own ``disable=None`` asks for a terminal alone, and a notebook is none.
    """
    try:
        return "ipykernel" in sys.modules or sys.stderr.isatty()
    except (AttributeError, ValueError):  # none at all, a logger's, or a closed one
        return False


def progress_bar(*args: Any, disable: bool = False, leave: bool = False, **options: Any) -> tqdm:
    """A bar of tqdm where it is watched."""
    return tqdm(*args, disable=disable or not watched(), leave=leave, **options)
