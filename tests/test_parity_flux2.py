"""Five steps of FLUX.2 klein against a loop from train_dreambooth_lora_flux2_klein.py.

With given posteriors, noise and timesteps the script cuts the posterior's mode into patches,
normalises them, interpolates, halves the batch into instance and class, and adds two means. Ours
is composed from conf/experiment/parity_diffusers_flux2.yaml; the loop holds the script's numbers.
"""

import itertools

import peft
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, Flux2KleinPipeline
from diffusers.training_utils import compute_loss_weighting_for_sd3

from dreambooth.data.batches import KeyedBatches
from dreambooth.data.latents import Examples
from test_parity import EPS, LR, PEFT, STEPS, fit_module, flow_module

pytestmark = pytest.mark.slow

LENGTH = 48
ADAMW = {"betas": (0.9, 0.999), "weight_decay": 1e-4, "eps": EPS}
# what the script adapts; PEFT ignores those of blocks that are not there
TARGETS = ["to_k", "to_q", "to_v", "to_out.0", "to_qkv_mlp_proj"]
TARGETS += [f"single_transformer_blocks.{i}.attn.to_out" for i in range(24)]


def examples(count: int, prompt: str, seed: int) -> tuple[Examples, dict]:
    """Posteriors as ours has them, in patches, and their modes as the autoencoder gives them."""
    modes = torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(seed))
    patches = Flux2KleinPipeline._patchify_latents(modes)
    names = tuple(f"{i}.png" for i in range(count))
    sizes = torch.zeros(count, 6, dtype=int)
    given = Examples(patches, torch.zeros_like(patches), (prompt,) * count, names, sizes)
    return given, dict(zip([(prompt, name) for name in names], modes, strict=True))


def batches(scheduler: FlowMatchEulerDiscreteScheduler):
    """Of the script's timesteps, which are those of the scheduler's table; and the modes."""

    def draw(generator: torch.Generator) -> torch.Tensor:
        return scheduler.timesteps[torch.randint(1000, (), generator=generator)]

    (instance, own), (prior, others) = examples(3, "a sks dog", 0), examples(7, "a dog", 1)
    return KeyedBatches(instance, prior, 2, 2, draw, 0, pairing="diffusers"), own | others


def train_plainly(folder, ours, scheme: str):
    """What the script does, from the adapters' first values in `ours`."""
    pipe = Flux2KleinPipeline.from_pretrained(folder)
    vae, schedule = pipe.vae, FlowMatchEulerDiscreteScheduler.from_config(pipe.scheduler.config)
    mean = vae.bn.running_mean.view(1, -1, 1, 1)
    std = torch.sqrt(vae.bn.running_var.view(1, -1, 1, 1) + vae.config.batch_norm_eps)
    config = peft.LoraConfig(
        r=4, lora_alpha=4, lora_dropout=0.0, init_lora_weights="gaussian", target_modules=TARGETS
    )
    start = peft.get_peft_model_state_dict(ours.transformer)
    transformer = peft.get_peft_model(pipe.transformer, config)
    own = {PEFT + key: tensor.clone() for key, tensor in start.items()}
    missing, unexpected = peft.set_peft_model_state_dict(transformer, own)
    assert not unexpected and not [key for key in missing if "lora" in key]
    trained = [p for p in transformer.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LR, **ADAMW)
    losses, (data, modes) = [], batches(schedule)
    for batch in itertools.islice(data, STEPS):
        rows = zip(batch["prompts"], batch["names"], strict=True)
        model_input = Flux2KleinPipeline._patchify_latents(torch.stack([modes[r] for r in rows]))
        model_input = (model_input - mean) / std
        model_input_ids = Flux2KleinPipeline._prepare_latent_ids(model_input)
        noise, timesteps = batch["noise"], batch["timesteps"]
        steps = [(schedule.timesteps == t).nonzero().item() for t in timesteps]
        sigmas = schedule.sigmas[steps].reshape(-1, 1, 1, 1)
        noisy = (1.0 - sigmas) * model_input + sigmas * noise
        with torch.no_grad():
            embeds, text_ids = pipe.encode_prompt(batch["prompts"], max_sequence_length=LENGTH)
        pred = transformer(
            hidden_states=Flux2KleinPipeline._pack_latents(noisy),
            timestep=timesteps / 1000,
            guidance=None,
            encoder_hidden_states=embeds,
            txt_ids=text_ids,
            img_ids=model_input_ids,
            return_dict=False,
        )[0]
        pred = Flux2KleinPipeline._unpack_latents_with_ids(pred, model_input_ids)
        target, weighting = noise - model_input, compute_loss_weighting_for_sd3(scheme, sigmas)
        halves = zip(pred.chunk(2), target.chunk(2), weighting.chunk(2), strict=True)
        terms = [torch.mean((w * (p - t) ** 2).reshape(len(t), -1), 1).mean() for p, t, w in halves]
        loss = terms[0] + 1.0 * terms[1]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(transformer.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, peft.get_peft_model_state_dict(transformer)


@pytest.mark.parametrize("scheme", ["none", pytest.param("cosmap", marks=pytest.mark.thorough)])
def test_five_steps_equal_diffusers(tiny_flux2_model_dir, scheme):
    own = [f"lr={LR}", f"max_steps={STEPS}", f"optimizer.eps={EPS}", "trainer=cpu"]
    own += ["output_dir=out", "experiment=parity_diffusers_flux2", f"loss.weighting={scheme}"]
    cfg, module = flow_module(tiny_flux2_model_dir, LENGTH, own)
    model, weights = module.model, module.weights
    theirs, state = train_plainly(tiny_flux2_model_dir, model, scheme)
    before = {name: p.detach().clone() for name, p in weights.parameters().items()}
    ours = fit_module(module, batches(model.noise_scheduler)[0], cfg)
    assert ours == pytest.approx(theirs, rel=0, abs=1e-6) and len(ours) == STEPS
    after = peft.get_peft_model_state_dict(model.transformer)
    named = {key.removeprefix(PEFT): tensor for key, tensor in state.items()}
    assert named.keys() == after.keys()
    for key, tensor in named.items():
        torch.testing.assert_close(after[key], tensor, rtol=0, atol=1e-6, msg=key)
    moved = [n for n, p in weights.parameters().items() if not torch.equal(p, before[n])]
    assert len(moved) > len(before) // 2
