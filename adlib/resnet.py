"""The small residual network that the package ships.

It is a ResNet-18 (He et al. 2016, Table 1) with a chosen width and without `layer4`:
PatchCore reads middle layers, so nothing after `layer3` is ever computed.
Parameter names follow torchvision's, so the two can be compared layer by layer.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut: y = relu(x' + conv(relu(conv(x)))).

    x' is x itself where the shape stays, and a 1×1 convolution of x where it changes.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.downsample = None
        if stride != 1 or channels_in != channels_out:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False),
                nn.BatchNorm2d(channels_out),
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(shortcut + self.bn2(self.conv2(x)))


def _stage(channels_in: int, channels_out: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        BasicBlock(channels_in, channels_out, stride), BasicBlock(channels_out, channels_out, 1)
    )


class ResNet18(nn.Module):
    """ResNet-18 up to ``layer3``.

    Called with normalised images x (B, 3, H, W), it gives ``{"layer1": (B, width, H/4, W/4), "layer2":
    (B, 2·width, H/8, W/8), "layer3": (B, 4·width, H/16, W/16)}``, sizes rounded up.

    Parameters
    ----------
    width : int
        Channels in the stem (64 in the paper).

    References
    ----------
    He et al., Deep Residual Learning for Image Recognition, CVPR 2016.
    """

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.width = width
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, 1)
        self.layer2 = _stage(width, 2 * width, 2)
        self.layer3 = _stage(2 * width, 4 * width, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = F.relu(self.bn1(self.conv1(x)))  # (B, width, H/2, W/2)
        x = F.max_pool2d(x, 3, stride=2, padding=1)  # (B, width, H/4, W/4)
        layer1 = self.layer1(x)
        layer2 = self.layer2(layer1)
        layer3 = self.layer3(layer2)
        return {"layer1": layer1, "layer2": layer2, "layer3": layer3}
