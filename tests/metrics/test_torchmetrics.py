"""LPIPS and CLIP scores against torchmetrics' own, on random networks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics.functional.image import lpips as theirs_lpips
from torchmetrics.functional.multimodal import clip_score
from torchvision.transforms.functional import to_pil_image

from dreambooth.metrics.encoders import load_encoder
from dreambooth.metrics.fidelity import clip_t_scores
from dreambooth.metrics.lpips_networks import lpips_distance, lpips_network


@torch.no_grad()
def test_lpips_is_torchmetrics_own(picture):
    torch.manual_seed(0)
    model = lpips_network("alex", None)
    distance = lpips_distance(model, 64)
    with torch.random.fork_rng(devices=[]):
        theirs = theirs_lpips._LPIPS(net="alex", pnet_rand=True)  # with the heads that it ships
    theirs.net.load_state_dict(model.net.state_dict())
    images = [picture(seed, 64, 64) for seed in range(3)]
    pixels = torch.stack([distance.preprocess(image) for image in images])
    matrix = distance.distance(images)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        expected = float(theirs(pixels[i : i + 1], pixels[j : j + 1]))
        assert expected > 1e-5
        assert float(matrix[i, j]) == pytest.approx(expected, rel=1e-3)


class _Model:
    """A CLIP as torchmetrics calls it: transformers 5 wraps the features."""

    def __init__(self, model) -> None:
        self.model, self.config = model, model.config

    def to(self, device) -> _Model:
        return self

    def get_image_features(self, pixels: Tensor) -> Tensor:
        found = self.model.get_image_features(pixel_values=pixels)
        return getattr(found, "pooler_output", found)

    def get_text_features(self, ids: Tensor, mask: Tensor) -> Tensor:
        found = self.model.get_text_features(input_ids=ids, attention_mask=mask)
        return getattr(found, "pooler_output", found)


@torch.no_grad()
def test_clip_t_is_a_hundredth_of_torchmetrics_clip_score(encoders_dir, picture):
    encoder = load_encoder("pocket_clip", encoders_dir=encoders_dir)

    def processor(images=None, text=None, **options):
        if text is not None:
            return encoder.tokenizer(text, padding=True, return_tensors="pt")
        return {"pixel_values": encoder.pixels([to_pil_image(image) for image in images])}

    images, texts = [picture(seed) for seed in range(3)], ["a red dog", "a cat", "on the beach"]
    tensors = [torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images]
    ours = clip_t_scores(encoder.images(images), encoder.texts(texts), texts=texts, prompts=texts)
    for image, text, own in zip(tensors, texts, ours, strict=True):
        score = clip_score(image, text, lambda: (_Model(encoder.model), processor))
        # torchmetrics is 0 where the cosine is below 0
        assert float(score) == pytest.approx(max(100 * float(own), 0), abs=1e-3)
    assert float(ours.abs().max()) > 1e-3
