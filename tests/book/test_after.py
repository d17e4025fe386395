"""The page "What came after": its two modules, run as a reader would copy them, with random weights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from adlib import PatchCore, SimpleNet

PAGE = Path(__file__).resolve().parents[2] / "book" / "after.md"


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    """What the page's blocks define. A block without a class downloads weights, and is compiled only."""
    names: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.S | re.M):
        code = compile(block, str(PAGE), "exec")
        if "class " in block:
            exec(code, names)
    return names


def small_vit(seed: int = 0) -> VisionTransformer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vit = VisionTransformer(image_size=64, patch_size=16, num_layers=3, num_heads=2, hidden_dim=32, mlp_dim=64)
        nn.init.normal_(vit.class_token)  # zeros as torchvision makes it
        nn.init.normal_(vit.encoder.pos_embedding)
    return vit.eval()


class SmallDino(nn.Module):
    """The one method of a DINOv2 model that the page calls, with its patch of 14 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 14, 14)

    def get_intermediate_layers(self, x: Tensor, n: list[int], reshape: bool = False) -> tuple[Tensor, ...]:
        assert reshape and not x.shape[2] % 14 and not x.shape[3] % 14
        return tuple(self.patches(x) * (i + 1) for i in n)


def test_the_grid_holds_torchvisions_own_tokens_in_their_places(page: dict[str, Any]) -> None:
    vit = small_vit()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        found = page["TokenGrid"](vit, (1, 3))(images)
        tokens = vit.encoder(torch.cat([vit.class_token.expand(2, -1, -1), vit._process_input(images)], 1))
    assert list(found) == ["block1", "block3"] and found["block1"].shape == (2, 32, 4, 4)
    assert torch.equal(found["block3"].flatten(2).transpose(1, 2), tokens[:, 1:])


def test_another_size_is_interpolated_and_what_is_no_multiple_refused(page: dict[str, Any]) -> None:
    grid = page["TokenGrid"](small_vit(), (2,))
    with torch.no_grad():
        assert grid(torch.rand(1, 3, 96, 48))["block2"].shape == (1, 32, 6, 3)
    with pytest.raises(ValueError, match=r"\(60, 64\) pixels: expected multiples of the patch, 16"):
        grid(torch.rand(1, 3, 60, 64))


@pytest.mark.parametrize("method", [PatchCore, SimpleNet])
@pytest.mark.parametrize("size", [64, (48, 80)])
def test_detectors_take_it_and_its_file_knows_the_weights(
    page: dict[str, Any], tmp_path: Path, method: Any, size: int | tuple[int, int]
) -> None:
    options = {"epochs": 2} if method is SimpleNet else {}
    backbone = page["TokenGrid"](small_vit(), (1, 3))
    detector = method(backbone, layers=("block1", "block3"), image_size=size, device="cpu", **options)
    prediction = detector.fit(torch.rand(6, 3, 50, 70)).predict(images := torch.rand(2, 3, 50, 70))
    assert prediction.maps[0].shape == (50, 70)
    detector.save(file := tmp_path / "vit.safetensors")
    again = method.load(file, backbone=page["TokenGrid"](small_vit(), (1, 3)), device="cpu").predict(images)
    assert (again.scores == prediction.scores).all()
    with pytest.raises(ValueError, match="backbone"):
        method.load(file, backbone=page["TokenGrid"](small_vit(seed=1), (1, 3)))


def test_dinos_grid_in_patchcore(page: dict[str, Any]) -> None:
    detector = PatchCore(page["DinoGrid"](SmallDino(), (6, 12)), layers=("block6", "block12"), image_size=(56, 84),
                         device="cpu")  # fmt: skip
    assert detector.fit(torch.rand(4, 3, 60, 90)).memory_bank.shape[1] == 16
    assert detector.predict(torch.rand(1, 3, 60, 90)).maps[0].shape == (60, 90)
    found = detector.frozen(torch.ones(1, 3, 56, 84))
    assert torch.allclose(found["block12"], 2 * found["block6"])  # numbered from 1, as the page says


def test_tokens_without_a_grid_are_refused_with_a_way_out() -> None:
    with pytest.raises(ValueError, match=r"gives \(1, 17, 32\), expected \(B, C, h, w\); .*What came after"):
        PatchCore(small_vit(), layers=("encoder.layers.encoder_layer_1",), image_size=64)
