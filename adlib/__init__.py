"""adlib: find the defect when you only have pictures of good parts."""

from adlib.efficientad import EfficientAD
from adlib.patchcore import PatchCore
from adlib.prediction import Prediction
from adlib.simplenet import SimpleNet

__version__ = "0.1.0"
__all__ = ["EfficientAD", "PatchCore", "Prediction", "SimpleNet", "__version__"]
