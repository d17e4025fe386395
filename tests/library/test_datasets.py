"""Data sets in folders, in their official layouts, and what a user hands over without one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from adlib.datasets import DatasetError, ImageFolder, MagneticTile, MVTecAD, Sample, as_samples, hold_out, in_memory
from adlib.images import ImageError

DATA = Path(os.environ.get("ADLIB_DATA", Path(__file__).parents[2] / "../shared/data"))


def real(name: str) -> Path:
    """The folder of a real data set, or a skip that says how to provide it."""
    if not (DATA / name).is_dir():
        pytest.skip(f"{name} is not in {DATA}: set ADLIB_DATA to the folder that holds it")
    return DATA / name


def save(path: Path, value: int = 100, size: tuple[int, int] = (6, 8)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(size, value, np.uint8)).save(path)
    return path


@pytest.fixture
def mvtec(tmp_path: Path) -> Path:
    """A small tree in MVTec AD's layout, with the files beside the images that the real one has."""
    root = tmp_path / "mvtec"
    for i in range(3):
        save(root / f"bottle/train/good/{i:03d}.png", i)
    save(root / "bottle/test/good/000.png")
    for kind in ("broken_large", "contamination"):
        for i in range(2):
            save(root / f"bottle/test/{kind}/{i:03d}.png")
            mask = np.zeros((6, 8), np.uint8)
            mask[1:3, 2:5] = 255
            (root / f"bottle/ground_truth/{kind}").mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(root / f"bottle/ground_truth/{kind}/{i:03d}_mask.png")
    for name in ("license.txt", "train/good/Thumbs.db", "test/good/.hidden.png"):
        (root / "bottle" / name).write_text("no image")
    return root


def test_mvtec_layout(mvtec: Path) -> None:
    data = MVTecAD(mvtec, "bottle")
    train, test = data.split()
    assert [Path(s.path).name for s in train] == ["000.png", "001.png", "002.png"]
    assert [s.label for s in train] == [0, 0, 0] and data.validation == []
    assert [s.kind for s in test] == ["broken_large"] * 2 + ["contamination"] * 2 + ["good"]
    assert torch.equal(train[2].image, torch.full((3, 6, 8), 2 / 255))
    mask = test[0].mask
    assert mask is not None and mask.dtype == torch.bool and mask.sum() == 6 and mask[1, 2]
    (region,) = test[0].regions
    assert region.saturation == 6 and torch.equal(region.mask, mask)
    assert test[-1].mask is not None and not test[-1].mask.any() and test[-1].mask.shape == (6, 8)
    assert test[-1].regions == ()


def test_mvtec_missing_mask_is_named(mvtec: Path) -> None:
    (mvtec / "bottle/ground_truth/contamination/001_mask.png").unlink()
    with pytest.raises(DatasetError, match=r"contamination/001\.png.*expected .*001_mask\.png"):
        MVTecAD(mvtec, "bottle")


def test_mvtec_wrong_folders_say_what_is_there(mvtec: Path) -> None:
    with pytest.raises(DatasetError, match="no category 'cable'.*found categories bottle"):
        MVTecAD(mvtec, "cable")
    with pytest.raises(DatasetError, match=r"is itself a category.*MVTecAD\(.*mvtec', 'bottle'\)"):
        MVTecAD(mvtec / "bottle", "bottle")
    with pytest.raises(DatasetError, match="is not a folder"):
        MVTecAD(mvtec / "nowhere", "bottle")
    shutil.rmtree(mvtec / "bottle/train")
    with pytest.raises(DatasetError, match="no folder train/good.*found ground_truth, test"):
        MVTecAD(mvtec, "bottle")


def test_mask_of_another_size_names_both(mvtec: Path) -> None:
    save(mvtec / "bottle/ground_truth/broken_large/000_mask.png", 255, (5, 8))
    sample = MVTecAD(mvtec, "bottle").test[0]
    with pytest.raises(ImageError, match=r"000_mask\.png: the mask is 5 × 8 .* 6 × 8 as .*broken_large/000\.png"):
        _ = sample.mask


def test_samples_are_read_when_asked_for_and_not_kept(mvtec: Path) -> None:
    sample = MVTecAD(mvtec, "bottle").train[0]
    save(Path(sample.path), 200)
    assert torch.equal(sample.image, torch.full((3, 6, 8), 200 / 255))
    Path(sample.path).write_bytes(b"")
    with pytest.raises(ImageError, match=r"000\.png: is empty"):
        _ = sample.image


def test_real_mvtec_bottle() -> None:
    data = MVTecAD(real("mvtec_ad"), "bottle")
    assert len(data.train) == 209 and len(data.test) == 83 and sum(s.label for s in data.test) == 63
    assert data.test[0].image.shape == (3, 450, 450) and data.test[0].regions[0].saturation > 0


# Frame numbers of six tiles. The gap is above 100 between tiles and never within one; sorted as text, 1000 would
# come before 200, and exp0 or exp1 says nothing about the tile.
TILES = {0: [150, 200, 300], 1: [401, 450], 2: [1000, 1050], 3: [1200, 1210], 4: [2000, 2100], 5: [2201, 2210]}
DEFECTIVE = {450: "Crack", 1200: "Fray", 2100: "Blowhole"}


@pytest.fixture
def tiles(tmp_path: Path) -> Path:
    for kind in MagneticTile.KINDS:
        (tmp_path / f"MT_{kind}/Imgs").mkdir(parents=True)
    for i, number in enumerate(n for numbers in TILES.values() for n in numbers):
        file = tmp_path / f"MT_{DEFECTIVE.get(number, 'Free')}/Imgs/exp{i % 2}_num_{number}.jpg"
        save(file)
        save(file.with_suffix(".png"), 255 * (number in DEFECTIVE))
    for kind in ("Break", "Uneven"):  # each folder holds an image; these two join the last tile but one
        save(tmp_path / f"MT_{kind}/Imgs/exp1_num_2050.jpg")
        save(tmp_path / f"MT_{kind}/Imgs/exp1_num_2050.png", 255)
    return tmp_path


def numbers_of(samples: list[Sample]) -> list[int]:
    return [int(Path(sample.path).stem.split("_")[-1]) for sample in samples]


def test_magnetic_tiles_are_split_by_tile(tiles: Path) -> None:
    data = MagneticTile(tiles)
    # Tile 1 has a defective image, so its free one may not train; tile 5 is 0 modulo 5.
    assert numbers_of(data.train) == [150, 200, 300, 1000, 1050, 2201, 2210]
    assert numbers_of(data.validation) == [1200, 1210]
    assert numbers_of(data.test) == [2000, 2050, 2050, 2100]
    assert [s.kind for s in data.validation] == ["fray", "good"]
    assert [s.label for s in data.test] == [0, 1, 1, 1]
    assert {s.group for s in data.train} == {"tile 000", "tile 002", "tile 005"}
    assert data.validation[0].mask is not None and data.validation[0].mask.all()


def test_magnetic_tile_errors(tiles: Path) -> None:
    with pytest.raises(DatasetError, match="no folder MT_Blowhole/Imgs.*found Imgs"):
        MagneticTile(tiles / "MT_Free")
    next((tiles / "MT_Fray/Imgs").glob("*_num_1200.png")).unlink()
    with pytest.raises(DatasetError, match=r"_num_1200\.jpg: has no mask"):
        MagneticTile(tiles)
    save(tiles / "MT_Crack/Imgs/extra.jpg")
    with pytest.raises(DatasetError, match=r"extra\.jpg: has no frame number"):
        MagneticTile(tiles)


def test_real_magnetic_tiles() -> None:
    data = MagneticTile(real("magnetic_tile"))
    parts = (data.train, data.validation, data.test)
    assert [sum(s.label == 0 for s in data.test), sum(s.label for s in data.test)] == [184, 77]
    assert all(s.label == 0 for s in data.train)
    groups = [{s.group for s in part} for part in parts]
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]
    # All 1344 images lie in 224 tiles; the last one's index shows it.
    assert max(max(group) for group in groups if group) == "tile 223"  # type: ignore[type-var]
    assert all(sample.mask is not None and sample.mask.any() for sample in data.test if sample.label)


def test_image_folder_with_kinds_and_masks(tmp_path: Path) -> None:
    save(tmp_path / "train/a.png")
    save(tmp_path / "train/monday/b.JPG")
    for name in ("ok/1.png", "hole/1.png", "hole/2.png", "hole/3.png"):
        save(tmp_path / "test" / name)
    save(tmp_path / "masks/hole/1.png", 1)
    save(tmp_path / "masks/hole/2_mask.bmp", 255)
    data = ImageFolder(tmp_path / "train", tmp_path / "test", tmp_path / "masks")
    assert len(data.train) == 2 and data.validation == []
    assert [(s.kind, s.label) for s in data.test] == [("hole", 1)] * 3 + [("ok", 0)]
    assert [None if s.mask is None else int(s.mask.sum()) for s in data.test] == [48, 48, None, 0]
    with pytest.raises(DatasetError, match=r"holds no mask for any image.*hole/1\.png"):
        ImageFolder(tmp_path / "train", tmp_path / "test", tmp_path / "train")


def test_image_folder_flat_and_mixed(tmp_path: Path) -> None:
    save(tmp_path / "train/a.png")
    save(tmp_path / "test/1.png")
    data = ImageFolder(tmp_path / "train", tmp_path / "test")
    assert [(s.label, s.kind) for s in data.test] == [(None, "unlabelled")]
    assert data.test[0].mask is None and data.test[0].regions == ()
    assert ImageFolder(tmp_path / "train").test == []
    save(tmp_path / "test/hole/1.png")
    with pytest.raises(DatasetError, match=r"holds images \(1\.png\) beside folders"):
        ImageFolder(tmp_path / "train", tmp_path / "test")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/notes.txt").write_text("none")
    with pytest.raises(DatasetError, match=r"holds no image, expected files ending in .*\.png.*found notes\.txt"):
        ImageFolder(tmp_path / "empty")


@pytest.mark.parametrize("kind", [
    "good", "OK", "Normal", "nominal", "defect_free", "defect-free", "Defect Free", "no_defect", "non-defective",
    "pass", "passed", "fine", "gut", "正常", "良品",
])
def test_image_folder_understands_the_usual_names_of_normal(tmp_path: Path, kind: str) -> None:
    for name in ("train/a.png", f"test/{kind}/1.png", "test/abnormal/1.png", "test/not ok/1.png"):
        save(tmp_path / name)
    found = {s.kind: s.label for s in ImageFolder(tmp_path / "train", tmp_path / "test").test}
    assert found == {kind: 0, "abnormal": 1, "not ok": 1}


def test_image_folder_needs_no_normal_test_images(tmp_path: Path) -> None:
    save(tmp_path / "train/a.png")
    save(tmp_path / "test/hole/1.png")
    assert [s.label for s in ImageFolder(tmp_path / "train", tmp_path / "test").test] == [1]


def test_image_folder_names_the_part_of_each_image(tmp_path: Path) -> None:
    for name in ("train/mon/p1_0.png", "train/mon/p1_1.png", "train/tue/p2_0.png", "test/good/p3_0.png"):
        save(tmp_path / name)
    folders = (tmp_path / "train", tmp_path / "test")
    for group in (r"(p\d)_", lambda path: path.stem.split("_")[0]):
        data = ImageFolder(*folders, group=group)
        assert [s.group for s in data.train] == ["p1", "p1", "p2"] and [s.group for s in data.test] == ["p3"]
    assert [s.group for s in ImageFolder(*folders, group="^[^/]+").train] == ["mon", "mon", "tue"]  # below the folder
    assert {s.group for s in ImageFolder(*folders).train} == {None}
    with pytest.raises(DatasetError, match=r"p3_0\.png: group = 'p\[12\]' is not found"):
        ImageFolder(*folders, group="p[12]")
    with pytest.raises(DatasetError, match="group is of type list"):
        ImageFolder(*folders, group=["p1"])  # type: ignore[arg-type]


def test_doubled_endings_and_doubled_masks(tmp_path: Path, mvtec: Path) -> None:
    for name in ("train/a.png.png", "test/hole/1.png.png", "test/hole/2.jpg", "test/good/1.png"):
        save(tmp_path / name)
    for name in ("masks/hole/1.png", "masks/hole/2_mask.png.png"):
        save(tmp_path / name, 255)
    folders = [tmp_path / name for name in ("train", "test", "masks")]
    assert [s.mask is not None and bool(s.mask.any()) for s in ImageFolder(*folders).test] == [False, True, True]
    save(tmp_path / "masks/hole/1.bmp")
    with pytest.raises(DatasetError, match=r"1\.png\.png: has the masks .*1\.bmp, .*1\.png, expected one"):
        ImageFolder(*folders)
    (file := mvtec / "bottle/test/contamination/001.png").rename(file.with_name("001.png.png"))
    assert sum(s.mask is not None and bool(s.mask.any()) for s in MVTecAD(mvtec, "bottle").test) == 4


def test_mvtec_without_good_test_images_is_refused(mvtec: Path) -> None:
    (mvtec / "bottle/test/good").rename(mvtec / "bottle/test/ok")
    with pytest.raises(DatasetError, match="no folder good.*found broken_large, contamination, ok; call ok so"):
        MVTecAD(mvtec, "bottle")
    shutil.rmtree(mvtec / "bottle/test/ok")
    with pytest.raises(DatasetError, match="no folder good.*found broken_large, contamination; copy it"):
        MVTecAD(mvtec, "bottle")


def test_every_ending_counts_in_a_data_set_too(mvtec: Path) -> None:
    for name in ("a.JFIF", "b.heic", "c.nef"):
        (mvtec / "bottle/train/good" / name).write_bytes(b"x")
    (mvtec / "bottle/train/good/d.png").symlink_to("nowhere")
    broken = MVTecAD(mvtec, "bottle").train[3:]
    assert [Path(s.path).name for s in broken] == ["a.JFIF", "b.heic", "c.nef", "d.png"]
    for sample in broken:
        with pytest.raises(ImageError, match=Path(sample.path).name):
            _ = sample.image


def test_image_folder_passes_max_value_on(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    Image.fromarray(np.full((4, 4), 4095, np.uint16)).save(tmp_path / "train/a.png")
    assert ImageFolder(tmp_path / "train", max_value=4095).train[0].image.min() == 1


def test_as_samples_takes_what_users_have(tmp_path: Path) -> None:
    files = [save(tmp_path / "a.png", 10), save(tmp_path / "deep/b.png", 20)]
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.warns(UserWarning, match=r"1 file\(s\) passed over.*notes\.txt"):
        assert [s.path for s in as_samples(tmp_path)] == [str(f) for f in files]
    assert as_samples(str(files[0]))[0].image[0, 0, 0] == 10 / 255
    assert len(as_samples(files)) == 2
    batch = torch.rand(3, 3, 5, 6)
    assert torch.equal(as_samples(batch)[2].image, batch[2])
    assert torch.equal(as_samples(batch[1])[0].image, batch[1])
    assert len(as_samples(np.zeros((2, 5, 6, 3), np.uint8))) == 2
    mixed = as_samples([Image.new("RGB", (6, 5)), np.zeros((5, 6)), batch[0], files[0]])
    assert [s.path for s in mixed] == ["image[0]", "image[1]", "image[2]", str(files[0])]
    assert all(s.label is None and s.kind == "unlabelled" and s.mask is None for s in mixed)
    assert as_samples(mixed) == mixed and as_samples(mixed[0]) == [mixed[0]]


def test_as_samples_names_the_bad_image() -> None:
    sample = as_samples([torch.zeros(3, 4, 4), torch.full((3, 4, 4), 7.0)])[1]
    with pytest.raises(ImageError, match=r"^image\[1\]: values reach from 7"):
        _ = sample.image


@pytest.mark.parametrize(("source", "said"), [([], "empty"), (3, "int"), ([3], "item 0"), (None, "None: is no path")])
def test_as_samples_errors(source: object, said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        as_samples(source)


def grouped(sizes: list[int]) -> list[Sample]:
    return [Sample(0, "good", f"{g}/{i}", group=f"tile {g}") for g, size in enumerate(sizes) for i in range(size)]


def test_hold_out_moves_whole_groups() -> None:
    samples = grouped([6] * 20)
    rest, held = hold_out(samples, 0.1, seed=3)
    assert len(held) == 12 and len(rest) == 108
    assert not {s.group for s in rest} & {s.group for s in held}
    assert sorted(s.path for s in rest + held) == sorted(s.path for s in samples)
    assert (rest, held) == hold_out(samples, 0.1, seed=3)
    assert held != hold_out(samples, 0.1, seed=4)[1]


def test_hold_out_holds_at_least_one_group_and_leaves_one() -> None:
    rest, held = hold_out(grouped([5, 5]), 0.01)
    assert len(rest) == len(held) == 5
    singles = [Sample(0, "good", str(i)) for i in range(30)]
    assert len(hold_out(singles, 0.1)[1]) == 3
    with pytest.raises(DatasetError, match=r"1 part\(s\).*leaves none"):
        hold_out(grouped([5]), 0.1)
    with pytest.raises(ValueError, match="held-out share is 1.5"):
        hold_out(singles, 1.5)


def test_in_memory_applies_max_value_once():
    image = np.full((8, 9), 4095, np.uint16)
    kept = in_memory(as_samples([image], max_value=4095))[0]
    assert float(kept.image.max()) == pytest.approx(1.0)
