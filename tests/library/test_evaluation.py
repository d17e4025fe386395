import pytest
import torch

from adlib import PatchCore, metrics
from adlib.datasets import Sample, SyntheticFactory
from adlib.evaluation import evaluate


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
