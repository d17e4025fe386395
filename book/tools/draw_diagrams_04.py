"""Draws the diagram of chapter 4 as an SVG file: ``python scripts/draw_diagrams_04.py``. See draw_diagrams.py."""

from __future__ import annotations

from collections.abc import Callable

from draw_diagrams import (
    BLUE,
    EDGE,
    INK,
    RED,
    SKY,
    SOFT,
    answers,
    arrow,
    backbone,
    caption,
    circle,
    cloud,
    dashed_arrow,
    diamond,
    document,
    feature_grid,
    heat_grid,
    line,
    rect,
    text,
    washer,
    write,
)

LOSS = "#a84300"  # the red of the dashed arrows, dark enough for letters
COLUMNS = (84, 232, 384, 520, 662, 790)


def method() -> str:
    """Above, the training with two ways into the discriminator; below, the score of a test image."""
    y, low = 140, 384
    body: list[str] = []
    for shift in (14, 7, 0):
        body += washer(COLUMNS[0] + shift - 7, y - shift + 7, 92)
    body += backbone(COLUMNS[1], y) + feature_grid(COLUMNS[2], y, window=False) + _box(COLUMNS[3], y, "*G*")
    body += _features(COLUMNS[4], y) + _thresholds(COLUMNS[5], y)
    for left, right in ((145, 166), (295, 327), (440, 486), (554, 596)):
        body.append(arrow((left, y), (right, y)))
    body += [text(COLUMNS[4], 40, "+ noise *ε*", 17, LOSS, bold=True), text(COLUMNS[5], 40, "*D*", 18, bold=True)]
    body.append(arrow((728, y), (752, y)))
    top = 226
    body += caption(COLUMNS[0], top, "Good images", "no defects,", "no labels")
    body += caption(COLUMNS[1], top, "Frozen backbone", "maps of layer2", "and layer3")
    body += caption(COLUMNS[2], top, "Features *o*", "computed once")
    body += caption(COLUMNS[3], top, "Adaptor", "one layer")
    body += caption(COLUMNS[4], top, "*q* and *q*⁻ = *q* + *ε*", "good ones, and", "stand-ins for bad")
    body += caption(COLUMNS[5], top, "Discriminator", "good above *th*⁺,", "noisy below *th*⁻")
    body += [line(28, 292, 832, 292, SOFT, 1, ' stroke-dasharray="4 5"')]
    body += washer(COLUMNS[0], low, 92, defect=True) + backbone(COLUMNS[1], low)
    body += feature_grid(COLUMNS[2], low, window=False) + _box(COLUMNS[3] + 36, low, "*D*(*G*(·))", 124)
    body += heat_grid(COLUMNS[5] - 40, low)
    for left, right in ((136, 166), (295, 327), (440, 490), (622, 690)):
        body.append(arrow((left, low), (right, low)))
    body += [text(656, low - 14, "*s* = −*D*", 17, bold=True)]
    top = 462
    body += caption(COLUMNS[0], top, "Test image") + caption(COLUMNS[2], top, "Features *o*")
    body += caption(COLUMNS[3] + 36, top, "Folded", "two layers are left")
    body += caption(COLUMNS[5] - 40, top, "Patch scores", "the largest one", "is that of the image")
    return document(
        "simplenet", 522,
        "SimpleNet: how it is trained, and how it scores an image",
        "Above, the training. Good images go through a frozen backbone, whose patch features o are computed once. The "
        "adaptor G turns each into a feature q. A copy of q with Gaussian noise epsilon stands in for a bad feature. "
        "The discriminator D is taught to give good features a value above the threshold th plus and noisy ones a "
        "value below th minus. Below, the scoring: the features of a test image go through adaptor and discriminator, "
        "folded into two layers. The score of a patch is minus D, and the largest patch score is that of the image.",
        body,
    )  # fmt: skip


def _box(x: float, y: float, words: str, width: float = 64) -> list[str]:
    return [rect(x - width / 2, y - 30, width, 60, SKY, INK, 8), text(x, y + 6, words, 18, bold=True)]


def _features(x: float, y: float) -> list[str]:
    """Blue dots, and for some of them a red diamond a short step away."""
    points = cloud(x, y, seed=9, count=22, reach=46)
    parts = []
    for i, (px, py) in enumerate(points[::3]):
        dx, dy = ((20, -12), (-19, 13), (14, 19), (-15, -18))[i % 4]
        parts += [line(px, py, px + dx, py + dy, RED, 1.8), diamond(px + dx, py + dy, 5)]
    return [*(circle(px, py, 3.6, BLUE) for px, py in points), *parts]


def _thresholds(x: float, y: float) -> list[str]:
    """A scale with both thresholds, good features above, noisy ones below."""
    parts = [line(x - 18, y - 70, x - 18, y + 62, INK, 2)]
    for level, name in ((-24, "*th*⁺"), (24, "*th*⁻")):
        parts += [line(x - 24, y + level, x - 12, y + level, INK, 2.4), text(x + 28, y + level + 6, name, 16)]
    parts += [circle(x - 18 + dx, y + dy, 4, BLUE) for dx, dy in ((-8, -62), (7, -53), (-6, -43), (8, -34))]
    return parts + [diamond(x - 18 + dx, y + dy, 5) for dx, dy in ((8, 36), (-7, 44), (6, 55))]


def training() -> str:
    """Two ways into the discriminator, and what the loss pulls where."""
    up, y, down, columns = 96, 170, 244, (80, 214, 352, 470, 588, 694, 786)
    body: list[str] = []
    for shift in (14, 7, 0):
        body += washer(columns[0] + shift - 7, y - shift + 7, 88)
    body += backbone(columns[1], y) + feature_grid(columns[2], y, window=False) + _box(columns[3], y, "*G*")
    body += _small_cloud(columns[4], up, noisy=False) + _small_cloud(columns[4], down, noisy=True)
    body += _box(columns[5], y, "*D*", 56)
    body += _thresholds(columns[6] + 10, y)
    body += [arrow((139, y), (153, y)), arrow((277, y), (295, y)), arrow((407, y), (434, y))]
    body += [arrow((504, y), (522, y), (522, up), (544, up)), arrow((522, y), (522, down), (544, down))]
    body += [arrow((632, up), (646, up), (646, y), (662, y)), arrow((632, down), (646, down), (646, y), (662, y))]
    body += [arrow((724, y), (756, y))]
    body += [text(columns[4], up - 50, "*q*: good", 17, BLUE, bold=True)]
    body += [text(columns[4], down + 64, "*q*⁻ = *q* + noise *ε*", 17, LOSS, bold=True)]
    top = 256
    body += caption(columns[0], top, "Good images") + caption(columns[1] - 4, top, "Backbone", "frozen")
    body += caption(columns[2], top, "Features *o*", "computed once")
    body += caption(columns[3], top - 26, "Adaptor", "one layer")
    body.append(text(columns[6], y - 96, "value of *D*", colour=SOFT))
    body.append(text(columns[6], y + 92, "what falls short:", colour=SOFT))
    body.append(text(columns[6], y + 113, "loss", 17, LOSS, bold=True))
    low = 348
    body.append(dashed_arrow((columns[6], y + 122), (columns[6], low), (columns[5], low), (columns[5], y + 38)))
    body.append(dashed_arrow((columns[5], low), (columns[3], low), (columns[3], y + 112)))
    body += [text(30, low + 6, "dashed: the loss changes *D* and *G*, nothing else", colour=SOFT, anchor="start")]
    return document(
        "simplenet-training", 380,
        "SimpleNet, training: good features against the same features with noise",
        "Good images go through a frozen backbone, whose patch features o are computed once. The adaptor G turns each "
        "into a feature q. Two things go into the discriminator D: q itself, as an example of good, and q with "
        "Gaussian noise epsilon, called q minus, in place of a defect that nobody has. D is to give good features a "
        "value above the threshold th plus and noisy ones a value below th minus; what falls short counts as loss. "
        "The loss changes D and G. The backbone stays as it is.",
        body,
    )  # fmt: skip


def _small_cloud(x: float, y: float, noisy: bool) -> list[str]:
    points = cloud(x, y, seed=9, count=14, reach=34)
    if not noisy:
        return [circle(px, py, 3.6, BLUE) for px, py in points]
    steps = ((12, -7), (-11, 8), (8, 11), (-9, -11))
    parts = [circle(px, py, 2.6, "#a3adb9") for px, py in points]
    for i, (px, py) in enumerate(points[::2]):
        dx, dy = steps[i % 4]
        parts += [line(px, py, px + dx, py + dy, RED, 1.8), diamond(px + dx, py + dy, 5)]
    return parts


def inference() -> str:
    """No noise, no neighbours: features go through two layers, and the value with its sign turned is the score."""
    y, below, columns = 84, 338, (84, 240, 396, 590, 764)
    body = [*washer(columns[0], y, 104, defect=True), *backbone(columns[1], y)]
    body += feature_grid(columns[2] - 8, y, window=False)
    body += answers("simplenet-inference", columns[3] + 4, columns[4], y, below)
    body += [arrow((141, y), (173, y)), arrow((303, y), (331, y)), arrow((445, y), (536, y))]
    body += [text(490, y - 40, "*D*(*G*(*o*))", 17, bold=True), text(490, y - 16, "two layers", colour=SOFT)]
    top = 168
    body += caption(columns[0], top, "Test image") + caption(columns[1], top, "Same backbone", "frozen")
    body += caption(columns[2] - 8, top, "Features *o*", "one for each patch")
    body += caption(columns[3] + 4, top, "Patch scores", "*s* = −*D*(*G*(*o*))")
    body += caption(columns[4], top - 24, "Image score", "the largest one")
    body.append(rect(34, 300, 396, 116, "#ffffff", EDGE, 8))
    remarks = (
        "What is left of the training",
        "No noise, no memory bank, no search.",
        "Adaptor and first layer of *D*: one matrix.",
        "The score needs one pass.",
    )
    for i, words in enumerate(remarks):
        body.append(text(52, 328 + 24 * i, words, 16 + (i == 0), SOFT if i else INK, "start", bold=i == 0))
    return document(
        "simplenet-inference", 454,
        "SimpleNet, inference: one pass from a test image to its score and its defect regions",
        "A test image goes through the same frozen backbone. Each patch feature o goes through adaptor and "
        "discriminator, folded into two layers; minus their value is the patch score. One branch takes the largest "
        "patch score as the image score. The other enlarges the patch scores bilinearly and smooths them with a "
        "Gaussian: the anomaly map. What exceeds a threshold there are the defect regions. There is no noise and no "
        "memory bank at this stage.",
        body,
    )  # fmt: skip


DIAGRAMS: dict[str, Callable[[], str]] = {
    "simplenet.svg": method,
    "simplenet-training.svg": training,
    "simplenet-inference.svg": inference,
}


if __name__ == "__main__":
    write(DIAGRAMS)
