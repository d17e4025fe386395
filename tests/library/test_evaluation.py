import pytest
import torch

from adlib import PatchCore, metrics
from adlib.datasets import Sample, SyntheticFactory
from adlib.evaluation import evaluate, over_seeds


def test_evaluate_says_what_the_metrics_say():
    data = SyntheticFactory("washer", size=64, n_train=6, n_validation=0, n_test=4, n_defect=6)
    detector = PatchCore(pretrained=False, image_size=64, device="cpu").fit(data.train)
    p = detector.predict(data.test)
    result = evaluate(p)
    assert result["image_auroc"]["value"] == metrics.image_auroc(p.targets, p.scores)
    assert result["pixel_auroc"]["value"] == metrics.pixel_auroc(p.masks(), list(p.maps))
    assert result["au_pro"]["value"] == metrics.au_pro(p.masks(), list(p.maps))
    for name in ("image_auroc", "pixel_auroc", "au_pro"):
        assert 0 <= result[name]["low"] <= result[name]["value"] <= result[name]["high"] <= 1
    no_masks = [Sample(s.label, s.kind, s.path, image_source=s.image) for s in data.test]
    assert set(evaluate(detector.predict(no_masks))) == {"image_auroc", "image_aupr", "f1_max"}
    with pytest.raises(ValueError, match="none of them anomalous"):
        evaluate(detector.predict(data.train))
    with pytest.raises(ValueError, match="3 of 3 images have no ground truth, such as image\\[0\\]"):
        evaluate(detector.predict(torch.rand(3, 3, 64, 64)))


def test_over_seeds_is_the_mean_with_its_interval_or_alone():
    runs = [{"value": 0.8, "low": 0.7, "high": 0.9}, {"value": 0.82, "low": 0.7, "high": 0.9}]
    low, high = metrics.mean_interval([0.8, 0.82], [(0.7, 0.9)] * 2, same_images=True)
    assert over_seeds(runs, same_images=True) == f"0.810 [{low:.3f}, {high:.3f}]"
    assert over_seeds(runs[:1], same_images=False, digits=2) == "0.80 [0.70, 0.90]"
    assert over_seeds([0.8, 0.82], same_images=False) == "0.810 [0.683, 0.937]"
    assert over_seeds([0.8, 0.82], same_images=True) == "0.810" and over_seeds([0.8], same_images=False) == "0.800"
    with pytest.raises(ValueError, match="no run"):
        over_seeds([], same_images=True)
