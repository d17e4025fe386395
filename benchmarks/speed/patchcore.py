"""Time PatchCore on whole images beside the same steps in anomalib's form, and write the figures as JSON.

    python -m benchmarks.speed.patchcore [--small]

The other form is written here anew, after the algorithms of anomalib 2.7.0.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from adlib import PatchCore, neighbors
from adlib.datasets import SyntheticFactory
from adlib.features import to_rows
from adlib.images import resize_image
from adlib.neighbors import Bank, k_nearest
from benchmarks.speed.neighbours import all_distances, distance_matrix
from benchmarks.speed.timing import SEED, alternate, run


class AnomalibPatchCore:
    """PatchCore's steps for an image as anomalib does them, on our backbone's weights and our bank (N, C).

    Contiguous NCHW, the matrix of all distances, re-weighting over nine neighbours, a bilinear map and one 33×33
    Gaussian kernel. Only the border of the 3×3 mean is ours, without the zeros from outside, so that scores agree.
    """

    def __init__(self, detector: PatchCore) -> None:
        self.layers, self.bank = detector.features.layers, detector.memory_bank
        self.backbone = copy.deepcopy(detector.features.backbone).to(memory_format=torch.contiguous_format).eval()
        self.mean, self.std = detector.features.mean, detector.features.std
        self.pool = torch.nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        line = torch.exp(-torch.arange(-16.0, 17.0).square() / (2 * detector.smoothing**2))
        self.kernel = (line[:, None] * line / line.sum() ** 2)[None, None]

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        outputs = self.backbone((images - self.mean) / self.std)
        cells = [self.pool(outputs[layer]) for layer in self.layers]
        cells = [cells[0]] + [F.interpolate(c, cells[0].shape[-2:], mode="bilinear") for c in cells[1:]]
        b, _, h, w = cells[0].shape
        queries = to_rows(torch.cat(cells, 1))
        distances, nearest = (t.view(b, h * w) for t in all_distances(queries, self.bank))
        worst = distances.argmax(1)
        rows = torch.arange(b)
        star = self.bank[nearest[rows, worst]]
        around = distance_matrix(star, self.bank).topk(9, largest=False).indices  # (B, 9)
        to_all = torch.cdist(queries.view(b, h * w, -1)[rows, worst][:, None], self.bank[around])[:, 0]
        scores = (1 - F.softmax(to_all, 1)[:, 0]) * distances[rows, worst]
        maps = F.interpolate(distances.view(b, 1, h, w), images.shape[-2:], mode="bilinear")
        return scores, F.conv2d(F.pad(maps, (16, 16, 16, 16), mode="reflect"), self.kernel)[:, 0]


def patchcore(small: bool, scratch: Path) -> dict[str, Any]:
    """One picture of the factory at 224 pixels; torchvision's ResNet-18 with random weights; a bank of real patches."""
    size, results = 2_000 if small else 10_000, []
    detector = PatchCore("resnet18", pretrained=False, seed=SEED, device="cpu").eval()
    pictures = [resize_image(s.image, (224, 224)) for s in SyntheticFactory("washer", n_train=size // 784 + 2).train]
    with torch.inference_mode():
        rows = torch.cat([to_rows(detector.features(image[None])) for image in pictures[1:]])[:size]
    detector.memory_bank = rows.clone()
    peer = AnomalibPatchCore(detector)
    for batch in (1,) if small else (1, 8):
        images = pictures[0][None].repeat(batch, 1, 1, 1)
        with torch.inference_mode():
            timing = alternate({"adlib": lambda x=images: detector(x), "anomalib_form": lambda x=images: peer(x)},
                               5 if small else 15)  # fmt: skip
            difference = float((detector(images)[0] / peer(images)[0] - 1).abs().max())
        ratio = timing["anomalib_form"]["seconds"] / timing["adlib"]["seconds"]
        results.append({"bank": size, "d": rows.shape[1], "batch": batch, "timing": timing, "ratio": ratio,
                        "relative_difference_of_scores": difference})  # fmt: skip
        print(f"patchcore, batch {batch}: {timing['adlib']['seconds'] * 1e3:.0f} ms, ratio {ratio:.2f}, "
              f"scores differ by {difference:.1e}", flush=True)
    results += beside_the_backbone(small)
    return {"data": " ".join((patchcore.__doc__ or "").split()), "results": results}


def beside_the_backbone(small: bool) -> list[dict[str, Any]]:
    """PatchCore with its defaults on boards: an image beside its backbone alone, a search beside one of all rows."""
    data = SyntheticFactory("board", seed=SEED, n_train=20 if small else 200, n_test=4)
    detector = PatchCore(seed=SEED, device="cpu").fit(data.train).eval()
    image = resize_image(data.test[0].image, detector.image_size)[None]
    results = []
    with torch.inference_mode():
        looked = detector.look(image)
        rows = to_rows(looked)
        bank = Bank(detector.memory_bank)
        assert torch.allclose(k_nearest(rows, bank)[0], k_nearest(rows, bank.rows)[0], atol=1e-5)
        full = Bank(detector.memory_bank)
        forms = {
            "whole image": lambda: detector(image), "backbone": lambda: detector.look(image),
            "search": lambda: k_nearest(rows, bank), "search of all rows": lambda: scan_all(rows, full),
        }  # fmt: skip
        timing = alternate(forms, 5 if small else 25)
    size = {"bank": len(detector.memory_bank), "d": rows.shape[1], "batch": 1, "timing": timing}
    for what, peer in (("whole image", "backbone"), ("search", "search of all rows")):
        ratio = timing[peer]["seconds"] / timing[what]["seconds"]
        results.append(size | {"what": f"patchcore {what}", "peer": peer, "form": what, "ratio": ratio})
        print(f"patchcore, {what}: {timing[what]['seconds'] * 1e3:.0f} ms, {peer} "
              f"{timing[peer]['seconds'] * 1e3:.0f} ms", flush=True)
    return results


def scan_all(queries: Tensor, bank: Bank) -> Tensor:
    """Every row of the bank, as before there were groups."""
    return neighbors._scan(neighbors._ready(queries, bank), bank.centred, 1, neighbors.BLOCK // 784)


if __name__ == "__main__":
    run(__doc__, patchcore)
