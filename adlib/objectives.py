"""What a backbone can be pre-trained on: SimSiam, SimCLR, MoCo, and labels.

Each objective is a module that holds an encoder and its heads. `base_loss` gives the loss of a batch, `project` the
vector z on which the regulariser of `adlib.spd` works.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def simsiam_loss(p1: Tensor, p2: Tensor, z1: Tensor, z2: Tensor) -> Tensor:
    """−½·[cos(p₁, sg z₂) + cos(p₂, sg z₁)], the mean over the batch; sg stops the gradient. Equation (3.8).

    Parameters
    ----------
    p1, p2, z1, z2 : Tensor (B, D)
        Predictions p and projections z of two views.

    Returns
    -------
    Tensor ()
        In [−1, 1].

    References
    ----------
    Chen and He, CVPR 2021, eq. 1 to 4.
    """
    first = F.cosine_similarity(p1, z2.detach(), dim=1)
    second = F.cosine_similarity(p2, z1.detach(), dim=1)
    return -(first.mean() + second.mean()) / 2


def nt_xent_loss(z1: Tensor, z2: Tensor, temperature: float = 0.5) -> Tensor:
    """Cross-entropy of finding the other view of one's own image among 2B − 1 others. Equation (3.9).

    Parameters
    ----------
    z1, z2 : Tensor (B, D)
        Projections of two views, B ≥ 2.
    temperature : float

    Returns
    -------
    Tensor ()

    References
    ----------
    Chen et al., A Simple Framework for Contrastive Learning, ICML 2020, eq. 1.
    """
    z = F.normalize(torch.cat([z1, z2]), dim=1)  # (2B, D)
    similarity = z @ z.T / temperature
    similarity.fill_diagonal_(-torch.inf)  # nobody is compared with itself
    b = len(z1)
    other = torch.arange(2 * b, device=z.device).roll(b)
    return F.cross_entropy(similarity, other)


def info_nce_loss(query: Tensor, key: Tensor, queue: Tensor, temperature: float = 0.1) -> Tensor:
    """Cross-entropy of finding one's key among the queue. Equation (3.10).

    Parameters
    ----------
    query, key : Tensor (B, D)
        No gradient goes to the keys.
    queue : Tensor (K, D)
        Unit vectors.
    temperature : float

    Returns
    -------
    Tensor ()

    References
    ----------
    He et al., CVPR 2020, eq. 1.
    """
    query, key = F.normalize(query, dim=1), F.normalize(key.detach(), dim=1)
    positive = (query * key).sum(1, keepdim=True)  # (B, 1)
    logits = torch.cat([positive, query @ queue.T], 1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(query), dtype=torch.long, device=query.device))


def _head(sizes: list[int], *, norm: bool = True, last_norm: bool = False) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i, (a, b) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        last = i == len(sizes) - 2
        normed = last_norm if last else norm
        layers.append(nn.Linear(a, b, bias=not normed))
        if normed:
            layers.append(nn.BatchNorm1d(b, affine=not last))
        if not last:
            layers.append(nn.ReLU())
    return nn.Sequential(*layers)


class SimSiam(nn.Module):
    """Two views of an image predict each other's projection.

    Parameters
    ----------
    encoder : Module
        Images (B, 3, H, W) to vectors (B, width).
    width, dimension : int
        Of the encoder's vectors and of the projections; the authors have 2048 of each.
    hidden, predictor : int, optional
        Of the projector's two inner layers, by default `dimension`, and of the predictor's one, by default a quarter of
        it, which is the authors' ratio.

    References
    ----------
    Chen and He, CVPR 2021.
    """

    def __init__(self, encoder: nn.Module, width: int, dimension: int = 256, hidden: int | None = None,
                 predictor: int | None = None) -> None:
        super().__init__()
        self.encoder, hidden = encoder, hidden or dimension
        self.projector = _head([width, hidden, hidden, dimension], last_norm=True)
        self.predictor = _head([dimension, predictor or dimension // 4, dimension])

    def project(self, images: Tensor) -> Tensor:
        return self.projector(self.encoder(images))

    def base_loss(self, first: Tensor, second: Tensor) -> Tensor:
        z1, z2 = self.project(first), self.project(second)
        return simsiam_loss(self.predictor(z1), self.predictor(z2), z1, z2)


class SimCLR(nn.Module):
    """Each view finds the other view of its image among the batch.

    Parameters
    ----------
    encoder, width, dimension
        As in `SimSiam`.
    hidden : int, optional
        Of the projector's inner layer, by default `width`.
    temperature : float
        See `nt_xent_loss`.

    References
    ----------
    Chen et al., ICML 2020.
    """

    def __init__(self, encoder: nn.Module, width: int, dimension: int = 128, hidden: int | None = None,
                 temperature: float = 0.5) -> None:
        super().__init__()
        self.encoder, self.temperature = encoder, temperature
        self.projector = _head([width, hidden or width, dimension])

    def project(self, images: Tensor) -> Tensor:
        return self.projector(self.encoder(images))

    def base_loss(self, first: Tensor, second: Tensor) -> Tensor:
        return nt_xent_loss(self.project(first), self.project(second), self.temperature)


@torch.no_grad()
def ema_update(slow: Sequence[Tensor], fast: Sequence[Tensor], momentum: float) -> None:
    """W_slow ← κ·W_slow + (1 − κ)·W_trained, in place. Equation (3.11).

    Parameters
    ----------
    slow, fast : list of Tensor
        Weights of the same shapes, W_slow and W_trained.
    momentum : float
        κ.
    """
    for k, q in zip(slow, fast, strict=True):
        k.lerp_(q, 1 - momentum)


class MoCo(nn.Module):
    """Each view finds its key among a queue of earlier ones; keys are made by a slowly following copy.

    The copy follows by W_slow ← κ·W_slow + (1 − κ)·W_trained, equation (3.11), before the keys of a batch are made; its
    statistics of batch normalisation are its own.

    Parameters
    ----------
    encoder, width, dimension, hidden
        As in `SimCLR`.
    queue : int
        K, the number of keys in the queue; at least a batch.
    momentum : float
        κ.
    temperature : float
        See `info_nce_loss`.
    seed : int
        Draws the queue's first keys.

    References
    ----------
    He et al., CVPR 2020, eq. 1 and 2, with the two-layer head of its second version.
    """

    def __init__(self, encoder: nn.Module, width: int, dimension: int = 128, hidden: int | None = None,
                 queue: int = 2048, momentum: float = 0.99, temperature: float = 0.1, seed: int = 0) -> None:
        super().__init__()
        self.encoder, self.momentum, self.temperature = encoder, momentum, temperature
        self.projector = _head([width, hidden or width, dimension], norm=False)
        self.key_network = copy.deepcopy(nn.Sequential(encoder, self.projector)).requires_grad_(False)
        keys = torch.randn(queue, dimension, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("queue", F.normalize(keys, dim=1))
        self.register_buffer("oldest", torch.zeros((), dtype=torch.long))

    def project(self, images: Tensor) -> Tensor:
        return self.projector(self.encoder(images))

    def base_loss(self, first: Tensor, second: Tensor) -> Tensor:
        if len(first) > len(self.queue):
            raise ValueError(f"queue = {len(self.queue)}: expected at least {len(first)}, the images of a step")
        own = [*self.encoder.parameters(), *self.projector.parameters()]
        ema_update(list(self.key_network.parameters()), own, self.momentum)
        with torch.no_grad():
            key = F.normalize(self.key_network(second), dim=1)
        loss = info_nce_loss(self.project(first), key, self.queue.clone(), self.temperature)
        with torch.no_grad():
            place = (self.oldest + torch.arange(len(key), device=key.device)) % len(self.queue)
            self.queue[place] = key
            self.oldest.copy_((self.oldest + len(key)) % len(self.queue))
        return loss


class Supervised(nn.Module):
    """Labels, and for SPD an auxiliary classifier that tells whether a patch was blended in. Equation (3.12).

    Parameters
    ----------
    encoder, width
        As in `SimSiam`.
    classes : int
        The number of labels.

    References
    ----------
    Zou et al. 2022, Section 3.3, for the auxiliary classifier.
    """

    def __init__(self, encoder: nn.Module, width: int, classes: int = 2) -> None:
        super().__init__()
        self.encoder = encoder
        self.classifier = nn.Linear(width, classes)
        self.spotter = nn.Linear(width, 1)

    def base_loss(self, images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.classifier(self.encoder(images)), labels)

    def spotting_loss(self, images: Tensor, blended: Tensor) -> Tensor:
        """Cross-entropy of whether SmoothBlend was applied, `blended` (B,) of 0 and 1. Equation (3.12)."""
        return F.binary_cross_entropy_with_logits(self.spotter(self.encoder(images))[:, 0], blended)
