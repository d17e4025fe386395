"""Hold `PatchCore(**PatchCore.PAPER)` against the official code: same random weights, same images, same bank.

    git clone https://github.com/amazon-science/patchcore-inspection CHECKOUT   # and: pip install faiss-cpu timm
    python -m benchmarks.accuracy.official_patchcore CHECKOUT

Fixed before the first run: a WideResNet-50 with random weights of seed 0; of the factory's fabric (256 pixels, so that
nothing is resized and both codes crop the same pixels), four training images and six test images, one of them
256 × 320; a bank of a tenth, selected by ours and given to both. It succeeds where each difference is at most 1e-5 of
the largest value: patch features, patch and image scores (both squared), and maps before the Gaussian and, after it,
wherever its window lies within the map. Within 16 pixels of the border the two differ by construction: SciPy mirrors a
map there, ours goes on with the last value. That difference is reported beside the others, without a bound.

Changed after the first run: FAISS, which the official code searches with, takes |x|² + |y|² − 2xy for 20 queries or
more, and in float32 that loses digits where the features have a large mean. So the bound is asked of the official code
with FAISS's other way, the sum of squared differences; "faiss_default" has the differences as it runs by itself, and
the float64 rows say how far each way is from the exact squared distance.

Two more numbers are reported without a bound. "resized": of pictures of 400 pixels, the largest difference of the
scores, where the official code resizes 8-bit pictures with PIL and ours floats. "selection": the covering radius that
each code's greedy selection reaches on one bank, each with a projection to 128, over five draws of the projection and
of the start: ten points in the official code, one in ours.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision import models, transforms

from adlib import PatchCore
from adlib.backbones import MEAN, STD
from adlib.coreset import k_center_greedy, random_projection
from adlib.datasets import SyntheticFactory
from adlib.features import to_rows
from adlib.images import read_image, top_left
from adlib.neighbors import k_nearest
from benchmarks import common

SIDE, REACH = 224, 16  # of the crop; of the Gaussian


def official(checkout: Path, network: torch.nn.Module) -> Any:
    """The official detector with the settings of its preset, on the CPU."""
    sys.path.insert(0, str(checkout / "src"))
    from patchcore.patchcore import PatchCore as Official  # pyrefly: ignore[missing-import]

    detector = Official(torch.device("cpu"))
    detector.load(network, ["layer2", "layer3"], torch.device("cpu"), (3, SIDE, SIDE), 1024, 1024,
                  anomaly_scorer_num_nn=1)  # fmt: skip
    return detector


def as_official(picture: Image.Image) -> Tensor:
    """A picture as the official code's data set gives it, (1, 3, 224, 224)."""
    cut = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(SIDE), transforms.ToTensor()])
    return transforms.Normalize(MEAN, STD)(cut(picture))[None]


def difference(ours: Any, theirs: Any) -> float:
    """The largest difference, over the largest value."""
    a, b = np.asarray(ours), np.asarray(theirs)
    return float(np.abs(a - b).max() / np.abs(b).max())


def pictures(size: int) -> tuple[list[Image.Image], list[Image.Image]]:
    """Four good pictures, and six of which three are defective and the last is wider than high."""
    data = SyntheticFactory("fabric", size=size, n_train=4, n_test=3, n_defect=3, seed=0)

    def drawn(samples: Any) -> list[Image.Image]:
        return [Image.fromarray((s.image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)) for s in samples]

    test = drawn([s for s in data.test if not s.label][:3] + [s for s in data.test if s.label][:3])
    wide = np.asarray(test[-1])
    test[-1] = Image.fromarray(np.concatenate([wide, wide[:, : size // 4]], 1))
    return drawn(data.train), test


def selection(bank: Tensor, n: int) -> dict[str, Any]:
    """Covering radii of the official approximate selection and of ours, on one bank, over five draws."""
    from patchcore.sampler import ApproximateGreedyCoresetSampler  # pyrefly: ignore[missing-import]

    def radius(chosen: Tensor) -> float:
        return float(k_nearest(bank, chosen)[0].max())

    radii, ours = [], []
    for seed in range(5):
        rows = random_projection(bank, PatchCore.PAPER["projection"], seed=seed)
        ours.append(radius(bank[k_center_greedy(rows, n, seed=seed)]))
        np.random.seed(seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            chosen = ApproximateGreedyCoresetSampler(n / len(bank) + 1e-9, torch.device("cpu")).run(bank)
        radii.append(radius(chosen))
    return {"chosen": n, "radius_ours": ours, "radius_official": radii}


def beside(ours: PatchCore, theirs: Any, picture: Image.Image) -> dict[str, float]:
    """The largest differences of all that the two codes say of one picture."""
    image, normalised, prediction = read_image(picture), as_official(picture), ours.predict(picture)
    top, left = top_left((image.shape[1], image.shape[2]), ours.image_size)
    cut = np.s_[top : top + SIDE, left : left + SIDE]
    with torch.inference_mode():
        features = ours.look(image[None, :, cut[0], cut[1]])  # (1, 1024, 28, 28)
        _, grid = ours.score(features)
    rows = to_rows(features)
    rows_theirs = np.array(theirs._embed(normalised))
    scores_theirs, (map_theirs,) = theirs.predict(normalised)
    grid_theirs = torch.from_numpy(theirs.anomaly_scorer.predict([rows_theirs])[0]).view(1, 28, 28)
    exact = torch.cdist(rows.double(), ours.memory_bank.double()).square().amin(1).view(1, 28, 28)
    enlarged, enlarged_theirs = (F.interpolate(g[None], (SIDE, SIDE), mode="bilinear") for g in (grid, grid_theirs))
    map_ours, inside = prediction.maps[0][cut], np.s_[REACH:-REACH, REACH:-REACH]
    return {
        "patch_features": difference(rows, rows_theirs), "patch_scores": difference(grid, grid_theirs),
        "image_scores": difference(prediction.scores, scores_theirs),
        "maps_before_the_gaussian": difference(enlarged, enlarged_theirs),
        "maps_inside": difference(map_ours[inside], map_theirs[inside]),
        "maps_at_the_border_without_bound": difference(map_ours, map_theirs),
        "ours_from_float64": difference(grid, exact), "theirs_from_float64": difference(grid_theirs, exact),
    }  # fmt: skip


def compare(checkout: Path) -> dict[str, Any]:
    import faiss  # pyrefly: ignore[missing-import]

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = models.wide_resnet50_2(weights=None).eval()
    ours = PatchCore(**PatchCore.PAPER | {"backbone": network}, device="cpu")
    theirs = official(checkout, network)
    train, test = pictures(256)
    ours.fit(train)
    theirs.anomaly_scorer.fit([ours.memory_bank.numpy()])
    found = {}
    for name, least in (("faiss_default", faiss.cvar.distance_compute_blas_threshold), ("faiss_sum_of_squares", 10**9)):
        faiss.cvar.distance_compute_blas_threshold = least  # so many queries or more: by a matrix product
        each = [beside(ours, theirs, picture) for picture in test]
        found[name] = {key: max(one[key] for one in each) for key in each[0]}
    _, large = pictures(400)
    resized = np.array([theirs.predict(as_official(picture))[0][0] for picture in large])
    found["image_scores_resized_without_bound"] = difference(ours.predict(large).scores, resized)
    with torch.no_grad():
        bank = torch.cat([torch.from_numpy(np.array(theirs._embed(as_official(picture)))) for picture in train])
    return found | {"selection": selection(bank, len(ours.memory_bank))}


def main() -> None:
    parser = common.arguments(__doc__, Path(__file__).with_suffix(".json"))
    parser.add_argument("checkout", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    common.write(args.out, {
        "name": "PatchCore's paper profile beside the official code", "command": common.command("CHECKOUT"),
        "official": "amazon-science/patchcore-inspection", "commit": common.commit(args.checkout),
        "versions": common.versions(), "threads": 1, "bound": 1e-5, **compare(args.checkout),
    })  # fmt: skip
    print(args.out.read_text())


if __name__ == "__main__":
    main()
