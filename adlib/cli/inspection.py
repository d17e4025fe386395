"""`adlib inspect`: answers for pictures that are there, and for those that come."""

from __future__ import annotations

import math
import os
import shlex
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from adlib.checks import printable
from adlib.cli.answers import (
    DEFECTIVE,
    GOOD,
    NOT_INSPECTED,
    Answer,
    Arrivals,
    Outcome,
    answers_of,
    csv_text,
    inspected_before,
    json_lines,
    parts_of_answers,
    pictures_of,
    status_of,
)
from adlib.detector import Detector
from adlib.efficientad import EfficientAD
from adlib.files import must_take_file, write_whole
from adlib.folders import group_names, some_names
from adlib.images import ImageError
from adlib.patchcore import PatchCore
from adlib.prediction import Prediction
from adlib.report import odd_held_out, one_threshold, outlined, percent, promise
from adlib.samples import Sample
from adlib.simplenet import SimpleNet

METHODS: dict[str, Any] = {"patchcore": PatchCore, "simplenet": SimpleNet, "efficientad": EfficientAD}
ALPHA = 0.05
STDOUT = Path("-")


def out(text: str, *, raw: bool = False) -> None:
    """A line of the standard output; nobody may be reading any more, as after `| head`."""
    try:
        print(text if raw else printable(text), flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def tell(text: str) -> None:
    """A line for a person, beside the answers."""
    print(printable(text), file=sys.stderr, flush=True)


def command(*words: object) -> str:
    """What to type, quoted for the shell."""
    return shlex.join(["adlib", *map(str, words)])


def parts_needed(alpha: float) -> int:
    """Held-out parts that can promise α."""
    return math.ceil(1 / alpha - 1 - 1e-9)


def load(file: Path, device: str = "auto") -> Any:
    """The detector of a file, whatever its method."""
    if file.is_dir():
        raise ValueError(f"{file}: is a folder, expected first the file that adlib fit wrote, then the pictures: "
                         f"{command('inspect', 'parts.safetensors', file)}")
    if file.suffix.lower() == ".onnx":
        raise ValueError(f"{file}: is what adlib export writes, expected the file that adlib fit wrote, such as "
                         "parts.safetensors; an ONNX file is run by recipes/inspect_onnx.py of the repository")
    return Detector.load(file, device=device)


@dataclass
class Outputs:
    """Where the answers go."""

    csv: Path | None = None
    json: Path | None = None
    marked: Path | None = None

    def check(self, images: Sequence[Path]) -> None:
        """Refuse what cannot be written, before any work."""
        if self.csv == STDOUT and self.json == STDOUT:
            raise ValueError("--csv - and --json - both want the standard output: give one of them a file")
        for path in (self.csv, self.json):
            if path is not None and path != STDOUT:
                must_take_file(path)
        if self.marked is not None:
            inside = [i for i in images if i.is_dir() and self.marked.resolve().is_relative_to(i.resolve())]
            if inside:
                raise ValueError(f"{self.marked}: lies in {inside[0]}, so that marked pictures would be inspected: "
                                 "expected a folder elsewhere")
            if holds := [i for i in images if i.resolve().is_relative_to(self.marked.resolve())]:
                raise ValueError(f"{self.marked}: holds {holds[0]}, so that marked pictures could come among those to "
                                 "inspect: expected a folder elsewhere; give --marked a new name")
            self.marked.mkdir(parents=True, exist_ok=True)

    def show(self, answers: Iterable[Answer]) -> None:
        """The lines, or what stands in their place on the standard output."""
        for answer in answers:
            if self.csv == STDOUT:
                out(csv_text([answer], header=False).rstrip("\n"), raw=True)
            elif self.json == STDOUT:
                out(answer.as_json(), raw=True)
            else:
                out(answer.line())

    def files(self) -> list[tuple[Path, Callable[..., str]]]:
        """The files, each with what makes its text of answers."""
        both = (self.csv, csv_text), (self.json, json_lines)
        return [(path, text) for path, text in both if path is not None and path != STDOUT]

    def write(self, answers: Sequence[Answer]) -> None:
        """The files, whole."""
        for path, text in self.files():
            content = text(answers).encode(errors="backslashreplace")
            write_whole(path, [content], len(content))

    def resume(self) -> dict[str, float]:
        """What the CSV file has already, and when it was inspected; a new one gets its first line."""
        done: dict[str, float] = {}
        if self.csv == STDOUT:
            out(",".join(Answer._fields))
        elif self.csv is not None:
            old = self.csv.read_text(encoding="utf-8", errors="replace") if self.csv.exists() else ""
            try:
                done = inspected_before(old)
            except ValueError as error:
                raise ValueError(f"{self.csv}: {error}") from None
            start = "" if old.endswith("\n") else "\n" if old else csv_text([])
            _append(self.csv, start)
        return done

    def add(self, answer: Answer) -> None:
        """One answer to the end of the files."""
        for path, text in self.files():
            _append(path, csv_text([answer], header=False) if text is csv_text else text([answer]))


def _append(path: Path, text: str) -> None:
    with open(path, "ab") as file:  # one write, so that a line is there or not
        file.write(text.encode(errors="backslashreplace"))


def inspect(
    file: Path, images: Sequence[Path], outputs: Outputs, *, group: str | None, alpha: float | None, device: str
) -> int:
    """`adlib inspect`."""
    outputs.check(images)
    detector, alpha, threshold = ready(file, alpha, device)
    samples, _ = pictures_of(images, group)
    try:
        prediction = detector.predict(samples)
    except KeyboardInterrupt:
        prediction = detector.interrupted
        if prediction is None:
            raise
        tell("Stopped. What was inspected until now follows.")
    answers = answers_of(samples, prediction, threshold)
    if outputs.csv == STDOUT:
        outputs.resume()
    outputs.show(answers)
    outputs.write(answers)
    if outputs.marked:
        mark(detector, prediction, threshold, alpha, outputs.marked)
    summary(Counter(a.outcome for a in answers), detector, alpha, threshold)
    if outputs.csv is None and outputs.json is None:
        more = [] if group is None else ["--group", group]
        tell(f"See them, worst first: {command('report', file, *images[:3], *more)}{' ...' if images[3:] else ''}")
    return status_of(answers)


def ready(file: Path, alpha: float | None, device: str) -> tuple[Any, float, float]:
    """The detector of a file, α and the threshold."""
    detector = load(file, device)
    held = len(detector.normal_scores)
    if not held:
        raise ValueError(f"{file}: has no held-out parts, so nothing says how high a good part may score; fit it again "
                         "with adlib fit, which holds some out")
    if alpha is None:
        alpha = max(ALPHA, 1 / (held + 1)) if held < parts_needed(ALPHA) else ALPHA
    elif held < parts_needed(alpha):
        raise ValueError(f"{file}: its {held} held-out parts cannot promise {percent(alpha)} false alarms: expected "
                         f"--alpha 1/{held + 1} or more, or a detector fitted on more good parts")
    return detector, alpha, one_threshold(detector.threshold(alpha))


def summary(outcomes: Counter[Outcome], detector: Any, alpha: float, threshold: float) -> None:
    """How many of each, and what the threshold promises."""
    kinds: Counter[str] = Counter()
    for outcome, count in outcomes.items():
        kinds[outcome.answer] += count
    total = kinds.total()
    tell("")
    tell(f"{total} {'picture' if total == 1 else 'pictures'}: {counted(kinds)}.")
    if parts := parts_of_answers(outcomes):
        bad = some_names([name for name, answer in parts.items() if answer == DEFECTIVE], 20)
        tell(f"{len(parts)} parts: {counted(Counter(parts.values()))}.{f' Defective: {bad}.' if bad else ''}")
    tell(f"Threshold {threshold:.4g}. {promise(detector, alpha)}.")
    if odd := odd_held_out(detector, alpha):
        tell(f"ATTENTION: {odd}.")
    if total > 9 and kinds[DEFECTIVE] > total / 2:
        tell("More than half are called defective. If these parts are good, camera, light or place have changed since "
             "the fit: take the pictures as before, or fit again on new good ones.")


def counted(kinds: Counter[str]) -> str:
    """Such as "3 defective, 57 good"."""
    shown = {DEFECTIVE: "defective", GOOD: "good", NOT_INSPECTED: "NOT INSPECTED"}
    return ", ".join(f"{kinds[kind]} {name}" for kind, name in shown.items() if kind != NOT_INSPECTED or kinds[kind])


def mark(
    detector: Any, prediction: Prediction, threshold: float, alpha: float, folder: Path, base: Path | None = None
) -> None:
    """Write the defective pictures, outlined, as JPEG: under their paths below `base`, or the folder they share."""
    limit = one_threshold(detector.pixel_threshold(alpha))
    paths = [os.path.abspath(sample.path) for sample in prediction.samples]
    below = os.path.abspath(base) if base else os.path.commonpath([os.path.dirname(p) for p in paths]) if paths else ""
    for i in np.flatnonzero(prediction.defective(threshold)).tolist():
        anomaly_map = prediction.maps[i]
        try:
            image = detector.reading.look(prediction.samples[i], anomaly_map.shape).image
        except ImageError as error:  # it is gone by now
            tell(f"Not marked: {error}")
            continue
        place = folder / f"{os.path.relpath(paths[i], below)}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        outlined(image, anomaly_map, limit)[0].save(place, quality=92, subsampling=0)


def watch(
    file: Path, images: Sequence[Path], outputs: Outputs, every: float, *, group: str | None, alpha: float | None,
    device: str,
) -> int:  # fmt: skip
    """`adlib inspect --watch`."""
    if len(images) != 1 or not images[0].is_dir():
        raise ValueError(f"--watch: {some_names(map(str, images))}: expected one folder that is there; make it first")
    folder = images[0]
    outputs.check(images)
    detector, alpha, threshold = ready(file, alpha, device)
    arrivals = Arrivals(folder, outputs.resume())
    outcomes: Counter[Outcome] = Counter()  # not the answers: a line runs for months

    def answer(path: Path, last: bool) -> None:
        part = group_names([path], group, folder)[0]
        sample = Sample(None, "unlabelled", str(path), part, image_source=path)
        prediction = detector.predict([sample])
        if prediction.failures and not last:
            return  # it stays open, and is tried again
        new = answers_of([sample], prediction, threshold)
        outputs.add(new[0])
        outputs.show(new)
        outcomes[new[0].outcome] += 1
        arrivals.answered(path)
        if outputs.marked:
            mark(detector, prediction, threshold, alpha, outputs.marked, folder)

    tell(f"Watches {folder}; Ctrl-C ends. Threshold {threshold:.4g}. {promise(detector, alpha)}.")
    if odd := odd_held_out(detector, alpha):
        tell(f"ATTENTION: {odd}.")
    with Stop() as stop:
        try:
            _watch(arrivals, answer, every, stop)
        except KeyboardInterrupt:  # while it slept, or the second one
            if stop.at_once:
                raise
        if waiting := arrivals.waiting():
            tell(f"Stops; inspects first what is waiting, {len(waiting)}. Once more, and it stops at once.")
        for path in waiting:
            answer(path, True)
    summary(outcomes, detector, alpha, threshold)
    return status_of(outcomes)


class Stop:
    """Within it, Ctrl-C (INT) and TERM end a watch between two pictures, so that each has its whole line.

    The first one is noted; it is a KeyboardInterrupt only while the watch is idle. The second one always is.
    """

    def __init__(self) -> None:
        self.noted = self.at_once = self.idle = False
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # no other may set a handler
            heard = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN]
            self.before = {number: signal.signal(number, self) for number in heard}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def __call__(self, *_: object) -> None:
        self.at_once, self.noted = self.noted, True
        if self.idle or self.at_once:
            raise KeyboardInterrupt


def _watch(arrivals: Arrivals, answer: Callable[[Path, bool], None], every: float, stop: Stop) -> None:
    """Answer what arrives, until it is to stop."""
    lost = False
    while True:
        for path, last in arrivals.look():
            answer(path, last)
            if stop.noted:
                return
        if arrivals.lost and not lost:
            tell(f"ATTENTION: {arrivals.folder} is gone or may not be read. NOTHING IS INSPECTED until it is back.")
        lost = arrivals.lost
        stop.idle = True  # before the look at what was noted: a signal comes at any time
        if stop.noted:
            return
        time.sleep(every)
        stop.idle = False
