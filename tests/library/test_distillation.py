"""Distillation of a teacher: it learns, goes on after a stop, takes any backbone, and refuses what does not fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from adlib.backbones import load_backbone
from adlib.datasets import SyntheticFactory
from adlib.efficientad.distillation import channel_statistics, distill, explained, pool_channels
from adlib.efficientad.networks import PDN
from adlib.efficientad.penalty_images import drawn_penalty_images

OPTIONS = {"image_size": 64, "width": 0.1, "out_channels": 24, "steps": 4, "images_per_step": 2}


@pytest.fixture(scope="module")
def pictures():
    return drawn_penalty_images((160, 160), count=6)


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_the_loss_falls_and_more_is_explained(pictures):
    history = {}
    options = OPTIONS | {"steps": 120, "learning_rate": 3e-3, "decay": "cosine", "smallest_crop": 0.5}
    pdn = distill("adlib_resnet18", pictures[:4], **options, history=history)
    new = distill("adlib_resnet18", pictures[:4], **OPTIONS | {"steps": 1})
    assert np.mean(history["loss"][-20:]) < 0.85 * np.mean(history["loss"][:10]) and not pdn.training
    before, after = (explained(net, "adlib_resnet18", pictures[4:], image_size=64) for net in (new, pdn))
    assert 0 <= before < after - 0.02 and after < 1


def test_the_same_seed_and_a_checkpoint_give_the_same_teacher(pictures, tmp_path):
    state = torch.get_rng_state()
    one, two = distill("adlib_resnet18", pictures, **OPTIONS), distill("adlib_resnet18", pictures, **OPTIONS)
    assert equal(one, two) and not equal(one, distill("adlib_resnet18", pictures, **OPTIONS, seed=1))
    path = tmp_path / "teacher.checkpoint"
    distill("adlib_resnet18", pictures, **OPTIONS, checkpoint=path)
    assert equal(one, distill("adlib_resnet18", pictures, **OPTIONS, checkpoint=path))
    for change in ({"grey": 0.5}, {"layers": ("layer2",)}, {"statistics_images": 2}):
        with pytest.raises(ValueError, match="other settings"):
            distill("adlib_resnet18", pictures, **OPTIONS | change, checkpoint=path)
    with pytest.raises(ValueError, match="other settings"):
        distill("adlib_resnet18", pictures[1:], **OPTIONS, checkpoint=path)
    with pytest.raises(ValueError, match="other settings"):
        distill(load_backbone("adlib_resnet18", pretrained=False), pictures, **OPTIONS, checkpoint=path)
    assert torch.equal(state, torch.get_rng_state())


def test_any_backbone_of_stride_8_and_padding_or_not(pictures):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = nn.Conv2d(3, 10, 8, 8)

        def forward(self, x):
            return {"only": self.convolution(x)}

    for padding in (False, True):
        pdn = distill(Own(), pictures, layers=("only",), padding=padding, bf16=True, **OPTIONS)
        assert pdn.padding == padding and pdn.out_channels == 24
        assert 0 <= explained(pdn, Own(), pictures, layers=("only",), image_size=64) <= 1


def test_statistics_are_exact_far_from_zero_and_refuse_what_is_not_finite():
    values = 1e4 + torch.randn(3, 2, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean, std = channel_statistics(values.split(2))
    torch.testing.assert_close(mean, values.mean((0, 2, 3), keepdim=True).float(), rtol=1e-7, atol=0)
    torch.testing.assert_close(std, values.std((0, 2, 3), keepdim=True, correction=0).float(), rtol=1e-6, atol=0)
    assert channel_statistics([torch.full((1, 2, 3, 3), 7.0)])[1].flatten().tolist() == [1, 1]
    with pytest.raises(ValueError, match="NaN or infinite"):
        channel_statistics([torch.full((1, 2, 3, 3), torch.inf)])
    with pytest.raises(ValueError, match="no image"):
        channel_statistics([])


def test_channels_are_averaged_in_groups_of_neighbours():
    features = torch.arange(6.0).view(1, 6, 1, 1).expand(2, 6, 3, 4)
    assert pool_channels(features, 2)[0, :, 0, 0].tolist() == [1, 4]
    assert pool_channels(features, 6).shape == (2, 6, 3, 4) and torch.equal(pool_channels(features, 6), features)
    assert pool_channels(features, 8)[0, :, 0, 0].tolist() == [0, 0.5, 1.5, 2, 3, 3.5, 4.5, 5]


def test_a_third_of_the_channels_comes_from_layer_2():
    """The reference gives each layer half, 192 of 384; here it is 512 of 1,536 (96 of 288 for the shipped backbone)."""
    for second, third in ((512, 1024), (96, 192)):
        layers = torch.cat([torch.ones(1, second, 1, 1), torch.zeros(1, third, 1, 1)], 1)
        assert float(pool_channels(layers, 384).sum()) == pytest.approx(128, abs=1e-3)


def test_images_that_cannot_be_read_are_passed_over(pictures, tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    pdn = distill("adlib_resnet18", [pictures[0], str(tmp_path / "a.png")], **OPTIONS)
    assert equal(pdn, distill("adlib_resnet18", [pictures[0], pictures[0]], **OPTIONS))
    with pytest.raises(ValueError, match="cannot be read"):
        distill("adlib_resnet18", tmp_path, **OPTIONS)


def test_a_channel_that_never_varies_counts_as_nothing(pictures):
    pdn = PDN(width=0.1, out_channels=24)
    torch.nn.init.zeros_(pdn.last.weight)
    assert explained(pdn, "adlib_resnet18", pictures, image_size=64) == 0


def test_bad_options_and_backbones_are_refused(pictures):
    for options in ({"images_per_step": 0}, {"smallest_crop": 0.0}, {"grey": 2.0}, {"decay": "fast"},
                    {"statistics_images": 0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            distill("adlib_resnet18", pictures, **OPTIONS | options)
    with pytest.raises(ValueError, match="stride of 8"):
        distill("adlib_resnet18", pictures, layers=("layer3",), **OPTIONS)
    with pytest.raises(ValueError, match="steps = 0"):
        distill("adlib_resnet18", pictures, **OPTIONS | {"steps": 0})
    with pytest.raises(ValueError, match="no images"):
        distill("adlib_resnet18", [], **OPTIONS)


def test_the_product_is_not_needed_but_may_be_used():
    data = SyntheticFactory("fabric", size=64, n_train=3, n_validation=0, n_test=0, n_defect=0)
    assert distill("adlib_resnet18", data.train, **OPTIONS).grid((64, 64)) == (8, 8)
