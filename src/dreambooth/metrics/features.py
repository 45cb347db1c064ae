"""Encoders: images and texts => unit feature vectors `[N,D]`, under an id that says how.

DINO ViT-S/16 features are the CLS token after the last LayerNorm, `norm(x)[:,0]` (Caron et al.
2021, `vision_transformer.py`). CLIP features are the projected image and text embeddings
(Radford et al. 2021).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from dreambooth.errors import UserError
from dreambooth.metrics.feature_cache import FeatureCache
from dreambooth.metrics.preprocess import ImageLike, Preprocess, image_digest, open_image

# the switches by which a trainer may have allowed TF32 or bfloat16 within float32 arithmetic
_ARITHMETIC = attrgetter("cuda.matmul", "cudnn.conv", "mkldnn.matmul", "mkldnn.conv")(
    torch.backends
)


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Turn off gradients, autocast and TF32: scores must not depend on a trainer's precision."""
    before = [part.fp32_precision for part in _ARITHMETIC]
    try:
        for part in _ARITHMETIC:
            part.fp32_precision = "ieee"
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            yield
    finally:
        for part, precision in zip(_ARITHMETIC, before, strict=True):
            part.fp32_precision = precision


class TextTooLong(UserError):
    """A text of more tokens than an encoder reads."""


@dataclass
class Encoder:
    """A frozen encoder with its preprocessing, as `load_encoder` makes it.

    Attributes:
        variant: the encoder's part of a score's id (`dino.vits16.hub.r256c224_bicubic`,
            `clip.b32`).
        model_id: the repository of the weights, or the encoder's name.
        weights_hash: the first 16 hex digits of the weights' SHA-256.
        model: a ViTModel, Dinov2Model or CLIPModel of transformers.
        tokenizer: CLIP's; None for an encoder of images alone.
        cache: keeps the features of files; None keeps none.
    """

    name: str
    variant: str
    model_id: str
    weights_hash: str
    model: Any
    preprocess: Preprocess
    device: torch.device
    tokenizer: Any | None = None
    cache: FeatureCache | None = None

    def pixels(self, images: Sequence[ImageLike]) -> Tensor:
        """Preprocess images => network input `[N,3,S,S]` on the encoder's device."""
        return torch.stack([self.preprocess(open_image(i)) for i in images]).to(self.device)

    def embed(self, pixels: Tensor) -> Tensor:
        """Run the network: input `[N,3,S,S]` => features `[N,D]`, not normalised."""
        if self.tokenizer is None:
            return self.model(pixel_values=pixels).last_hidden_state[:, 0]
        pooled = self.model.vision_model(pixel_values=pixels).pooler_output
        return self.model.visual_projection(pooled)

    def images(self, images: Sequence[ImageLike], batch_size: int = 32) -> Tensor:
        """Encode paths or PIL images => unit features `[N,D]` float32 on the CPU, in their order.

        An image that occurs twice is encoded once, and a file that is in the cache is not encoded
        at all. Images in memory are not cached, because no later run meets them again.

        Raises:
            UserError: no images, an unreadable file, or features that are NaN or zero.
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
        """Encode texts => unit features `[N,D]` float32 on the CPU, in their order.

        Raises:
            UserError: an encoder without texts, or no texts.
            TextTooLong: a text that is longer than the model's context (77 tokens for CLIP), for a
                shortened text is another prompt.
        """
        if self.tokenizer is None:
            raise UserError(f"{self.name} has no text encoder: use a CLIP encoder for CLIP-T.")
        if not texts or not all(isinstance(text, str) for text in texts):
            raise UserError(f"{self.name}: expected a list of prompts, got {texts!r}.")
        unique = list(dict.fromkeys(texts))
        context = self.model.config.text_config.max_position_embeddings
        for text, ids in zip(unique, self.tokenizer(unique)["input_ids"], strict=True):
            if len(ids) > context:
                raise TextTooLong(
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
    """Divide features `[D]` by their length."""
    row = row.float()
    if not torch.isfinite(row).all() or float(row.norm()) == 0:
        raise UserError(f"{what} has NaN or zero features: check the encoder's weights.")
    return F.normalize(row, dim=0)
