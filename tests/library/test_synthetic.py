"""The factory: the same picture for the same name, exact masks, and files that read back the same."""

from __future__ import annotations

import json
import pickle
import time
from pathlib import Path

import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.ndimage import label as regions_of

import freeze_factory
from adlib.datasets import DatasetError, MVTecAD, MVTecLOCO, SyntheticFactory
from adlib.factory.synthetic import PRODUCTS, TOLERANCE, VERSION

SIZE = 96  # small, so that the tests are fast; what they check does not depend on it
STRUCTURAL = [(product, kind) for product, module in PRODUCTS.items() for kind in module.KINDS]
LOGICAL = [(product, kind) for product, module in PRODUCTS.items() for kind in getattr(module, "LOGICAL", {})]


def small(product: str, **numbers: int) -> SyntheticFactory:
    return SyntheticFactory(product, **({"size": SIZE, "n_train": 3, "n_validation": 2, "n_test": 2, "n_defect": 8}
                                        | numbers))


@pytest.mark.parametrize("product", PRODUCTS)
def test_splits_and_identities(product: str) -> None:
    factory = SyntheticFactory(product)
    types = 1 + bool(factory.logical)
    assert (len(factory.train), len(factory.validation), len(factory.test)) == (200, 100, 200 + 200 * types)
    assert sum(s.label for s in factory.test) == 200 * types
    assert sum(s.logical for s in factory.test) == 200 * (types - 1)
    assert all(s.label == 0 for s in factory.train + factory.validation)
    for kinds in filter(None, (factory.structural, factory.logical)):
        counts = [sum(s.kind == kind for s in factory.test) for kind in kinds]
        assert len(kinds) >= 5 and sum(counts) == 200 and max(counts) - min(counts) <= 1
    paths = [s.path for s in factory.train + factory.validation + factory.test]
    assert len(set(paths)) == 500 + 200 * types and f"{product}/test/{factory.kinds[0]}/003" in paths


@pytest.mark.parametrize("product", PRODUCTS)
def test_images_are_8_bit_and_all_different(product: str) -> None:
    factory = small(product)
    images = [s.image for s in factory.train + factory.validation + factory.test]
    for image in images:
        assert image.shape == (3, SIZE, SIZE) and image.dtype == torch.float32
        assert torch.equal(image, (image * 255).round() / 255)
        assert 0 <= image.min() and image.max() <= 1 and image.std() > 0.05
    assert all(not torch.equal(a, b) for i, a in enumerate(images) for b in images[:i])


@pytest.mark.parametrize("product", PRODUCTS)
def test_image_depends_on_its_name_and_seed_alone(product: str) -> None:
    one, other = small(product), small(product, n_train=9, n_test=0, n_defect=30)
    _ = other.train[8].image  # made in another order, beside others
    assert torch.equal(one.train[2].image, other.train[2].image)
    kind = one.kinds[0]
    first, again = (next(s for s in f.test if s.path.endswith(f"{kind}/000")) for f in (one, other))
    assert torch.equal(first.image, again.image) and torch.equal(first.mask, again.mask)
    assert not torch.equal(one.train[0].image, small(product, seed=1).train[0].image)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    _ = one.train[0].image
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(("product", "kind"), STRUCTURAL)
def test_pair_differs_inside_the_mask_only(product: str, kind: str) -> None:
    factory = small(product, n_defect=40)
    for i in range(2):
        good, defective, mask = factory.pair(i, kind)
        difference = (good - defective).abs().amax(dim=0)
        assert mask.any() and mask.float().mean() < 0.2
        assert torch.equal(good[:, ~mask], defective[:, ~mask])
        # Most of the mask is changed by more than rounding, and by more than the tolerance on average.
        assert (difference[mask] > 0).float().mean() > 0.5
        assert difference[mask].mean() > TOLERANCE
        sample = next(s for s in factory.test if s.path == f"{product}/test/{kind}/{i:03d}")
        assert torch.equal(sample.image, defective) and torch.equal(sample.mask, mask)
        assert sample.label == 1 and not sample.logical and sample.kind == kind
        assert [(r.saturation, r.kind) for r in sample.regions] == [(mask.sum(), kind)]


@pytest.mark.parametrize(("product", "kind"), LOGICAL)
def test_logical_anomaly_is_another_correct_picture(product: str, kind: str) -> None:
    factory = SyntheticFactory(product, n_train=0, n_validation=0, n_test=0, n_defect=40)
    for i in range(3):
        good, wrong, mask = factory.pair(i, kind)
        assert not torch.equal(good, wrong)
        assert torch.equal(good[:, ~mask], wrong[:, ~mask])  # nothing is cut off: the masks hold all that changed
        sample = next(s for s in factory.test if s.path == f"{product}/test/{kind}/{i:03d}")
        assert sample.logical and sample.label == 1
        assert torch.equal(sample.image, wrong) and torch.equal(sample.mask, mask)
        union = torch.zeros_like(mask)
        for region in sample.regions:
            assert region.kind == kind and 24 <= region.saturation <= region.mask.sum()
            assert not (union & region.mask).any()
            union |= region.mask
            # Each region shows something that is wrong: with it put right, the picture would be another.
            assert (good - wrong).abs().amax(0)[region.mask].max() > TOLERANCE
        assert torch.equal(union, mask) and mask.float().mean() < 0.5


@pytest.mark.parametrize(("product", "kind"), LOGICAL)
def test_logical_anomaly_looks_alike_at_another_size(product: str, kind: str) -> None:
    large, small_ = (SyntheticFactory(product, size=size).pair(1, kind).mask for size in (256, 128))
    halved = torch.nn.functional.avg_pool2d(large.float()[None], 2)[0]
    assert (halved.round().bool() ^ small_).float().mean() < 0.02


@pytest.mark.parametrize(("product", "kind"), STRUCTURAL)
def test_mask_has_no_specks(product: str, kind: str) -> None:
    mask = small(product).pair(0, kind).mask.numpy()
    found, number = regions_of(mask, [[1] * 3] * 3)
    assert 1 <= number <= 6
    assert min((found == n + 1).sum() for n in range(number)) >= 24 * (SIZE / 256) ** 2


def test_pair_is_the_same_under_any_seed_but_its_own() -> None:
    factory = small("washer")
    kind = factory.kinds[1]
    assert torch.equal(factory.pair(1).mask, factory.pair(1, kind).mask)
    assert not torch.equal(factory.pair(1, kind).good, small("washer", seed=7).pair(1, kind).good)


@pytest.mark.parametrize("product", PRODUCTS)
def test_written_files_read_back_the_same(product: str, tmp_path: Path) -> None:
    factory = small(product)
    assert factory.write(tmp_path) == tmp_path / product
    assert not list(tmp_path.rglob(".*"))  # no part of a file is left behind
    data = MVTecAD(tmp_path, product)
    for written, made in [(data.train, factory.train), (data.validation, factory.validation),
                          (data.test, sorted(factory.test, key=lambda s: s.path))]:
        assert len(written) == len(made)
        for a, b in zip(written, made, strict=True):
            assert (a.kind, a.label) == (b.kind, b.label)
            assert torch.equal(a.image, b.image) and torch.equal(a.mask, b.mask)


@pytest.mark.parametrize("product", PRODUCTS)
def test_written_files_in_the_layout_of_loco_read_back_the_same(product: str, tmp_path: Path) -> None:
    factory = small(product)
    assert factory.write(tmp_path, "mvtec_loco") == tmp_path / product
    assert not list(tmp_path.rglob(".*"))
    data = MVTecLOCO(tmp_path, product)
    made = [s for s in factory.test if s.logical] + [s for s in factory.test if not s.logical]
    in_order = sorted(made, key=lambda s: "good" if not s.label else f"{'logical' if s.logical else 'structural'}")
    for written, wanted in [(data.train, factory.train), (data.validation, factory.validation), (data.test, in_order)]:
        assert len(written) == len(wanted)
        for a, b in zip(written, wanted, strict=True):
            assert (a.label, a.logical) == (b.label, b.logical)
            assert torch.equal(a.image, b.image) and torch.equal(a.mask, b.mask)
            regions = [[(r.kind, r.saturation, r.mask.tolist()) for r in s.regions] for s in (a, b)]
            assert regions[0] == regions[1]


def test_version_is_frozen() -> None:
    held = json.loads(freeze_factory.FILE.read_text())
    assert held["version"] == VERSION
    for product in PRODUCTS:
        assert freeze_factory.hashes(product) == held["products"][product], (
            f"{product}: pictures of version {VERSION} have changed. Undo that, or raise VERSION, run "
            "recipes/freeze_factory.py, and measure every result on the factory again.")


@pytest.mark.parametrize("product", PRODUCTS)
def test_drawing_is_fast(product: str) -> None:
    # benchmarks/accuracy/factory.py measures; this only catches a drawing that has become hopelessly slow.
    data = SyntheticFactory(product)
    start = time.process_time()
    for sample in (*data.train[:6], *data.test[200::40]):
        _ = sample.image
    assert time.process_time() - start < 11 * 0.25


def test_samples_can_go_to_another_process() -> None:
    sample = small("fabric").test[-1]
    copy = pickle.loads(pickle.dumps(sample))
    assert torch.equal(copy.image, sample.image) and torch.equal(copy.mask, sample.mask)


@pytest.mark.parametrize("product", PRODUCTS)
def test_mean_image_does_not_find_the_defects(product: str) -> None:
    factory = small(product, n_train=16, n_test=14, n_defect=14)
    mean = torch.stack([s.image for s in factory.train]).mean(dim=0)
    scores = [float(gaussian_filter((s.image - mean).abs().mean(dim=0).numpy(), 2).max()) for s in factory.test]
    normal, anomalous = ([v for v, s in zip(scores, factory.test, strict=True) if s.label == y] for y in (0, 1))
    auroc = sum((a > n) + 0.5 * (a == n) for a in anomalous for n in normal) / (len(anomalous) * len(normal))
    assert auroc < 0.80


def test_errors_say_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="'gear' is no product, expected one of board, fabric, kit, washer"):
        SyntheticFactory("gear")
    with pytest.raises(DatasetError, match="'rust': is no defect of fabric, expected one of cut"):
        small("fabric").pair(0, "rust")
    with pytest.raises(ValueError, match="size is 8"):
        SyntheticFactory("fabric", size=8)
    with pytest.raises(ValueError, match="n_train is -1"):
        SyntheticFactory("fabric", n_train=-1)
    with pytest.raises(ValueError, match="layout is 'coco', expected mvtec_ad or mvtec_loco"):
        small("fabric").write("nowhere", "coco")
    (small("fabric").write(tmp_path) / "more.txt").touch()
    with pytest.raises(DatasetError, match="fabric: is there already, expected nothing or an empty folder"):
        small("fabric").write(tmp_path, "mvtec_loco")
