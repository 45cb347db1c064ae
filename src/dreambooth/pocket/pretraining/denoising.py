"""Pretraining of the pocket U-Net and its text encoder on cached latents and token ids."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from transformers import CLIPTokenizer

from dreambooth.diffusion.loss import error_per_sample, min_snr_weights
from dreambooth.diffusion.noise import add_noise, snr, velocity
from dreambooth.files import cache_key, file_hash
from dreambooth.pocket import world
from dreambooth.pocket.pretraining import build, scenes
from dreambooth.pocket.world.captions import RARE_IDENTIFIERS
from dreambooth.random import keyed_normal


class Denoiser(nn.Module):
    """The two networks that are trained together."""

    def __init__(self, unet: nn.Module, text_encoder: nn.Module) -> None:
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder

    def forward(self, noisy_latents: Tensor, timesteps: Tensor, ids: Tensor) -> Tensor:
        """`[N,C,8,8]`, `[N]`, token ids `[N,32]` => prediction `[N,C,8,8]`."""
        return self.unet(noisy_latents, timesteps, self.text_encoder(ids)[0]).sample


def vae_hash(vae: Path) -> str:
    """16 hex digits of a VAE folder's weights and configuration, scaling factor included."""
    config = json.loads((vae / "config.json").read_text())
    return cache_key(
        config={key: value for key, value in config.items() if not key.startswith("_")},
        weights=file_hash(vae / "diffusion_pytorch_model.safetensors"),
    )


def latent_shards(folder: Path, seed: int, shards: int) -> list[Path]:
    """Where the first shards' latents of the present VAE lie: another VAE, another folder."""
    key = cache_key(vae=vae_hash(folder / "vae"), seed=seed)[:8]
    return [folder / f"latents-{key}" / f"{index:05d}.npy" for index in range(shards)]


@torch.no_grad()
def encode_scenes(paths: list[Path], folder: Path, seed: int, device: str, bf16: bool) -> None:
    """Latents of each shard: float16 `[4096,C,8,8]`, one posterior sample a scene, scaled."""
    vae = AutoencoderKL.from_pretrained(folder / "vae", local_files_only=True).to(device).eval()
    targets = latent_shards(folder, seed, len(paths))
    for index, (path, target) in enumerate(zip(paths, targets, strict=True)):
        if target.exists():
            continue
        images, rows = np.load(path, mmap_mode="r"), []
        for start in range(0, len(images), 128):
            part = torch.from_numpy(np.array(images[start : start + 128])).to(device)
            pixels = part.permute(0, 3, 1, 2).float() / 127.5 - 1
            with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16):
                posterior = vae.encode(pixels).latent_dist
            mean, std = posterior.mean.float(), posterior.std.float()
            noise = keyed_normal(tuple(mean.shape), seed, "posterior", index, start).to(device)
            rows.append((mean + std * noise) * vae.config.scaling_factor)
        scenes.save_array(target, torch.cat(rows).half().cpu().numpy())


def token_ids(tokenizer: CLIPTokenizer, captions: list[str]) -> np.ndarray:
    """Captions => `[N,32]` padded token ids."""
    ids = tokenizer(
        captions, padding="max_length", max_length=build.CONTEXT_LENGTH, truncation=True
    ).input_ids
    return np.asarray(ids, dtype=np.int32)


def with_identifier(caption: str, seen: world.Identity, rng: np.random.Generator) -> str:
    """The caption with a rare word before the noun: a rare identifier, or random letters.

    Letters mean nothing, so that the model takes any unknown word. An identifier leans to one
    main colour, as Stable Diffusion's rare tokens lean to something: of a word that said
    nothing at all the text encoder would learn to say nothing, and under PPL "a sks dog" and
    "a dog" would be one condition with two aims. Of eleven equally likely colours, an
    identifier's own has P(colour | identifier) = 17/27 = 0.63 where another identifier shares
    it (the first five colours), else 33/43 = 0.77.
    """
    noun, identifiers = seen.class_noun, RARE_IDENTIFIERS
    if rng.random() < 0.15:
        letters = rng.choice(list("abcdefghijklmnopqrstuvwxyz"), size=int(rng.integers(3, 7)))
        word = "".join(letters)
    else:
        if rng.random() < 2 / 3:
            colors = list(world.COLORS)
            identifiers = identifiers[colors.index(seen.main_color) :: len(colors)]
        word = str(rng.choice(identifiers))
    return caption.replace(f" {noun}", f" {word} {noun}", 1)


def caption_shards(
    folder: Path, tokenizer: CLIPTokenizer, shards: int, each: int, identifier_share: float
) -> list[Path]:
    """Token ids of the first shards' captions, int32 `[4096,each,32]`, made where missing.

    They lie in a folder of their own for every vocabulary, `each` and share.
    """
    key = cache_key(words=tokenizer.get_vocab(), each=each, share=float(identifier_share))[:8]
    paths = [folder / f"captions-{key}" / f"{index:05d}.npy" for index in range(shards)]
    for index, path in enumerate(paths):
        if not path.exists():
            ids = token_ids(tokenizer, _captions(index, each, identifier_share))
            scenes.save_array(path, ids.reshape(scenes.SHARD, each, -1))
    return paths


def _captions(index: int, each: int, identifier_share: float) -> list[str]:
    captions = []
    for seed in range(index * scenes.SHARD, (index + 1) * scenes.SHARD):
        scene, rng = world.sample_scene(seed), np.random.default_rng([seed, 1])
        for _ in range(each):
            caption = world.caption(scene, rng)
            if rng.random() < identifier_share:
                caption = with_identifier(caption, scene.seen, rng)
            captions.append(caption)
    return captions


class DenoisingLoss:
    """Velocity prediction with Min-SNR weights and caption dropout; a step is keyed by its draws.

    Args:
        latents, captions: the shards' files.
        empty: token ids `[1,32]` of the empty caption.
    """

    def __init__(
        self,
        network: Denoiser,
        latents: list[Path],
        captions: list[Path],
        batch_size: int,
        caption_dropout: float,
        min_snr_gamma: float,
        bf16: bool,
        device: str,
        empty: Tensor,
    ) -> None:
        self.network, self.batch_size, self.device, self.bf16 = network, batch_size, device, bf16
        self.caption_dropout, self.min_snr_gamma, self.empty = caption_dropout, min_snr_gamma, empty
        self.latents, self.captions = (
            [np.load(path, mmap_mode="r") for path in paths] for paths in (latents, captions)
        )
        self.alphas_cumprod = build.build_scheduler().alphas_cumprod.to(device)

    def __call__(self, generator: torch.Generator, step: int) -> dict[str, Tensor]:
        """One batch's loss."""
        n = self.batch_size
        total, each = len(self.latents) * scenes.SHARD, self.captions[0].shape[1]
        picked = torch.randint(total, (n,), generator=generator)
        which = torch.randint(each, (n,), generator=generator)
        latents = torch.from_numpy(scenes.pick(self.latents, picked)).float()
        ids = torch.from_numpy(scenes.pick(self.captions, picked))[torch.arange(n), which]
        dropped = torch.rand(n, generator=generator) < self.caption_dropout
        ids = torch.where(dropped[:, None], self.empty, ids).long()
        noise = torch.randn(latents.shape, generator=generator)
        timesteps = torch.randint(len(self.alphas_cumprod), (n,), generator=generator)
        latents, ids, noise, timesteps = (
            t.to(self.device) for t in (latents, ids, noise, timesteps)
        )
        noisy = add_noise(latents, noise, timesteps, self.alphas_cumprod)
        aim = velocity(latents, noise, timesteps, self.alphas_cumprod)
        with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.bf16):
            prediction = self.network(noisy, timesteps, ids)
        error = error_per_sample(prediction, aim)
        ratio = snr(timesteps, self.alphas_cumprod)
        weights = min_snr_weights(ratio, self.min_snr_gamma, "v_prediction")
        return {"total": (error * weights).mean(), "error": error.detach().mean()}
