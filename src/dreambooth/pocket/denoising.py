"""Pretraining of the pocket U-Net and its text encoder on cached latents and token ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from transformers import CLIPTokenizer

from dreambooth.cache import atomic
from dreambooth.diffusion.loss import error_per_sample, min_snr_weights
from dreambooth.diffusion.noise import add_noise, keyed_normal, snr, velocity
from dreambooth.pocket import build, scenes, world


class Denoiser(nn.Module):
    """The two networks that are trained together."""

    def __init__(self, unet: nn.Module, text_encoder: nn.Module) -> None:
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder

    def forward(self, noisy_latents: Tensor, timesteps: Tensor, ids: Tensor) -> Tensor:
        """`[N,C,8,8]`, `[N]`, token ids `[N,32]` => prediction `[N,C,8,8]`."""
        return self.unet(noisy_latents, timesteps, self.text_encoder(ids)[0]).sample


def _save(path: Path, array: np.ndarray) -> None:
    with atomic(path) as temporary, open(temporary, "wb") as file:
        np.save(file, array)


@torch.no_grad()
def encode_scenes(paths: list[Path], folder: Path, seed: int, device: str, bf16: bool) -> None:
    """`latents/<shard>.npy`: float16 `[4096,C,8,8]`, one posterior sample a scene, scaled."""
    vae = AutoencoderKL.from_pretrained(folder / "vae").to(device).eval()
    (folder / "latents").mkdir(exist_ok=True)
    for index, path in enumerate(paths):
        target = folder / "latents" / f"{index:05d}.npy"
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
        _save(target, torch.cat(rows).half().cpu().numpy())


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
    "a dog" would be one condition with two aims.
    """
    noun, identifiers = seen.class_noun, build.RARE_IDENTIFIERS
    if rng.random() < 0.15:
        letters = rng.choice(list("abcdefghijklmnopqrstuvwxyz"), size=int(rng.integers(3, 7)))
        word = "".join(letters)
    else:
        if rng.random() < 2 / 3:
            colors = list(world.COLORS)
            identifiers = identifiers[colors.index(seen.main_color) :: len(colors)]
        word = str(rng.choice(identifiers))
    return caption.replace(f" {noun}", f" {word} {noun}", 1)


def tokenize_captions(
    index: int, tokenizer: CLIPTokenizer, folder: Path, each: int, identifier_share: float
) -> None:
    """`captions/<shard>.npy`: int32 `[4096,each,32]`, several captions of every scene."""
    target = folder / "captions" / f"{index:05d}.npy"
    if target.exists():
        return
    target.parent.mkdir(exist_ok=True)
    captions = []
    for seed in range(index * scenes.SHARD, (index + 1) * scenes.SHARD):
        scene, rng = world.sample_scene(seed), np.random.default_rng([seed, 1])
        for _ in range(each):
            caption = world.caption(scene, rng)
            if rng.random() < identifier_share:
                caption = with_identifier(caption, scene.seen, rng)
            captions.append(caption)
    _save(target, token_ids(tokenizer, captions).reshape(scenes.SHARD, each, -1))


class DenoisingLoss:
    """Velocity prediction with Min-SNR weights and caption dropout; a step is keyed by its draws.

    Args:
        empty: token ids `[1,32]` of the empty caption.
    """

    def __init__(
        self, network: Denoiser, folder: Path, shards: int, batch_size: int,
        caption_dropout: float, min_snr_gamma: float, bf16: bool, device: str, empty: Tensor,
    ) -> None:  # fmt: skip
        self.network, self.batch_size, self.device, self.bf16 = network, batch_size, device, bf16
        self.caption_dropout, self.min_snr_gamma, self.empty = caption_dropout, min_snr_gamma, empty
        self.latents, self.captions = (
            [np.load(folder / kind / f"{i:05d}.npy", mmap_mode="r") for i in range(shards)]
            for kind in ("latents", "captions")
        )
        self.alphas_cumprod = build.build_scheduler().alphas_cumprod.to(device)

    def __call__(self, generator: torch.Generator, step: int) -> dict[str, Tensor]:
        """One batch's loss."""
        n = self.batch_size
        total, each = len(self.latents) * scenes.SHARD, self.captions[0].shape[1]
        picked = torch.randint(total, (n,), generator=generator).tolist()
        which = torch.randint(each, (n,), generator=generator).tolist()
        places = [divmod(i, scenes.SHARD) for i in picked]
        latents = torch.from_numpy(np.stack([self.latents[s][i] for s, i in places])).float()
        ids = torch.from_numpy(
            np.stack([self.captions[s][i][k] for (s, i), k in zip(places, which, strict=True)])
        )
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
