"""A child that was forked from a process with torch's threads would wait for threads that it does not have."""

from __future__ import annotations

import os

import torch

_process = {"threads": False, "forked": False}
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _process.update(forked=_process["threads"]))


def refuse_after_fork() -> None:
    """Raise RuntimeError in a forked child that would hang; else note whether this process computes with threads."""
    if _process["forked"] and torch.get_num_threads() > 1:
        raise RuntimeError("this process was forked from one that had computed with several threads, and would hang: "
                           "start it with multiprocessing.get_context('spawn'), or call torch.set_num_threads(1) first")
    _process["threads"] |= torch.get_num_threads() > 1
