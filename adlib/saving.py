"""A fitted detector as a file, and back. What a file says is believed only as far as it is checked."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import adlib
from adlib.backbones import fingerprint
from adlib.checks import whole
from adlib.files import read_tensors, write_tensors
from adlib.reading import Reading, whole_steps

# Constructor arguments that a file does not hold: they belong to one machine, one run, or to the user.
NOT_SAVED = ("device", "pretrained", "checkpoint", "features_folder", "penalty_images")
# 1 had "levels" where there are "layers" now, 2 no checksum, versions or reading contract, 3 no tiles and no radius
# of a memory bank.
FORMAT = 4
# What a file says about the detector, and of which type.
ABOUT = {"format": int, "method": str, "adlib": str, "torch": str, "frozen": (str, type(None)),
         "fingerprint": (str, type(None)), "config": dict, "reading": dict, "takes_aspect": bool, "folds": int,
         "normal_parts": list}


def save_detector(detector: Any, path: Path) -> None:
    """Write a fitted detector; see `Detector.save`."""
    about = {
        "format": FORMAT, "method": type(detector).__name__, "frozen": detector.frozen_name,
        "fingerprint": _fingerprint(detector), "config": detector.config(), "reading": detector.reading.as_json(),
        "takes_aspect": detector.takes_aspect,
        "folds": len(detector.folds), "normal_parts": detector.normal_parts,
        "adlib": adlib.__version__, "torch": str(torch.__version__),
    }  # fmt: skip
    write_tensors(path, _kept(detector), about)


def load_detector(cls: Any, path: Path, device: torch.device, own: dict[str, nn.Module]) -> Any:
    """Read a detector of the class `cls`; see `Detector.load`."""
    about, tensors = read_tensors(path)
    cls = _class_named(about, path, cls) if inspect.isabstract(cls) else cls
    frozen = next(iter(inspect.signature(cls).parameters))
    if own.keys() - {frozen}:
        raise TypeError(f"load() got {', '.join(own)}: expected {frozen}= alone, and only for a module of your own")
    _check_about(cls, about, path)
    if about["frozen"] is None and not own:
        raise ValueError(f"{path}: was fitted with a module of your own: pass it as {frozen}=")
    if about["frozen"] is not None and own:
        raise ValueError(f"{path}: holds its own {frozen} {about['frozen']}: pass none")
    try:
        detector = cls(own.get(frozen, about["frozen"]), pretrained=False, device="cpu", **about["config"])
        detector.reading = Reading.from_json(about["reading"])
        detector.takes_aspect = about["takes_aspect"]
        _check_own_size(detector)
        detector.normal_parts = [_part(entry) for entry in about["normal_parts"]]
        last = f"folds.{whole('folds', about['folds'], 0) - 1}."
        if about["folds"] and not any(name.startswith(last) for name in tensors):  # before so many are made
            raise ValueError(f"folds = {about['folds']}: expected as many as the file holds")
        detector.folds.extend(blank(detector, k) for k in range(about["folds"]))
    except Exception as error:  # whatever a file of another origin provokes
        raise ValueError(f"{path}: its settings make no {cls.__name__} ({error}); save it again") from error
    if _fingerprint(detector) != about["fingerprint"]:
        raise ValueError(f"{path}: the {frozen} given has other weights than the one it was fitted with")
    _restore(detector, tensors, path)
    try:
        for one in (*detector.folds, detector):
            one.must_give_scores()
    except Exception as error:  # such as a memory bank of other features
        raise ValueError(f"{path}: its values make no {cls.__name__} ({error}); fit and save it again") from error
    for one in (*detector.folds, detector):
        one.device = device
    return detector.to(device)


def must_give_scores(detector: Any) -> None:
    """See `Detector.must_give_scores`."""
    detector._must_be_fitted()
    if bool((detector.normal_scores.diff() < 0).any()) or not (
        len(detector.normal_scores) == len(detector.normal_peaks) == len(detector.normal_parts)
    ):
        raise ValueError("the held-out scores are not in rising order, or not one for each part")
    few = [side if detector.tiles is None else min(side, detector.step * -(-64 // detector.step))
           for side in detector.image_size]
    reading, detector.reading = detector.reading, Reading()  # no region: this is no picture
    try:
        with torch.no_grad():
            scores, grid = detector.patch_scores(torch.zeros(1, 3, *few))
    finally:
        detector.reading = reading
    if not bool(torch.isfinite(scores).all()) or not bool(torch.isfinite(grid).all()):
        raise ValueError("the scores of a black image are not finite")


def _class_named(about: dict[str, Any], path: Path, base: Any) -> Any:
    """The class of the detector in a file, among all that are defined in this process."""

    def below(cls: Any) -> Iterator[Any]:
        for one in cls.__subclasses__():
            yield one
            yield from below(one)

    for name in adlib.__all__:  # so that those of adlib are imported
        getattr(adlib, name)
    found_classes = [cls for cls in below(base) if not inspect.isabstract(cls)]
    # Of two with one name that of adlib counts, and of a reader's own the newest.
    known = {cls.__name__: cls for cls in sorted(found_classes, key=lambda cls: cls.__module__.startswith("adlib."))}
    if (found := known.get(str(about.get("method")))) is None:
        raise ValueError(f"{path}: expected a detector saved by adlib, of {', '.join(sorted(known))}, found "
                         f"{about.get('method', 'nothing of adlib')!r:.100}; for a method of your own, import the "
                         "module that defines it first")
    return found


def blank(detector: Any, fold: int) -> Any:
    """A detector of the same settings that shares the frozen network and has learnt nothing."""
    kept: dict[str, Any] = {n: getattr(detector, n) for n in NOT_SAVED if n not in ("device", "pretrained")
                            and hasattr(detector, n)}  # fmt: skip
    if kept.get("checkpoint") is not None:
        path = Path(kept["checkpoint"])
        kept["checkpoint"] = path.with_name(f"{path.stem}.fold{fold}{path.suffix}")
    other = type(detector)(detector.frozen, device=str(detector.device), **detector.config(), **kept)
    other.set_submodule(place_of(detector), detector.frozen)
    other.reading = detector.reading
    return other.to(detector.device)


def place_of(detector: Any) -> str:
    """The name of the frozen network among a detector's modules."""
    frozen = detector.frozen
    return next(name for name, module in detector.named_modules(remove_duplicate=False)
                if module is frozen and not name.startswith("folds."))


def _kept(detector: Any) -> dict[str, Tensor]:
    """What a file holds of `state_dict`: no counters, no module of the user's own, the frozen network only once."""
    place = place_of(detector) + "."

    def left_out(name: str) -> bool:
        fold, _, rest = name.removeprefix("folds.").partition(".") if name.startswith("folds.") else ("", "", name)
        again = bool(fold) or detector.frozen_name is None
        return name.endswith("num_batches_tracked") or (again and rest.startswith(place))

    return {name: value for name, value in detector.state_dict().items() if not left_out(name)}


def _check_about(cls: Any, about: dict[str, Any], path: Path) -> None:
    """Raise ValueError where a file says that it is something else, or lacks something, or has too much."""
    if about.get("method") != cls.__name__ or about.get("format") != FORMAT:
        found = f"{about.get('method', 'nothing of adlib')} (format {about.get('format')}, adlib {about.get('adlib')})"
        raise ValueError(
            f"{path}: expected a {cls.__name__} saved by adlib (format {FORMAT}, adlib {adlib.__version__}), found "
            f"{found}. Fit and save the detector again, or load it with what wrote it")
    for key, kind in ABOUT.items():
        if not isinstance(about.get(key, ...), kind):
            raise ValueError(f"{path}: its entry {key!r} is missing or of another type; save the detector again")
    if wrong := about["config"].keys() ^ set(cls.saved_names()):
        raise ValueError(f"{path}: its settings lack, or have too much, {', '.join(sorted(wrong))[:200]}; it is of "
                         f"adlib {about['adlib']}, this is {adlib.__version__}; save the detector again")


def _check_own_size(detector: Any) -> None:
    """Pictures that are not resized are continued up to image_size, so the two sizes belong together."""
    own = detector.reading.own_size
    if own is not None and detector.tiles is None:
        raise ValueError(f"reading: own_size = {own} and no tiles: expected both, or neither")
    if own is not None and detector.image_size != whole_steps(own, detector.step):
        raise ValueError(f"reading: own_size = {own} with tiles = {detector.tiles}: expected image_size = "
                         f"{whole_steps(own, detector.step)}, found {detector.image_size}")


def _part(entry: Any) -> tuple[str, str | None]:
    name, product = entry
    if not isinstance(name, str) or not isinstance(product, (str, type(None))):
        raise ValueError(f"normal_parts: {entry!r:.100}: expected a name, and a product or none")
    return name, product


def _fingerprint(detector: Any) -> str | None:
    return None if detector.frozen_name else fingerprint(detector.frozen)


def _restore(detector: Any, tensors: dict[str, Tensor], path: Path) -> None:
    """Take over a file's tensors, if they are those that `save_detector` writes."""
    kept = _kept(detector)
    if wrong := sorted(kept.keys() ^ tensors.keys()):
        raise ValueError(f"{path}: lacks, or has too much, {wrong[0][:200]} and {len(wrong) - 1} more; save the "
                         "detector again")
    for name, value in tensors.items():
        new = kept[name]
        alike = value.shape == new.shape or (value.ndim == new.ndim and not new.numel())  # fit gives it its size
        if not alike or value.dtype != new.dtype:
            raise ValueError(f"{path}: {name} is {value.dtype} {tuple(value.shape)}, but a detector of its "
                             f"settings has {new.dtype} {tuple(new.shape)}; save it again")
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"{path}: {name} has values that are not finite; fit and save the detector again")
        if not new.numel():
            detector.get_submodule(name.rpartition(".")[0]).register_buffer(name.rpartition(".")[2], value)
    detector.load_state_dict(tensors, strict=False)
