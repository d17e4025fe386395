"""Data sets: sequences of samples that are read when asked for."""

from pathlib import Path

from adlib.datasets.download import download
from adlib.datasets.folder import BTAD, ImageFolder, MagneticTile, MVTecAD
from adlib.datasets.loco import MVTecLOCO
from adlib.datasets.visa import VisA
from adlib.factory.synthetic import SyntheticFactory
from adlib.folders import DatasetError
from adlib.parts import hold_out
from adlib.samples import Region, Sample, as_samples, in_memory


def open_dataset(
    dataset: str, root: str | Path | None = None, category: str | None = None, *, seed: int = 0, **sizes: int
) -> SyntheticFactory | MVTecAD | MVTecLOCO | BTAD | VisA | MagneticTile | ImageFolder:
    """A data set by its name, as the notebooks and scripts take it.

    Parameters
    ----------
    dataset : str
        "synthetic", "mvtec_ad", "mvtec_loco", "btad", "visa", "magnetic_tile" or "folder".
    root : path, optional
        Where a real data set lies; for "folder", the folder with ``train/``, and if there are any, ``test/`` and
        ``masks/``.
    category : str, optional
        Of "mvtec_ad", "mvtec_loco", "btad" and "visa"; for "synthetic", the product.
    seed : int
        The factory's.
    **sizes : int
        As in `SyntheticFactory`; passed over for real data.

    Returns
    -------
    SyntheticFactory, MVTecAD, MVTecLOCO, BTAD, VisA, MagneticTile or ImageFolder

    Raises
    ------
    DatasetError
        For another name, or where a real data set gets no root.
    """
    if dataset == "synthetic":
        return SyntheticFactory(category or "fabric", seed=seed, **sizes)
    names = ("mvtec_ad", "mvtec_loco", "btad", "visa", "magnetic_tile", "folder")
    if dataset not in names:
        raise DatasetError(f"{dataset!r}: expected one of synthetic, {', '.join(names)}")
    if root is None:
        raise DatasetError(f"{dataset}: needs the folder where it lies; pass root=, in a notebook DATA_ROOT")
    if dataset == "mvtec_ad":
        return MVTecAD(root, category or "bottle")
    if dataset == "mvtec_loco":
        return MVTecLOCO(root, category or "breakfast_box")
    if dataset == "btad":
        return BTAD(root, category or "01")
    if dataset == "visa":
        return VisA(root, category or "candle")
    if dataset == "magnetic_tile":
        return MagneticTile(root)
    root = Path(root)
    parts = [root / name if (root / name).is_dir() else None for name in ("test", "masks")]
    return ImageFolder(root / "train", *parts)


__all__ = [
    "BTAD",
    "DatasetError",
    "ImageFolder",
    "MVTecAD",
    "MVTecLOCO",
    "MagneticTile",
    "Region",
    "Sample",
    "SyntheticFactory",
    "VisA",
    "as_samples",
    "download",
    "hold_out",
    "in_memory",
    "open_dataset",
]
