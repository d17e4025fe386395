"""PatchCore and what detectors share: inputs of every kind, bad files, bounds, determinism, saving, export."""

import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from scipy import ndimage
from torch.nn import functional as F

from adlib import PatchCore
from adlib.coreset import random_subset
from adlib.datasets import Sample, SyntheticFactory
from adlib.detector import readable_bytes
from adlib.features import spread
from adlib.images import resized_sides
from adlib.neighbors import k_nearest
from adlib.prediction import AnomalyMaps, full_size_maps, gaussian_smooth
from adlib.reading import Reading


def tiny(**options):
    return PatchCore(**({"pretrained": False, "image_size": 64, "coreset_ratio": 0.2, "device": "cpu"} | options))


@pytest.fixture(scope="module")
def factory():
    return SyntheticFactory("fabric", size=64, n_train=8, n_validation=6, n_test=3, n_defect=5)


@pytest.fixture(scope="module")
def fitted(factory):
    return tiny().fit(factory.train, validation=factory.validation)


def test_prediction_has_the_promised_form(fitted, factory):
    p = fitted.predict(factory.test)
    n = len(factory.test)
    assert p.scores.shape == (n,) and p.scores.dtype == np.float32 and len(p.samples) == len(p.maps) == n
    assert p.targets.tolist() == [s.label for s in factory.test] and p.failures == {}
    assert all(m.shape == (64, 64) and m.dtype == np.float32 and np.isfinite(m).all() for m in p.maps)
    assert len(p.maps[1:3]) == 2 and len(fitted.normal_scores) == len(fitted.normal_peaks) == 6


def test_images_of_any_form_score_alike(fitted, factory, tmp_path):
    image = factory.test[0].image
    array = (image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    Image.fromarray(array).save(tmp_path / "a.png")
    expected = fitted.predict(factory.test[:1]).scores
    path = tmp_path / "a.png"
    for form in (image, image[None], array, Image.fromarray(array), path, str(tmp_path), [path]):
        assert fitted.predict(form).scores == pytest.approx(expected, rel=1e-5)


def test_maps_are_at_each_images_own_size():
    sizes = [(64, 64), (40, 100), (333, 65)]
    images = [torch.rand(3, *size, generator=torch.Generator().manual_seed(0)) for size in sizes]
    assert [m.shape for m in tiny().fit(images).predict(images).maps] == sizes


def test_a_defective_training_image_is_refused(factory):
    with pytest.raises(ValueError, match="normal images only"):
        tiny().fit([*factory.train, next(s for s in factory.test if s.label)])
    with pytest.raises(ValueError, match="normal images only"):
        tiny().fit(factory.train, validation=[s for s in factory.test if s.label])


def test_one_bad_file_among_many_is_reported_and_the_others_stand(fitted, factory, tmp_path):
    for i, sample in enumerate(factory.test[:4]):
        array = (sample.image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        Image.fromarray(array).save(tmp_path / f"{i}.png")
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:300])
    (tmp_path / "2.png").write_bytes(b"")
    p = fitted.predict(tmp_path)
    assert [s.path for s in p.samples] == [str(tmp_path / "0.png"), str(tmp_path / "3.png")] and len(p.scores) == 2
    assert set(p.failures) == {str(tmp_path / "1.png"), str(tmp_path / "2.png")}
    with pytest.warns(UserWarning, match="2 of 4 images left out"):
        detector = tiny().fit(tmp_path)
    assert len(detector.failures) == 2 and detector.fitted


def test_only_bad_files_is_an_error(fitted, tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(ValueError, match="none of the 1 training images"):
        tiny().fit(tmp_path)
    p = fitted.predict(tmp_path)
    assert len(p.scores) == len(p.maps) == 0 and len(p.failures) == 1


def test_the_same_call_twice_gives_identical_scores(factory):
    state = torch.get_rng_state()
    a, b = (tiny(projection=16).fit(factory.train).predict(factory.test).scores for _ in range(2))
    assert np.array_equal(a, b) and torch.equal(torch.get_rng_state(), state)


def test_another_number_of_threads_agrees(fitted, factory):
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = fitted.predict(factory.test)
        torch.set_num_threads(2)
        two = fitted.predict(factory.test)
    finally:
        torch.set_num_threads(threads)
    assert np.abs(one.scores - two.scores).max() < 1e-4
    assert np.abs(one.maps[0] - two.maps[0]).max() < 1e-4


def test_batch_size_does_not_matter(factory):
    a, b = (tiny(batch_size=n).fit(factory.train).predict(factory.test).scores for n in (1, 5))
    assert a == pytest.approx(b, abs=1e-4)


def test_memory_is_said_beforehand_and_bounded(factory):
    detector = tiny()
    grid = (64 // 8) ** 2
    assert detector.memory_needed(10) == round(10 * grid * 288 * 4 * (2 + detector.coreset_ratio))
    assert tiny(coreset_ratio=1).memory_needed(10) == 10 * grid * 288 * 4
    calls = []

    def never():
        calls.append(1)
        return torch.zeros(3, 64, 64)

    with pytest.raises(ValueError, match="max_memory"):
        tiny(max_memory=1000).fit([Sample(0, "good", "x", image_source=never)])
    assert not calls  # refused before an image was read
    assert readable_bytes(163_856 * 288 * 4) == "189 MB"


def test_a_random_bank_is_as_large_and_covers_worse(factory, tmp_path):
    whole, greedy, drawn = (tiny(**o).fit(factory.train) for o in ({"coreset_ratio": 1}, {}, {"selection": "random"}))
    rows = whole.memory_bank
    kept = [k_nearest(rows, d.memory_bank)[0] for d in (greedy, drawn)]
    assert len(greedy.memory_bank) == len(drawn.memory_bank) and kept[0].max() < kept[1].max()
    assert torch.equal(drawn.memory_bank, rows[random_subset(rows, len(drawn.memory_bank), seed=drawn.seed)])
    drawn.save(tmp_path / "d.safetensors")
    assert PatchCore.load(tmp_path / "d.safetensors", device="cpu").selection == "random"
    assert drawn.memory_needed(10) == round(10 * 64 * 288 * 4 * 1.2)  # no copy to select from


def test_b_above_the_size_of_the_bank(factory):
    many = tiny(reweighting=10_000).fit(factory.train)
    p, q = many.predict(factory.test), tiny(reweighting=None).fit(factory.train).predict(factory.test)
    assert (p.scores <= q.scores).all() and (p.scores > 0.9 * q.scores).all()
    one = tiny(reweighting=1).fit(factory.train).predict(factory.test)
    assert np.array_equal(one.scores, q.scores)  # b = 1 would give 0 for every image
    lonely = tiny(coreset_ratio=1e-9).fit(factory.train)
    assert len(lonely.memory_bank) == 1 and (lonely.predict(factory.test).scores > 0).all()


def test_one_constant_image():
    detector = tiny(coreset_ratio=1).fit(torch.full((1, 3, 64, 64), 0.5))
    assert detector.predict(torch.full((1, 3, 64, 64), 0.5)).scores[0] == 0
    assert detector.predict(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))).scores[0] > 0.1


def test_smoothing_is_scipys():
    maps = torch.rand(2, 30, 41, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = np.stack([ndimage.gaussian_filter(m, 4.0, mode="nearest", truncate=4.0) for m in maps.numpy()])
    assert np.allclose(gaussian_smooth(maps, 4.0), expected, atol=1e-12)
    assert gaussian_smooth(maps, 0) is maps


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"coreset_ratio": 0}, "coreset_ratio"), ({"coreset_ratio": 1.5}, "coreset_ratio"), ({"stride": 0}, "stride"),
        ({"neighbourhood": 2}, "odd"), ({"layers": ("layer9",)}, "layer9"), ({"layers": ()}, "layers"),
        ({"image_size": 8}, "image_size"), ({"projection": 0}, "projection"), ({"reweighting": 0}, "reweighting"),
        ({"smoothing": -1}, "smoothing"), ({"selection": "k-means"}, "selection = 'k-means': expected one of greedy"),
        ({"backbone": "resnet999"}, "resnet999"),
        ({"stride": 9}, "stride = 9: expected at most 8, as images of .64, 64. pixels have 8 rows and 8 columns"),
        ({"layers": "layer2"}, "layers = 'layer2': expected"), ({"layers": ("layer2", "layer2")}, "none twice"),
        ({"batch_size": 1.5}, "batch_size = 1.5"), ({"batch_size": True}, "batch_size = True"), ({"seed": -1}, "seed"),
        ({"smoothing": float("nan")}, "smoothing = nan"), ({"max_memory": float("nan")}, "max_memory = nan"),
        ({"image_size": 20_000}, "at most 16,384 pixels a side"), ({"image_size": (16_000, 1_600)}, "pixels in all"),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(options, word):
    with pytest.raises(ValueError, match=word):
        tiny(**options)


def test_numbers_of_numpy_are_taken_and_saved(factory, tmp_path):
    detector = tiny(stride=np.int64(2), coreset_ratio=np.float32(0.5), image_size=np.int64(64), seed=np.uint8(3))
    detector.fit(factory.train).save(tmp_path / "a.safetensors")
    assert PatchCore.load(tmp_path / "a.safetensors", device="cpu").config() == detector.config()


def test_predict_before_fit():
    with pytest.raises(RuntimeError, match="not fitted"):
        tiny().predict(torch.rand(1, 3, 64, 64))


@pytest.mark.parametrize("stride", [2, 3])
def test_a_stride_does_not_shift_the_map(stride):
    full = torch.arange(9.0)[:, None] + 10 * torch.arange(8.0)[None]  # a plane: bilinear interpolation is exact
    kept = full[None, ::stride, ::stride]
    out = spread(kept, stride, (9, 8))[0]
    rows, columns = ((n - 1) // stride * stride + 1 for n in (9, 8))
    assert torch.allclose(out[:rows, :columns], full[:rows, :columns], atol=1e-5)
    assert out.shape == full.shape and torch.equal(out[:, -1], out[:, columns - 1])
    with pytest.raises(RuntimeError):
        spread(torch.rand(4, 5, 5), 1, (10, 10))  # as many numbers as one map of that grid


def test_training_mode_changes_nothing(fitted, factory):
    before = fitted.predict(factory.test).scores
    fitted.train()
    assert np.array_equal(fitted.predict(factory.test).scores, before) and fitted.features.backbone.training is False


def test_validation_must_be_apart_from_train(factory):
    with pytest.raises(ValueError, match="in train and in validation"):
        tiny().fit(factory.train, validation=factory.train[:2])
    parts = [Sample(0, "good", f"{i}.png", group="tile 1", image_source=factory.train[i].image) for i in range(2)]
    with pytest.raises(ValueError, match="tile 1"):
        tiny().fit(parts[:1], validation=parts[1:])


def test_unreadable_validation_is_said(factory):
    missing = Sample(0, "good", "gone.png", image_source="gone.png")
    with pytest.warns(UserWarning, match="gone.png"):
        detector = tiny().fit(factory.train, validation=[*factory.validation, missing])
    assert len(detector.normal_scores) == 6
    with pytest.raises(ValueError, match="gone.png"):
        tiny().fit(factory.train, validation=[missing])


# ---------------------------------------------------------------------- saving


def test_save_and_load(fitted, factory, tmp_path):
    path = tmp_path / "d.safetensors"
    fitted.save(path)
    loaded = PatchCore.load(path, device="cpu")
    assert np.array_equal(loaded.predict(factory.test).scores, fitted.predict(factory.test).scores)
    assert torch.equal(loaded.normal_scores, fitted.normal_scores) and loaded.config() == fitted.config()
    assert [f.name for f in tmp_path.iterdir()] == ["d.safetensors"]


class Own(torch.nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.a, self.b = torch.nn.Conv2d(3, 8, 5, 4), torch.nn.Conv2d(8, 16, 3, 2)

    def forward(self, x):
        x = self.a(x)
        return {"a": x, "b": self.b(x)}


def test_own_module_is_kept_by_fingerprint(factory, tmp_path):
    own = Own()
    detector = tiny(backbone=own, layers=("a", "b")).fit(factory.train)
    assert own.a.weight.requires_grad and own.training  # the module given is left as it was
    path = tmp_path / "d.safetensors"
    detector.save(path)
    same = PatchCore.load(path, backbone=Own(), device="cpu")
    assert np.array_equal(same.predict(factory.test).scores, detector.predict(factory.test).scores)
    with pytest.raises(ValueError, match="other weights"):
        PatchCore.load(path, backbone=Own(seed=1))
    with pytest.raises(ValueError, match="backbone="):
        PatchCore.load(path)


def test_what_is_not_a_detector_is_refused_by_name(fitted, tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(FileNotFoundError, match="x.safetensors"):
        PatchCore.load(path)
    path.write_bytes(b"pickle?")
    with pytest.raises(ValueError, match="x.safetensors"):
        PatchCore.load(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="expected a PatchCore"):
        PatchCore.load(path)
    fitted.save(path)
    with pytest.raises(ValueError, match="pass none"):
        PatchCore.load(path, backbone=Own())


def test_failed_save_leaves_the_old_file(fitted, tmp_path, monkeypatch):
    path = tmp_path / "d.safetensors"
    path.write_text("old")

    def fails(*args):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fails)
    with pytest.raises(OSError, match="disk full"):
        fitted.save(path)
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_fitted_detector_can_be_exported(fitted):
    batch = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(fitted, (batch,)).module()
        for a, b in zip(program(batch), fitted(batch), strict=True):
            assert torch.allclose(a, b, atol=1e-5)


def test_save_names_a_missing_folder(fitted, tmp_path):
    with pytest.raises(FileNotFoundError, match="drive: no such folder, expected the one to write a.safetensors to"):
        fitted.save(tmp_path / "drive" / "a.safetensors")


# ---------------------------------------------------------------------- resize, then cut the middle


def test_the_middle_is_cut_as_in_the_papers():
    """The sides and the corner are those of torchvision's Resize and CenterCrop, for files and for functions."""
    from torchvision.transforms import CenterCrop, Resize

    for sides in ((90, 333), (512, 400), (80, 80)):
        assert resized_sides(sides, (64, 64), 80) == Resize(80)(torch.zeros(1, *sides)).shape[1:]
    image = torch.rand(3, 83, 118, generator=torch.Generator().manual_seed(0))
    for source in (image, lambda: image):
        look = Reading().look(Sample(0, "good", "image", image_source=source), (64, 64), 83)
        assert torch.equal(look.image, CenterCrop(64)(image)) and look.size == (83, 118)


def test_a_defect_outside_the_middle_is_not_seen_and_one_inside_is():
    generator = torch.Generator().manual_seed(1)
    images = [0.5 + 0.02 * torch.randn(3, 96, 128, generator=generator).clamp(-3, 3) for _ in range(4)]
    blind = tiny(image_size=64, resize=80).fit(images[:3])
    outside, inside = images[3].clone(), images[3].clone()
    outside[:, :, :16], inside[:, 40:56, 56:72] = 0, 0
    good, border, middle = blind.predict([images[3], outside, inside]).scores
    assert border == good and middle > 1.2 * good
    assert tiny(image_size=(96, 128)).fit(images[:3]).predict([outside]).scores[0] > 1.2 * good


def test_the_map_of_a_cut_middle_lies_where_the_middle_was():
    grid = torch.full((2, 8, 8), 2.0)
    grid[:, 2, 5] = 9.0
    sides, size = (80, 106), (64, 64)
    same, twice = AnomalyMaps(grid, size, 0.0, [sides, (160, 212)], 80)
    assert np.array_equal(same[8:72, 21:85], full_size_maps(grid[:1], size, 0.0)[0].numpy())
    outside = np.ones(sides, bool)
    outside[8:72, 21:85] = False
    assert same.shape == sides and (same[outside] == 2).all() and same.max() == pytest.approx(9, rel=0.1)
    rows, columns = np.nonzero(twice > 0.99 * twice.max())  # the middle of the hot cell, in pixels of the image
    assert rows.mean() + 0.5 == pytest.approx(2 * (8 + 2.5 * 8)) and columns.mean() + 0.5 == 2 * (21 + 5.5 * 8)


def test_resize_is_kept_in_the_file_and_must_hold_the_middle(tmp_path, factory):
    detector = tiny(resize=80).fit(factory.train)
    detector.save(tmp_path / "a.safetensors")
    again, whole = PatchCore.load(tmp_path / "a.safetensors", device="cpu"), tiny().fit(factory.train)
    cut, kept, uncut = (one.predict(factory.test).scores for one in (detector, again, whole))
    assert again.resize == 80 and np.array_equal(cut, kept) and not np.allclose(cut, uncut)
    with pytest.raises(ValueError, match="resize = 63: expected a whole number of at least 64"):
        tiny(resize=63)
    with pytest.raises(ValueError, match="expected image_size= beside it"):
        PatchCore(pretrained=False, resize=256)


def test_the_papers_profile_runs_and_is_the_official_codes_arithmetic():
    """Random weights, two images; beside it the official steps in their order, written with torch alone."""
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(3, *sides, generator=generator) for sides in ((256, 300), (256, 256), (256, 280))]
    detector = PatchCore(**PatchCore.PAPER, pretrained=False, device="cpu").fit(images[:2])
    assert detector.memory_bank.shape == (int(0.1 * 2 * 28 * 28), 1024)
    p = detector.predict(images[2:])
    x = (images[2][None, :, 16:240, 28:252] - detector.features.mean) / detector.features.std
    planes = []
    for layer in detector.features.backbone(x).values():
        unfolded = F.unfold(layer, 3, padding=1).unflatten(2, layer.shape[2:])  # (1, C·9, h, w), zeros outside
        planes.append(F.interpolate(unfolded, (28, 28), mode="bilinear").flatten(2)[0].T)  # (784, C·9)
    layers = torch.cat([F.adaptive_avg_pool1d(rows[:, None], 1024)[:, 0] for rows in planes], 1)
    rows = F.adaptive_avg_pool1d(layers[:, None], 1024)[:, 0]
    squared = torch.cdist(rows.double(), detector.memory_bank.double()).square().amin(1)
    assert p.scores[0] == pytest.approx(float(squared.max()), rel=1e-5)
    enlarged = F.interpolate(squared.view(1, 1, 28, 28), (224, 224), mode="bilinear")[0, 0].numpy()
    expected = ndimage.gaussian_filter(enlarged, 4, mode="nearest")
    assert np.abs(p.maps[0][16:240, 28:252] - expected).max() < 1e-5 * expected.max()
