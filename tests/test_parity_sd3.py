"""Five steps of SD3 against a plain loop, written from train_dreambooth_lora_sd3.py.

With given latents, noise and timesteps the script interpolates, preconditions the prediction,
weighs the squared errors, halves the batch into instance and class, and adds two means. Ours is
composed from conf/experiment/parity_diffusers_sd3.yaml; the loop holds the script's numbers.
"""

import itertools

import peft
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline
from diffusers.training_utils import compute_loss_weighting_for_sd3

from dreambooth.data.batches import KeyedBatches
from dreambooth.data.latents import Examples
from test_parity import EPS, LR, PEFT, STEPS, fit_module, flow_module

pytestmark = pytest.mark.slow

LENGTH = 2  # zeros in the place of T5
ADAMW = {"betas": (0.9, 0.999), "weight_decay": 1e-4, "eps": EPS}
NETWORKS = ("transformer", "text_encoder", "text_encoder_2")


def examples(count: int, prompt: str, seed: int) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    mean, logvar = (torch.randn(count, 16, 8, 8, generator=generator) for _ in range(2))
    names = tuple(f"{i}.png" for i in range(count))
    return Examples(mean, logvar - 3, (prompt,) * count, names, torch.zeros(count, 6, dtype=int))


def batches(scheduler: FlowMatchEulerDiscreteScheduler) -> KeyedBatches:
    """Of the script's timesteps, which are those of the scheduler's table."""

    def draw(generator: torch.Generator) -> torch.Tensor:
        return scheduler.timesteps[torch.randint(1000, (), generator=generator)]

    given = (examples(3, "a sks dog", 0), examples(7, "a dog", 1), 2, 2)
    return KeyedBatches(*given, draw, 0, pairing="diffusers")


def train_plainly(folder, ours, scheme: str, precondition: bool):
    """What the script does; `ours` gives the adapters' configuration and their first values."""
    without = {"text_encoder_3": None, "tokenizer_3": None}
    pipe = StableDiffusion3Pipeline.from_pretrained(folder, **without)
    schedule = FlowMatchEulerDiscreteScheduler.from_config(pipe.scheduler.config)
    trained, adapted = [], {}
    for name in NETWORKS:
        if not hasattr(ours.network(name), "peft_config"):
            continue
        config = ours.network(name).peft_config["default"]
        start = peft.get_peft_model_state_dict(ours.network(name), save_embedding_layers=False)
        adapted[name] = peft.get_peft_model(getattr(pipe, name), config)
        own = {PEFT + key: tensor.clone() for key, tensor in start.items()}
        peft.set_peft_model_state_dict(adapted[name], own)
        trained += [p for p in adapted[name].parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LR, **ADAMW)
    losses = []
    for batch in itertools.islice(batches(schedule), STEPS):
        std = torch.exp(0.5 * batch["logvar"])
        model_input = batch["mean"] + std * batch["posterior_noise"]
        config = pipe.vae.config
        model_input = (model_input - config.shift_factor) * config.scaling_factor
        noise, timesteps = batch["noise"], batch["timesteps"]
        steps = [(schedule.timesteps == t).nonzero().item() for t in timesteps]
        sigmas = schedule.sigmas[steps].reshape(-1, 1, 1, 1)
        noisy = (1.0 - sigmas) * model_input + sigmas * noise
        embeds, _, pooled, _ = pipe.encode_prompt(
            *(batch["prompts"],) * 3,
            device="cpu",
            do_classifier_free_guidance=False,
            max_sequence_length=LENGTH,
        )
        pred = pipe.transformer(
            hidden_states=noisy,
            timestep=timesteps,
            encoder_hidden_states=embeds,
            pooled_projections=pooled,
            return_dict=False,
        )[0]
        target = noise - model_input
        if precondition:
            pred, target = pred * (-sigmas) + noisy, model_input
        weighting = compute_loss_weighting_for_sd3(scheme, sigmas)
        halves = zip(pred.chunk(2), target.chunk(2), weighting.chunk(2), strict=True)
        terms = [torch.mean((w * (p - t) ** 2).reshape(len(t), -1), 1).mean() for p, t, w in halves]
        loss = terms[0] + 1.0 * terms[1]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    states = {
        name: peft.get_peft_model_state_dict(m, save_embedding_layers=False)
        for name, m in adapted.items()
    }
    return losses, states


@pytest.mark.parametrize(
    ("weighting", "scheme", "precondition", "text"),
    [
        (None, "logit_normal", True, False),  # both defaults
        pytest.param(None, "logit_normal", True, True, marks=pytest.mark.thorough),
        pytest.param("none", "logit_normal", False, False, marks=pytest.mark.thorough),
        pytest.param("sigma_sqrt", "sigma_sqrt", False, False, marks=pytest.mark.thorough),
        pytest.param("cosmap", "cosmap", False, False, marks=pytest.mark.thorough),
    ],
)
def test_five_steps_equal_diffusers(tiny_sd3_model_dir, weighting, scheme, precondition, text):
    own = [f"lr={LR}", f"max_steps={STEPS}", f"optimizer.eps={EPS}", "trainer=cpu"]
    own += [f"train_text_encoder={text}", "output_dir=out", "experiment=parity_diffusers_sd3"]
    own += [] if weighting is None else [f"loss.weighting={weighting}"]
    cfg, module = flow_module(tiny_sd3_model_dir, LENGTH, own)
    model, weights = module.model, module.weights
    theirs, states = train_plainly(tiny_sd3_model_dir, model, scheme, precondition)
    before = {name: p.detach().clone() for name, p in weights.parameters().items()}
    ours = fit_module(module, batches(model.noise_scheduler), cfg)
    assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-6) and len(ours) == STEPS
    assert set(states) == set(NETWORKS if text else NETWORKS[:1])
    for name, state in states.items():
        after = peft.get_peft_model_state_dict(model.network(name), save_embedding_layers=False)
        named = {key.removeprefix(PEFT): tensor for key, tensor in state.items()}
        assert named.keys() == after.keys()
        for key, tensor in named.items():
            torch.testing.assert_close(after[key], tensor, rtol=0, atol=1e-6, msg=key)
    moved = [n for n, p in weights.parameters().items() if not torch.equal(p, before[n])]
    assert len(moved) > len(before) // 2
