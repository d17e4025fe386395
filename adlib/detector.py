"""What every detector shares: fitting, predicting, thresholds, saving and loading.

What a method brings is in `adlib.method`.

Several detectors may work in one process, and several threads may call `predict` of one at the same time: each gets
what it would get alone, bit by bit. While one thread fits or moves a detector, no other may use it.

Several processes: start them with ``multiprocessing.get_context("spawn")``, and let each load the detector from its
file. A forked child has none of the threads that its parent computes with, and would wait for them for ever; `fit` and
`predict` refuse it where they can see it.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Self

import numpy as np
from torch import Tensor, nn

from adlib import extending, fitting, predicting
from adlib.frame import Answer, answer_of
from adlib.method import Method
from adlib.parts import thresholds
from adlib.placing import pick_device
from adlib.prediction import Prediction
from adlib.samples import Names
from adlib.saving import load_detector, save_detector


class Detector(Method):
    """The common part of the detectors. A method adds `frozen`, `LEARNT`, `_fit`, `look`, `score` and its buffers.

    A method keeps each argument of its constructor under the argument's own name; `config` reads them there.

    Parameters
    ----------
    frozen : str or Module
        What the constructor was given as backbone or teacher. A name is saved with the weights; of a module of your
        own, only its fingerprint.
    image_size : int, (h, w) or None
        Images are resized to this, whole, without a crop; one number means a square. None: `fit` takes the median
        aspect of the training images at the area of `SIDE` × `SIDE`, in multiples of 16, so that parts keep their
        shape.
    resize : int, optional
        None: nothing is cut. A number: the shorter side becomes so many pixels, and the middle of `image_size` is cut
        and looked at, as the papers do. Such a detector is blind at the border: a defect there changes no score, and
        the maps have the image's smallest patch score there.
    tiles : int, optional
        None: images are resized to `image_size`. A number such as 512, a multiple of 16: for large images with small
        defects. Images stay as large as they are, all of one size (or become `image_size`, where it is given), and the
        network sees them square by square of so many pixels, each with what its cells see around it. Scores and maps
        are those of the whole picture, but for rounding. PatchCore and SimpleNet have it; EfficientAD has not, as its
        autoencoder looks at the whole picture, and of a tile it would say something else. Memory: the network needs
        that of one square, but a picture's values (12 bytes a pixel) and patch features (18, with the shipped backbone)
        are held whole; of 3,000 × 4,000 pixels `predict` needed 0.4 GB, a map 0.2 GB, and a fit of PatchCore 0.75 GB
        with the bank of one picture, and 0.22 GB for each one more.
    smoothing : float
        σ of the Gaussian on the maps, in pixels of `image_size`.
    batch_size : int
        Images computed at a time.
    device : str
        "auto", or a name that torch knows. `to`, `cuda` and `cpu` change it for good; the type stays float32.
    seed : int
        Everything that is random comes from it.

    Attributes
    ----------
    reading : Reading
        How images are read: fixed by `fit`, kept in the file, used by `predict`. See `adlib.reading.Reading`.
    normal_scores, normal_peaks : Tensor (n,)
        Of the n held-out parts, the image scores in rising order, and in the same order the map maxima; of a part with
        several pictures the largest. The thresholds and p-values come from them.
    normal_parts : list of (str, str or None)
        Name and product of each of these parts, in the same order.
    held_out : Prediction or None
        The held-out pictures and their scores, to look at. Not saved.
    interrupted : Prediction or None
        After an interrupt in `predict`: what was predicted until then.
    failures : dict of name to reason
        The images that the last `fit` left out.
    """

    def fit(
        self,
        train: object,
        *,
        validation: object | None = None,
        folds: int | None = None,
        alpha: float | None = None,
        group: Names = None,
        product: Names = None,
        max_value: float | None = None,
        color: str | None = None,
        region: object | None = None,
    ) -> Self:
        """Learn what normal looks like, and how images are to be read.

        An image that cannot be read is left out, with a warning, and named in `failures`.

        Parameters
        ----------
        train : images
            Normal images only, as samples, a folder, paths, PIL images, arrays or tensors. Arrays are RGB.
        validation : float or images, optional
            A share such as 0.35: about so many of the images are held out, whole parts, drawn by `seed`; thresholds and
            p-values come from their scores. Or normal images that are not in `train`.
        folds : int, optional
            Instead of `validation`, where there are few parts: K detectors are fitted, each without one K-th of the
            parts, and the least of their K scores counts. All parts are learnt from and give a held-out score;
            `predict` costs up to K times as much. Equations (2.19) and (2.20); as many folds as parts promise `alpha`
            itself, and `fit` warns where fewer promise less.
        alpha : float, optional
            The rate of false alarms that you will ask for. Where the held-out parts cannot promise it, `fit` refuses
            before it starts. Default: 0.05 for a share or folds; for images given as `validation`, no such check.
        group, product
            Which part a picture shows, where several show the same one, and of which kind it is, where there are
            several: a pattern, a function of the path or a list of names, see `adlib.datasets.as_samples`.
        max_value, color
            See `adlib.images.read_image`; kept for `predict`.
        region : mask or polygon, optional
            The part of the picture to inspect, in the frame of the training images: a mask picture of their shape
            (above 0 is inspected), a polygon ``[(x, y), …]`` in their pixels, or a list of polygons, see
            `adlib.region.read_region`. What lies outside is made grey before anything looks at it. Nothing of it is
            learnt, scored or drawn. `region_margin` says how far outside cells still count, as they see into it.

        Raises
        ------
        ValueError
            For an image with label 1; for pictures of one part on both sides; where the held-out parts are too few; for
            images that contradict each other or seem to need max_value; where no image can be read.
        """
        fitting.fit(self, train, validation=validation, folds=folds, alpha=alpha, group=group, product=product,
                    max_value=max_value, color=color, region=region)
        return self

    def extend(
        self,
        images: object,
        *,
        validation: object | None = None,
        old: object | None = None,
        group: Names = None,
        product: Names = None,
        color: str | None = None,
    ) -> Self:
        """Learn from more good pictures, and renew the held-out scores that thresholds and p-values come from.

        PatchCore keeps its memory bank and adds the patches that it lacks; its `bank_radius` then holds for old and new
        pictures, equation (2.24). The other detectors go on training, and need the old pictures beside the new ones.
        New pictures are read as `predict` reads: one that contradicts the contract is left out, with a warning. An
        error or an interrupt leaves the detector as it was.

        A detector that has learnt more gives other scores to the held-out parts, too. Thresholds and p-values keep
        their promise because these parts are scored again, by the detector as it is now. So their pictures are needed:
        after `fit` they are at hand, as `held_out`; a file does not hold them.

        Parameters
        ----------
        images : images
            Normal images only, as for `fit`.
        validation : images, float or False, optional
            None: the held-out pictures stay those of the fit. A share such as 0.35 of the new pictures, whole parts, is
            held out beside them. Images: the held-out pictures from now on, of parts that were never learnt from.
            False: none, so no thresholds. Take held-out pictures as the line will show them; a picture chosen for its
            score belongs into `images`, never among them.
        old : images, optional
            The good pictures of the fit: needed by SimpleNet and EfficientAD alone.
        group, product, color
            See `predict`.

        Raises
        ------
        RuntimeError
            Before `fit`.
        ValueError
            Where held-out pictures or old ones are needed and not given; for an image with label 1; for pictures of one
            part on both sides; for a detector of folds; where no new image can be used.
        """
        extending.extend(self, images, validation=validation, old=old, group=group, product=product, color=color)
        return self

    def predict(
        self, images: object, *, group: Names = None, product: Names = None, color: str | None = None
    ) -> Prediction:
        """Scores and maps of images, read as `fit` has read its own.

        Every image gets a score or stands in the prediction's `failures`: one that cannot be read, or that contradicts
        the reading contract, does not stop the others. Where a single image is given, its error is raised. An interrupt
        keeps what was predicted until then in `interrupted`.

        Parameters
        ----------
        images : images
            Samples, a folder, paths, PIL images, arrays or tensors. Arrays have the colour order that `fit` was told;
            RGB where it was told none.
        group, product
            See `fit`.
        color : str, optional
            "rgb" or "bgr", the colour order of these arrays.

        Returns
        -------
        Prediction

        Raises
        ------
        RuntimeError
            Before `fit`, and in a process that was forked where it would hang.
        ImageError
            Where the only image cannot be used.
        FloatingPointError
            Names the image whose score is not finite: the weights are damaged.
        ValueError
            Where the detector has several products and an image names none of them.
        """
        return predicting.predict(self, images, group, product, color)

    def predict_frame(self, frame: np.ndarray | Tensor, *, color: str | None = None,
                      product: str | None = None) -> Answer:  # fmt: skip
        """Score, p-value and map of one frame of a camera, as `predict` gives them.

        Parameters
        ----------
        frame : ndarray (H, W, 3) or (H, W), or Tensor (3, H, W) or (H, W)
            As the camera took it: uint8, or uint16 where `fit` saw such images.
        color : str, optional
            "bgr" for a frame of OpenCV, or "rgb". Default: as `fit` was told, and a frame whose red and blue seem to
            be swapped is refused.
        product : str, optional
            Which product it shows, where `fit` was told several.

        Returns
        -------
        Answer
            See `adlib.frame.Answer`.

        Raises
        ------
        ImageError
            Where the frame contradicts the reading contract; says what it is and what was expected.
        TypeError
            Where it is no array and no tensor.
        RuntimeError, FloatingPointError, ValueError
            As `predict`.
        """
        return answer_of(self, frame, color, product)

    def threshold(self, alpha: float) -> float | dict[str, float]:
        """The image score above which at most a share α of good parts lies, on average. Equation (2.17).

        Parameters
        ----------
        alpha : float
            α in (0, 1).

        Returns
        -------
        float, or dict of str to float
            Where `fit` was told products, one for each.

        Raises
        ------
        ValueError
            Where the held-out parts are too few, or none.
        """
        return thresholds(self.normal_scores, self.normal_parts, alpha)

    def pixel_threshold(self, alpha: float) -> float | dict[str, float]:
        """As `threshold`, for the maps: with a share of at most α, a good part has any pixel above it."""
        return thresholds(self.normal_peaks, self.normal_parts, alpha)

    def save(self, path: str | Path) -> None:
        """Write the fitted detector as one safetensors file, whole or not at all.

        It holds every statistic, the reading contract, the frozen network's weights (of a module of your own, its
        fingerprint), the versions of adlib and torch, and a checksum over all of it.

        Raises
        ------
        RuntimeError
            Before `fit`.
        FileNotFoundError
            Where the folder is missing.
        OSError
            Where the disk is full; an old file stays as it was.
        """
        self._must_be_fitted()
        save_detector(self, Path(path))

    @classmethod
    def load(cls, path: str | Path, *, device: str = "auto", **own: nn.Module) -> Self:
        """Read a detector that `save` wrote. What a file says is checked as the constructor checks its arguments.

        ``Detector.load`` takes the class that the file names; that of a method of your own has to be defined before.

        Parameters
        ----------
        path : path
            The file.
        device : str
            As in the constructor.
        **own : Module
            The module it was fitted with, needed only where that was your own, under its name in the constructor:
            ``backbone=module`` or ``teacher=module``. Its fingerprint is checked.

        Raises
        ------
        ValueError
            Names the file where it is damaged, of another method, module or version, or not adlib's.
        FileNotFoundError, PermissionError
            Where there is none, or it may not be read.
        """
        return load_detector(cls, Path(path), pick_device(device), own)

    def __repr__(self) -> str:
        """In short; `modules()` has every layer."""
        state = f"fitted, {len(self.normal_scores)} held-out parts" if self.fitted else "not fitted"
        if self.reading.region is not None:
            state = (f"region of {self.reading.region.share():.0%} of the picture, with a margin of "
                     f"{self.region_margin} pixels, {state}")
        if self.fitted and self.smallest_defect is not None:
            state += f", for defects from about {self.smallest_defect:.0f} pixels"
        return f"{type(self).__name__}(image_size={self.image_size}, {state})"


def readable_bytes(count: float) -> str:
    """123456789 as "123 MB"."""
    power = min(3, int(math.log10(max(count, 1)) // 3))
    return f"{count / 1000**power:.3g} {['B', 'kB', 'MB', 'GB'][power]}"
