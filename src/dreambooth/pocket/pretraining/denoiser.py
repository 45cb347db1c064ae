"""Stage `denoiser`: pretrain U-Net and text encoder together on cached latents and token ids."""

from __future__ import annotations

import logging

import torch
from diffusers.models.attention_processor import AttnProcessor
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.utils.constants import SAFETENSORS_WEIGHTS_NAME
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from dreambooth.diffusion.loss import error_per_sample, min_snr_weights
from dreambooth.diffusion.noise import add_noise, snr, velocity
from dreambooth.pocket import world
from dreambooth.pocket.pretraining import architecture
from dreambooth.pocket.pretraining.captioned_latents import CaptionedLatents, captioned_latents
from dreambooth.pocket.pretraining.checkpoints import read_checkpoint, start_from
from dreambooth.pocket.pretraining.device import autocast
from dreambooth.pocket.pretraining.latents import vae_hash
from dreambooth.pocket.pretraining.spec import PretrainSpec
from dreambooth.pocket.pretraining.tokenizer import build_tokenizer
from dreambooth.pocket.pretraining.training_loop import train

log = logging.getLogger(__name__)


class Denoiser(nn.Module):
    """The two networks that are trained together."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder

    def forward(self, noisy_latents: Tensor, timesteps: Tensor, ids: Tensor) -> Tensor:
        """Predict from `[N,C,8,8]`, timesteps `[N]` and token ids `[N,32]` => `[N,C,8,8]`."""
        return self.unet(noisy_latents, timesteps, self.text_encoder(ids)[0]).sample


def build_denoiser(spec: PretrainSpec, tokenizer: CLIPTokenizer) -> Denoiser:
    """Build U-Net and text encoder in the configured sizes, untrained."""
    own = spec.denoiser
    unet = architecture.build_unet(
        own.channels,
        latent_channels=spec.vae.latent_channels,
        text_width=own.text_width,
        heads=own.heads,
        norm_num_groups=own.norm_num_groups,
    )
    text_encoder = architecture.build_text_encoder(
        tokenizer, width=own.text_width, layers=own.text_layers
    )
    return Denoiser(unet, text_encoder)


class DenoisingLoss:
    """Velocity prediction with Min-SNR weights and caption dropout.

    Args:
        network: `(noisy latents, timesteps, token ids) => prediction`, as `Denoiser`.
        examples: latents and captions.
    """

    def __init__(self, network: nn.Module, spec: PretrainSpec, examples: CaptionedLatents) -> None:
        self.network, self.spec, self.examples = network, spec, examples
        self.alphas_cumprod = architecture.build_scheduler().alphas_cumprod.to(spec.device)

    def __call__(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Compute one batch's loss."""
        spec, alphas_cumprod = self.spec, self.alphas_cumprod
        latents, ids = self.examples.draw(spec.denoiser.batch_size, generator)
        noise = torch.randn(latents.shape, generator=generator)
        timesteps = torch.randint(len(alphas_cumprod), (len(latents),), generator=generator)
        latents, ids, noise, timesteps = (
            t.to(spec.device) for t in (latents, ids, noise, timesteps)
        )
        noisy = add_noise(latents, noise, timesteps, alphas_cumprod)
        target = velocity(latents, noise, timesteps, alphas_cumprod)
        with autocast(spec.device, spec.bf16):
            prediction = self.network(noisy, timesteps, ids)
        error = error_per_sample(prediction, target)
        ratio = snr(timesteps, alphas_cumprod)
        weights = min_snr_weights(ratio, spec.denoiser.min_snr_gamma, "v_prediction")
        return {"total": (error * weights).mean(), "error": error.detach().mean()}


def pretrain_denoiser(spec: PretrainSpec) -> None:
    """Train U-Net and text encoder on the latents of the VAE in the cache."""
    own, checkpoint = spec.denoiser, spec.cache / "denoiser.pt"
    facts = {"vae": vae_hash(spec.cache / "vae"), "scenes": own.scenes}
    if checkpoint.exists():
        sessions = read_checkpoint(checkpoint, spec.seed, mmap=True)["sessions"]
        if any(session.get("vae") != facts["vae"] for session in sessions[-1:]):
            log.warning("denoiser: continues on latents of another VAE than before")
    torch.manual_seed(spec.seed)
    tokenizer = build_tokenizer(world.vocabulary())
    network = build_denoiser(spec, tokenizer)
    part = f"unet/{SAFETENSORS_WEIGHTS_NAME}"
    facts["init"] = start_from(spec.init, part, network.unet, checkpoint)
    start_from(spec.init, "text_encoder", network.text_encoder, checkpoint)
    network.to(spec.device)
    if torch.device(spec.device).type == "cpu":
        # in bfloat16 the CPU's fused attention is slow: its backward took 30 % of a step
        network.unet.set_attn_processor(AttnProcessor())
        network.text_encoder.set_attn_implementation("eager")
    if spec.compile:
        network.unet.compile()
    examples = captioned_latents(spec, own, tokenizer)
    loss = DenoisingLoss(network, spec, examples)
    train("denoiser", network, loss, spec.cache, spec.training(own), facts)
