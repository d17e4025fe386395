"""The API page of the book, made from the signatures and docstrings of `adlib`.

    python book/tools/api_page.py      # prints the page
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

# From the top floor down: what a reader calls first stands first. What is missing here is not meant to be called.
PARTS = {
    "Detectors": ["patchcore", "simplenet", "efficientad", "detector"],
    "Decisions, measures, pictures": ["threshold", "metrics", "benchmark", "plots"],
    "Data": ["datasets", "datasets.sample", "datasets.folder", "datasets.loco", "datasets.visa",
             "datasets.synthetic", "datasets.download", "images"],
    "Parts of the methods": ["features", "coreset", "neighbors", "spd", "augment", "objectives",
                             "efficientad_training", "pdn", "distillation", "outside", "training"],
}  # fmt: skip
WIDTH = 72


def public(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Functions and classes that `module` itself defines and documents, in the order of its text."""
    own = [(name, value) for name, value in vars(module).items()
           if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
           and (inspect.isfunction(value) or inspect.isclass(value)) and value.__doc__]  # fmt: skip
    return iter(sorted(own, key=lambda entry: inspect.getsourcelines(entry[1])[1]))


def members(cls: type) -> Iterator[tuple[str, Any, str]]:
    """Public methods and properties that the class itself documents: name, the function, "method" or "property"."""
    for name, value in vars(cls).items():
        kind = "property" if isinstance(value, property) else "method"
        function = value.fget if kind == "property" else getattr(value, "__func__", value)
        if not name.startswith("_") and inspect.isfunction(function) and function.__doc__:
            yield name, function, kind


def signature(name: str, function: Any) -> str:
    """A signature as one reads it in code: annotations without quotes, one argument a line where it is long."""
    if inspect.isclass(function):
        bases = [base.__name__ for base in function.__bases__ if base is not object]
        if issubclass(function, Exception):
            return f"class {name}({', '.join(bases)})"
        name = f"class {name}"
    found = inspect.signature(function)
    if inspect.isclass(function):
        found = found.replace(return_annotation=found.empty)
    found = found.replace(parameters=[p for p in found.parameters.values() if p.name not in ("self", "cls")])
    # Default values that have no name in code, objects of a class, are shown as an ellipsis.
    found = found.replace(parameters=[p.replace(default=...) if repr(p.default).startswith("<") and p.default is not
                                      p.empty else p for p in found.parameters.values()])  # fmt: skip
    text = name + re.sub(r"(: |-> )'([^']*)'", r"\1\2", str(found)).replace("Ellipsis", "...")
    if len(text) <= WIDTH:
        return text
    arrow = text.rfind(" -> ")
    ends = text[arrow:] if arrow > 0 else ""
    lines, keyword_only = [], False
    for p in found.parameters.values():
        if p.kind is p.KEYWORD_ONLY and not keyword_only:
            lines.append("*")
            keyword_only = True
        lines.append(re.sub(r": '([^']*)'", r": \1", str(p)).replace("Ellipsis", "..."))
        keyword_only |= p.kind is p.VAR_POSITIONAL
    return f"{name}(\n" + "".join(f"    {line},\n" for line in lines) + ")" + ends


def escaped(line: str) -> str:
    """Text in which only `code` keeps its meaning for Markdown."""
    parts = re.split(r"(`[^`]+`)", line.replace("``", "`"))
    return "".join(p if p.startswith("`") else re.sub(r"([\\*_\[\]<>$#|{}~])", r"\\\1", p) for p in parts)


def prose(docstring: str) -> list[str]:
    """A docstring as Markdown: paragraphs as they are, indented lines as a block of their own."""
    lines: list[str] = []
    block: list[str] = []

    def close() -> None:
        if block:
            lines.extend(["", "```text", *inspect.cleandoc("\n".join(["", *block])).splitlines(), "```", ""])
            block.clear()

    for line in docstring.splitlines():
        if line.startswith("    "):
            block.append(line)
        elif line.strip() or not block:
            close()
            # A line that begins a new sentence after a list of arguments stays on a line of its own.
            lines.append(re.sub(r"^([-+]|\d+\.) ", r"\\\1 ", escaped(line)))
    close()
    return lines


def entry(title: str, name: str, function: Any, level: int, *, code: str | None = None) -> list[str]:
    shown = code or signature(name, function)
    return ["#" * level + f" `{title}`", "", "```python", shown, "```", "", *prose(inspect.getdoc(function) or ""), ""]


def page() -> str:
    """The page as MyST Markdown."""
    lines = ["# API", "",
             "Everything that is meant to be called, with its shapes, units, errors and source, as the docstrings",
             "have it. A number such as (2.6) is an equation of that chapter; the [ledger](ledger.md) lists them all.",
             "The detectors come from `adlib` itself, `from adlib import PatchCore`; the rest from its module.", ""]
    for part, names in PARTS.items():
        lines += [f"## {part}", ""]
        for name in names:
            module = importlib.import_module(f"adlib.{name}")
            lines += [f"### adlib.{name}", "", *prose(inspect.getdoc(module) or ""), ""]
            for title, value in public(module):
                lines += entry(title, title, value, 4)
                if inspect.isclass(value):
                    for member, function, kind in members(value):
                        code = f"{title}.{member}" if kind == "property" else None
                        lines += entry(f"{title}.{member}", f"{title}.{member}", function, 5, code=code)
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    print(page())
