"""The README's ten lines on parts with all three difficulties at once: 12 bits, five shots a part, 2.5:1."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adlib.datasets import Sample, SyntheticFactory
from adlib.images import resize_image

README = Path(__file__).parents[2] / "README.md"
HARD = 'fit("good_parts/", validation=0.35, max_value=4095, group=r"(part\\d+)_")'
GOOD, NEW_GOOD, NEW_BAD = 55, 20, 10
HEIGHT, WIDTH, MARGIN, SHOTS = 80, 200, 4, 5


def piece(sample: Sample) -> np.ndarray:
    """The picture as 2.5:1, grey, with a margin for the shots."""
    return resize_image(sample.image, (HEIGHT + 2 * MARGIN, WIDTH + 2 * MARGIN)).mean(0).numpy()


def plain_defects(factory: SyntheticFactory) -> list[Sample]:
    """Defects that are still plain to see at this size: the test is of what is around the method."""
    wanted = [s for s in factory.test if s.kind in ("cut", "hole", "stain")]
    large = [s for s in wanted if s.mask is not None and int(s.mask.sum()) >= 250]
    assert len(large) >= NEW_BAD
    return large[:NEW_BAD]


def shots(folder: Path, part: int, sample: Sample, count: int, rng: np.random.Generator) -> None:
    """The part under the camera: a little moved, a little brighter or darker, 12 bits, a grey PNG."""
    folder.mkdir(exist_ok=True)
    whole = piece(sample)
    for shot in range(count):
        y, x = rng.integers(0, 2 * MARGIN + 1, 2)
        moved = whole[y : y + HEIGHT, x : x + WIDTH] * rng.uniform(0.97, 1.03)
        values = np.clip(4095 * moved + rng.normal(0, 12, moved.shape), 0, 4095).round().astype(np.uint16)
        Image.fromarray(values).save(folder / f"part{part:03d}_{shot}.png")


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``good_parts``, and ``new_parts``: the good ones are called part1…, the defective ones part2…"""
    root, rng = tmp_path_factory.mktemp("line"), np.random.default_rng(0)
    factory = SyntheticFactory("fabric", n_train=GOOD + NEW_GOOD, n_validation=0, n_test=0, n_defect=48)
    for i, sample in enumerate(factory.train):
        folder, number, count = ("good_parts", i, SHOTS) if i < GOOD else ("new_parts", 100 + i - GOOD, 2)
        shots(root / folder, number, sample, count, rng)
    plain = plain_defects(factory)
    for i, sample in enumerate(plain):
        shots(root / "new_parts", 200 + i, sample, 1, rng)
    shots(root, 0, plain[0], 1, rng)
    (root / "part000_0.png").rename(root / "one_part.png")
    return root


def ten_lines() -> str:
    """The README's first block of Python, with what 12 bits and several shots need, and a bank that a test can afford.

    The README itself says the line that is put in.
    """
    text = README.read_text(encoding="utf-8")
    assert HARD in text, f"README: expected the line for 12 bits and several pictures of a part, {HARD}"
    block = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert block is not None
    code, fits = re.subn(r'fit\("good_parts/".*$', lambda _: HARD, block[1], flags=re.MULTILINE)
    code, made = re.subn(r"PatchCore\(\)", "PatchCore(coreset_ratio=0.01, device='cpu')", code)
    assert fits == made == 1 and '"new_parts/"' in code and '"one_part.png"' in code
    return code


@pytest.mark.slow
def test_the_readmes_lines_decide_rightly(parts, monkeypatch, capsys):
    code = ten_lines()
    monkeypatch.chdir(parts)
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    prediction = names["prediction"]
    printed = capsys.readouterr().out
    with capsys.disabled():
        print("\n" + printed)
    assert prediction.failures == {} and len(prediction.scores) == 2 * NEW_GOOD + NEW_BAD
    words = dict(re.findall(r"(part\d+_\d)\.png\W+(defective|good)\b", printed))
    assert len(words) == len(prediction.scores)
    found = {part for name, word in words.items() if word == "defective" for part in [name.partition("_")[0]]}
    assert sum(part.startswith("part2") for part in found) >= NEW_BAD - 2
    assert sum(part.startswith("part1") for part in found) <= 4  # of 20: 5 % in the mean, and one draw of 19 parts
    detector = names["detector"]  # the one that was saved and loaded
    height, width = detector.image_size
    assert len(detector.normal_scores) >= 19 and 2.2 < width / height < 2.8
    assert printed.rstrip().endswith("True")  # one_part.png is a defective one
