"""`adlib fit`, `report`, `evaluate`, `export` and `demo`."""

from __future__ import annotations

import inspect as signatures
import json as json_text
import math
import shlex
import shutil
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from adlib.cli import for_shell
from adlib.cli.answers import DEFECTIVE, GOOD, answers_of, pictures_of, status_of
from adlib.cli.inspection import ALPHA, METHODS, STDOUT, command, load, out, parts_needed, ready, summary, tell
from adlib.datasets import ImageFolder, SyntheticFactory
from adlib.datasets.folder import is_normal
from adlib.detector import readable_bytes
from adlib.evaluation import evaluate as measures_of
from adlib.files import must_take_file, write_whole
from adlib.folders import DatasetError, some_names
from adlib.images import ImageError
from adlib.parts import hold_out, parts_of
from adlib.prediction import Prediction
from adlib.report import odd_held_out, percent, promise, write_report
from adlib.samples import Sample, collect
from adlib.threshold import cross_conformal_bound

SHARE = 0.35
SLOW_FOLDS = 5  # of a method whose training takes long
NAMES = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "au_pro": "AU-PRO",
         "image_aupr": "average precision", "f1_max": "largest F1"}  # fmt: skip


def fit(
    folder: Path, to: Path, method: str, *, group: str | None, max_value: float | None, alpha: float | None,
    validation: float | None, folds: int | None, region: Path | None, image_size: Any, tiles: int | None,
    steps: int | None, epochs: int | None, seed: int, device: str,
) -> int:  # fmt: skip
    """`adlib fit`."""
    if validation is not None and folds is not None:
        raise ValueError("--validation and --folds are both given: expected one of them; leave the other out")
    must_take_file(to)
    must_be_good_alone(folder, to)
    made = _given(METHODS[method], image_size=image_size, tiles=tiles, steps=steps, epochs=epochs)
    asked = _given(METHODS[method].fit, region=None if region is None else str(region))
    detector = METHODS[method](seed=seed, device=device, **made)
    notes: list[str] = []
    with noted(notes):
        samples, _ = collect(str(folder), group=group, max_value=max_value)
        samples, broken = readable(samples)  # so that the number of parts is that of the fit
    if broken:
        tell(f"Note: {len(broken)} cannot be read and are left out, such as {next(iter(broken.values()))}.")
    if other := other_sizes(samples):
        tell(f"Note: {other}.")
    if validation is None and folds is None:
        validation, folds = choose(samples, ALPHA if alpha is None else alpha, method, seed)
    count = len(parts_of(samples))
    out(f"{len(samples)} pictures of {count} parts in {folder}.")
    held = count if folds is not None else len(parts_of(hold_out(samples, float(validation or 0), seed)[1]))
    alpha, few = least(alpha, held, count, folder, to, folds)
    if few:
        for line in ("", f"ATTENTION: {few}", ""):
            out(line)
    how = (f"{folds} times, each time without some parts, so it takes {folds} times as long" if folds else
           f"{held} of the parts held out")
    long = [f"{n} of training: {getattr(detector, n)}; " for n in ("steps", "epochs") if hasattr(detector, n)]
    out(f"Fits {type(detector).__name__} on {detector.device.type}, {''.join(long)}{how} ...")
    start = time.monotonic()
    with noted(notes):
        warnings.filterwarnings("ignore", r"\d+ of \d+ images left out")  # they are named below
        if few:
            warnings.filterwarnings("ignore", r"\d+ folds of \d+ parts promise")
        if other:
            warnings.filterwarnings("ignore", r"\d+ of \d+ training images are not of the others' shape")
        detector.fit(samples, validation=validation, folds=folds, alpha=alpha, **asked)
    detector.save(to)
    told(detector, samples, alpha, time.monotonic() - start)
    out(f"Written: {to} ({readable_bytes(to.stat().st_size)}).")
    if odd := odd_held_out(detector, alpha):  # says more than the warning of the fit
        notes = [note for note in notes if not note.startswith("the scores of ")]
    attend([few, other, odd], notes, {**broken, **detector.failures})
    usual, _ = least(None, len(detector.normal_scores), count, folder, to)
    more = [] if math.isclose(alpha, usual) else ["--alpha", f"{alpha:g}"]
    more += [] if group is None else ["--group", group]
    out("")
    out("Next, inspect new pictures, in a folder NEW:")
    out(f"  {command('inspect', to, 'NEW', *more)}")
    out(f"  {command('report', to, 'NEW', '--out', 'report.html', *more)}")
    return 0


def choose(samples: list[Sample], alpha: float, method: str, seed: int) -> tuple[float | None, int | None]:
    """Held-out share or number of folds: the share where it is enough to promise α, else folds."""
    count = len(parts_of(samples))
    if count < 2:
        raise DatasetError(f"{samples[0].path}: is the only part, expected at least two, better 55: one to learn from "
                           "and one held out. Take more good parts, or change --group where it gives different parts "
                           "one name")
    if len(parts_of(hold_out(samples, SHARE, seed)[1])) >= parts_needed(alpha):
        return SHARE, None
    return None, count if method == "patchcore" else min(count, SLOW_FOLDS)


def least(
    alpha: float | None, held: int, count: int, folder: Path, to: Path, folds: int | None = None
) -> tuple[float, str]:
    """The α asked for, or 0.05, or the least that so many held-out parts can promise, and then what to say of it."""
    can = 1 / (held + 1)
    if alpha is None and held >= parts_needed(ALPHA):
        return ALPHA, ""
    if alpha is None:
        more = (f"without --validation and --folds it would be 1/{count + 1} = {percent(1 / (count + 1))}; "
                if held < count else "")
        fewer = (f" with --folds {count}; with {folds} folds it is {percent(cross_conformal_bound(can, held, folds))}"
                 if folds is not None and 2 <= folds < count else "")
        return can, (f"{held} held-out parts cannot promise {percent(ALPHA)} false alarms. They can promise 1 in "
                     f"{held + 1}, {percent(can)}{fewer}, and adlib goes on with that. For {percent(ALPHA)}: {more}"
                     f"{parts_needed(ALPHA)} good parts or more, better {math.ceil(parts_needed(ALPHA) / SHARE)}.")
    if held < parts_needed(alpha):
        retry = command("fit", folder, "--out", to, "--alpha", f"1/{count + 1}")
        raise ValueError(f"{held} held-out parts cannot promise {percent(alpha)} false alarms: expected "
                         f"{parts_needed(alpha)}. Take more good parts, or type: {retry}")
    return alpha, ""


def must_be_good_alone(folder: Path, to: Path) -> None:
    """Refuse a folder that has a folder of good parts beside others: what it learnt would be no good parts."""
    if not folder.is_dir():
        return
    names = sorted(f.name for f in folder.iterdir() if f.is_dir() and not f.name.startswith("."))
    good = [name for name in names if is_normal(name) or name == "train"]
    if good and len(good) < len(names):
        raise DatasetError(f"{folder}: has the folders {some_names(names)}, expected pictures of good parts alone. If "
                           f"they are in {good[0]}, type: {command('fit', folder / good[0], '--out', to)}")


def readable(samples: list[Sample]) -> tuple[list[Sample], dict[str, str]]:
    """Those that can be read, and the reasons for the others."""
    good, broken = [], {}
    for sample in samples:
        try:
            sample.image  # noqa: B018
            good.append(sample)
        except ImageError as error:
            broken[sample.path] = str(error)
    if not good:
        raise DatasetError(f"none of the {len(samples)} pictures can be read: {list(broken.values())[:3]}; look at "
                           "them with another program")
    return good, broken


@contextmanager
def noted(notes: list[str]) -> Generator[None]:
    """Warnings are shown at once, and kept to be said again at the end."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def keep(message: Warning | str, *others: Any, **more: Any) -> None:
            show(message, *others, **more)
            notes.append(str(message))

        warnings.showwarning = keep
        yield


def usual_size(samples: Sequence[Sample]) -> tuple[int, int]:
    """The size (height, width) of most pictures."""
    return Counter(sample.size for sample in samples).most_common(1)[0][0]


def other_sizes(samples: Sequence[Sample]) -> str | None:
    """What to do with the pictures of another size, where they are few; where sizes differ anyhow, nothing."""
    usual = usual_size(samples)
    other = [sample for sample in samples if sample.size != usual]
    if not 0 < len(other) <= len(samples) / 4:
        return None
    named = some_names([f"{s.path} is {s.size[0]} x {s.size[1]}" for s in other], 3)
    return (f"{named}; the others are {usual[0]} x {usual[1]} (height x width). All are resized to one size, so "
            f"{'this part looks' if len(other) == 1 else 'these parts look'} other to the detector. If new pictures "
            "do not come so, photograph them as the others, or take them out, and fit again")


def told(detector: Any, samples: Sequence[Sample], alpha: float, seconds: float) -> None:
    """Say what a fit has done."""
    out(f"Done in {seconds:.0f} s.")
    height, width = usual_size(samples)
    (h, w), scale = detector.image_size, max(height / detector.image_size[0], width / detector.image_size[1])
    fine = f": one of its pixels is {scale:.2g} of yours. If defects are that small, take a larger --image-size"
    out(f"Pictures of {height} x {width} are looked at as {h} x {w} (height x width){fine if scale > 1.5 else ''}.")
    threshold = detector.threshold(alpha)
    out("")
    out(f"Threshold {threshold:.4g}. {promise(detector, alpha)}. How many defective parts are missed, good parts alone "
        "cannot tell: adlib evaluate measures it.")
    out("Look at the held-out pictures with the highest scores. If one shows a defect, take it out and fit again:")
    held = detector.held_out
    order = np.argsort(-held.scores, kind="stable")[:5].tolist()
    _some([f"{held.scores[i]:<7.4g} {held.samples[i].path}" for i in order], 5)


def attend(todo: Sequence[str | None], notes: Sequence[str], failures: dict[str, str]) -> None:
    """Say at the end, where it is read, what somebody has to do."""
    lines = [*(f"ATTENTION: {text}" for text in todo if text), *(f"Note: {for_shell(note)}" for note in notes)]
    for line in lines:
        out("")
        out(line if line.endswith(".") else f"{line}.")
    if failures:
        out("")
        out(f"LEFT OUT: {len(failures)}. Mend or delete these, and fit again if you need them:")
        _some(list(failures.values()), 20)


def _some(lines: list[str], limit: int) -> None:
    for line in lines[:limit]:
        out(f"  {line}")
    if len(lines) > limit:
        out(f"  and {len(lines) - limit} more")


def _given(function: Any, **options: Any) -> dict[str, Any]:
    """The options that are given, if the function knows them."""
    given = {name: value for name, value in options.items() if value is not None}
    if unknown := given.keys() - signatures.signature(function).parameters.keys():
        name = min(unknown)
        others = [m for m, made in METHODS.items() if name in signatures.signature(made).parameters]
        raise ValueError(f"--{name.replace('_', '-')}: {function.__name__} has none; leave it out, or take --method "
                         f"{' or '.join(others)}")
    return given



# ---------------------------------------------------------------------- report and evaluate


def report(
    file: Path, images: Sequence[Path], to: Path, *, most: int, title: str, group: str | None, alpha: float | None,
    device: str,
) -> int:  # fmt: skip
    """`adlib report`."""
    must_take_file(to)
    detector, alpha, threshold = ready(file, alpha, device)
    samples, skipped = pictures_of(images, group)
    prediction = replace(detector.predict(samples), skipped=skipped)
    write_report(to, detector, prediction, alpha=alpha, title=title, most=most)
    answers = answers_of(samples, prediction, threshold)
    summary(Counter(a.outcome for a in answers), detector, alpha, threshold)
    out(f"Written: {to} ({readable_bytes(to.stat().st_size)}). Open it in a browser: {to.resolve().as_uri()}")
    return 3 * (status_of(answers) == 3)


def evaluate(
    file: Path, folder: Path, masks: Path | None, json: Path | None, *, group: str | None, alpha: float | None,
    device: str,
) -> int:  # fmt: skip
    """`adlib evaluate`."""
    if json is not None and json != STDOUT:
        must_take_file(json)
    test, masks = labelled(folder, masks)
    samples = ImageFolder(test, test, masks, group=group).test
    if all(sample.label is None for sample in samples):
        raise DatasetError(f"{test}: holds pictures and no folders, so nothing says which are good: expected a folder "
                           "good and one for each kind of defect; sort the pictures into these")
    detector, alpha, threshold = ready(file, alpha, device)
    prediction = detector.predict(samples)
    measures = measures_of(prediction)
    answers = answers_of(samples, prediction, threshold)
    found = list(by_kind(prediction, threshold))
    content = {"measures": measures, "kinds": found, "not_inspected": prediction.failures}
    if json == STDOUT:
        out(json_text.dumps(content), raw=True)
    else:
        _table(measures, found, threshold)
    if json is not None and json != STDOUT:
        text = json_text.dumps(content, indent=2).encode()
        write_whole(json, [text], len(text))
    summary(Counter(a.outcome for a in answers), detector, alpha, threshold)
    for reason in prediction.failures.values():
        tell(f"NOT INSPECTED  {reason}")
    return 3 * (status_of(answers) == 3)


def _table(measures: dict[str, Any], found: list[dict[str, Any]], threshold: float) -> None:
    """Print the measures, and how many of each kind are called defective."""
    out("measure            value   95 % interval")
    for name, measure in measures.items():
        ends = f"{measure['low']:.3f} to {measure['high']:.3f}" if "low" in measure else ""
        out(f"{NAMES[name]:<17}  {measure['value']:.3f}   {ends}".rstrip())
    if "pixel_auroc" not in measures:
        out("The places are not measured: not every defective picture has a mask. Give them with --masks.")
    out("")
    out(f"called defective, with the threshold {threshold:.4g}")
    for row in found:
        out(f"{row['called_defective']:>6} of {row['pictures']:<5} {row['kind']}")


def labelled(folder: Path, masks: Path | None) -> tuple[Path, Path | None]:
    """The folder of the labelled pictures, and that of the masks, if there is one."""
    test = folder / "test" if (folder / "test").is_dir() else folder
    if masks is None:
        masks = next((f for name in ("ground_truth", "masks") if (f := test.parent / name).is_dir()), None)
    return test, masks


def by_kind(prediction: Prediction, threshold: float) -> Iterator[dict[str, Any]]:
    """Of each kind, how many are called defective; good parts first."""
    defective = prediction.defective(threshold)
    kinds = np.array([sample.kind for sample in prediction.samples])
    for kind in sorted(set(kinds.tolist()), key=lambda kind: (not is_normal(kind), kind)):
        own = defective[kinds == kind]
        yield {"kind": kind, "pictures": len(own), "called_defective": int(own.sum())}


# ---------------------------------------------------------------------- export and demo


def export(file: Path, to: Path, check: Path, tolerance: float) -> int:
    """`adlib export`."""
    must_take_file(to)
    try:
        from adlib.export import export_onnx  # pyrefly: ignore
    except ImportError as error:
        raise ValueError(f"{error}. Export needs more packages: type pip install 'adlib[export]', in a copy of the "
                         "repository pip install '.[export]'") from None
    detector = load(file, "cpu")
    about = export_onnx(detector, to, check=str(check), tolerance=tolerance)
    out(f"Written: {to} ({readable_bytes(to.stat().st_size)}), with the scores of {file} for "
        f"{about['checked']['images']} pictures of {check}, within {tolerance:g}.")
    if held := about["held_out"]:
        line = shlex.join(["python", "recipes/inspect_onnx.py", str(to), "NEW", f"{max(ALPHA, 1 / (held + 1)):.3g}"])
        out(f"It runs with onnxruntime alone, by a file of the repository: {line}")
    return 0


def demo(folder: Path, product: str, good: int, new: int, seed: int) -> int:
    """`adlib demo`."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DatasetError(f"{folder}: is there already and is not empty; give a new name")
    if not folder.parent.is_dir():
        raise DatasetError(f"{folder.parent}: no such folder; make it first")
    bad = max(1, new // 5)
    factory = SyntheticFactory(product, n_train=good, n_validation=new - bad, n_test=20, n_defect=20 + bad, seed=seed)
    defective = [sample for sample in factory.test if sample.label]
    order = np.random.default_rng(seed).permutation(len(defective))
    fresh, known = ([defective[i] for i in part] for part in (order[:bad], sorted(order[bad:])))
    mixed = [*factory.validation, *fresh]
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _write(part / "good", factory.train)
        shuffled = [mixed[i] for i in np.random.default_rng(seed).permutation(len(mixed))]
        _write(part / "new", shuffled)
        rows = [f"new/{i:03d}.png,{DEFECTIVE if s.label else GOOD},{s.kind}\n" for i, s in enumerate(shuffled)]
        (part / "labels.csv").write_text("picture,answer,kind\n" + "".join(rows))
        for kind in ("good", *factory.kinds):
            own = [s for s in factory.test if s.kind == kind and (kind == "good" or any(s is k for k in known))]
            _write(part / "test" / kind, own)
            if kind != "good":
                _write(part / "ground_truth" / kind, own, masks=True)
        part.chmod(0o755)
        if folder.exists():
            folder.rmdir()
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    out(f"Written to {folder}: good ({good} good parts), new ({new} parts, {bad} of them defective), test (labelled).")
    out(f"{folder / 'labels.csv'} says which of the new parts are defective, and what they have: compare the answers "
        "with it.")
    out("")
    out("Type next:")
    file = "parts.safetensors"
    for words in (("fit", folder / "good", "--out", file), ("inspect", file, folder / "new"),
                  ("report", file, folder / "new", "--out", "report.html"), ("evaluate", file, folder / "test")):
        out(f"  {command(*words)}")
    return 0


def _write(folder: Path, samples: Sequence[Sample], *, masks: bool = False) -> None:
    if samples:
        folder.mkdir(parents=True)
    for number, sample in enumerate(samples):
        image = sample.mask if masks else sample.image
        if image is not None:
            pixels = (image * 255).round().to(torch.uint8) if not masks else image.to(torch.uint8) * 255
            Image.fromarray((pixels if masks else pixels.permute(1, 2, 0)).numpy()).save(
                folder / f"{number:03d}{'_mask' if masks else ''}.png")
