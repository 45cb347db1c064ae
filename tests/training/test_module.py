"""What a training step computes, and what it must never compute."""

from __future__ import annotations

from collections import Counter
from functools import partial

import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D
from peft.optimizers import create_loraplus_optimizer
from transformers import CLIPTextModel
from transformers.models.clip.modeling_clip import CLIPMLP

from dreambooth.data.batches import KeyedBatches
from dreambooth.data.crops import Crops
from dreambooth.data.latents import encode_examples
from dreambooth.data.photos import list_photos
from dreambooth.diffusion.loss import error_per_sample, two_term_loss
from dreambooth.diffusion.noise import snr
from dreambooth.diffusion.process import UniformTimesteps
from dreambooth.model.adapter_settings import AdapterSettings
from dreambooth.model.base_prediction import BasePrediction
from dreambooth.model.phases import Phase
from dreambooth.model.stable_diffusion import StableDiffusion
from dreambooth.model.trainable import TrainableWeights
from dreambooth.training.module import DreamBooth
from dreambooth.training.spec import Loss, OptimizerSpec, PhaseSpec
from spine import Spine, checkpoint

FULL = Phase("full", "frozen")


def make_module(folder, parts=FULL, loss=None, max_steps=10, adapter=None, **changed) -> DreamBooth:
    """A module on a fresh tiny model; the text encoder's prompts embedded."""
    model = StableDiffusion.from_pretrained(str(folder))
    weights = TrainableWeights(model, 0, adapter)
    weights.prepare(parts)
    base = {"factory": torch.optim.AdamW, "text_encoder_lr": None, "max_grad_norm": 1.0}
    base |= {"text_encoder_stop_step": None, "loraplus_lr_ratio": None}
    base |= {"lr_schedule": "constant", "lr_warmup_steps": 0, "accumulate": 1, "ema_decay": None}
    optimization = OptimizerSpec(**{**base, **changed})
    phase = PhaseSpec(parts, 1e-3, max_steps)
    module = DreamBooth(weights, loss or Loss(1.0), optimization, phase)
    module.embed_once(["a sks dog", "a dog"])
    return module


def make_batches(spine: Spine, model: StableDiffusion, size: int = 2) -> KeyedBatches:
    """The three photos as instance and as class examples."""
    encode = partial(
        encode_examples,
        model,
        list_photos(spine.photos),
        crops=Crops(16),
        seed=0,
        cache_dir=spine.cache,
    )
    return KeyedBatches(
        encode(["a sks dog"] * 3), encode(["a dog"] * 3), size, size, UniformTimesteps(1000), seed=0
    )


def loss_on_fixed_batches(spine: Spine, folder) -> float:
    """Mean total loss of a model folder over four batches, float32, no training."""
    module = make_module(folder)
    batches = make_batches(spine, module.model)
    with torch.no_grad():
        return float(
            sum(
                two_term_loss(module.errors(b), b["is_prior"], 1.0).total
                for b in map(batches.batch, range(4))
            )
        )


@pytest.mark.slow
@pytest.mark.parametrize("ppl", ["true", "false"])
def test_vae_and_frozen_text_encoder_never_run_in_a_step(spine, tmp_path, monkeypatch, ppl):
    inside, ran = [], []
    step = DreamBooth.training_step

    def watched(self, *args):
        inside.append(True)
        ran.append("step")
        try:
            return step(self, *args)
        finally:
            inside.clear()

    def spy(owner, name):
        original = getattr(owner, name)

        def call(self, *args, **kwargs):
            assert not inside, f"{owner.__name__}.{name} ran in a step"
            ran.append(name)
            return original(self, *args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    monkeypatch.setattr(DreamBooth, "training_step", watched)
    for owner, name in (
        (AutoencoderKL, "encode"),
        (AutoencoderKL, "decode"),
        (CLIPTextModel, "forward"),
    ):
        spy(owner, name)
    spine.run(tmp_path, f"ppl={ppl}", "accumulate=2")
    assert ran.count("step") == 4 and ran.count("forward") >= 1  # before training


@pytest.mark.slow
def test_no_gradient_is_held_through_the_forward_pass(spine, tmp_path, monkeypatch):
    held, logged, step = [], [], DreamBooth.training_step

    def watched(self, *args):
        held.append(sum(p.grad is not None for p in self.model.unet.parameters()))
        logged.append(len(self._terms))
        return step(self, *args)

    monkeypatch.setattr(DreamBooth, "training_step", watched)
    spine.run(tmp_path, "ppl=false", "accumulate=2")
    # the second micro-batch of each update adds to the first one's
    assert [count > 0 for count in held] == [False, True, False, True]
    assert logged == [0, 1, 0, 1]  # and so do its losses


def test_the_logged_loss_of_an_update_is_the_mean_of_its_micro_batches(
    spine, tiny_model_dir, monkeypatch
):
    module, logged = make_module(tiny_model_dir), []

    def keep(name, value, **_):
        if name == "loss/total":
            logged.append(float(value))

    monkeypatch.setattr(module, "log", keep)
    batches = make_batches(spine, module.model)
    with torch.no_grad():
        own = [float(module.training_step(batches.batch(i), i)) for i in range(2)]
    assert logged == pytest.approx([own[0], sum(own) / 2])


def test_a_trained_text_encoder_embeds_each_unique_prompt_once_a_step(
    spine, tiny_model_dir, monkeypatch
):
    module = make_module(tiny_model_dir, Phase("full", "full"))
    batch = make_batches(spine, module.model, size=3).batch(0)
    assert len(batch["prompts"]) == 6
    rows, forward = [], CLIPTextModel.forward
    monkeypatch.setattr(
        CLIPTextModel, "forward", lambda s, ids, **k: rows.append(len(ids)) or forward(s, ids, **k)
    )
    embeddings = module.embeddings(batch["prompts"])
    assert rows == [2]
    for row, prompt in zip(embeddings, batch["prompts"], strict=True):
        torch.testing.assert_close(row.tokens, module.model.embed([prompt]).tokens[0])
    module.errors(batch).sum().backward()
    assert module.model.text_encoder.get_input_embeddings().weight.grad.abs().sum() > 0


def test_cached_embeddings_are_those_of_the_text_encoder(tiny_model_dir):
    module = make_module(tiny_model_dir)
    got = module.embeddings(["a dog", "a sks dog", "a dog"]).tokens
    torch.testing.assert_close(got[0], module.model.embed(["a dog"]).tokens[0])
    torch.testing.assert_close(got[1], module.model.embed(["a sks dog"]).tokens[0])
    assert torch.equal(got[0], got[2]) and not torch.equal(got[0], got[1])
    assert not got.requires_grad


@pytest.mark.parametrize("folder", ["tiny_model_dir", "tiny_v_model_dir"])
@pytest.mark.parametrize("gamma", [None, 5.0])
def test_errors_equal_diffusers_own_functions(spine, request, folder, gamma):
    from diffusers.training_utils import compute_snr

    module = make_module(request.getfixturevalue(folder), loss=Loss(1.0, min_snr_gamma=gamma))
    model = module.model
    batch = make_batches(spine, model).batch(5)
    posterior = batch["mean"] + torch.exp(0.5 * batch["logvar"]) * batch["posterior_noise"]
    latents = posterior * model.vae.config.scaling_factor
    times, schedule = batch["timesteps"], model.noise_scheduler
    noisy = schedule.add_noise(latents, batch["noise"], times)
    embeddings = model.embed(batch["prompts"]).tokens
    prediction = model.unet(noisy, times, embeddings).sample
    is_v = model.process.prediction_type == "v_prediction"
    aim = schedule.get_velocity(latents, batch["noise"], times) if is_v else batch["noise"]
    expected = (prediction - aim).square().mean((1, 2, 3))
    if gamma is not None:
        ratio = compute_snr(schedule, times)
        expected *= ratio.clamp(max=gamma) / (ratio + 1 if is_v else ratio)
    torch.testing.assert_close(module.errors(batch), expected, rtol=1e-5, atol=1e-6)
    assert is_v == (folder == "tiny_v_model_dir")
    assert (snr(times, model.process.alphas_cumprod) > 0).all()


def test_a_predicted_prior_is_what_the_base_model_predicts(spine, tiny_v_model_dir):
    """No loss and no gradient before training; then the squared distance to the base's output."""
    module = make_module(tiny_v_model_dir, loss=Loss(1.0, min_snr_gamma=5.0))
    module.base = BasePrediction(module.model, ["a dog"], torch.float32)
    module.base.keep()
    batch = make_batches(spine, module.model).batch(3)
    noise = batch["noise"].clone()
    terms = two_term_loss(module.errors(batch), batch["is_prior"], 1.0)
    assert terms.prior.item() < 1e-10 and terms.instance.item() > 1e-2
    terms.prior.backward()
    gradients = [p.grad for p in module.weights.parameters().values() if p.grad is not None]
    assert gradients and max(g.abs().max().item() for g in gradients) < 1e-5
    assert torch.equal(batch["noise"], noise)

    fresh = StableDiffusion.from_pretrained(str(tiny_v_model_dir))
    with torch.no_grad():
        for p in module.weights.parameters().values():
            p.add_(0.01 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
        after = module.errors(batch)[2:]
        latents = fresh.sample_latents(batch["mean"], batch["logvar"], batch["posterior_noise"])
        times = batch["timesteps"]
        noisy = fresh.noise_scheduler.add_noise(latents, noise, times)[2:]
        dogs, times = fresh.embed(["a dog"] * 2), times[2:]
        distance = module.model.predict(noisy, times, dogs) - fresh.predict(noisy, times, dogs)
    ratio = snr(times, fresh.process.alphas_cumprod)
    expected = distance.square().mean((1, 2, 3)) * ratio.clamp(max=5) / (ratio + 1)
    torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-8)
    assert after.min() > 1e-6


def test_clipping_is_one_joint_norm(tiny_model_dir):
    module = make_module(tiny_model_dir, Phase("full", "full"), max_grad_norm=0.5)
    optimizer = module.configure_optimizers()["optimizer"]
    parameters = module.weights.parameters().values()
    for i, p in enumerate(parameters):
        p.grad = torch.full_like(p, 0.01 * (i + 1))
    before = [p.grad.clone() for p in parameters]
    norm = sum(float(g.double().square().sum()) for g in before) ** 0.5
    assert norm > 0.5
    module.configure_gradient_clipping(optimizer)
    for p, g in zip(parameters, before, strict=True):
        torch.testing.assert_close(p.grad, g * (0.5 / norm), rtol=1e-4, atol=0)


def test_the_text_encoder_has_its_own_learning_rate(tiny_model_dir):
    module = make_module(tiny_model_dir, Phase("full", "full"), text_encoder_lr=1e-5)
    groups = module.configure_optimizers()["optimizer"].param_groups
    assert [g["lr"] for g in groups] == [1e-3, 1e-5]
    counts = [sum(p.numel() for p in g["params"]) for g in groups]
    parts = (module.model.unet, module.model.text_encoder)
    assert counts == [sum(p.numel() for p in part.parameters()) for part in parts]


def test_lora_plus_gives_b_and_norms_pefts_own_rates(tiny_model_dir):
    options = {"r": 2, "use_dora": True, "target_modules": ["to_q", "q_proj"]}
    adapter, both = AdapterSettings("peft.LoraConfig", options), Phase("adapter", "adapter")
    changed = {"adapter": adapter, "loraplus_lr_ratio": 16.0, "text_encoder_lr": 1e-5}
    module = make_module(tiny_model_dir, both, **changed)
    groups = module.configure_optimizers()["optimizer"].param_groups
    ours = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert {decay for _, decay in ours.values()} == {1e-2}  # of the config, for all
    for network, rate in ((module.model.unet, 1e-3), (module.model.text_encoder, 1e-5)):
        make = create_loraplus_optimizer
        theirs = make(network, torch.optim.AdamW, lr=rate, loraplus_lr_ratio=16.0).param_groups
        for group in theirs:
            for parameter in group["params"]:
                assert ours.pop(id(parameter))[0] == pytest.approx(group["lr"])
    assert not ours


def test_a_text_encoder_stops_and_the_unet_goes_on(spine, tmp_path):
    more = ("train_text_encoder=true", "text_encoder_stop_step=1", "ppl=false")
    out = spine.run(tmp_path, *more, "checkpoint.every_n_steps=1", "max_steps=3")
    files = [out / f"checkpoints/phase-0/step-00000{n}.ckpt" for n in (2, 3)]
    second, last = (torch.load(file, weights_only=True)["state_dict"] for file in files)
    base = StableDiffusion.from_pretrained(str(spine.model)).state_dict()
    names = [n for n in last if n.endswith("weight")]
    text = [n for n in names if n.startswith("text_encoder.")]
    assert all(torch.equal(last[n], second[n]) for n in text)
    assert any(not torch.equal(last[n], base[n]) for n in text)
    assert all(not torch.equal(last[n], second[n]) for n in {*names} - {*text})


@pytest.mark.slow
def test_a_tokens_learning_rate_is_its_phases_own(spine, tmp_path):
    out = spine.run(tmp_path, "method=textual_inversion", "max_steps=1", "text_encoder_lr=1e-6")
    groups = checkpoint(out)["optimizer_states"][0]["param_groups"]
    assert [g["lr"] for g in groups] == [1e-3]
    more = ("method=custom_diffusion", "max_steps=1", "method.token_lr=0.5", "ppl=false")
    groups = checkpoint(spine.run(tmp_path / "cd", *more))["optimizer_states"][0]["param_groups"]
    assert [g["lr"] for g in groups] == [1e-3, 0.5]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("constant", [1, 1, 1, 1]),
        ("constant_with_warmup", [0, 0.5, 1, 1]),
        ("linear", [0, 0.5, 1, 0.5]),
        ("cosine", [0, 0.5, 1, 0.5]),
        ("cosine_with_restarts", [0, 0.5, 1, 0.5]),
        ("polynomial", [0, 0.5, 1, 0.5]),
    ],
)
def test_schedules_warm_up_and_bend(tiny_model_dir, name, expected):
    module = make_module(tiny_model_dir, lr_schedule=name, lr_warmup_steps=2, max_steps=4)
    configured = module.configure_optimizers()
    optimizer, schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    assert configured["lr_scheduler"]["interval"] == "step"
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"] / 1e-3)
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
@pytest.mark.thorough
def test_every_precision_lowers_the_loss(spine, tmp_path, precision):
    # 16-mixed on a CPU is bfloat16, as Lightning says in a warning
    steps = ("max_steps=25", "lr=3e-3", f"trainer.precision={precision}")
    out = spine.run(tmp_path, *steps, "optimizer.weight_decay=0.0")
    before = loss_on_fixed_batches(spine, spine.model)
    after = loss_on_fixed_batches(spine, out / "model")
    assert after < 0.97 * before
    state = checkpoint(out)
    assert {v.dtype for v in state["state_dict"].values()} == {torch.float32}
    moments = state["optimizer_states"][0]["state"][0]
    assert moments["exp_avg"].dtype == torch.float32


@pytest.mark.slow
@pytest.mark.thorough
def test_eight_bit_adamw_lowers_the_loss(spine, tmp_path):
    out = spine.run(tmp_path, "max_steps=25", "lr=3e-3", "optimizer=adamw_8bit")
    assert loss_on_fixed_batches(spine, out / "model") < loss_on_fixed_batches(spine, spine.model)
    moments = checkpoint(out)["optimizer_states"][0]["state"].values()
    quantized = [m.get("__bnb_optimizer_quant_state__", m) for m in moments]
    kinds = {m["state1"].dtype for m in quantized}
    assert torch.uint8 in kinds  # of matrices that are large enough


ADAPTERS = ("lora", "dora", "loha", "lokr", "oft", "boft")
HALF = [("bf16-mixed", "bfloat16", m) for m in (*ADAPTERS, "full", "textual_inversion")]
HALF += [("16-mixed", "float32", m) for m in (*ADAPTERS, "full", "textual_inversion")]
HALF += [("32-true", d, m) for d in ("bfloat16", "float16") for m in ("lora", "full")]
HALF_IN_SHORT = [("bf16-mixed", "bfloat16", "lora"), ("32-true", "float16", "full")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "frozen_dtype", "method"),
    [h if h in HALF_IN_SHORT else pytest.param(*h, marks=pytest.mark.thorough) for h in HALF],
)
def test_what_trains_is_float32_in_half_precision(
    spine, tmp_path, monkeypatch, precision, frozen_dtype, method
):
    """16-mixed on a CPU is bfloat16, as Lightning says in a warning."""
    computed, error = set(), error_per_sample
    monkeypatch.setattr(
        "dreambooth.training.module.error_per_sample",
        lambda prediction, aim: computed.add(prediction.dtype) or error(prediction, aim),
    )
    half = (f"trainer.precision={precision}", f"frozen_dtype={frozen_dtype}")
    more = (f"method={method}", "samples.every_n_steps=1")
    state = checkpoint(spine.run(tmp_path, *half, *more))
    assert {value.dtype for value in state["state_dict"].values()} == {torch.float32}
    moments = state["optimizer_states"][0]["state"].values()
    kinds = {x.dtype for each in moments for n, x in each.items() if n.startswith("exp_avg")}
    assert kinds == {torch.float32} and len(moments) > 0
    assert precision == "32-true" or computed == {torch.bfloat16}


@pytest.mark.slow
@pytest.mark.thorough
def test_gradient_checkpointing_changes_nothing(spine, tmp_path, monkeypatch):
    calls = Counter()

    def count(owner):
        forward = owner.forward

        def counted(self, *args, **kwargs):
            calls[owner.__name__] += 1
            return forward(self, *args, **kwargs)

        monkeypatch.setattr(owner, "forward", counted)

    for block in (ResnetBlock2D, CLIPMLP):
        count(block)
    spine.run(tmp_path / "cached")  # class images and latents
    runs, counts = [], []
    for on in ("false", "true"):
        calls.clear()
        out = tmp_path / on
        spine.run(out, "train_text_encoder=true", f"gradient_checkpointing={on}")
        runs.append(checkpoint(out)["state_dict"])
        counts.append(calls.copy())
    assert counts[0].keys() == counts[1].keys() == {"ResnetBlock2D", "CLIPMLP"}
    assert all(counts[1][name] > counts[0][name] for name in counts[0])  # computed again
    plain, frugal = runs
    assert plain.keys() == frugal.keys()
    for name in plain:
        torch.testing.assert_close(plain[name], frugal[name], rtol=0, atol=1e-7)
    base = StableDiffusion.from_pretrained(str(spine.model)).state_dict()
    unchanged = [name for name in plain if torch.equal(plain[name], base[name])]
    assert len(unchanged) < len(plain) / 10  # both trained


@pytest.mark.thorough
@pytest.mark.slow
def test_a_compiled_unet_trains_to_the_same_weights(spine, tmp_path, monkeypatch):
    # without the code generator, which takes minutes: what is held is the graph
    compile = torch.nn.Module.compile
    seen = []

    def eager(self):
        seen.append(type(self).__name__)
        compile(self, backend="eager")

    monkeypatch.setattr(torch.nn.Module, "compile", eager)
    plain, compiled = (spine.run(tmp_path / on, f"compile={on}") for on in ("false", "true"))
    assert seen == ["UNet2DConditionModel"]
    a, b = checkpoint(plain)["state_dict"], checkpoint(compiled)["state_dict"]
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=1e-6)
