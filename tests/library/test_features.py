"""Backbones: the shipped one, torchvision's, and a module of one's own."""

import itertools

import pytest
import torch
from torch.nn import functional as F

from adlib.backbones import SHIPPED, fingerprint, load_backbone
from adlib.features import PatchFeatures
from adlib.resnet import ResNet18


def image(size=64):
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_shipped_backbone_is_frozen_and_has_its_layers():
    backbone = load_backbone(SHIPPED)
    out = backbone(image())
    assert {k: tuple(v.shape) for k, v in out.items()} == {
        "layer1": (2, 48, 16, 16), "layer2": (2, 96, 8, 8), "layer3": (2, 192, 4, 4)
    }  # fmt: skip
    assert not backbone.training and not any(p.requires_grad for p in backbone.parameters())
    again, other = load_backbone(SHIPPED), load_backbone(SHIPPED, pretrained=False)
    assert fingerprint(backbone) == fingerprint(again) != fingerprint(other)


def test_our_network_is_torchvisions_resnet18():
    """With 64 channels and torchvision's weights copied by name, both give the same features."""
    theirs = load_backbone("resnet18", ("layer1", "layer2", "layer3"), pretrained=False, seed=1)
    ours = ResNet18(width=64).eval()
    ours.load_state_dict(theirs.state_dict())
    for layer, value in theirs(image()).items():
        assert torch.allclose(ours(image())[layer], value, atol=1e-4)


def test_random_weights_depend_on_the_seed_alone():
    state = torch.get_rng_state()
    a, b, c = (fingerprint(load_backbone(SHIPPED, pretrained=False, seed=s)) for s in (1, 1, 2))
    assert a == b != c and torch.equal(torch.get_rng_state(), state)


def test_module_of_ones_own_is_cut_at_its_submodules():
    own = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3, 2), torch.nn.ReLU(), torch.nn.Conv2d(5, 7, 3, 2))
    features = PatchFeatures(load_backbone(own, ("1", "2")), ("1", "2"))
    assert features(image()).shape[1] == 12
    with pytest.raises(ValueError, match="no layer 'layer2'"):
        load_backbone(own)


def test_unknown_backbone_and_layer_are_named():
    with pytest.raises(ValueError, match="efficientnet_x"):
        load_backbone("efficientnet_x")
    with pytest.raises(ValueError, match="layer4"):
        load_backbone(SHIPPED, ("layer2", "layer4"))


def test_a_download_that_fails_says_what_to_do(monkeypatch):
    def offline(*args, **kwargs):
        assert kwargs["check_hash"] and kwargs["weights_only"]
        raise OSError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(RuntimeError, match="resnet18.*no network.*adlib_resnet18"):
        load_backbone("resnet18")


def test_torchvision_is_imported_only_when_needed(run_python):
    code = "import sys, adlib; adlib.PatchCore(); print('torchvision' in sys.modules)"
    assert run_python(code).strip() == "False"


@pytest.fixture
def run_python():
    import subprocess
    import sys

    def run(code):
        return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout

    return run


def test_layer3_is_scaled_by_weights_alone():
    import pretrain_backbone

    plain, scaled = ResNet18(), ResNet18()
    for seed, buffer in enumerate(b for b in plain.buffers() if b.is_floating_point()):
        buffer.copy_(torch.rand(buffer.shape, generator=torch.Generator().manual_seed(seed)) + 0.5)
    scaled.load_state_dict(plain.state_dict())
    pretrain_backbone.scale_layer3(scaled, 0.25)
    with torch.no_grad():
        before, after = plain.eval()(image()), scaled.eval()(image())
    assert torch.equal(before["layer2"], after["layer2"])
    assert torch.allclose(before["layer3"] * 0.25, after["layer3"], atol=1e-6)


def plainly_pooled(layers, n, p=3):
    """The official code's patch features (B, n, h, w), one number after the other: float64, loops."""
    (b, _, h, w), all_runs = layers[0].shape, []

    def runs(numbers, n):
        ends = [(i * len(numbers) // n, -(-(i + 1) * len(numbers) // n)) for i in range(n)]
        return [sum(numbers[first:last]) / (last - first) for first, last in ends]

    for x in layers:
        planes = []  # one for each channel and place of the neighbourhood, moved by that place
        for c, i, j in itertools.product(range(x.shape[1]), range(p), range(p)):
            moved = torch.zeros(b, *x.shape[2:], dtype=torch.float64)
            for y, z in itertools.product(range(x.shape[2]), range(x.shape[3])):
                v, u = y + i - p // 2, z + j - p // 2
                if 0 <= v < x.shape[2] and 0 <= u < x.shape[3]:
                    moved[:, y, z] = x[:, c, v, u]
            planes.append(F.interpolate(moved[None], (h, w), mode="bilinear", align_corners=False)[0])
        all_runs.append(planes)
    out = torch.empty(b, n, h, w, dtype=torch.float64)
    for k, y, z in itertools.product(range(b), range(h), range(w)):
        stacked = [run for planes in all_runs for run in runs([float(plane[k, y, z]) for plane in planes], n)]
        out[k, :, y, z] = torch.tensor(runs(stacked, n), dtype=torch.float64)
    return out


@pytest.mark.parametrize("n", [5, 7, 12, 30])  # runs that end within a channel, and more runs than channels
def test_pooled_features_are_the_official_codes(n):
    generator = torch.Generator().manual_seed(n)
    fine, coarse = torch.randn(2, 4, 6, 8, generator=generator), torch.randn(2, 3, 3, 4, generator=generator)

    class Two(torch.nn.Module):
        def forward(self, x):
            return {"fine": fine, "coarse": coarse}

    features = PatchFeatures(Two(), ("fine", "coarse"), pooling=n)(image())
    torch.testing.assert_close(features.double(), plainly_pooled([fine, coarse], n), rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="pooling = 0"):
        PatchFeatures(Two(), ("fine", "coarse"), pooling=0)
