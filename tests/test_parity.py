"""Five steps of ours against a plain loop over diffusers' classes, written from its script.

The loop is what train_dreambooth.py does with given latents, noise and timesteps: add_noise,
one forward over [instance, class], two mean squared errors added, one joint clip, AdamW.
"""

import itertools
from dataclasses import replace
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline
from torch.nn import functional as F

from dreambooth.data.datamodule import DreamBoothData, Examples, KeyedBatches
from dreambooth.model.latent_diffusion import LatentDiffusion
from dreambooth.model.trainable import Phase, prepare
from dreambooth.module import DreamBooth, Loss, Optimization

STEPS, LR = 5, 1e-4
# not 1e-8, at which Adam makes whole steps out of the rounding noise of vanishing gradients (those
# of key biases are 0 in exact arithmetic), so that two right sums in another order would differ
EPS = 1e-5
ADAMW = {"betas": (0.9, 0.999), "weight_decay": 1e-2, "eps": EPS}


def examples(count: int, prompt: str, seed: int) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    mean, logvar = (torch.randn(count, 4, 8, 8, generator=generator) for _ in range(2))
    return Examples(mean, logvar - 3, (prompt,) * count, tuple(f"{i}.png" for i in range(count)))


def batches_of(batch_size: int, ppl: bool) -> KeyedBatches:
    prior = examples(7, "a dog", 1) if ppl else None
    return KeyedBatches(
        examples(3, "a sks dog", 0), prior, batch_size, batch_size, 1000, 0, pairing="diffusers"
    )


class Recorder(pl.Callback):
    def __init__(self):
        self.losses = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.losses.append(outputs["loss"].item())


def train_ours(folder, batches, text_encoder):
    model = LatentDiffusion.from_pretrained(str(folder))
    prepare(model, Phase("full", text_encoder), None, None, 0)
    optimizer = partial(torch.optim.AdamW, fused=True, **ADAMW)
    optimization = Optimization(optimizer, LR, None, "constant", 0, STEPS, 1.0)
    module = DreamBooth(model, Loss(1.0, None, "latents"), optimization)
    module.embed_once(["a sks dog", "a dog"])
    recorder = Recorder()
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=STEPS, max_epochs=-1, callbacks=[recorder], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, DreamBoothData(batches))
    return recorder.losses, {**named(model.unet, "unet"), **named(model.text_encoder, "text")}


def train_plainly(folder, batches, train_text_encoder):
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    unet, text, tokenizer = pipe.unet, pipe.text_encoder, pipe.tokenizer
    unet.train()
    text.requires_grad_(train_text_encoder).train(train_text_encoder)
    trained = [*unet.parameters(), *(text.parameters() if train_text_encoder else ())]
    optimizer = torch.optim.AdamW(trained, lr=LR, **ADAMW)
    losses = []
    for batch in itertools.islice(batches, STEPS):
        std = torch.exp(0.5 * batch["logvar"])
        latents = (batch["mean"] + std * batch["posterior_noise"]) * pipe.vae.config.scaling_factor
        noisy = scheduler.add_noise(latents, batch["noise"], batch["timesteps"])
        ids = tokenizer(
            batch["prompts"], padding="max_length", max_length=tokenizer.model_max_length,
            truncation=True, return_tensors="pt",
        ).input_ids  # fmt: skip
        pred = unet(noisy, batch["timesteps"], text(ids)[0]).sample
        if scheduler.config.prediction_type == "epsilon":
            target = batch["noise"]
        else:
            target = scheduler.get_velocity(latents, batch["noise"], batch["timesteps"])
        if batches.prior is not None:
            pred, pred_prior = pred.chunk(2)
            target, target_prior = target.chunk(2)
            loss = F.mse_loss(pred, target) + 1.0 * F.mse_loss(pred_prior, target_prior)
        else:
            loss = F.mse_loss(pred, target)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, {**named(unet, "unet"), **named(text, "text")}


def named(module, prefix):
    return {f"{prefix}.{k}": v.detach().clone() for k, v in module.state_dict().items()}


@pytest.mark.parametrize("train_text_encoder", [False, True])
@pytest.mark.parametrize("ppl", [False, True])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_five_steps_equal_diffusers(tiny_model_dir, batch_size, ppl, train_text_encoder):
    batches = batches_of(batch_size, ppl)
    text_encoder = "full" if train_text_encoder else "frozen"
    ours, our_weights = train_ours(tiny_model_dir, batches, text_encoder)
    theirs, their_weights = train_plainly(tiny_model_dir, batches, train_text_encoder)
    assert ours == pytest.approx(theirs, rel=0, abs=1e-6)
    assert len(ours) == STEPS
    assert our_weights.keys() == their_weights.keys()
    for name, weight in their_weights.items():
        torch.testing.assert_close(our_weights[name], weight, rtol=0, atol=1e-6, msg=name)


def test_v_prediction_equals_diffusers(tiny_v_model_dir):
    ours, _ = train_ours(tiny_v_model_dir, batches_of(2, True), "full")
    theirs, _ = train_plainly(tiny_v_model_dir, batches_of(2, True), True)
    assert ours == pytest.approx(theirs, rel=0, abs=1e-6)


def test_the_comparison_can_fail(tiny_model_dir):
    """Another class image beside the photo is another loss: the comparison sees the pairing."""
    batches = batches_of(1, True)
    other = replace(batches, pairing="independent")
    assert train_ours(tiny_model_dir, batches, "frozen")[0] != pytest.approx(
        train_ours(tiny_model_dir, other, "frozen")[0], rel=0, abs=1e-6
    )
