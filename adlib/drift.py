"""Has the line changed? A sequential test on the scores alone, with a stated chance of ever giving a false alarm.

A camera is knocked, a lamp grows dim, a supplier changes: the scores of good parts then rise, or fall, and the
threshold promises nothing any more. `Watch` sees one score for each part and bets that the newest does not stand among
the earlier ones as any other would. Nobody grows rich on fair bets: capital of 1/α is an alarm.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from adlib.checks import number, whole
from adlib.files import read_tensors, write_tensors
from adlib.threshold import Scores, _finite

EXPONENTS = (0.25, 0.5, 2.0, 4.0)  # of the bets, for each direction
KEPT: int = 10_000  # scores that are held at most
LEAST = 2.0**-53  # a p-value of exactly 0 or 1, which only rounding gives, must not pay without end
MOST = 1e300  # capital beyond it would become infinite


def online_p_value(earlier: Sequence[float], score: float, u: float) -> float:
    """``p = (#{i: s_i > s} + u·(1 + #{i: s_i = s})) / (n + 1)`` of a score s beside n earlier ones. Equation (10.1).

    The place of a score among all that came before it, with ties broken at random. Where the scores are exchangeable,
    the p-values of one after the other, each among all before it, are independent and uniform on [0, 1]. Those of
    `adlib.threshold.conformal_p_values` are not independent: all of them share the same held-out scores.

    Parameters
    ----------
    earlier : sequence (n,)
        In rising order.
    score : float
    u : float
        Uniform on [0, 1), drawn anew for each score.

    Returns
    -------
    float
        In [0, 1]; small where the score is larger than most.

    References
    ----------
    Vovk, On-line confidence machines are well-calibrated, FOCS 2002, Theorem 1, for the independence.
    """
    above = len(earlier) - bisect_right(earlier, score)
    equal = len(earlier) - above - bisect_left(earlier, score)
    return (above + u * (1 + equal)) / (len(earlier) + 1)


def bets(p: float) -> list[float]:
    """What each bet pays on a p-value: ``a·p^(a−1)`` or ``a·(1−p)^(a−1)`` for each a of `EXPONENTS`, equation (10.2).

    Each is at least 0 and has the mean 1 over uniform p-values, so it is fair. The first half pays where p is small,
    and scores have become larger: on p with a < 1, sharply, and on 1 − p with a > 1, gently. The second half is its
    mirror image, for scores that have become smaller.

    Parameters
    ----------
    p : float
        In [0, 1].

    Returns
    -------
    list of float
        2 × 4 factors.

    References
    ----------
    Vovk, Nouretdinov and Gammerman, Testing exchangeability on-line, ICML 2003, for those on p with a < 1.
    """
    p, q = max(p, LEAST), max(1 - p, LEAST)
    larger = [a * (p if a < 1 else q) ** (a - 1) for a in EXPONENTS]
    smaller = [a * (q if a < 1 else p) ** (a - 1) for a in EXPONENTS]
    return larger + smaller


class Watch:
    """Watches the scores of a line, part after part, for a change of any kind that moves them up or down.

    Parameters
    ----------
    normal : Detector, or sequence, ndarray or Tensor (n,)
        A detector with held-out parts, or the scores to begin with, one for each part; there may be none.
    alpha : float
        α in (0, 1), the chance of a false alarm, ever.
    seed : int
        Ties are broken from it.

    Attributes
    ----------
    parts : int
        How many have been seen.
    evidence : float
        The capital S now; it begins with 1.
    alarm : bool
        Whether S has ever reached 1/α. It stays.
    direction : "larger" or "smaller"
        Where the scores have gone, by the bets that hold more of the capital now.

    Raises
    ------
    ValueError
        For a detector that has no held-out parts, several products or folds; for an argument out of its range.

    Notes
    -----
    After t parts with the p-values p_1 … p_t, each by `online_p_value`, the capital is, by equation (10.3),

        ``S_t = 1/(t+1) + Σ_k 1/(k(k+1)) · mean_f Π_j f(p_j)``, k from 1 to t, j from k to t, f over all `bets`.

    In words: the share 1/(k(k+1)) of the capital is put on the bets at part k, so that a change may come at any time,
    and the rest still waits. S is a martingale that begins with 1.

    The promise, equation (10.4): if all scores, the first ones and the line's, are exchangeable, the chance that the
    alarm is ever raised, however long the line runs, is at most α (Ville's inequality). It holds for any n, 0 too. When
    the line has changed on purpose, begin a new watch.

    Every part counts, also one that is called defective. To leave these out would break the promise, or hide a blur
    that makes all parts look defective. So many more defective parts than before are an alarm too, and they should be.
    A line with some defective parts is no longer exchangeable with held-out good ones, strictly: begin with the line's
    own first scores then, defective ones among them (of 100 parts, say). Measured, with α = 0.01 and 46 good parts to
    begin with: where up to 5 % of 1,000 parts are defective, 0.5 % of 200 lines raise the alarm, with 10 % 3 %, with
    20 % 22 %; after 100 parts of the line itself, at most 1 % with any of these shares.

    A change is seen against all earlier parts, and those after the change soon are the most of them. So a small change
    beside few first scores may never be seen: with 20, a mean that moves at once by 1.5 standard deviations is noticed
    in 98 of 100 lines, after 12 parts (median), one that moves by 1 in 63. After 500 good parts all are noticed, the
    latter after 39 parts (benchmarks/accuracy/watch.json).

    A watch takes any number that a part has. Scores may be blind to a change, such as a fifth less light, and a second
    watch, on the mean brightness of the pictures, sees it within ten parts. The chance that one of two gives a false
    alarm is at most the sum of both α.

    EfficientAD takes the scale of its maps from the same held-out parts, so with it the promise is close, not exact.

    Beyond `KEPT` scores, after each part one is dropped, drawn at random by its rank alone. What is left is as
    exchangeable as before, so the promise holds.

    One thread at a time may use a watch.

    Examples
    --------
    >>> watch = Watch([1.0, 1.2, 0.9, 1.1, 1.3, 1.0, 1.1, 0.8, 1.2, 1.0], alpha=0.05)
    >>> [watch.update(score) for score in (1.1, 0.9, 1.0, 2.1, 2.4, 2.2, 2.3, 2.6, 2.5, 2.7)]
    [False, False, False, False, False, False, False, False, False, True]
    >>> watch.direction
    'larger'

    References
    ----------
    Vovk, Nouretdinov and Gammerman, Testing exchangeability on-line, ICML 2003; Vovk, Petej, Nouretdinov, Ahlberg,
    Carlsson and Gammerman, Retrain or not retrain: conformal test martingales for change-point detection, COPA 2021;
    Ville, Étude critique de la notion de collectif, 1939, page 100.
    """

    def __init__(self, normal: Any, alpha: float = 0.01, seed: int = 0) -> None:
        self.alpha, self.seed = float(number("alpha", alpha, "(0, 1)")), whole("seed", seed, 0, 2**32 - 1)
        self.parts, self.alarm = 0, False
        self._earlier = np.sort(_finite(_normal_scores(normal), "normal")).tolist()
        self._capital = [0.0] * 2 * len(EXPONENTS)  # on each bet; 1/(t+1) still waits
        self._random = np.random.default_rng(self.seed)

    @property
    def evidence(self) -> float:
        return 1 / (self.parts + 1) + sum(self._capital)

    @property
    def direction(self) -> str:
        half = len(EXPONENTS)
        return "larger" if sum(self._capital[:half]) >= sum(self._capital[half:]) else "smaller"

    def update(self, score: float) -> bool:
        """Take in the score of the next part: whether the alarm is on.

        Parameters
        ----------
        score : float
            Of a part with several pictures the largest; see `adlib.threshold.one_per_group`.

        Raises
        ------
        ValueError
            Where it is not one finite number; nothing has been taken in then.
        """
        try:
            value = math.nan if isinstance(score, str) else float(score)
        except (TypeError, ValueError, RuntimeError):  # several, as arrays and tensors say it
            value = math.nan
        if not math.isfinite(value):
            raise ValueError(f"score = {score!r:.100}: expected one finite number. Call update once for each part, in "
                             "the order in which they came; of a part with several pictures give the largest score")
        u, rank = self._random.random(), self._random.random()
        p = online_p_value(self._earlier, value, u)
        insort(self._earlier, value)
        if len(self._earlier) > KEPT:
            del self._earlier[int(rank * len(self._earlier))]
        self.parts += 1
        share = 1 / (self.parts * (self.parts + 1)) / len(self._capital)
        self._capital = [min((c + share) * paid, MOST) for c, paid in zip(self._capital, bets(p), strict=True)]
        self.alarm = self.alarm or self.evidence >= 1 / self.alpha
        return self.alarm

    def __repr__(self) -> str:
        state = f"ALARM, scores are {self.direction}" if self.alarm else "no alarm"
        return f"Watch({self.parts} parts, evidence {self.evidence:.3g} of {1 / self.alpha:.3g}, {state})"

    # ------------------------------------------------------------------ to go on after a restart

    def as_json(self) -> dict[str, Any]:
        """All that `from_json` needs to go on as if nothing had happened, as JSON can hold it."""
        return {"alpha": self.alpha, "seed": self.seed, "parts": self.parts, "alarm": self.alarm,
                "exponents": list(EXPONENTS), "capital": self._capital, "earlier": self._earlier}  # fmt: skip

    @classmethod
    def from_json(cls, kept: Any) -> Self:
        """What `as_json` gave.

        Raises
        ------
        ValueError
            Where it is anything else.
        """
        try:
            watch = cls(kept["earlier"], kept["alpha"], kept["seed"])
            watch.parts, watch.alarm = whole("parts", kept["parts"], 0), kept["alarm"] is True
            watch._capital = _finite(kept["capital"], "capital").tolist()
            right = kept["exponents"] == list(EXPONENTS) and len(watch._capital) == 2 * len(EXPONENTS)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{kept!r:.200}: expected what Watch.as_json gives ({error}); begin a new watch") from None
        if not right or min(watch._capital) < 0 or len(watch._earlier) < min(watch.parts, KEPT):
            raise ValueError(f"{kept!r:.200}: expected what Watch.as_json gives; begin a new watch")
        watch._random.bit_generator.advance(2 * watch.parts)  # two numbers for each part  # pyrefly: ignore
        return watch

    def save(self, path: str | Path) -> None:
        """Write the state to a file, whole or not at all, with a checksum."""
        write_tensors(Path(path), {}, {"watch": self.as_json()})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """What `save` wrote; a ValueError names the file where it is anything else."""
        about, _ = read_tensors(Path(path))
        try:
            return cls.from_json(about.get("watch"))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


def _normal_scores(normal: Any) -> Scores:
    """The scores to begin with: those of a detector's held-out parts, or what was given."""
    if not hasattr(normal, "normal_scores"):
        return normal
    if len(normal.folds):
        raise ValueError("the detector was fitted with folds: each held-out score is of one fold, that of a new part "
                         "the least of all, so they differ on a line that has not changed; give the line's own scores "
                         "instead, of 50 parts or more: Watch(scores)")
    if not len(normal.normal_scores):
        raise ValueError("the detector has no held-out parts, expected fit(…, validation=0.35); or give the line's own "
                         "scores, of 50 parts or more: Watch(scores)")
    if len({product for _, product in normal.normal_parts}) > 1:
        raise ValueError("the detector has several products, expected one watch for each, with the scores of its own "
                         "parts: Watch(adlib.parts.by_product(detector.normal_scores, detector.normal_parts)[product])")
    return normal.normal_scores
