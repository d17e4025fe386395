"""SimSiam, SimCLR, MoCo: their losses against lightly's, an independent implementation, and their modules."""

from __future__ import annotations

import copy
import os

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from adlib.objectives import MoCo, SimCLR, SimSiam, Supervised, ema_update, info_nce_loss, nt_xent_loss, simsiam_loss

os.environ.setdefault("LIGHTLY_DID_VERSION_CHECK", "True")  # it asks its server for a newer version


def vectors(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def encoder() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.mark.parametrize("shape", [(2, 3), (16, 32)])
def test_simsiam_equals_lightly(shape: tuple[int, int]) -> None:
    from lightly.loss import NegativeCosineSimilarity

    theirs = NegativeCosineSimilarity()
    p1, p2, z1, z2 = (vectors(i, *shape) for i in range(4))
    expected = 0.5 * (theirs(p1, z2.detach()) + theirs(p2, z1.detach()))
    assert torch.allclose(simsiam_loss(p1, p2, z1, z2), expected, atol=1e-12)


@pytest.mark.parametrize("temperature", [0.07, 0.5, 2.0])
@pytest.mark.parametrize("shape", [(2, 3), (16, 32)])
def test_simclr_equals_lightly(shape: tuple[int, int], temperature: float) -> None:
    from lightly.loss import NTXentLoss

    z1, z2 = vectors(0, *shape), vectors(1, *shape)
    assert torch.allclose(nt_xent_loss(z1, z2, temperature), NTXentLoss(temperature=temperature)(z1, z2), atol=1e-12)


def test_moco_equals_lightly() -> None:
    from lightly.loss import NTXentLoss

    theirs = NTXentLoss(temperature=0.2, memory_bank_size=(24, 32)).double()
    theirs(vectors(8, 24, 32).requires_grad_(), vectors(9, 24, 32))  # fills its queue
    q, k = vectors(0, 8, 32), vectors(1, 8, 32)
    # Its bank keeps one vector a column and is changed by the call.
    queue = copy.deepcopy(theirs.memory_bank.bank)
    queue = queue.T if queue.shape[0] == 32 else queue
    assert queue.shape == (24, 32)
    assert torch.allclose(info_nce_loss(q, k, queue.double(), 0.2), theirs(q.requires_grad_(), k), atol=1e-6)


def test_the_heads_equal_lightlys() -> None:
    """Projectors and predictors on the same weights; SimCLR's there ends in one more normalisation."""
    from lightly.models.modules import heads

    simsiam = SimSiam(encoder(), 8, dimension=12, hidden=10, predictor=6)
    moco, simclr = MoCo(encoder(), 8, dimension=12, hidden=10, queue=4), SimCLR(encoder(), 8, dimension=12, hidden=10)
    pairs = [(simsiam.projector, heads.SimSiamProjectionHead(8, 10, 12).layers),
             (simsiam.predictor, heads.SimSiamPredictionHead(12, 6, 12).layers),
             (moco.projector, heads.MoCoProjectionHead(8, 10, 12).layers),
             (simclr.projector[:3], heads.SimCLRProjectionHead(8, 10, 12).layers[:3])]  # fmt: skip
    for ours, theirs in pairs:
        ours.load_state_dict(theirs.state_dict())  # as many layers, of the same sizes, with or without bias
        x = torch.randn(6, ours[0].in_features)
        assert torch.allclose(ours(x), theirs(x), atol=1e-6)


def test_no_gradient_goes_to_targets() -> None:
    p1, p2, z1, z2 = (vectors(i, 4, 8).requires_grad_() for i in range(4))
    simsiam_loss(p1, p2, z1, z2).backward()
    assert p1.grad is not None and z1.grad is None and z2.grad is None
    q, k = vectors(0, 4, 8).requires_grad_(), vectors(1, 4, 8).requires_grad_()
    info_nce_loss(q, k, F.normalize(vectors(2, 6, 8), dim=1)).backward()
    assert q.grad is not None and k.grad is None


def test_moco_moves_its_queue_and_its_slow_copy() -> None:
    torch.manual_seed(0)
    moco = MoCo(encoder(), 8, dimension=4, queue=6, momentum=0.9)
    before = moco.queue.clone()
    start = copy.deepcopy(moco.key_network)
    with torch.no_grad():
        for p in moco.encoder.parameters():
            p.add_(1.0)
    x = torch.rand(4, 3, 16, 16)
    moco.base_loss(x, x)
    assert moco.oldest == 4 and torch.equal(moco.queue[4:], before[4:]) and not torch.equal(moco.queue[:4], before[:4])
    moco.base_loss(x, x)
    assert moco.oldest == 2  # 8 keys into 6 places
    assert torch.allclose(moco.queue.norm(dim=1), torch.ones(6), atol=1e-6)
    slow, old = next(moco.key_network.parameters()), next(start.parameters())
    assert torch.allclose(slow, old + 1 - 0.9**2, atol=1e-6)  # two steps of a tenth of the way
    assert not any(p.requires_grad for p in moco.key_network.parameters())


def test_follow() -> None:
    slow, fast = [torch.zeros(3)], [torch.ones(3)]
    ema_update(slow, fast, 0.75)
    assert slow[0].tolist() == [0.25] * 3 and fast[0].tolist() == [1.0] * 3


@pytest.mark.parametrize("module", [SimSiam, SimCLR, MoCo])
def test_every_objective_learns_views_of_its_images(module: type[nn.Module]) -> None:
    torch.manual_seed(0)
    method = module(encoder(), 8, **({"queue": 32} if module is MoCo else {}))
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.05, momentum=0.9)
    losses = []
    for _ in range(80):
        x = torch.rand(16, 3, 1, 1).expand(-1, -1, 16, 16)  # each image has one colour
        loss = method.base_loss(x, (x + 0.02 * torch.randn_like(x)).clamp(0, 1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < sum(losses[3:13]) - 0.5  # by then MoCo's queue is full of keys
    assert method.project(x).ndim == 2


def test_supervised_has_two_classifiers() -> None:
    torch.manual_seed(0)
    method = Supervised(encoder(), 8, classes=3)
    x = torch.rand(6, 3, 16, 16)
    assert method.base_loss(x, torch.tensor([0, 1, 2, 0, 1, 2])).ndim == 0
    with torch.no_grad():
        method.spotter.weight.zero_()
        method.spotter.bias.fill_(3.0)
    expected = F.binary_cross_entropy(torch.full((6,), 3.0).sigmoid(), torch.ones(6))
    assert torch.allclose(method.spotting_loss(x, torch.ones(6)), expected)
