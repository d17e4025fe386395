"""The network of SimpleNet: adaptor and discriminator, and the one layer that both become for scoring."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SLOPE = 0.2  # of the leaky ReLU, below zero
ADAPTORS = ("none", "linear", "mlp")


class Head(nn.Module):
    """Adaptor and discriminator: patch features o (N, C) to D(q) (N,). Equations (4.1) and (4.4).

    The first layer has no bias: batch normalisation would take it out again.

    Parameters
    ----------
    channels : int
        C.
    adaptor : str
        "linear" is one fully connected layer G (the paper's), "none" is q = o, "mlp" two layers.
    hidden : int, optional
        Width of the discriminator, by default two thirds of C, as 1,024 for the paper's 1,536.
    adaptor_bias : bool
        The official code has one, the paper has none.
    seed : int
        Draws the weights (Xavier, normal).
    """

    def __init__(
        self, channels: int, *, adaptor: str = "linear", hidden: int | None = None, adaptor_bias: bool = False,
        seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        if adaptor not in ADAPTORS:
            raise ValueError(f"adaptor = {adaptor!r}: expected one of {', '.join(ADAPTORS)}")
        hidden = max(1, round(2 * channels / 3)) if hidden is None else hidden

        def layer() -> nn.Linear:
            return nn.Linear(channels, channels, bias=adaptor_bias)

        with torch.random.fork_rng(devices=[]):  # torch draws weights, which are replaced below
            self.adaptor = {"none": nn.Sequential, "linear": layer,
                            "mlp": lambda: nn.Sequential(layer(), nn.LeakyReLU(SLOPE), layer())}[adaptor]()
            self.first = nn.Linear(channels, hidden, bias=False)  # W₁
            self.norm = nn.BatchNorm1d(hidden)
            self.last = nn.Linear(hidden, 1, bias=False)  # w₂
        generator = torch.Generator().manual_seed(seed)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                deviation = (2 / (module.in_features + module.out_features)) ** 0.5
                module.weight.data = torch.randn(module.weight.shape, generator=generator) * deviation
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Features o (N, C) to D(q) (N,), which is high for normal ones."""
        return self._above(self.first(self.adaptor(features)))

    def forward_pair(self, features: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """D(q) and D(q + ε), each (N,), batch-normalised together. Equations (4.2) and (4.5).

        The first layer is linear, so W₁(q + ε) = W₁q + W₁ε. Forward these are two products either way; on the way back
        the gradient of q takes one in place of two.

        Parameters
        ----------
        features, noise : Tensor (N, C)
            o and ε.
        """
        clean = self.first(self.adaptor(features))  # (N, H)
        normal, noisy = self._above(torch.cat([clean, clean + self.first(noise)])).chunk(2)
        return normal, noisy

    def _above(self, hidden: Tensor) -> Tensor:
        return self.last(F.leaky_relu(self.norm(hidden), SLOPE))[:, 0]


def fold(head: Head) -> tuple[Tensor, Tensor, Tensor]:
    """Adaptor, first layer and batch normalisation as one layer, for evaluation. Equation (4.10).

    Returns
    -------
    (Tensor (H, C), Tensor (H,), Tensor (H,))
        W, b and w₂, so that D(q) = w₂·LeakyReLU(W o + b).

    Raises
    ------
    ValueError
        For an adaptor that is not linear.
    """
    if not isinstance(head.adaptor, nn.Linear) and len(head.adaptor):
        raise ValueError("the adaptor has a non-linear layer: expected 'linear' or 'none', which can be folded")
    norm = head.norm
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()  # (H,)
    weight, shift = head.first.weight, -norm.running_mean
    if isinstance(head.adaptor, nn.Linear):
        if head.adaptor.bias is not None:
            shift = shift + weight @ head.adaptor.bias
        weight = weight @ head.adaptor.weight
    return (scale[:, None] * weight).detach(), (scale * shift + norm.bias).detach(), head.last.weight[0].detach()


def score_patches(features: Tensor, weight: Tensor, bias: Tensor, last: Tensor) -> Tensor:
    """s = −D(q) of patch features o (N, C), by the folded layers of `fold`: (N,). Equation (4.9)."""
    return -(F.leaky_relu(F.linear(features, weight, bias), SLOPE) @ last)
