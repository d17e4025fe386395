"""EfficientAD: a student that follows a teacher, and an autoencoder, on normal images only.

From the inside out: the networks, the images for the penalty, the losses and the training, the distillation of a
teacher, and the detector. What the chapter calls is named here.
"""

from adlib.efficientad.detector import (
    PAPER,
    EfficientAD,
    combine_maps,
    difference_map,
    map_quantiles,
    normalise_map,
    with_border,
)
from adlib.efficientad.networks import PDN, AutoEncoder, read_teacher
from adlib.efficientad.training import (
    Networks,
    autoencoder_losses,
    hard_feature_loss,
    losses,
    penalty,
    train_networks,
)

__all__ = [
    "PAPER", "PDN", "AutoEncoder", "EfficientAD", "Networks", "autoencoder_losses", "combine_maps", "difference_map",
    "hard_feature_loss", "losses", "map_quantiles", "normalise_map", "penalty", "read_teacher", "train_networks",
    "with_border",
]  # fmt: skip
