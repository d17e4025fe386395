"""The commands of the shell: `adlib fit`, `inspect`, `report`, `evaluate`, `export`, `demo`.

Here are the arguments, their help, and what becomes of an error. `adlib.cli.commands` and `inspection` do the rest.
Nothing of torch is imported before a command needs it, so `adlib --help` is quick.
"""

from __future__ import annotations

import os
import re
import sys
import traceback
import warnings
from collections.abc import Sequence
from enum import StrEnum
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import typer

from adlib.checks import printable

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Find the defect when you only have pictures of good parts.\n\n"
         "Start: adlib demo parts, and type what it prints. Each command has its own --help.",
    epilog="--debug, anywhere, shows where an error comes from. Exit status: 0, or 2 for wrong use or an error, "
           "130 for Ctrl-C; inspect has more.",
)  # fmt: skip

# The options that commands of Python's names become in a message of the library.
OPTIONS = "alpha|folds|validation|group|max_value|image_size|region|tiles|steps|epochs|seed|masks"
BAD, PROMISE, READING, OUTPUT = "Method", "Threshold and promise", "Pictures", "Answers"


class Method(StrEnum):
    """What `fit` can fit."""

    patchcore = "patchcore"
    simplenet = "simplenet"
    efficientad = "efficientad"


def _alpha(text: str) -> float:
    """0.05, 1/16 or 5%."""
    try:
        value = float(Fraction(text.removesuffix("%").strip())) / (100 if text.endswith("%") else 1)
    except (ValueError, ZeroDivisionError):
        value = 0.0
    if not 0 < value < 1:
        raise typer.BadParameter(f"{text!r}: expected a share between 0 and 1, such as 0.05, 5% or 1/16")
    return value


def _size(text: str) -> Any:
    """256, or 192x320."""
    found = re.fullmatch(r"(\d{1,6})(?:[x×](\d{1,6}))?", text)
    if not found:
        raise typer.BadParameter(f"{text!r}: expected a number of pixels such as 256, or HEIGHTxWIDTH such as 192x320")
    return int(found[1]) if found[2] is None else (int(found[1]), int(found[2]))


File = Annotated[Path, typer.Argument(help="The detector that `adlib fit` wrote.", show_default=False)]
Images = Annotated[list[Path], typer.Argument(help="A folder, or pictures, or several of both.", show_default=False)]
Group = Annotated[str | None, typer.Option(
    help=r"Several pictures show one part: a pattern that finds the part's name in a path, such as '(part\d+)_'.",
    rich_help_panel=READING, show_default=False)]  # fmt: skip
Alpha = Annotated[Any, typer.Option(
    parser=_alpha, metavar="SHARE", rich_help_panel=PROMISE, show_default=False,
    help="The share of good parts that may be called defective. Without it 0.05, or the least that the held-out parts "
         "can promise.")]  # fmt: skip
Device = Annotated[str, typer.Option(help="cpu, cuda, mps; auto takes the best that is there.",
                                     rich_help_panel=READING)]  # fmt: skip


@app.command()
def fit(
    folder: Annotated[Path, typer.Argument(help="A folder of pictures of good parts, and of nothing else.",
                                           show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write the detector, such as parts.safetensors.",
                                      show_default=False)],
    method: Annotated[Method, typer.Option(help="Which to take: the README has a table.", rich_help_panel=BAD)]
    = Method.patchcore,
    image_size: Annotated[Any, typer.Option(
        parser=_size, metavar="PIXELS", rich_help_panel=BAD, show_default=False,
        help="Pictures are resized to this, such as 256 or 192x320 (height x width). Larger finds smaller "
             "defects, and takes longer. Without it 224, in the pictures' aspect.")] = None,
    tiles: Annotated[int | None, typer.Option(
        help="Large pictures, small defects: look at tiles of so many pixels at full size.", rich_help_panel=BAD,
        show_default=False)] = None,
    region: Annotated[Path | None, typer.Option(
        help="A picture that is white where to look and black elsewhere.", rich_help_panel=BAD,
        show_default=False)] = None,
    steps: Annotated[int | None, typer.Option(
        help="Of efficientad: steps of its training. Fewer are quicker and worse. Without it 2500.", min=1,
        rich_help_panel=BAD, show_default=False)] = None,
    epochs: Annotated[int | None, typer.Option(
        help="Of simplenet: how often its training sees each picture. Without it 20.", min=1, rich_help_panel=BAD,
        show_default=False)] = None,
    seed: Annotated[int, typer.Option(help="Everything random comes from it.", rich_help_panel=BAD)] = 0,
    group: Group = None,
    max_value: Annotated[float | None, typer.Option(
        help="The value of full brightness, such as 4095 for a camera of 12 bits in 16-bit files.",
        rich_help_panel=READING, show_default=False)] = None,
    device: Device = "auto",
    alpha: Alpha = None,
    validation: Annotated[float | None, typer.Option(
        help="Hold out this share of the parts, and learn from the rest. Without it and --folds: 0.35 where that "
             "is enough for the promise, else folds.", rich_help_panel=PROMISE, show_default=False)] = None,
    folds: Annotated[int | None, typer.Option(
        help="Few parts: fit so many detectors, each without some of the parts. As many folds as parts promise most "
             "and take longest.", rich_help_panel=PROMISE, show_default=False)] = None,
) -> int:  # fmt: skip
    """Learn from a folder of good parts what normal looks like."""
    from adlib.cli import commands

    return commands.fit(folder, out, method.value, group=group, max_value=max_value, alpha=alpha, validation=validation,
                        folds=folds, region=region, image_size=image_size, tiles=tiles, steps=steps, epochs=epochs,
                        seed=seed, device=device)


@app.command(
    help="Say of each picture whether it is good or defective.\n\n"
         "Exit status: [bold]0[/] all were inspected and none is defective; [bold]1[/] at least one is defective; "
         "[bold]2[/] wrong use or an error; [bold]3[/] at least one could not be inspected, whatever the others are: "
         "the lines and the CSV file say which. What was not inspected is never called good.",
)  # fmt: skip
def inspect(
    file: File,
    images: Images,
    csv: Annotated[Path | None, typer.Option(
        "--csv", help="Write the answers to this file; with --watch, add them, and do not inspect again what it has. "
        "- is the standard output.", rich_help_panel=OUTPUT, show_default=False)] = None,
    json: Annotated[Path | None, typer.Option(
        "--json", help="The same, a JSON object a line; with --watch, added to it.", rich_help_panel=OUTPUT,
        show_default=False)] = None,
    marked: Annotated[Path | None, typer.Option(
        help="Write the defective pictures, with outlines, to this folder.", rich_help_panel=OUTPUT,
        show_default=False)] = None,
    watch: Annotated[bool, typer.Option(
        "--watch", help="Wait for new pictures in the folder, and inspect each once it is completely written. Ctrl-C "
        "or the signal TERM ends it, with a summary and the exit status above.", rich_help_panel=OUTPUT)] = False,
    every: Annotated[float, typer.Option(help="With --watch: seconds between two looks.", min=0.01,
                                         rich_help_panel=OUTPUT)] = 0.5,
    group: Group = None,
    device: Device = "auto",
    alpha: Alpha = None,
) -> int:  # fmt: skip
    """`adlib inspect`; its help stands above."""
    from adlib.cli import inspection

    outputs = inspection.Outputs(csv, json, marked)
    if watch:
        return inspection.watch(file, images, outputs, every, group=group, alpha=alpha, device=device)
    return inspection.inspect(file, images, outputs, group=group, alpha=alpha, device=device)


@app.command()
def report(
    file: File,
    images: Images,
    out: Annotated[Path, typer.Option("--out", "-o", help="The HTML file to write.")] = Path("report.html"),
    most: Annotated[int, typer.Option(help="Draw so many pictures, the worst. All stand in a table.", min=0)] = 60,
    title: Annotated[str, typer.Option(help="The heading.")] = "Inspection report",
    group: Group = None,
    device: Device = "auto",
    alpha: Alpha = None,
) -> int:
    """Write one HTML file with the answers: worst first, with outlines. It prints well.

    Exit status 3 where a picture could not be inspected, else 0.
    """
    from adlib.cli import commands

    return commands.report(file, images, out, most=most, title=title, group=group, alpha=alpha, device=device)


@app.command()
def evaluate(
    file: File,
    folder: Annotated[Path, typer.Argument(
        help="Its folders are good and the kinds of defect (as test of MVTec AD; it may also hold test).",
        show_default=False)],
    masks: Annotated[Path | None, typer.Option(
        help="Where the defects lie: hole/12.png for hole/12.jpg. Without it, ground_truth or masks beside the folder.",
        rich_help_panel=READING, show_default=False)] = None,
    json: Annotated[Path | None, typer.Option("--json", help="Write the measures to this file; - is the standard "
                                              "output.", rich_help_panel=OUTPUT, show_default=False)] = None,
    group: Group = None,
    device: Device = "auto",
    alpha: Alpha = None,
) -> int:  # fmt: skip
    """Measure, on labelled pictures, how well good and defective are told apart.

    Exit status 3 where a picture could not be inspected, else 0.
    """
    from adlib.cli import commands

    return commands.evaluate(file, folder, masks, json, group=group, alpha=alpha, device=device)


@app.command()
def export(
    file: File,
    out: Annotated[Path, typer.Argument(help="The ONNX file to write, such as parts.onnx.", show_default=False)],
    check: Annotated[Path, typer.Option(help="A folder of pictures: the file must give the same scores for them.",
                                        show_default=False)],
    tolerance: Annotated[float, typer.Option(help="The largest difference that is accepted.")] = 1e-4,
) -> int:
    """Write an ONNX file that runs without torch."""
    from adlib.cli import commands

    return commands.export(file, out, check, tolerance)


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="A new folder, or an empty one.", show_default=False)],
    product: Annotated[str, typer.Option(help="board, fabric, kit or washer.")] = "washer",
    good: Annotated[int, typer.Option(help="How many good parts to learn from.", min=1)] = 60,
    new: Annotated[int, typer.Option(help="How many new parts to inspect.", min=1)] = 30,
    seed: Annotated[int, typer.Option(help="Another seed, another factory.")] = 0,
) -> int:
    """Write pictures of built-in parts to try everything on."""
    from adlib.cli import commands

    return commands.demo(folder, product, good, new, seed)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status. An error of the user's is a message that says what to do.

    Parameters
    ----------
    arguments : sequence of str, optional
        By default those of the process.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a file's name need not be Unicode
            stream.reconfigure(errors="backslashreplace")
    with warnings.catch_warnings():
        warnings.showwarning = _note
        try:
            status = app(args=[w for w in words if w != "--debug"], prog_name="adlib", standalone_mode=False)
            return int(status or 0)
        except (KeyboardInterrupt, typer.Abort):
            _say("Stopped. Nothing was written that is not whole.")
            return 130
        except Exception as error:
            if debug:
                traceback.print_exc()
            return _explain(error)


def _explain(error: Exception) -> int:
    if hasattr(error, "exit_code") and hasattr(error, "format_message"):  # typer's own: wrong use
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "adlib"
        if what := error.format_message().rstrip("."):  # nothing, where the help has been shown
            _say(f"{command}: {what}. See {command} --help")
        return 2
    if isinstance(error, BrokenPipeError):  # of the help, for `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        _say(f"adlib: {error.filename}: {error.strerror}")
    elif isinstance(error, (ValueError, OSError, ArithmeticError)):
        _say(f"adlib: {for_shell(str(error))}")
    else:
        _say(f"adlib: this should not happen: {type(error).__name__}: {error}. Add --debug to see where, and report it")
    return 2


def for_shell(text: str) -> str:
    """A message of the library in the words of the shell: alpha=1/16 is --alpha 1/16 there."""
    text = text.replace(" (held_out)", "").replace("see failures", "which are not listed here")
    option = rf"(?<![\w/\\.-])({OPTIONS})(?!=\S*\.[A-Za-z]) ?= ?(?=[^=])"  # not within a path, as shots/group=3.png
    return re.sub(option, lambda m: f"--{m[1].replace('_', '-')} ", text)


def _note(message: Warning | str, *_: Any, **__: Any) -> None:
    _say(f"Note: {for_shell(str(message))}")


def _say(text: str) -> None:
    print(printable(text), file=sys.stderr)  # not wrapped, so that a command in it can be copied


if __name__ == "__main__":
    raise SystemExit(main())
