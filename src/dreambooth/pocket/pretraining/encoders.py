"""Stage `encoders`: pretrain the metrics' encoders, a small CLIP and a small DINO-style ViT.

CLIP learns scenes against their captions; the ViT learns to find another view of the same identity
among identities of the same class. Neither sees a held-out identity.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPModel, ViTModel

from dreambooth.files import atomic
from dreambooth.pocket import world
from dreambooth.pocket.pretraining import shards
from dreambooth.pocket.pretraining.architecture import build_clip, build_dino
from dreambooth.pocket.pretraining.caption_tokens import caption_shards
from dreambooth.pocket.pretraining.checkpoints import start_from
from dreambooth.pocket.pretraining.device import autocast, move, to_pixels
from dreambooth.pocket.pretraining.spec import PretrainSpec
from dreambooth.pocket.pretraining.tokenizer import build_tokenizer
from dreambooth.pocket.pretraining.training_loop import train

VIEWS = 4  # rendered views per identity
PREPROCESSOR = {
    "size": {"height": 64, "width": 64},
    "resample": 3,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


def contrastive_loss(first: Tensor, second: Tensor, scale: Tensor | float) -> Tensor:
    """Compute the symmetric InfoNCE of two `[N,D]` sets of matching rows (Radford et al. 2021)."""
    logits = scale * F.normalize(first, dim=1) @ F.normalize(second, dim=1).T
    labels = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


class ClipLoss:
    """Scenes against their captions, one of several captions drawn for each.

    Args:
        scenes, captions: the shards' files.
    """

    def __init__(
        self, model: CLIPModel, spec: PretrainSpec, scenes: list[Path], captions: list[Path]
    ) -> None:
        self.model, self.spec = model, spec
        self.scenes, self.captions = shards.open_shards(scenes), shards.open_shards(captions)

    def __call__(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Compute one batch's loss."""
        spec, size = self.spec, self.spec.encoders.batch_size
        picked = torch.randint(len(self.scenes) * shards.SHARD, (size,), generator=generator)
        which = torch.randint(self.captions[0].shape[1], (size,), generator=generator)
        pixels = to_pixels(shards.pick(self.scenes, picked), spec.device)
        captions = torch.from_numpy(shards.pick(self.captions, picked))  # [N,each,32]
        ids = captions[torch.arange(size), which].long().to(spec.device)
        with autocast(spec.device, spec.bf16):
            out = self.model(pixel_values=pixels, input_ids=ids)
        scale = self.model.logit_scale.exp().clamp(max=100)
        total = contrastive_loss(out.image_embeds.float(), out.text_embeds.float(), scale)
        return {"total": total, "scale": scale.detach()}


class IdentityLoss:
    """Two views of each identity, in batches that hold many identities of two classes.

    Args:
        views: `[I,4,64,64,3]` uint8.
        classes: each identity's class index `[I]`.
    """

    def __init__(
        self, model: ViTModel, spec: PretrainSpec, views: np.ndarray, classes: np.ndarray
    ) -> None:
        self.model, self.spec, self.views = model, spec, views
        self.of_class = [np.flatnonzero(classes == c) for c in range(len(world.CLASSES))]

    def draw(self, generator: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw `[B/2]` distinct identities of two classes, and two views of each `[B/2,2]`."""
        pair = torch.randperm(len(self.of_class), generator=generator)[:2].tolist()
        each = self.spec.encoders.batch_size // 4
        orders = [torch.randperm(len(self.of_class[c]), generator=generator) for c in pair]
        who = np.concatenate(
            [self.of_class[c][order[:each]] for c, order in zip(pair, orders, strict=True)]
        )
        order = torch.rand(len(who), self.views.shape[1], generator=generator).argsort(1)
        return who, order[:, :2].numpy()

    def __call__(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Compute one batch's loss."""
        spec = self.spec
        who, which = self.draw(generator)
        images = np.concatenate(
            [np.stack([self.views[i][k] for i, k in zip(who, w, strict=True)]) for w in which.T]
        )
        with autocast(spec.device, spec.bf16):
            tokens = self.model(pixel_values=to_pixels(images, spec.device)).last_hidden_state
        first, second = tokens[:, 0].float().chunk(2)
        return {"total": contrastive_loss(first, second, spec.encoders.identity_scale)}


def identity_views(folder: Path, identities: int) -> tuple[np.ndarray, np.ndarray]:
    """Render training identities once: views `[I,4,64,64,3]` uint8 and class indices `[I]`."""
    file = folder / f"identities_{identities}x{VIEWS}.npy"
    if not file.exists():
        views = []
        for i in range(identities):
            rng = np.random.default_rng([i, 7])
            noun = world.CLASSES[i % len(world.CLASSES)]
            who = world.sample_identity(noun, rng, "train")
            seeds = rng.integers(2**31, size=VIEWS)
            views.append([world.render(world.identity_scene(who, int(s))) for s in seeds])
        shards.save_array(file, np.asarray(views))
    return np.load(file, mmap_mode="r"), np.arange(identities) % len(world.CLASSES)


def pretrain_encoders(spec: PretrainSpec) -> None:
    """Train the configured encoders and write each to `encoders/<name>`, in half precision."""
    for name in spec.encoders.which:
        torch.manual_seed(spec.seed)
        model, loss = _clip(spec) if name == "clip" else _dino(spec)
        if torch.device(spec.device).type == "cpu":  # as in pretrain_denoiser
            model.set_attn_implementation("eager")
        begun = start_from(spec.init, f"encoders/{name}", model, spec.cache / f"{name}.pt")
        train(name, model, loss, spec.cache, spec.training(spec.encoders), {"init": begun})
        with atomic(spec.cache / "encoders" / name) as temporary:
            model.half().save_pretrained(temporary)
            (temporary / "preprocessor_config.json").write_text(
                json.dumps(PREPROCESSOR, indent=2) + "\n"
            )
            if name == "clip":
                build_tokenizer(world.vocabulary()).save_pretrained(temporary)


def _dino(spec: PretrainSpec) -> tuple[ViTModel, IdentityLoss]:
    own = spec.encoders
    model = build_dino(width=own.width, layers=own.layers)
    move(model, spec.device)
    return model, IdentityLoss(model, spec, *identity_views(spec.cache, own.identities))


def _clip(spec: PretrainSpec) -> tuple[CLIPModel, ClipLoss]:
    own, tokenizer = spec.encoders, build_tokenizer(world.vocabulary())
    model = build_clip(tokenizer, width=own.width, layers=own.layers, text_layers=own.text_layers)
    move(model, spec.device)
    scenes = shards.scene_shards(spec.cache / "scenes", own.scenes, "train", spec.workers)
    captions = caption_shards(
        spec.cache,
        tokenizer,
        count=len(scenes),
        each=spec.tokens_per_scene,
        identifier_share=0.0,  # no score may depend on what an identifier means
    )
    return model, ClipLoss(model, spec, scenes, captions)
