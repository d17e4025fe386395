"""SimpleNet: a small classifier of patch features, taught by features of good parts and the same with noise added.

From the inside out: the head, its training, the detector. What the chapter calls is named here.

Source: Liu, Zhou, Xu, Wang, SimpleNet: A Simple Network for Image Anomaly Detection and Localization, CVPR 2023.
"""

from adlib.simplenet.detector import SimpleNet
from adlib.simplenet.head import Head, fold, score_patches
from adlib.simplenet.training import NOISE, RATES, noise_level, train_head, truncated_l1, unfold

__all__ = [
    "NOISE", "RATES", "Head", "SimpleNet", "fold", "noise_level", "score_patches", "train_head", "truncated_l1",
    "unfold",
]  # fmt: skip
