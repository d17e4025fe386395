"""Lets nbval hold a notebook against a run that is there, in place of running it once more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat


class Recorded:
    """Stands in for nbval's kernel: it answers each cell with the outputs that a run has kept."""

    def __init__(self, run: Path) -> None:
        self.cells = iter([cell for cell in nbformat.read(run, 4).cells if cell.cell_type == "code"])
        self.messages: list[dict[str, Any]] = []

    def execute_cell_input(self, source: str, allow_stdin: bool = False) -> str:
        cell = next(self.cells)
        assert cell.source == source, "the run has other cells than the notebook, though its stamp fits"
        self.messages = [{"msg_type": output.output_type, "content": {"metadata": {}, **output}}
                         for output in cell.outputs]  # fmt: skip
        self.messages.append({"msg_type": "status", "content": {"execution_state": "idle"}})
        return "recorded"

    def get_message(self, stream: str, timeout: float | None = None) -> dict[str, Any]:
        return {"parent_header": {"msg_id": "recorded"}, **self.messages.pop(0)}

    def await_reply(self, msg_id: str, timeout: float | None = None) -> None: ...

    def await_idle(self, msg_id: str, timeout: float | None = None) -> None: ...

    def is_alive(self) -> bool:
        return True

    def stop(self) -> None: ...
