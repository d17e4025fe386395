"""What a script or a line reads: one answer for each picture, as a line, in CSV and in JSON, and a folder watched."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from adlib.checks import printable
from adlib.folders import DatasetError, group_names, list_images
from adlib.prediction import Prediction
from adlib.samples import Names, Sample, collect

GOOD, DEFECTIVE, NOT_INSPECTED = "good", "defective", "not inspected"
QUIET, PATIENCE = 1, 10  # looks at a file without a change: then it is read; then it is given up if it cannot be read


class Outcome(NamedTuple):
    """What is counted of an answer."""

    part: str | None
    answer: str


class Answer(NamedTuple):
    """What is known of one picture. Its fields are the columns of the CSV file and the keys in JSON.

    Attributes
    ----------
    picture : str
        Its path.
    part : str or None
        The part that it shows, where pictures are grouped.
    answer : str
        "good", "defective" or "not inspected".
    score, p_value : float or None
        None where it was not inspected.
    threshold : float
        A score above it is defective.
    reason : str
        Why it was not inspected; else "".
    inspected : str
        When, UTC, ISO 8601.
    """

    picture: str
    part: str | None
    answer: str
    score: float | None
    p_value: float | None
    threshold: float
    reason: str
    inspected: str

    @property
    def outcome(self) -> Outcome:
        """What is counted of it."""
        return Outcome(self.part, self.answer)

    def line(self) -> str:
        """For a terminal; a file's name cannot steer it."""
        part = "" if self.part is None else f"  (part {self.part})"
        if self.score is None:
            why = self.reason if self.picture in self.reason else f"{self.picture}: {self.reason}"
            return printable(f"NOT INSPECTED  {why}{part}")
        answer = "DEFECTIVE" if self.answer == DEFECTIVE else "good"
        p = "" if self.p_value is None else f"  p {self.p_value:<6.3g}"
        return printable(f"{answer:<9}  score {self.score:<7.4g}{p}  {self.picture}{part}")

    def as_json(self) -> str:
        """One line of JSON."""
        return json.dumps(self._asdict())


def pictures_of(images: Sequence[Path], group: Names = None) -> tuple[list[Sample], list[Path]]:
    """The pictures of folders and files, in order, and files in the folders that are no pictures by their endings.

    A file that does not exist is a picture that cannot be read, if there are others.

    Raises
    ------
    DatasetError
        For a folder without a picture, for a single file that does not exist, for a pattern that does not fit.
    """
    samples: list[Sample] = []
    skipped: list[Path] = []
    for item in images:
        if len(images) == 1 or item.is_dir():
            more, other = collect(item, group=group)
            samples += more
            skipped += other
        else:
            name = group_names([item], group, item.parent)[0]
            samples.append(Sample(None, "unlabelled", str(item), name, image_source=item))
    return samples, skipped


def answers_of(samples: Sequence[Sample], prediction: Prediction, threshold: float) -> list[Answer]:
    """The answers in the order of the samples. One that the prediction does not know was not inspected.

    Parameters
    ----------
    samples : sequence of Sample
        What the prediction was asked for, the same objects.
    prediction : Prediction
        It may be one that was interrupted.
    threshold : float
    """
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    defective, places = prediction.defective(threshold), {id(s): i for i, s in enumerate(prediction.samples)}
    result = []
    for sample in samples:
        i = places.get(id(sample))
        if i is None:
            reason = prediction.failures.get(sample.path, "interrupted before its turn; inspect it again")
            result.append(Answer(sample.path, sample.group, NOT_INSPECTED, None, None, threshold, reason, now))
            continue
        p = None if prediction.p_values is None else float(prediction.p_values[i])
        answer = DEFECTIVE if defective[i] else GOOD
        result.append(Answer(sample.path, sample.group, answer, float(prediction.scores[i]), p, threshold, "", now))
    return result


def status_of(answers: Iterable[Answer | Outcome]) -> int:
    """The exit status: 3 where a picture was not inspected, else 1 where one is defective, else 0."""
    kinds = {answer.answer for answer in answers}
    return 3 if NOT_INSPECTED in kinds else int(DEFECTIVE in kinds)


def parts_of_answers(answers: Iterable[Answer | Outcome]) -> dict[str, str]:
    """The answer for each part: defective where one of its pictures is, else not inspected where one is not."""
    parts: dict[str, str] = {}
    worst = (GOOD, NOT_INSPECTED, DEFECTIVE)
    for answer in answers:
        if answer.part is not None:
            parts[answer.part] = max(parts.get(answer.part, GOOD), answer.answer, key=worst.index)
    return parts


def csv_text(answers: Iterable[Answer], *, header: bool = True) -> str:
    """Lines of CSV. What a spreadsheet would take for a formula has "./" or an apostrophe before it, see `harmless`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if header:
        writer.writerow(Answer._fields)
    for answer in answers:
        part = None if answer.part is None else harmless(answer.part)
        row = answer._replace(picture=harmless(answer.picture, "./"), part=part, reason=harmless(answer.reason))
        writer.writerow(row)
    return text.getvalue()


def harmless(text: str, before: str = "'") -> str:
    """The text, with `before` before it where a spreadsheet would take it for a formula."""
    text = text.replace("\r", "\\r")  # which csv does not quote, and which would begin a row
    return before + text if text.startswith(("=", "+", "-", "@", "\t")) else text


def json_lines(answers: Iterable[Answer]) -> str:
    """An object a line."""
    return "".join(f"{answer.as_json()}\n" for answer in answers)


def inspected_before(text: str) -> dict[str, float]:
    """Of the pictures that a CSV file has answers for, when they were inspected, in seconds since 1970.

    Raises
    ------
    ValueError
        Where its first line is another one: it is not ours to add to.
    """
    rows = csv.DictReader(io.StringIO(text))
    if rows.fieldnames is not None and tuple(rows.fieldnames) != Answer._fields:
        raise ValueError(f"its first line is {','.join(rows.fieldnames)[:80]!r}, expected {','.join(Answer._fields)}; "
                         "give another file")
    done = {}
    for row in rows:
        try:
            if row["answer"] in (GOOD, DEFECTIVE):
                done[row["picture"]] = datetime.fromisoformat(row["inspected"]).timestamp()
        except (TypeError, ValueError):  # a last line that a killed process did not end
            continue
    return done


class Arrivals:
    """The pictures that come to a folder, each once, when it is completely written.

    A picture is ready where its size and its time of change are those of the look before. A picture that is written
    anew under its old name is a new one, and so is one that was taken away and comes back. It remembers no more than
    what lies in the folder, and `done`.

    Parameters
    ----------
    folder : Path
    done : dict of str to float
        Pictures that were inspected before, and when: not again, unless they have changed since.
    """

    def __init__(self, folder: Path, done: Mapping[str, float] | None = None) -> None:
        self.folder, self.done = folder, dict(done or {})
        self.known: dict[Path, tuple[tuple[int, int, int], int]] = {}  # what it was, and for how many looks
        self.open: set[Path] = set()  # given out, and not answered yet
        self.lost = False  # whether the folder cannot be read now

    def look(self) -> Iterator[tuple[Path, bool]]:
        """The pictures that are ready now, each with whether this is the last try to read it."""
        found = self._pictures()
        gone = set() if self.lost else {*self.waiting()} - {*found}
        for path in sorted(gone):  # it went before it could be read, and that must be said
            self.open.add(path)
            yield path, True
        # A line runs for months: of a picture that was answered and has gone, nothing is kept. But a folder without
        # any picture may be a share that comes back, and then none of them is new.
        if found and not self.lost:
            kept = {*found, *self.waiting()}
            self.known = {path: state for path, state in self.known.items() if path in kept}
        for path in found:
            try:
                state = path.stat()
                now = state.st_size, state.st_mtime_ns, state.st_ino
                changed = max(state.st_mtime, state.st_ctime)  # an older file moved here keeps its mtime
            except OSError:  # gone again, or a link that leads nowhere: the reading says what is wrong
                now, changed = (0, 0, 0), 0.0
            before, looks = self.known.get(path, (None, 0))
            if before is None and changed <= self.done.get(harmless(str(path), "./"), -1):
                before, looks = now, PATIENCE  # as if it had been read
            looks = looks + 1 if before == now else 0
            self.known[path] = now, looks
            if looks == QUIET or looks == PATIENCE and path in self.open:
                self.open.add(path)
                yield path, looks == PATIENCE

    def answered(self, path: Path) -> None:
        """There is an answer for this picture."""
        self.open.discard(path)
        if not os.path.lexists(path):
            self.known.pop(path, None)

    def waiting(self) -> list[Path]:
        """Pictures that were seen and have no answer."""
        return sorted({*self.open, *(path for path, (_, looks) in self.known.items() if looks < QUIET)})

    def _pictures(self) -> list[Path]:
        self.lost = False
        try:
            return list_images(self.folder)[0]
        except DatasetError as error:
            self.lost = "holds no image" not in str(error)  # it is gone, or may not be read
            return []
