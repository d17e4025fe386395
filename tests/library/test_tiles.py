"""Tiles: the same features, scores and maps as of the whole picture, at the picture's own size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from adlib import EfficientAD, PatchCore, SimpleNet
from adlib.detector import Detector
from adlib.files import read_tensors, write_tensors
from adlib.images import ImageError
from adlib.prediction import full_size_maps
from adlib.region import cells_that_see

OWN, SIZE = (90, 203), (96, 208)  # of the pictures, and up to whole steps of the coarser layer
# Two early layers see little, so that small pictures have several tiles that do not see all.
FEW: dict[str, Any] = {"device": "cpu", "smoothing": 1.0, "layers": ("layer1", "layer2"), "neighbourhood": 1}


def pictures(count: int, seed: int = 0, size: tuple[int, int] = OWN) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, 256, (count, *size, 3), dtype=np.uint8))


def continued(images: list[np.ndarray]) -> list[np.ndarray]:
    """With their last row and column again, up to SIZE."""
    return [np.pad(i, ((0, SIZE[0] - OWN[0]), (0, SIZE[1] - OWN[1]), (0, 0)), mode="edge") for i in images]


@pytest.fixture(scope="module", params=[PatchCore, SimpleNet])
def pair(request) -> tuple[Detector, Detector]:
    """In tiles, and with the whole picture at once, of the same learnt values."""
    options = {**FEW, **({"epochs": 1} if request.param is SimpleNet else {})}
    tiled = request.param(tiles=64, **options).fit(pictures(2), validation=0.5, alpha=0.5)
    whole = request.param(image_size=SIZE, **options).fit(continued(pictures(2)))
    for name in tiled.LEARNT:
        setattr(whole, name, getattr(tiled, name))
    return tiled, whole


def test_scores_and_maps_are_those_of_the_whole_picture(pair: tuple[Detector, Detector], tmp_path: Path):
    tiled, whole = pair
    assert tiled.image_size == SIZE and tiled.reading.own_size == OWN and tiled.images_at_once == 1
    one, two = tiled.predict(pictures(2, 1)), whole.predict(continued(pictures(2, 1)))
    assert np.allclose(one.scores, two.scores, atol=1e-5, rtol=1e-5) and np.ptp(one.scores) > 1e-3
    for a, b in zip(one.maps, two.maps, strict=True):
        assert a.shape == OWN and np.allclose(a, b[: OWN[0], : OWN[1]], atol=1e-5, rtol=1e-5)
    assert float(tiled.normal_peaks[-1]) == max(float(m.max()) for m in tiled.held_out.maps)  # pyrefly: ignore
    tiled.save(tmp_path / "t.safetensors")
    again = type(tiled).load(tmp_path / "t.safetensors", device="cpu")
    assert (again.predict(pictures(2, 1)).scores == one.scores).all() and again.tiles == 64


@pytest.mark.parametrize("options", [
    {}, {"neighbourhood": 3}, {"pooling": 64}, {"layers": ("layer2",)}, {"layers": ("layer1", "layer3"), "stride": 2},
])  # fmt: skip
def test_features_of_a_tile_are_those_of_the_picture(options: dict[str, Any]):
    deep = options.get("layers") == ("layer1", "layer3")
    made = [PatchCore(**{**FEW, **options}, tiles=tiles).features for tiles in (None, 128 if deep else 48)]
    image = torch.rand(1, 3, *((160, 352) if deep else (96, 208)), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, *found = (features(image) for features in made)
    shapes = {features.shape((image.shape[-2], image.shape[-1])) for features in made}
    assert len(shapes) == 1 and all(torch.allclose(expected, f, atol=1e-5, rtol=1e-5) for f in found)
    # The halo is needed: with one step less, and no more than the cells see, the tiles have seams.
    features = made[1]
    assert features.field is not None and features.halo - features.step < -features.field.start <= features.halo


def test_less_around_a_tile_makes_seams():
    whole, tiled = (PatchCore(**FEW, tiles=tiles).features for tiles in (None, 32))
    type(tiled).halo, kept = 0, type(tiled).halo  # pyrefly: ignore
    try:
        image = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            assert (whole(image) - tiled(image)).abs().max() > 1e-2
    finally:
        type(tiled).halo = kept  # pyrefly: ignore


def test_the_learnt_patches_are_those_of_the_picture():
    tiled, whole = PatchCore(**FEW, tiles=64, coreset_ratio=1), PatchCore(**FEW, image_size=SIZE, coreset_ratio=1)
    tiled.fit(pictures(2))
    whole.fit(continued(pictures(2)))
    assert torch.allclose(tiled.memory_bank, whole.memory_bank, atol=1e-5)
    assert tiled.memory_needed(2) == whole.memory_needed(2) == tiled.memory_bank.numel() * 4
    with pytest.raises(ValueError, match="max_memory is"):
        PatchCore(**FEW, tiles=64, max_memory=1e5).fit(pictures(2))


def test_folds_and_regions_in_tiles():
    region = [(10, 10), (40, 10), (40, 60), (10, 60)]
    tiled = PatchCore(**FEW, tiles=64).fit(pictures(3), region=region, folds=3, alpha=0.5)
    whole = PatchCore(**FEW, image_size=SIZE).fit(continued(pictures(3)), region=region, folds=3, alpha=0.5)
    one, two = tiled.predict(pictures(1, 1)), whole.predict(continued(pictures(1, 1)))
    assert np.allclose(one.scores, two.scores, atol=1e-4)
    assert torch.allclose(tiled.normal_scores, whole.normal_scores, atol=1e-4)
    assert one.maps[0].shape == OWN and np.ptp(one.maps[0][61:]) == 0


def test_a_region_in_tiles_is_where_it_was_drawn():
    right = [(100, 10), (190, 10), (190, 80), (100, 80)]
    tiled = PatchCore(**FEW, tiles=64).fit(pictures(2), region=right)
    region = tiled.reading.region
    assert region is not None
    on_input = region.on_input(SIZE, own_size=OWN)
    assert on_input.shape == SIZE and torch.equal(on_input[: OWN[0], : OWN[1]], region.at(OWN))
    assert not on_input[OWN[0] :].any() and not on_input[:, OWN[1] :].any()
    batch = torch.from_numpy(continued(pictures(1, 1))[0]).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        grid, anomaly_map = tiled.patch_scores(batch)[1], tiled(batch)[1][0]
    assert torch.equal(anomaly_map > anomaly_map.min(), on_input)
    seen = cells_that_see(on_input, tiled.field, (grid.shape[-2], grid.shape[-1])).flatten().nonzero()[:, 0]
    cells = tiled.cells((grid.shape[-2], grid.shape[-1]))
    assert cells is not None and torch.equal(cells.chosen, seen)


def test_a_large_map_is_smoothed_strip_by_strip(monkeypatch: pytest.MonkeyPatch):
    grids = torch.rand(2, 9, 7, generator=torch.Generator().manual_seed(0))
    whole = full_size_maps(grids, (90, 70), 2.0)
    monkeypatch.setattr("adlib.prediction.STRIP", 32)
    assert torch.equal(full_size_maps(grids, (90, 70), 2.0), whole)


def test_the_smallest_defect_is_two_cells():
    images = pictures(1, size=(96, 192))
    assert PatchCore(**FEW).smallest_defect is None
    tiled = PatchCore(**FEW, tiles=64).fit(images)
    assert tiled.smallest_defect == 8 and "for defects from about 8 pixels" in repr(tiled)
    assert PatchCore(**FEW, image_size=(48, 96)).fit(images).smallest_defect == 16
    assert PatchCore(**FEW, image_size=(32, 32), stride=2).fit(images).smallest_defect == 2 * 8 * 6
    assert PatchCore(**FEW, image_size=(32, 32), resize=48).fit(images).smallest_defect == 16


@pytest.mark.parametrize(("tiles", "message"), [
    (100, "expected a multiple of 16 pixels, .* such as 96"), (0, "whole number of at least 16"),
    (512.5, "whole number"), ("512", "whole number"), (True, "whole number"),
])  # fmt: skip
def test_tiles_that_are_none(tiles: Any, message: str):
    with pytest.raises(ValueError, match=message):
        PatchCore(device="cpu", tiles=tiles)


class Global(nn.Module):
    """A cell of it sees the whole picture."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(3, 4, 4, 4)
        self.token = nn.LayerNorm(4)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.mix(x)
        return {"a": x + self.token(x.mean((2, 3)))[..., None, None]}


class Unpadded(nn.Module):
    """Five by five pixels for a cell, and none for those at the border."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 5)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"a": self.first(x)}


def test_backbones_whose_tiles_would_not_fit_together():
    with pytest.raises(ValueError, match="do not tell what a cell sees"):
        PatchCore(Global(), layers=("a",), device="cpu", tiles=64)
    with pytest.raises(ValueError, match="backbone whose convolutions are padded"):
        PatchCore(Unpadded(), layers=("a",), device="cpu", tiles=64)
    with pytest.raises(TypeError, match="tiles"):
        EfficientAD(tiles=64)  # pyrefly: ignore


def test_pictures_of_several_sizes(pair: tuple[Detector, Detector]):
    with pytest.raises(ValueError, match=r"one size for all, but image\[0\] is 90 × 203 and image\[2\] is 64 × 64"):
        PatchCore(**FEW, tiles=64).fit([*pictures(2), *pictures(1, size=(64, 64))])
    with pytest.raises(ImageError, match=r"is 180 × 406 pixels .*expected 90 × 203 as the training images"):
        pair[0].predict(pictures(1, size=(180, 406))[0])
    with pytest.raises(ValueError, match="expected multiples of 8"):
        pair[0].forward(torch.zeros(1, 3, 90, 203))
    both = PatchCore(**FEW, tiles=64, image_size=(96, 208))  # resized, and then cut
    assert len(both.fit(pictures(2)).predict(pictures(1, size=(180, 406))).scores) == 1


def test_a_picture_of_another_size_is_refused_by_name(tmp_path: Path):
    tiled = PatchCore(**FEW, tiles=64).fit(pictures(2))
    for size in ((89, 203), (91, 203), (88, 200), (80, 180), (45, 101), (10, 22), (180, 406)):
        answer = tiled.predict([*pictures(1, 2, size), *pictures(1, 3)])
        assert len(answer.scores) == 1 and f"{size[0]} × {size[1]} pixels" in answer.failures["image[0]"]
    assert "expected 90 × 203 as the training" in tiled.predict(pictures(2, 2, (88, 200))).failures["image[1]"]


def test_a_file_whose_two_sizes_do_not_belong_together_is_refused(tmp_path: Path):
    path, tiled = tmp_path / "t.safetensors", PatchCore(**FEW, tiles=64).fit(pictures(2))
    tiled.save(path)
    about, tensors = read_tensors(path)
    for own in ([90, 300], [50, 203], [97, 208], [10**9, 5]):
        about["reading"]["own_size"] = own
        write_tensors(path, tensors, about)
        with pytest.raises(ValueError, match=rf"t.safetensors: .*own_size = \({own[0]}, {own[1]}\).*found \(96, 208\)"):
            Detector.load(path)
    PatchCore(**FEW, image_size=SIZE).fit(pictures(2)).save(path)
    about, tensors = read_tensors(path)
    about["reading"]["own_size"] = list(SIZE)
    write_tensors(path, tensors, about)
    with pytest.raises(ValueError, match=r"own_size = \(96, 208\) and no tiles"):
        Detector.load(path)
