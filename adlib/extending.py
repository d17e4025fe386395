"""More good pictures for a detector that is fitted: what it learns from them, and what its thresholds then rest on."""

from __future__ import annotations

import numbers
from typing import Any

import torch

from adlib.fitting import keep_normals, state_of, warn_of_failures
from adlib.forking import refuse_after_fork
from adlib.parts import hold_out_each, must_be_apart, must_know_products, must_name_products, one_can_be_read
from adlib.samples import Names, Sample, collect


def extend(
    detector: Any, images: object, *, validation: object, old: object, group: Names, product: Names, color: str | None
) -> None:
    """What `Detector.extend` does."""
    refuse_after_fork()
    detector._must_be_fitted()
    if detector.folds:
        raise ValueError("a detector of folds cannot be extended: each fold was fitted without some of the parts, and "
                         "the file does not hold which pictures show them. Fit again with all good pictures, or, as "
                         "there are more now, with validation=0.35 in place of folds")
    new, _ = collect(images, group=group, product=product, color=color)
    new, held_out = _sides(detector, new, validation, {"group": group, "product": product, "color": color})
    if detector.NEEDS_OLD and old is None:
        raise ValueError(f"{type(detector).__name__} forgets what it is not shown, and its file holds no pictures: "
                         "expected old=, the good pictures that it was fitted with; or fit again with all of them")
    if not detector.NEEDS_OLD and old is not None:
        raise ValueError(f"{type(detector).__name__} holds what it has learnt in its memory bank: expected the new "
                         "pictures alone; leave old= out")
    known = [] if old is None else collect(old, group=group, product=product, color=color)[0]
    for sample in [*known, *new, *held_out]:
        if sample.label not in (0, None):
            raise ValueError(f"{sample.path}: is labelled anomalous ({sample.kind}); extend takes normal images only")
    must_be_apart([*known, *new], held_out)
    if held_out:
        must_name_products(held_out)
        one_can_be_read(held_out, lambda s: detector.reading.look(s, detector.image_size, detector.resize))
    else:
        must_know_products(new, detector.normal_parts)
    detector.failures = {}
    before = state_of(detector)
    try:
        detector.to(detector.device)
        with torch.no_grad():
            detector._plan(len(known) + len(new))
            detector._extend([*known, *new])
            if len(detector.failures) >= len(known) + len(new):
                raise ValueError(f"none of the {len(new)} new images could be used: "
                                 f"{list(detector.failures.values())[:3]}")
            if held_out:
                detector._calibrate(batch for batch, _, _ in detector._read(held_out, {}, "held-out images"))
        keep_normals(detector, detector.predict(held_out) if held_out else None)
    except BaseException:  # all of what was learnt before, with the thresholds that belong to it
        detector.__dict__.update(before)
        raise
    warn_of_failures(detector, len(known) + len(new) + len(held_out))


def _sides(
    detector: Any, new: list[Sample], validation: object, options: dict[str, Any]
) -> tuple[list[Sample], list[Sample]]:
    """The pictures to learn from, and those that are held out from now on.

    The scores that the detector has belong to what it had learnt; the new ones must be taken of pictures.
    """
    at_hand = [] if detector.held_out is None else list(detector.held_out.samples)
    if validation is False:
        if detector.CALIBRATES:
            raise ValueError(f"validation = False: {type(detector).__name__} cannot do without held-out pictures")
        return new, []
    is_share = isinstance(validation, numbers.Real)
    if validation is not None and not is_share:
        return new, collect(validation, **options)[0]
    if len(detector.normal_scores) and not at_hand:
        raise ValueError(
            f"what is learnt changes the scores of the {len(detector.normal_scores)} held-out parts, and a file holds "
            "these scores, not the pictures: expected validation=, the pictures that are held out from now on (the old "
            "ones, or others of which none was learnt from); or validation=False to go on without thresholds")
    if detector.CALIBRATES and not at_hand and not is_share:
        raise ValueError(f"{type(detector).__name__} needs held-out pictures: expected validation=")
    extra: list[Sample] = []
    if is_share:
        new, extra = hold_out_each(new, float(validation), detector.seed)  # pyrefly: ignore
    return new, [*at_hand, *extra]
