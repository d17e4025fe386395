"""Write the hashes that hold version 1 of the synthetic factory: tests/library/factory_hashes.json.

    python recipes/freeze_factory.py

Only after `VERSION` in adlib/factory/synthetic.py has been raised; then measure every result on the factory again.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from adlib.datasets import Sample, SyntheticFactory
from adlib.factory import PRODUCTS, VERSION

FILE = Path(__file__).resolve().parent.parent / "tests" / "library" / "factory_hashes.json"


def digest(sample: Sample) -> str:
    """Of the picture's bytes, and of each region's mask and saturation. The first 16 digits."""
    found = hashlib.sha256((sample.image * 255).round().byte().numpy().tobytes())
    for region in sample.regions:
        found.update(region.mask.numpy().tobytes() + f"{region.kind} {region.saturation}".encode())
    return found.hexdigest()[:16]


def hashes(product: str) -> dict[str, str]:
    """Some pictures of each split and kind, of two seeds at 256 pixels and one at 128."""
    found = {}
    for seed, size, n in ((0, 256, 2), (1, 256, 1), (0, 128, 1)):
        data = SyntheticFactory(product, size=size, seed=seed, n_train=n, n_validation=1, n_test=1)
        per_kind = {kind: [s for s in data.test if s.kind == kind][:n] for kind in data.kinds}
        for sample in [*data.train, *data.validation, data.test[0], *(s for some in per_kind.values() for s in some)]:
            found[f"{sample.path}, seed {seed}, {size} px"] = digest(sample)
    return found


if __name__ == "__main__":
    if FILE.exists() and json.loads(FILE.read_text())["version"] == VERSION:
        raise SystemExit(f"{FILE.name} holds version {VERSION} already, which is frozen; raise VERSION first")
    content = {"version": VERSION, "products": {product: hashes(product) for product in PRODUCTS}}
    FILE.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
