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

from dreambooth.pocket import build, scenes, training, world

VIEWS = 4  # rendered views of an identity
PREPROCESSOR = {
    "size": {"height": 64, "width": 64}, "resample": 3,
    "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
}  # fmt: skip


def _vision(width: int, layers: int) -> dict:
    return {
        "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": width // 32,
        "intermediate_size": 4 * width, "image_size": 64, "patch_size": 8,
    }  # fmt: skip


def build_clip(tokenizer, width: int, layers: int, text_layers: int) -> CLIPModel:
    """CLIPModel: 64 px in patches of 8, captions of up to 32 tokens."""
    text = {
        "vocab_size": len(tokenizer), "hidden_size": width, "intermediate_size": 4 * width,
        "num_hidden_layers": text_layers, "num_attention_heads": width // 32,
        "max_position_embeddings": build.CONTEXT_LENGTH, "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
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

    def __init__(self, model: CLIPModel, folder: Path, shards: int, batch_size: int, device: str,
                 bf16: bool) -> None:  # fmt: skip
        self.model, self.batch_size, self.device, self.bf16 = model, batch_size, device, bf16
        self.images = [np.load(folder / "scenes" / f"train_{i:05d}.npy", mmap_mode="r")
                       for i in range(shards)]  # fmt: skip
        self.captions = [np.load(folder / "captions" / f"{i:05d}.npy", mmap_mode="r")
                         for i in range(shards)]  # fmt: skip

    def __call__(self, generator: torch.Generator, step: int) -> dict[str, Tensor]:
        """One batch's loss."""
        total = len(self.images) * scenes.SHARD
        picked = torch.randint(total, (self.batch_size,), generator=generator).tolist()
        each = self.captions[0].shape[1]
        which = torch.randint(each, (self.batch_size,), generator=generator).tolist()
        places = [divmod(i, scenes.SHARD) for i in picked]
        pixels = to_pixels(np.stack([self.images[s][i] for s, i in places]), self.device)
        ids = torch.from_numpy(
            np.stack([self.captions[s][i][k] for (s, i), k in zip(places, which, strict=True)])
        )
        with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.bf16):
            out = self.model(pixel_values=pixels, input_ids=ids.long().to(self.device))
        scale = self.model.logit_scale.exp().clamp(max=100)
        loss = contrast(out.image_embeds.float(), out.text_embeds.float(), scale)
        return {"total": loss, "scale": scale.detach()}


def identity_views(folder: Path, identities: int) -> tuple[np.ndarray, np.ndarray]:
    """Views `[I,4,64,64,3]` uint8 of training identities, and each one's class index `[I]`."""
    file, labels = folder / f"views_{identities}.npy", folder / f"views_{identities}_class.npy"
    if not file.exists():
        views, classes = [], []
        for i in range(identities):
            rng = np.random.default_rng([i, 7])
            noun = world.CLASSES[i % len(world.CLASSES)]
            who = world.sample_identity(noun, rng, "train")
            seeds = rng.integers(2**31, size=VIEWS)
            views.append([world.render(world.identity_scene(who, int(s))) for s in seeds])
            classes.append(i % len(world.CLASSES))
        np.save(labels, np.asarray(classes))
        np.save(file, np.asarray(views))
    return np.load(file, mmap_mode="r"), np.load(labels)


class IdentityLoss:
    """Two views of each identity, in batches that hold many identities of the same class."""

    def __init__(self, model: nn.Module, views: np.ndarray, classes: np.ndarray, batch_size: int,
                 scale: float, device: str, bf16: bool) -> None:  # fmt: skip
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
        images = np.concatenate([np.stack([self.views[i][k] for i, k in zip(who, w, strict=True)])
                                 for w in which.T])  # fmt: skip
        with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.bf16):
            tokens = self.model(pixel_values=to_pixels(images, self.device)).last_hidden_state
        first, second = tokens[:, 0].float().chunk(2)
        return {"total": contrast(first, second, self.scale)}


def pretrain_encoders(cfg: DictConfig, folder: Path) -> None:
    """Stage `encoders`: => `encoders/clip` and `encoders/dino`, half precision."""
    c, tokenizer = cfg.encoders, build.build_tokenizer(world.vocabulary())
    torch.manual_seed(cfg.seed)
    clip = build_clip(tokenizer, c.width, c.layers, c.text_layers).to(cfg.device)
    dino = build_dino(c.width, c.layers).to(cfg.device)
    if torch.device(cfg.device).type == "cpu":
        for model in (clip, dino):  # see pretrain_denoiser
            model.set_attn_implementation("eager")
    views, classes = identity_views(folder, c.identities)
    for name, model, loss in (
        ("dino", dino, IdentityLoss(dino, views, classes, c.batch_size, c.identity_scale,
                                    cfg.device, cfg.bf16)),
        ("clip", clip, ClipLoss(clip, folder, c.scenes // scenes.SHARD, c.batch_size, cfg.device,
                                cfg.bf16)),
    ):  # fmt: skip
        if name not in c.which:
            continue
        training.train(name, model, loss, folder, **training.settings(cfg, "encoders"))
        model.half().save_pretrained(folder / "encoders" / name)
        (folder / "encoders" / name / "preprocessor_config.json").write_text(
            json.dumps(PREPROCESSOR, indent=2) + "\n"
        )
    tokenizer.save_pretrained(folder / "encoders" / "clip")
