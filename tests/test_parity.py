"""Five steps of ours against a plain loop over diffusers' classes, written from its script.

The loop is what train_dreambooth.py does with given latents, noise and timesteps: add_noise,
one forward over [instance, class], two mean squared errors added, one joint clip, AdamW. Ours is
composed from conf/experiment/parity_diffusers.yaml; the loop holds the script's numbers itself.
"""

import itertools
from contextlib import nullcontext
from dataclasses import replace

import peft
import pytest
import pytorch_lightning as pl
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from hydra import compose, initialize_config_dir
from torch.nn import functional as F

from dreambooth.cli.configuration.configs import CONF
from dreambooth.cli.configuration.specs import train_spec
from dreambooth.cli.refusals.checks import check
from dreambooth.data.batches import DreamBoothData, KeyedBatches
from dreambooth.data.latents import Examples
from dreambooth.diffusion.process import UniformTimesteps
from dreambooth.model.architectures import load_model
from dreambooth.model.phases import Phase
from dreambooth.model.stable_diffusion import StableDiffusion
from dreambooth.model.trainable import TrainableWeights
from dreambooth.training.module import DreamBooth

pytestmark = pytest.mark.slow

STEPS, LR = 5, 1e-4
PEFT = "base_model.model."  # before the names in a PEFT file
OTHER_ADAPTERS = ("dora", "loha", "lokr", "oft", "boft")
# not 1e-8, at which Adam makes whole steps out of the rounding noise of vanishing gradients (those
# of key biases are 0 in exact arithmetic), so that two right sums in another order would differ
EPS = 1e-5
ADAMW = {"betas": (0.9, 0.999), "weight_decay": 1e-2, "eps": EPS}


def experiment(*overrides: str):
    """The experiment as a user composes it."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", ["experiment=parity_diffusers", "output_dir=out", *overrides])
    check(cfg)
    return cfg


def examples(count: int, prompt: str, seed: int) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(16, (count, 6), generator=torch.Generator().manual_seed(seed))
    mean, logvar = (torch.randn(count, 4, 8, 8, generator=generator) for _ in range(2))
    names = tuple(f"{i}.png" for i in range(count))
    return Examples(mean, logvar - 3, (prompt,) * count, names, sizes)


def batches_of(batch_size: int, ppl: bool, prompt: str = "a sks dog") -> KeyedBatches:
    prior = examples(7, "a dog", 1) if ppl else None
    return KeyedBatches(
        examples(3, prompt, 0),
        prior,
        batch_size,
        batch_size,
        UniformTimesteps(1000),
        0,
        pairing=experiment().pairing,
    )


class Recorder(pl.Callback):
    def __init__(self):
        self.losses = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.losses.append(outputs["loss"].item())


def make_module(folder, text_encoder, cfg):
    model = load_model(str(folder))
    spec = train_spec(cfg)
    (phase,) = spec.method.phases
    weights = TrainableWeights(model, 0, spec.method.adapter, spec.method.token)
    weights.prepare(phase.parts if text_encoder is None else Phase("full", text_encoder))
    module = DreamBooth(weights, spec.loss, spec.optimizer, phase)
    module.embed_once(["a sks dog", "a dog"])
    return module


def flow_module(folder, length, own):
    """A composed configuration, and its module over a flow-matching model."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", own)
    check(cfg)
    spec, model = train_spec(cfg), load_model(str(folder), None, None, length)
    weights = TrainableWeights(model, 0, spec.method.adapter)
    weights.prepare(spec.method.phases[0].parts)
    module = DreamBooth(weights, spec.loss, spec.optimizer, spec.method.phases[0])
    module.embed_once(["a sks dog", "a dog"])
    return cfg, module


def train_ours(folder, batches, text_encoder, *overrides):
    own = (f"max_steps={STEPS}", f"lr={LR}", f"optimizer.eps={EPS}")
    cfg = experiment(*own, *overrides)
    return fit(make_module(folder, text_encoder, cfg), batches, cfg)


def fit(module, batches, cfg):
    losses = fit_module(module, batches, cfg)
    model = module.model
    weights = {**named(model.unet, "unet"), **named(model.text_encoder, "text")}
    for name in model.text_encoders[1:]:
        weights |= named(model.network(name), name)
    return losses, weights


def fit_module(module, batches, cfg) -> list[float]:
    """The losses of the first steps."""
    recorder = Recorder()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=STEPS,
        max_epochs=-1,
        callbacks=[recorder],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        precision=cfg.trainer.precision,
    )
    trainer.fit(module, DreamBoothData(batches))
    return recorder.losses


def train_plainly(folder, batches, train_text_encoder, half=False, adapt=None):
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    unet, text, tokenizer = pipe.unet, pipe.text_encoder, pipe.tokenizer
    unet.train()
    text.requires_grad_(train_text_encoder).train(train_text_encoder)
    trained = [*unet.parameters(), *(text.parameters() if train_text_encoder else ())]
    trained = trained if adapt is None else adapt(pipe)
    optimizer = torch.optim.AdamW(trained, lr=LR, **ADAMW)
    losses = []
    for batch in itertools.islice(batches, STEPS):
        std = torch.exp(0.5 * batch["logvar"])
        latents = (batch["mean"] + std * batch["posterior_noise"]) * pipe.vae.config.scaling_factor
        noise, forward = batch["noise"], nullcontext()
        if half:  # --mixed_precision bf16: latents and noise are made in it, the U-Net runs in it
            latents, noise = latents.bfloat16(), noise.bfloat16()
            forward = torch.autocast("cpu", torch.bfloat16)
        noisy = scheduler.add_noise(latents, noise, batch["timesteps"])
        ids = tokenizer(
            batch["prompts"],
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        with forward:
            pred = unet(noisy, batch["timesteps"], text(ids)[0]).sample.float()
        target = noise.float()
        if scheduler.config.prediction_type == "v_prediction":
            target = scheduler.get_velocity(latents, noise, batch["timesteps"]).float()
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


@pytest.mark.parametrize(
    ("batch_size", "ppl", "train_text_encoder"),
    [(1, False, False), (2, True, True)]
    + [
        pytest.param(*each, marks=pytest.mark.thorough)
        for each in itertools.product((1, 2), (False, True), (False, True))
        if each not in ((1, False, False), (2, True, True))
    ],
)
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


@pytest.mark.parametrize(
    "method",
    ["lora", *(pytest.param(kind, marks=pytest.mark.thorough) for kind in OTHER_ADAPTERS)],
)
def test_five_steps_of_an_adapter_equal_pefts(tiny_model_dir, method):
    batches = batches_of(2, True)
    cfg = experiment(f"method={method}", f"max_steps={STEPS}", f"lr={LR}", f"optimizer.eps={EPS}")
    module = make_module(tiny_model_dir, None, cfg)
    unet = module.model.unet
    start = peft.get_peft_model_state_dict(unet, save_embedding_layers=False)
    start = {name: tensor.clone() for name, tensor in start.items()}

    def adapt(pipe):
        theirs = peft.get_peft_model(pipe.unet, unet.peft_config["default"])
        peft.set_peft_model_state_dict(theirs, {PEFT + name: t for name, t in start.items()})
        return [p for p in theirs.parameters() if p.requires_grad]

    ours, our_weights = fit(module, batches, cfg)
    theirs, their_weights = train_plainly(tiny_model_dir, batches, False, adapt=adapt)
    assert ours == pytest.approx(theirs, rel=0, abs=1e-6)
    moved = [
        n for n, t in start.items() if not torch.equal(t, their_weights["unet." + named_as(n)])
    ]
    assert len(moved) == len(start) and our_weights.keys() == their_weights.keys()
    for name, weight in their_weights.items():
        torch.testing.assert_close(our_weights[name], weight, rtol=0, atol=1e-6, msg=name)


def test_five_steps_of_custom_diffusion_equal_a_plain_loop(tiny_model_dir):
    """Parameters by their names, and one row of the embeddings, as diffusers' script has them."""
    batches = batches_of(2, True, "a <dog> dog")
    own = ("method=custom_diffusion", f"method.token_lr={LR}", f"lr={LR}", f"max_steps={STEPS}")
    cfg = experiment(*own, f"optimizer.eps={EPS}")

    def adapt(pipe):
        rare = pipe.tokenizer.encode("sks", add_special_tokens=False)
        pipe.tokenizer.add_tokens("<dog>")
        new = pipe.tokenizer.convert_tokens_to_ids("<dog>")
        pipe.text_encoder.resize_token_embeddings(len(pipe.tokenizer), mean_resizing=False)
        rows = pipe.text_encoder.get_input_embeddings().weight.requires_grad_(True)
        rows.data[new] = rows.data[rare].mean(0)
        mask = torch.zeros(len(rows), 1)
        mask[new] = 1
        rows.register_hook(lambda gradient: gradient * mask)
        pairs = pipe.unet.named_parameters()
        return [*(p for n, p in pairs if "attn2.to_k" in n or "attn2.to_v" in n), rows]

    ours, our_weights = train_ours(tiny_model_dir, batches, None, *own)
    theirs, their_weights = train_plainly(tiny_model_dir, batches, False, adapt=adapt)
    assert ours == pytest.approx(theirs, rel=0, abs=1e-6)
    rows = "text.embeddings.token_embedding.weight"
    before = StableDiffusion.from_pretrained(str(tiny_model_dir)).text_encoder
    old = before.get_input_embeddings().weight
    assert torch.equal(our_weights[rows][: len(old)], old)  # the script's decay moves them
    torch.testing.assert_close(our_weights.pop(rows)[-1], their_weights.pop(rows)[-1])
    for name, weight in their_weights.items():
        torch.testing.assert_close(our_weights[name], weight, rtol=0, atol=1e-6, msg=name)
    assert cfg.method.token_lr == LR


def named_as(name: str) -> str:
    """The name in a module of what PEFT saves as `name`."""
    own, _, last = name.rpartition(".")
    if last == "lora_magnitude_vector":
        return f"{name}.default.weight"
    return f"{own}.default.{last}" if last == "weight" else f"{name}.default"


def test_v_prediction_equals_diffusers(tiny_v_model_dir):
    ours, _ = train_ours(tiny_v_model_dir, batches_of(2, True), "full")
    theirs, _ = train_plainly(tiny_v_model_dir, batches_of(2, True), True)
    assert ours == pytest.approx(theirs, rel=0, abs=1e-6)


@pytest.mark.thorough
def test_steps_follow_diffusers_in_bfloat16(tiny_model_dir):
    """The first loss is the same; then rounded gradients, summed in another order, drift."""
    batches = batches_of(2, True)
    half = "trainer.precision=bf16-mixed"
    ours, _ = train_ours(tiny_model_dir, batches, "full", half)
    theirs, _ = train_plainly(tiny_model_dir, batches, True, half=True)
    right, _ = train_ours(
        tiny_model_dir, batches, "full", half, "loss.noise_schedule_dtype=float32"
    )
    assert ours[0] == pytest.approx(theirs[0], rel=0, abs=1e-6)
    assert right[0] != pytest.approx(theirs[0], rel=0, abs=1e-4)
    assert ours == pytest.approx(theirs, rel=0, abs=2e-3)


def test_noise_in_bfloat16_is_diffusers_own(tiny_model_dir, monkeypatch):
    """Its schedule rounds to 1 at the first timesteps, where no noise is left."""
    timesteps = torch.tensor([0, 1, 2, 10, 500, 999])
    batch = {**batches_of(3, True).batch(0), "timesteps": timesteps}
    seen = {}
    for dtype in ("latents", "float32"):
        module = make_module(
            tiny_model_dir, "frozen", experiment(f"loss.noise_schedule_dtype={dtype}")
        )
        predict = module.model.predict

        def spy(noisy, *rest, dtype=dtype, predict=predict):
            seen[dtype] = noisy
            return predict(noisy, *rest)

        monkeypatch.setattr(module.model, "predict", spy)
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            module.errors(batch)
    args = (batch["mean"], batch["logvar"], batch["posterior_noise"])
    latents = module.model.sample_latents(*args).bfloat16()
    scheduler = DDPMScheduler.from_config(module.model.noise_scheduler.config)
    theirs = scheduler.add_noise(latents, batch["noise"].bfloat16(), timesteps)
    assert seen["latents"].dtype == torch.bfloat16 and torch.equal(seen["latents"], theirs)
    assert torch.equal(theirs[:2], latents[:2])
    assert seen["float32"].dtype == torch.float32
    assert not torch.equal(seen["float32"][:2].bfloat16(), latents[:2])


def train_xl_plainly(folder, batches, train_text_encoder, start):
    """What train_dreambooth_lora_sdxl.py does, from the adapters' first weights `start`."""
    pipe = StableDiffusionXLPipeline.from_pretrained(folder)
    scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    parts = {"unet": pipe.unet, "text": pipe.text_encoder, "text_encoder_2": pipe.text_encoder_2}
    pipe.unet.add_adapter(lora_as_the_script(["to_k", "to_q", "to_v", "to_out.0"]))
    if train_text_encoder:
        for name in ("text", "text_encoder_2"):
            targets = ["q_proj", "k_proj", "v_proj", "out_proj"]
            parts[name].add_adapter(lora_as_the_script(targets))
    trained = []
    for prefix, part in parts.items():
        part.train(prefix == "unet" or train_text_encoder)
        for name, parameter in part.named_parameters():
            parameter.requires_grad_("lora" in name)
            if "lora" in name:
                parameter.data = start[f"{prefix}.{name}"].clone()
                trained.append(parameter)
    optimizer = torch.optim.AdamW(trained, lr=LR, **{**ADAMW, "weight_decay": 1e-4})
    losses = []
    for batch in itertools.islice(batches, STEPS):
        std = torch.exp(0.5 * batch["logvar"])
        latents = (batch["mean"] + std * batch["posterior_noise"]) * pipe.vae.config.scaling_factor
        noisy = scheduler.add_noise(latents, batch["noise"], batch["timesteps"])
        states = []
        for tokenizer, encoder in (
            (pipe.tokenizer, pipe.text_encoder),
            (pipe.tokenizer_2, pipe.text_encoder_2),
        ):
            ids = tokenizer(
                batch["prompts"],
                padding="max_length",
                max_length=tokenizer.model_max_length,
                truncation=True,
                return_tensors="pt",
            ).input_ids
            output = encoder(ids, output_hidden_states=True, return_dict=False)
            pooled = output[0]
            states.append(output[-1][-2])
        added = {"time_ids": batch["sizes"], "text_embeds": pooled}
        pred = pipe.unet(
            noisy, batch["timesteps"], torch.cat(states, dim=-1), added_cond_kwargs=added
        ).sample
        target = batch["noise"]
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
    return losses, {k: v for prefix, part in parts.items() for k, v in named(part, prefix).items()}


def lora_as_the_script(targets):
    return peft.LoraConfig(
        r=4, lora_alpha=4, lora_dropout=0.0, init_lora_weights="gaussian", target_modules=targets
    )


@pytest.mark.parametrize(("ppl", "train_text_encoder"), [(False, False), (True, True)])
def test_five_steps_of_sdxl_equal_diffusers(tiny_xl_model_dir, ppl, train_text_encoder):
    batches = batches_of(2, ppl)
    own = ("method=lora", f"train_text_encoder={train_text_encoder}".lower())
    own = (*own, "optimizer.weight_decay=1e-4", f"max_steps={STEPS}", f"lr={LR}")
    cfg = experiment(*own, f"optimizer.eps={EPS}")
    module = make_module(tiny_xl_model_dir, None, cfg)
    prefixes = {"unet": "unet", "text_encoder": "text", "text_encoder_2": "text_encoder_2"}
    networks = [(module.model.network(network), prefix) for network, prefix in prefixes.items()]
    start = {k: v for network, prefix in networks for k, v in named(network, prefix).items()}
    ours, our_weights = fit(module, batches, cfg)
    theirs, their_weights = train_xl_plainly(tiny_xl_model_dir, batches, train_text_encoder, start)
    assert ours == pytest.approx(theirs, rel=0, abs=1e-6) and len(ours) == STEPS
    assert our_weights.keys() == their_weights.keys()
    moved = [n for n, w in our_weights.items() if not torch.equal(w, start[n])]
    unused = "text.encoder.layers.1."  # SDXL reads the states before the last layer
    assert moved == [n for n in our_weights if "lora" in n and not n.startswith(unused)]
    for name, weight in their_weights.items():
        torch.testing.assert_close(our_weights[name], weight, rtol=0, atol=1e-6, msg=name)


def test_the_experiment_says_what_the_script_does():
    """Its own defaults, commit 58eb52c, where they differ from this project's."""
    cfg = experiment("model=sd15")
    assert (cfg.lr, cfg.batch_size, cfg.max_grad_norm, cfg.lr_schedule) == (5e-6, 4, 1, "constant")
    assert (cfg.optimizer.eps, cfg.optimizer.weight_decay, *cfg.optimizer.betas) == (
        1e-8,
        1e-2,
        0.9,
        0.999,
    )
    assert cfg.optimizer["_target_"] == "torch.optim.AdamW" and cfg.loss.noise_offset == 0
    assert (cfg.prior.num_class_images, cfg.prior.num_inference_steps) == (100, 50)
    assert (cfg.prior.guidance_scale, cfg.prior.sampler.name) == (7.5, "PNDMScheduler")
    assert (cfg.augment.random_crop, cfg.augment.interpolation) == (True, "bilinear")
    assert (cfg.ppl, cfg.method.name, cfg.ema_decay, cfg.augment.flip) == (
        True,
        "full",
        None,
        False,
    )


def test_the_comparison_can_fail(tiny_model_dir):
    """Another class image beside the photo is another loss: the comparison sees the pairing."""
    batches = batches_of(1, True)
    other = replace(batches, pairing="independent")
    assert train_ours(tiny_model_dir, batches, "frozen")[0] != pytest.approx(
        train_ours(tiny_model_dir, other, "frozen")[0], rel=0, abs=1e-6
    )
