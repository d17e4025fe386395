"""Regions: what lies outside has no influence, what lies inside keeps its own, and what is no region is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from adlib import EfficientAD, PatchCore, SimpleNet
from adlib.detector import Detector
from adlib.efficientad import train_networks
from adlib.images import ImageError
from adlib.receptive_field import ReceptiveField, on_first_grid, receptive_field
from adlib.region import InspectedRegion, cells_that_see, read_region

SIZE, CORNER = (96, 64), [(0, 0), (32, 0), (32, 40), (0, 40)]
FEW: dict[str, Any] = {"device": "cpu", "smoothing": 1.0}
MAKE = {
    "PatchCore": lambda **o: PatchCore(**FEW, **{"image_size": SIZE, **o}),
    "SimpleNet": lambda **o: SimpleNet(**FEW, epochs=1, **{"image_size": SIZE, **o}),
    "EfficientAD": lambda **o: EfficientAD(**FEW, steps=2, penalty_images=pictures(2, 5), **{"image_size": SIZE, **o}),
}


def pictures(count: int, seed: int = 0, size: tuple[int, int] = SIZE) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return list(rng.integers(0, 256, (count, *size, 3), dtype=np.uint8))


def other_outside(images: list[np.ndarray], mask: np.ndarray) -> list[np.ndarray]:
    return [np.where(mask[..., None], a, b) for a, b in zip(images, pictures(len(images), 9, mask.shape), strict=True)]


@pytest.fixture(scope="module", params=MAKE)
def fitted(request) -> Detector:
    return MAKE[request.param]().fit(pictures(3), region=CORNER, validation=0.5, alpha=0.5)


MASK = np.zeros(SIZE, bool)
MASK[:40, :32] = True


def test_outside_has_exactly_no_influence(fitted: Detector, tmp_path: Path):
    images = pictures(2, 1)
    one, two = fitted.predict(images), fitted.predict(other_outside(images, MASK))
    assert (one.scores == two.scores).all() and (one.p_values == two.p_values).all()
    for a, b in zip(one.maps, two.maps, strict=True):
        assert (a == b).all() and a[MASK].max() > a.min() and (a[~MASK] == a.min()).all()
    inside = [images[0].copy(), images[1]]
    inside[0][38:40, 30:32] = 255 - inside[0][38:40, 30:32]  # the last pixels inside
    assert (fitted.predict(inside).scores == one.scores).tolist() == [False, True] or fitted.LEARNT != ("memory_bank",)
    again = type(fitted).load(_saved(fitted, tmp_path), device="cpu")
    assert (again.predict(other_outside(images, MASK)).scores == one.scores).all()
    assert again.reading == fitted.reading and again.region_margin == fitted.region_margin
    assert f"region of 21% of the picture, with a margin of {fitted.region_margin} pixels" in repr(again)


def _saved(detector: Detector, folder: Path) -> Path:
    detector.save(folder / "d.safetensors")
    return folder / "d.safetensors"


@pytest.mark.parametrize("name", MAKE)
def test_outside_is_not_learnt(name: str):
    images = pictures(3)
    one, two = (MAKE[name]().fit(i, region=CORNER, validation=0.5, alpha=0.5)
                for i in (images, other_outside(images, MASK)))  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


def test_efficientad_goes_on_learning_from_the_region_alone(monkeypatch: pytest.MonkeyPatch):
    detector, images, given = MAKE["EfficientAD"](), pictures(4), []

    def spy(*args: Any, **options: Any) -> None:
        given.append(options["cells"])
        train_networks(*args, **options)

    monkeypatch.setattr("adlib.efficientad.detector.train_networks", spy)
    detector.fit(images[:2], region=CORNER, validation=images[2:])
    detector.extend(pictures(1, 7), old=images[:2])
    assert len(given) == 2 and given[0] is not None and torch.equal(given[0].chosen, given[1].chosen)


def test_the_whole_picture_is_no_region():
    images, new = pictures(2), pictures(2, 1)
    plain, whole = PatchCore(**FEW, image_size=SIZE), PatchCore(**FEW, image_size=SIZE)
    plain.fit(images)
    with pytest.warns(UserWarning, match="region: marks every pixel, so nothing is left out"):
        whole.fit(images, region=np.ones(SIZE, np.uint8))
    assert torch.equal(plain.memory_bank, whole.memory_bank) and plain.region_margin is None
    assert (plain.predict(new).scores == whole.predict(new).scores).all()


def test_folds_crop_aspect_and_other_sizes():
    images = pictures(4, size=(120, 80))
    mask = torch.zeros(60, 40)  # half of the pictures' size
    mask[20:30, 10:18] = 1
    # The region's margin is less than the picture here, so that some cells are left out.
    options: dict[str, Any] = {**FEW, "layers": ("layer1",), "neighbourhood": 1}
    for detector in (PatchCore(**options, image_size=64, resize=70), PatchCore(**options)):
        detector.fit(images, region=mask, folds=2, alpha=0.5)
        large = mask.bool().repeat_interleave(2, 0).repeat_interleave(2, 1).numpy()
        new = pictures(2, 1, (120, 80))
        one, two = detector.predict(new), detector.predict(other_outside(new, large))
        assert (one.scores == two.scores).all()
        assert all((m[~large] == m.min()).all() for m in one.maps)
        assert len(detector.cells(tuple(one.maps.grids.shape[-2:])).chosen) < one.maps.grids[0].numel()
        with pytest.raises(ImageError, match=r"is 100 × 80 pixels.*expected the shape of the region's frame, 60 × 40"):
            detector.predict(pictures(1, 1, (100, 80))[0])
        assert len(detector.predict(pictures(1, 1, (180, 120))).scores) == 1


# ---------------------------------------------------------------------- the cells that see it


def changed_cells(features: nn.Module, pixel: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Found by trying: which cells change when one pixel does, for weights and values that cannot cancel."""
    blank = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    blank[:, :, pixel[0], pixel[1]] = 0
    other = blank.clone()
    other[:, :, pixel[0], pixel[1]] = 1
    with torch.no_grad():
        return (features(blank) != features(other)).any(1)[0]


@pytest.mark.parametrize(("layers", "neighbourhood"), [(("layer1", "layer2"), 1), (("layer2", "layer3"), 3)])
def test_the_field_is_what_a_pixel_reaches(layers: tuple[str, ...], neighbourhood: int):
    features = PatchCore(image_size=(64, 400), layers=layers, neighbourhood=neighbourhood, device="cpu").features
    features = features.double()
    for module in features.modules():  # positive weights: no change is lost in a ReLU, and none cancels
        if isinstance(module, nn.Conv2d):
            module.weight.data = torch.rand_like(module.weight).div_(module.weight[0].numel())
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats(), module.reset_parameters()
    features.mean.fill_(-1.0)
    for column in (200, 207, 390):
        found = changed_cells(features, (32, column), (64, 400))
        pixels = torch.zeros(64, 400, dtype=torch.bool)
        pixels[32, column] = True
        assert features.field is not None
        told = cells_that_see(pixels, features.field, tuple(found.shape))
        assert not (found & ~told).any()  # none is missed
        columns = told.any(0).nonzero()[[0, -1], 0], found.any(0).nonzero()[[0, -1], 0]
        assert (columns[0] - columns[1]).abs().max() <= 2  # and few are too many, on each side


def test_layers_on_one_grid_by_hand():
    net = PatchCore(device="cpu").frozen
    fine, coarse = (receptive_field(net, layer, neighbourhood=3) for layer in ("layer2", "layer3"))
    assert (fine, coarse) == ((115, 8, -57), (243, 16, -121))
    # The cell at 0 takes coarse cells −1 and 0: from −137 on. The cell at 8 takes 0 and 1: to −121 + 16 + 242 = 137,
    # 129 from its own beginning.
    assert on_first_grid([fine, coarse]) == (267, 8, -137) and on_first_grid([fine]) == fine
    with pytest.raises(ValueError, match="multiples of the first"):
        on_first_grid([coarse, fine])


def test_of_an_unknown_network_all_cells_may_see_it():
    assert cells_that_see(torch.zeros(8, 8, dtype=torch.bool), None, (2, 2)).all()
    assert not cells_that_see(torch.zeros(8, 8, dtype=torch.bool), ReceptiveField(9, 4, -2), (2, 2)).any()


# ---------------------------------------------------------------------- masks and polygons


def test_polygons_are_filled_by_the_middles_of_pixels():
    sizes = {(20, 30): "a.png"}
    rows, columns = (x.numpy() + 0.5 for x in torch.meshgrid(torch.arange(20), torch.arange(30), indexing="ij"))
    triangle = read_region([(0, 0), (30, 0), (0, 20)], sizes).at((20, 30)).numpy()
    assert (triangle == (columns / 30 + rows / 20 < 1)).all()
    box = [(2.5, 1), (10, 1), (10, 4), (2.5, 4)]
    expected = (columns >= 2.5) & (columns < 10) & (rows > 1) & (rows < 4)
    assert (read_region(box, sizes).at((20, 30)).numpy() == expected).all()
    assert (read_region(np.array(box), sizes) == read_region(box, sizes))
    joined = read_region([box, [(20, 9), (28, 9), (28, 12)]], sizes).at((20, 30)).numpy()
    assert (joined[:, :15] == expected[:, :15]).all() and joined[9:12, 20:28].any() and not joined[12:].any()


def test_a_mask_of_every_kind_is_the_same_region(tmp_path: Path):
    mask = np.zeros((30, 40), np.uint8)
    mask[5:25, 8:33] = 1
    Image.fromarray(mask).save(tmp_path / "m.png")
    Image.fromarray(mask * 255).save(tmp_path / "m.jpg", quality=95)  # lossy, cut at half
    sizes = {(60, 80): "a.png", (45, 60): "b.png"}
    kinds = [tmp_path / "m.png", str(tmp_path / "m.jpg"), mask, mask.astype(bool), torch.from_numpy(mask),
             Image.fromarray(mask)]
    regions = [read_region(kind, sizes) for kind in kinds]
    assert all(region == regions[0] for region in regions)
    assert (regions[0].at((30, 40)).numpy() == mask.astype(bool)).all()
    assert InspectedRegion.from_json(regions[0].as_json()) == regions[0]


@pytest.mark.parametrize(("region", "message"), [
    (np.zeros(SIZE, np.uint8), "marks no pixel.*above 0 is inspected"),
    (np.ones((64, 96), np.uint8), r"the mask is 64 × 96 pixels \(height × width\), but image\[0\] is 96 × 64"),
    ([(0, 0), (30, 30)], "has 2 points, expected at least three"),
    ([(0, 0), (30, float("nan")), (0, 30)], "a point that is not finite"),
    ([(0, 0), (90, 0), (90, 60)], r"\(90, 0\) lies outside the training images, which are 64 pixels wide and 96 high"),
    ([(0, 0), (8, 0), (8, 8), (0, 8)], "has .* pixels where images are resized to .*draw it larger"),
    ([(3, 3), (3.2, 3), (3.2, 3.2)], "marks no pixel"),
    ([(0, 0), (32, 0), (0, 40), (32, 40)], r"side from \(32, 0\) to \(0, 40\) crosses the one from \(32, 40\) to"),
    ([], "expected a mask picture, a polygon"),
    ([[(0, 0), (9, 9), "x"]], "is no polygon"),
    (7, "expected a mask picture, a polygon"),
    ("missing.png", "does not exist"),
    ("", "is an empty path"),
])  # fmt: skip
def test_a_region_that_is_none(region: object, message: str):
    detector = PatchCore(**FEW, image_size=SIZE)
    with pytest.raises(ValueError, match=message):
        detector.fit(pictures(3), region=region)
    assert not detector.fitted and detector.reading.region is None


def test_a_lossy_mask_of_small_values_and_a_region_that_is_cut_away(tmp_path: Path):
    Image.fromarray(np.ones(SIZE, np.uint8)).save(tmp_path / "m.jpg")
    with pytest.raises(ImageError, match="m.jpg: is a lossy file"):
        PatchCore(**FEW, image_size=SIZE).fit(pictures(3), region=tmp_path / "m.jpg")
    with pytest.raises(ValueError, match="lies outside the middle of the picture that resize=128 and image_size"):
        PatchCore(**FEW, image_size=(96, 64), resize=128).fit(pictures(3), region=[(0, 0), (64, 0), (64, 9), (0, 9)])
    mixed = [*pictures(1), *pictures(1, size=(192, 128))]
    with pytest.raises(ValueError, match=r"image\[0\] is 96 × 64 .* and image\[1\] 192 × 128; give a mask picture"):
        PatchCore(**FEW, image_size=SIZE).fit(mixed, region=CORNER)


def test_a_file_whose_region_is_none():
    region = read_region(CORNER, {SIZE: "a"}).as_json()
    for wrong in ({}, {"size": [9**9, 9], "packed": region["packed"]}, {"size": [96, 32], "packed": region["packed"]},
                  {"size": [96, 64], "packed": "%%%"}, {"size": [96, 64], "packed": "QUJD"}, 3):  # fmt: skip
        with pytest.raises(ValueError, match="expected what save writes"):
            InspectedRegion.from_json(wrong)
