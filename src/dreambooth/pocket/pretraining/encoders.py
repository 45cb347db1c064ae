"""The pocket encoders: a small CLIP and a small DINO-style ViT, trained on the same world.

Stage `encoders` of pretraining. CLIP learns scenes against their captions; the ViT learns to find
another view of the same identity among identities of the same class. No held-out identity is seen.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, ViTConfig, ViTModel

from dreambooth.files import atomic
from dreambooth.pocket import world
from dreambooth.pocket.pretraining import build, denoising, scenes, states, training

VIEWS = 4  # rendered views of an identity
PREPROCESSOR = {
    "size": {"height": 64, "width": 64},
    "resample": 3,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


def _vision(width: int, layers: int) -> dict:
    return {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 32,
        "intermediate_size": 4 * width,
        "image_size": 64,
        "patch_size": 8,
    }


def build_clip(tokenizer, width: int, layers: int, text_layers: int) -> CLIPModel:
    """CLIPModel: 64 px in patches of 8, captions of up to 32 tokens."""
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": text_layers,
        "num_attention_heads": width // 32,
        "max_position_embeddings": build.CONTEXT_LENGTH,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return CLIPModel(
        CLIPConfig(text_config=text, vision_config=_vision(width, layers), projection_dim=width)
    )


def build_dino(width: int, layers: int) -> ViTModel:
    """ViTModel without a pooler: its post-norm CLS token is the feature."""
    return ViTModel(ViTConfig(**_vision(width, layers)), add_pooling_layer=False)


def contrast(first: Tensor, second: Tensor, scale: Tensor | float) -> Tensor:
    """Symmetric InfoNCE of two `[N,D]` sets whose rows belong together (Radford et al. 2021)."""
    logits = scale * F.normalize(first, dim=1) @ F.normalize(second, dim=1).T
    labels = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def to_pixels(images: np.ndarray, device: str) -> Tensor:
    """`[N,64,64,3]` uint8 => `[N,3,64,64]` in [-1,1]."""
    pixels = torch.from_numpy(np.array(images)).to(device)
    return pixels.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


class ClipLoss:
    """Scenes against their captions, one caption of several drawn for each."""

    def __init__(
        self,
        model: CLIPModel,
        images: list[Path],
        captions: list[Path],
        batch_size: int,
        device: str,
        bf16: bool,
    ) -> None:
        self.model, self.batch_size, self.device, self.bf16 = model, batch_size, device, bf16
        self.images, self.captions = (
            [np.load(path, mmap_mode="r") for path in paths] for paths in (images, captions)
        )

    def __call__(self, generator: torch.Generator, step: int) -> dict[str, Tensor]:
        """One batch's loss."""
        total = len(self.images) * scenes.SHARD
        picked = torch.randint(total, (self.batch_size,), generator=generator)
        each = self.captions[0].shape[1]
        which = torch.randint(each, (self.batch_size,), generator=generator)
        pixels = to_pixels(scenes.pick(self.images, picked), self.device)
        captions = torch.from_numpy(scenes.pick(self.captions, picked))  # [N,each,32]
        ids = captions[torch.arange(len(which)), which]
        with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.bf16):
            out = self.model(pixel_values=pixels, input_ids=ids.long().to(self.device))
        scale = self.model.logit_scale.exp().clamp(max=100)
        loss = contrast(out.image_embeds.float(), out.text_embeds.float(), scale)
        return {"total": loss, "scale": scale.detach()}


def identity_views(folder: Path, identities: int) -> tuple[np.ndarray, np.ndarray]:
    """Views `[I,4,64,64,3]` uint8 of training identities, and each one's class index `[I]`."""
    file = folder / f"identities_{identities}x{VIEWS}.npy"
    if not file.exists():
        views = []
        for i in range(identities):
            rng = np.random.default_rng([i, 7])
            noun = world.CLASSES[i % len(world.CLASSES)]
            who = world.sample_identity(noun, rng, "train")
            seeds = rng.integers(2**31, size=VIEWS)
            views.append([world.render(world.identity_scene(who, int(s))) for s in seeds])
        scenes.save_array(file, np.asarray(views))
    return np.load(file, mmap_mode="r"), np.arange(identities) % len(world.CLASSES)


class IdentityLoss:
    """Two views of each identity, in batches that hold many identities of the same class."""

    def __init__(
        self,
        model: nn.Module,
        views: np.ndarray,
        classes: np.ndarray,
        batch_size: int,
        scale: float,
        device: str,
        bf16: bool,
    ) -> None:
        self.model, self.views, self.batch_size, self.scale = model, views, batch_size, scale
        self.device, self.bf16 = device, bf16
        self.of_class = [np.flatnonzero(classes == c) for c in range(len(world.CLASSES))]

    def pick(self, generator: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
        """`batch_size / 2` distinct identities of two classes, and two views of each `[B/2,2]`."""
        pair = torch.randperm(len(self.of_class), generator=generator)[:2].tolist()
        each = self.batch_size // 4
        orders = [torch.randperm(len(self.of_class[c]), generator=generator) for c in pair]
        who = np.concatenate(
            [self.of_class[c][order[:each]] for c, order in zip(pair, orders, strict=True)]
        )
        order = torch.rand(len(who), self.views.shape[1], generator=generator).argsort(1)
        return who, order[:, :2].numpy()

    def __call__(self, generator: torch.Generator, step: int) -> dict[str, Tensor]:
        """One batch's loss."""
        who, which = self.pick(generator)
        images = np.concatenate(
            [np.stack([self.views[i][k] for i, k in zip(who, w, strict=True)]) for w in which.T]
        )
        with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.bf16):
            tokens = self.model(pixel_values=to_pixels(images, self.device)).last_hidden_state
        first, second = tokens[:, 0].float().chunk(2)
        return {"total": contrast(first, second, self.scale)}


def _dino(cfg: DictConfig, folder: Path) -> tuple[ViTModel, IdentityLoss]:
    c = cfg.encoders
    model = build_dino(c.width, c.layers).to(cfg.device)
    views = identity_views(folder, c.identities)
    scale = c.identity_scale
    return model, IdentityLoss(model, *views, c.batch_size, scale, cfg.device, cfg.bf16)


def _clip(cfg: DictConfig, folder: Path) -> tuple[CLIPModel, ClipLoss]:
    c, tokenizer = cfg.encoders, build.build_tokenizer(world.vocabulary())
    model = build_clip(tokenizer, c.width, c.layers, c.text_layers).to(cfg.device)
    images = scenes.scene_shards(folder / "scenes", c.scenes, "train", cfg.workers)
    # without identifiers: no score is to know them
    captions = denoising.caption_shards(folder, tokenizer, len(images), cfg.tokens_per_scene, 0.0)
    return model, ClipLoss(model, images, captions, c.batch_size, cfg.device, cfg.bf16)


ENCODERS = {"dino": _dino, "clip": _clip}


def pretrain_encoders(cfg: DictConfig, folder: Path) -> None:
    """Stage `encoders`: => `encoders/clip` and `encoders/dino`, half precision."""
    for name in cfg.encoders.which:
        torch.manual_seed(cfg.seed)
        model, loss = ENCODERS[name](cfg, folder)
        if torch.device(cfg.device).type == "cpu":  # see pretrain_denoiser
            model.set_attn_implementation("eager")
        begun = states.begin(name, model, folder, cfg.init, f"encoders/{name}")
        own = training.settings(cfg, "encoders")
        training.train(name, model, loss, folder, **own, init=begun)
        with atomic(folder / "encoders" / name) as temporary:
            model.half().save_pretrained(temporary)
            (temporary / "preprocessor_config.json").write_text(
                json.dumps(PREPROCESSOR, indent=2) + "\n"
            )
            if name == "clip":
                build.build_tokenizer(world.vocabulary()).save_pretrained(temporary)
