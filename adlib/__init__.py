"""adlib: find the defect when you only have pictures of good parts."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adlib.detector import Detector
    from adlib.efficientad import EfficientAD
    from adlib.patchcore import PatchCore
    from adlib.prediction import Prediction
    from adlib.simplenet import SimpleNet

__version__ = "0.1.0"
__all__ = ["Detector", "EfficientAD", "PatchCore", "Prediction", "SimpleNet", "__version__"]
METHODS = ("EfficientAD", "PatchCore", "SimpleNet")


def __getattr__(name: str) -> Any:
    """A detector is imported when it is asked for: `adlib --help` does not wait for torch."""
    if name not in __all__:
        raise AttributeError(f"module 'adlib' has no attribute {name!r}")
    for method in METHODS if name == "Detector" else ():  # which Detector.load finds by their names
        import_module(f"adlib.{method.lower()}")
    return getattr(import_module(f"adlib.{name.lower()}"), name)
