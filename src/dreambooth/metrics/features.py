"""Encoders: images and texts => unit feature vectors `[N,D]`, under a name that says how.

DINO ViT-S/16 features are the CLS token after the last LayerNorm, `norm(x)[:,0]` (Caron et al.
2021, `vision_transformer.py`); CLIP features are the projected image and text embeddings
(Radford et al. 2021).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from dreambooth.errors import UserError
from dreambooth.metrics.feature_cache import FeatureCache
from dreambooth.metrics.preprocess import ImageLike, Preprocess, image_digest, open_image

# Where a trainer may have allowed TF32 or bfloat16 inside float32 arithmetic.
_ARITHMETIC = (
    torch.backends.cuda.matmul,
    torch.backends.cudnn.conv,
    torch.backends.mkldnn.matmul,
    torch.backends.mkldnn.conv,
)


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """No gradients, no autocast, no TF32: a score must not depend on a trainer's precision."""
    before = [part.fp32_precision for part in _ARITHMETIC]
    try:
        for part in _ARITHMETIC:
            part.fp32_precision = "ieee"
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            yield
    finally:
        for part, precision in zip(_ARITHMETIC, before, strict=True):
            part.fp32_precision = precision


@dataclass
class Encoder:
    """A frozen encoder with its preprocessing; `load_encoder` makes it.

    `variant` is the encoder's part of a score's id (`dino.vits16.hub.r256c224_bicubic`,
    `clip.b32`); `weights_hash` the first 16 hex digits of the weights' SHA-256; `model_id` the
    repository or folder that the weights came from; `cache` keeps the features of files.
    """

    name: str
    variant: str
    model_id: str
    weights_hash: str
    model: nn.Module
    preprocess: Preprocess
    device: torch.device
    tokenizer: object | None = None
    cache: FeatureCache | None = None

    def pixels(self, images: Sequence[ImageLike]) -> Tensor:
        """Images => network input `[N,3,S,S]` on the encoder's device."""
        return torch.stack([self.preprocess(open_image(i)) for i in images]).to(self.device)

    def embed(self, pixels: Tensor) -> Tensor:
        """Network input `[N,3,S,S]` => features `[N,D]`, not normalised."""
        if self.tokenizer is None:
            return self.model(pixel_values=pixels).last_hidden_state[:, 0]
        pooled = self.model.vision_model(pixel_values=pixels).pooler_output
        return self.model.visual_projection(pooled)

    def images(self, images: Sequence[ImageLike], batch_size: int = 32) -> Tensor:
        """Paths or PIL images => unit features `[N,D]` float32 on the CPU, in the order given.

        An image that occurs twice, or a file that is in the cache, is encoded once; images in
        memory are not cached, for nobody meets them again. Raises UserError for no images, an
        unreadable file, or features that are NaN or zero.
        """
        if not images:
            raise UserError(f"{self.name}: there are no images to encode.")
        digests = [image_digest(image) for image in images]
        known = dict(self.cache.read()) if self.cache else {}
        first = dict(zip(reversed(digests), reversed(images), strict=True))
        missing = [digest for digest in dict.fromkeys(digests) if digest not in known]
        new: dict[str, Tensor] = {}
        for start in range(0, len(missing), batch_size):
            batch = missing[start : start + batch_size]
            with full_precision(self.device):
                features = self.embed(self.pixels([first[digest] for digest in batch])).cpu()
            for digest, row in zip(batch, features, strict=True):
                new[digest] = _unit(row, f"{self.name}: the image {first[digest]}")
        files = {d: row for d, row in new.items() if not isinstance(first[d], Image.Image)}
        if files and self.cache:
            self.cache.add(files)
        known.update(new)
        return torch.stack([known[digest] for digest in digests])

    def texts(self, texts: Sequence[str], batch_size: int = 64) -> Tensor:
        """Texts => unit features `[N,D]` float32 on the CPU, in the order given.

        Raises UserError for a text longer than the model's context (77 tokens for CLIP): cutting
        it would score another prompt.
        """
        if self.tokenizer is None:
            raise UserError(f"{self.name} has no text encoder: use a CLIP encoder for CLIP-T.")
        if not texts or not all(isinstance(text, str) for text in texts):
            raise UserError(f"{self.name}: expected a list of prompts, got {texts!r}.")
        unique = list(dict.fromkeys(texts))
        context = self.model.config.text_config.max_position_embeddings
        for text, ids in zip(unique, self.tokenizer(unique)["input_ids"], strict=True):
            if len(ids) > context:
                raise UserError(
                    f'the prompt "{text}" has {len(ids)} tokens and {self.name} reads {context}: '
                    "shorten it."
                )
        rows: dict[str, Tensor] = {}
        for start in range(0, len(unique), batch_size):
            batch = unique[start : start + batch_size]
            tokens = self.tokenizer(batch, padding=True, return_tensors="pt").to(self.device)
            with full_precision(self.device):
                pooled = self.model.text_model(
                    input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
                ).pooler_output
                features = self.model.text_projection(pooled).cpu()
            for text, row in zip(batch, features, strict=True):
                rows[text] = _unit(row, f'{self.name}: the text "{text}"')
        return torch.stack([rows[text] for text in texts])


def _unit(row: Tensor, what: str) -> Tensor:
    row = row.float()
    if not torch.isfinite(row).all() or float(row.norm()) == 0:
        raise UserError(f"{what} has NaN or zero features: check the encoder's weights.")
    return F.normalize(row, dim=0)
