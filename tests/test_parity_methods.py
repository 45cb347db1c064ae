"""Runs of more than one part against plain loops over diffusers' classes, written from its scripts.

A whole job is recorded: its batches, its losses, what its adapters began at. The loops get the same
batches and do what textual_inversion.py (a new word), train_dreambooth.py (all weights) and
train_dreambooth_lora.py --train_text_encoder do with them, at the numbers given here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline
from torch import Tensor
from torch.nn import functional as F

from dreambooth.data.templates import templates
from dreambooth.model.interface import BaseModel
from dreambooth.training.module import DreamBooth
from test_parity import ADAMW, EPS, LR, lora_as_the_script, named

pytestmark = pytest.mark.slow

STEPS, TOKEN_STEPS, TOKEN_LR = 3, 5, 1e-3
WORDS = ["<photos>", "<photos>_1"]
NETWORKS = ("unet", "text_encoder")
MATRIX = "text_encoder.embeddings.token_embedding.weight"
ATTENTION = {
    "unet": ["to_k", "to_q", "to_v", "to_out.0"],
    "text_encoder": ["q_proj", "k_proj", "v_proj", "out_proj"],
}
SMALL = (
    f"lr={LR}",
    f"max_steps={STEPS}",
    f"optimizer.eps={EPS}",
    "max_grad_norm=1.0",
    "lr_schedule=constant",
    "export.kind=none",  # which merges nothing
    "model.recommended.textual_inversion.num_vectors=2",
    f"model.recommended.textual_inversion.max_steps={TOKEN_STEPS}",
    f"model.recommended.textual_inversion.lr={TOKEN_LR}",
    f"model.recommended.pivotal_tuning.token_max_steps={TOKEN_STEPS}",
    f"model.recommended.pivotal_tuning.token_lr={TOKEN_LR}",
    "model.recommended.textual_inversion.templates=object",
)
PREDICTION, CONTINUED = "prior.kind=prediction", "method.continue_token=true"


@dataclass
class Phase:
    """A phase of ours: the weights when it began, its batches and its losses."""

    module: DreamBooth
    start: dict[str, Tensor]
    batches: list[dict] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)


def weights_of(owner: BaseModel | StableDiffusionPipeline) -> dict[str, Tensor]:
    return {k: v for n in NETWORKS for k, v in named(getattr(owner, n), n).items()}


@pytest.fixture
def recorded(spine, tmp_path, monkeypatch):
    """`recorded(*overrides)`: the phases of a whole job."""
    phases: list[Phase] = []
    step = DreamBooth.training_step

    def watched(self, batch, batch_idx):
        if not phases or phases[-1].module is not self:
            phases.append(Phase(self, weights_of(self.model)))
        loss = step(self, batch, batch_idx)
        phases[-1].batches.append(batch)
        phases[-1].losses.append(loss.item())
        return loss

    def call(*overrides: str) -> list[Phase]:
        spine.run(tmp_path / "run", *SMALL, *overrides)
        return phases

    monkeypatch.setattr(DreamBooth, "training_step", watched)
    return call


def predictions(pipe: StableDiffusionPipeline, batch: dict, rows: slice = slice(None)) -> Tensor:
    """The prediction of the U-Net for rows of a batch."""
    std = torch.exp(0.5 * batch["logvar"])
    latents = (batch["mean"] + std * batch["posterior_noise"]) * pipe.vae.config.scaling_factor
    scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    noisy = scheduler.add_noise(latents, batch["noise"], batch["timesteps"])
    tokenizer = pipe.tokenizer
    ids = tokenizer(
        [prompt.replace(WORDS[0], " ".join(WORDS)) for prompt in batch["prompts"][rows]],
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    return pipe.unet(noisy[rows], batch["timesteps"][rows], pipe.text_encoder(ids)[0]).sample


def learn_a_word(pipe: StableDiffusionPipeline, batches: list[dict]) -> list[float]:
    """textual_inversion.py: the whole matrix is optimized, and every other row put back."""
    tokenizer, text = pipe.tokenizer, pipe.text_encoder
    assert tokenizer.add_tokens(WORDS) == len(WORDS)
    (initializer,) = tokenizer.encode("dog", add_special_tokens=False)
    new = tokenizer.convert_tokens_to_ids(WORDS)
    text.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    matrix = text.get_input_embeddings().weight
    matrix.data[new] = matrix.data[initializer].clone()
    pipe.unet.requires_grad_(False)
    text.requires_grad_(False).train()
    matrix.requires_grad_(True)
    optimizer = torch.optim.AdamW([matrix], lr=TOKEN_LR, **ADAMW)
    original, losses = matrix.detach().clone(), []
    others = torch.ones(len(tokenizer), dtype=torch.bool)
    others[min(new) : max(new) + 1] = False
    for batch in batches:
        loss = F.mse_loss(predictions(pipe, batch), batch["noise"])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            matrix[others] = original[others]
        losses.append(loss.item())
    matrix.requires_grad_(False)
    return losses


def tune(
    pipe: StableDiffusionPipeline,
    batches: list[dict],
    trained: list[Tensor],
    base: StableDiffusionPipeline | None,
    matrix: Tensor | None,
) -> list[float]:
    """train_dreambooth.py; with `base` the second half is to be predicted as it is by that.

    Of a `matrix` of embeddings only the rows of the new words train.
    """
    if matrix is not None:
        others = torch.arange(len(matrix)) < len(matrix) - len(WORDS)
        original, trained = matrix.detach().clone(), [*trained, matrix.requires_grad_(True)]
        matrix.register_hook(lambda gradient: gradient.masked_fill(others[:, None], 0))
    optimizer, losses = torch.optim.AdamW(trained, lr=LR, **ADAMW), []
    for batch in batches:
        pred, pred_prior = predictions(pipe, batch).chunk(2)
        target, target_prior = batch["noise"].chunk(2)
        if base is not None:
            with torch.no_grad():
                target_prior = predictions(base, batch, slice(len(target), None))
        loss = F.mse_loss(pred, target) + 1.0 * F.mse_loss(pred_prior, target_prior)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if matrix is not None:
            with torch.no_grad():
                matrix[others] = original[others]
        losses.append(loss.item())
    return losses


def make_trainable(
    pipe: StableDiffusionPipeline, start: dict[str, Tensor], adapted: bool, text: bool
) -> dict[str, Tensor]:
    """All weights of the networks that train, or adapters of theirs that begin at `start`."""
    trained = {}
    for name in NETWORKS if text else NETWORKS[:1]:
        network = getattr(pipe, name)
        if adapted:
            network.add_adapter(lora_as_the_script(ATTENTION[name]))
        for key, parameter in network.named_parameters():
            parameter.requires_grad_(not adapted or "lora" in key)
            if parameter.requires_grad:
                parameter.data = start[f"{name}.{key}"].clone()
                trained[f"{name}.{key}"] = parameter
        network.train()
    return trained


@pytest.mark.parametrize(
    ("method", "text", "more"),
    [
        ("pivotal_tuning", True, (PREDICTION,)),  # all of it in one; the others find the fault
        *(
            pytest.param(*each, marks=pytest.mark.thorough)
            for each in (
                ("textual_inversion", False, ()),
                ("ti_then_full", False, ()),
                ("ti_then_full", True, (PREDICTION,)),
                ("pivotal_tuning", False, ()),
                ("pivotal_tuning", False, (CONTINUED, PREDICTION)),
                ("lora", True, ()),
                ("lora", False, (PREDICTION,)),
                ("lora", True, (PREDICTION,)),
                ("full", False, (PREDICTION,)),
                ("full", True, (PREDICTION,)),
            )
        ),
    ],
)
def test_a_job_equals_the_scripts(recorded, spine, method, text, more):
    learns = method in ("textual_inversion", "ti_then_full", "pivotal_tuning")
    own = (f"train_text_encoder={text}", *more)
    own += (f"lr={TOKEN_LR}", f"max_steps={TOKEN_STEPS}") if method == "textual_inversion" else ()
    phases = recorded(f"method={method}", *own)
    pipe, base = (StableDiffusionPipeline.from_pretrained(spine.model) for _ in range(2))
    losses, trained = [], {}
    if learns:
        losses.append(learn_a_word(pipe, phases[0].batches))
        prompts = {prompt for batch in phases[0].batches for prompt in batch["prompts"]}
        assert len(prompts) > 1
        assert prompts <= {t.replace("{subject}", phrase(method)) for t in templates("object")}
    if method != "textual_inversion":
        adapted, start = method in ("lora", "pivotal_tuning"), phases[-1].start
        trained = make_trainable(pipe, start, adapted, text)
        given = base if PREDICTION in more else None
        words = pipe.text_encoder.get_input_embeddings().weight if CONTINUED in more else None
        losses.append(tune(pipe, phases[-1].batches, [*trained.values()], given, words))

    tunes = len(losses) > learns
    assert [len(each) for each in losses] == [TOKEN_STEPS] * learns + [STEPS] * tunes
    for phase, each in zip(phases, losses, strict=True):
        assert phase.losses == pytest.approx(each, rel=0, abs=1e-6)
    ours, theirs, before = weights_of(phases[-1].module.model), weights_of(pipe), weights_of(base)
    assert ours.keys() == theirs.keys()
    for name, weight in theirs.items():
        torch.testing.assert_close(ours[name], weight, rtol=0, atol=1e-6, msg=name)
    if learns and not (text and method == "ti_then_full"):
        rows = len(before[MATRIX])
        assert torch.equal(ours[MATRIX][:rows], before[MATRIX])
        new = ours[MATRIX][rows:]
        assert len(new) == len(WORDS) and (new[0] != new[1]).all()
    moved = {name for name in ours if not torch.equal(ours[name], phases[-1].start[name])}
    has_word = CONTINUED in more or method == "textual_inversion"
    assert moved == trained.keys() | ({MATRIX} if has_word else set())


def phrase(method: str) -> str:
    """What stands for the subject in prompts."""
    return WORDS[0] if method == "textual_inversion" else f"{WORDS[0]} dog"
