"""SDXL: its networks compute what diffusers' own pipeline does, and the main job runs on it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image

from dreambooth.errors import UserError
from dreambooth.model.architectures import architecture_of, load_model
from dreambooth.model.stable_diffusion import StableDiffusion
from dreambooth.model.stable_diffusion_xl import StableDiffusionXL
from dreambooth.sampling.draw import draw
from dreambooth.sampling.morph import Morph, draw_frames
from dreambooth.sampling.spec import Sampling
from dreambooth.study.finished.runs import Run
from spine import Spine, checkpoint, copy_checkpoint, same

PROMPTS = ["a photo of sks dog", "", "unheard-of WORDS, 42!"]


@pytest.fixture(scope="module")
def tiny(tiny_xl_model_dir) -> StableDiffusionXL:
    model = load_model(str(tiny_xl_model_dir))
    assert type(model) is StableDiffusionXL
    return model


@pytest.fixture(scope="module")
def reference(tiny_xl_model_dir) -> StableDiffusionXLPipeline:
    pipeline = StableDiffusionXLPipeline.from_pretrained(tiny_xl_model_dir)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_embed_equals_encode_prompt(tiny, reference):
    theirs, _, pooled, _ = reference.encode_prompt(
        PROMPTS, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    ours = tiny.embed(PROMPTS)
    assert torch.equal(ours.tokens, theirs) and torch.equal(ours.extra["text_embeds"], pooled)


def test_the_denoiser_is_told_every_size_in_diffusers_order(tiny, reference):
    sizes = [(24, 20, 3, 1, 16, 16), (16, 16, 0, 0, 16, 16)]
    told = [
        reference._get_add_time_ids(
            s[:2], s[2:4], s[4:], torch.float32, text_encoder_projection_dim=32
        )
        for s in sizes
    ]
    embeddings = tiny.condition(tiny.embed(PROMPTS[:2]), torch.tensor(sizes))
    assert torch.equal(embeddings.extra["time_ids"].float(), torch.cat(told))
    noisy, times = torch.randn(2, 4, 8, 8), torch.tensor([5, 900])
    theirs = reference.unet(
        noisy,
        times,
        embeddings.tokens,
        added_cond_kwargs={
            "text_embeds": embeddings.extra["text_embeds"],
            "time_ids": torch.cat(told),
        },
    ).sample
    assert torch.equal(tiny.predict(noisy, times, embeddings), theirs)
    other = tiny.condition(embeddings, torch.tensor(sizes[::-1]))
    assert not torch.equal(tiny.predict(noisy, times, other), theirs)


@pytest.mark.parametrize("negative", ["", "red toy"])
def test_a_picture_and_a_still_film_are_the_pipelines_own(tiny, reference, negative):
    sampling = Sampling("EulerDiscreteScheduler", 2, 3.0, 16, 2, negative_prompt=negative)
    theirs = reference(
        "a dog on the beach",
        negative_prompt=negative or None,
        generator=torch.Generator().manual_seed(0),
        num_inference_steps=2,
        guidance_scale=3.0,
        height=16,
        width=16,
    ).images[0]
    (ours,) = draw(tiny, ["a dog on the beach"], [0], sampling)
    assert ours.tobytes() == theirs.tobytes()
    (still,) = draw_frames(tiny, Morph(("a dog on the beach",), (0,), 4), [0], sampling)
    assert still.tobytes() == theirs.tobytes()


# -- the main job -------------------------------------------------------------------------------

METHODS = {
    "full": ("method=full", "train_text_encoder=true", "prior.kind=prediction"),
    "lora": ("method=lora", "train_text_encoder=true", "lr=1e-2"),
}


@pytest.fixture(scope="module")
def xl(tiny_xl_model_dir, tmp_path_factory) -> Spine:
    return Spine(tiny_xl_model_dir, tmp_path_factory.mktemp("xl"))


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.thorough
def test_a_run_resumes_to_the_bit_and_diffusers_draws_its_picture(xl, tmp_path, method):
    steps = (*METHODS[method], "max_steps=4", "scheduler=euler")
    whole, parts = xl.whole_and_resumed(tmp_path, *steps)
    a, b = checkpoint(whole), checkpoint(parts)
    assert same(a["state_dict"], b["state_dict"]) and a["global_step"] == 4
    assert {name.partition(".")[0] for name in a["state_dict"]} == {
        "unet",
        "text_encoder",
        "text_encoder_2",
    }
    if method == "full":
        pipeline = StableDiffusionXLPipeline.from_pretrained(whole / "model")
    else:
        pipeline = StableDiffusionXLPipeline.from_pretrained(xl.model)
        pipeline.load_lora_weights(whole / "model")
        pipeline.scheduler = Run.read(whole).load_model().pipeline().scheduler
    pipeline.set_progress_bar_config(disable=True)
    drawn = pipeline(
        "a sks dog",
        generator=torch.Generator().manual_seed(0),
        num_inference_steps=2,
        guidance_scale=3.0,
        height=16,
        width=16,
    ).images[0]
    with Image.open(next((whole / "samples/final").glob("00_*_seed0.png"))) as own:
        assert own.tobytes() == drawn.tobytes()


@pytest.mark.slow
def test_photos_and_class_images_are_told_their_own_sizes(xl, tmp_path, monkeypatch):
    told = []
    condition = StableDiffusionXL.condition

    def recorded(self, embeddings, sizes):
        told.append(sizes.tolist())
        return condition(self, embeddings, sizes)

    monkeypatch.setattr(StableDiffusionXL, "condition", recorded)
    xl.run(tmp_path, "max_steps=1", "method=lora", "frozen_dtype=bfloat16")
    (step,) = told  # photos of 20 x 24 become 16 x 19, of which the middle is cut
    assert step == [[24, 20, 2, 0, 16, 16], [16, 16, 0, 0, 16, 16]]


@pytest.mark.slow
def test_a_token_trains_in_both_encoders_and_its_file_draws_the_runs_picture(xl, tmp_path):
    """Under float16, in which the published autoencoder overflows: it decodes in float32."""
    own = ("method=textual_inversion", "method.token.num_vectors=2", "lr=1e-1", "ppl=false")
    half = ("frozen_dtype=float16", "sampling.dtype=float16", "export.verify=auto")
    out = xl.run(tmp_path / "run", *own, *half)
    state = checkpoint(out)["state_dict"]
    assert {name: tuple(x.shape) for name, x in state.items()} == {
        "token.clip_g": (2, 32),
        "token.clip_l": (2, 16),
    }
    record = json.loads((out / "run.json").read_text())
    assert record["verified"]["diffusers"]["error"] is None
    model = Run.read(out).load_model()
    fresh = load_model(str(xl.model))
    for encoder, key in (("text_encoder", "clip_l"), ("text_encoder_2", "clip_g")):
        before, after = (
            each.network(encoder).get_input_embeddings().weight for each in (fresh, model)
        )
        assert torch.equal(after[: len(before)], before)
        assert torch.equal(after[len(before) :], state[f"token.{key}"])
        assert not torch.equal(after[-1], after[-2])


@pytest.mark.slow
@pytest.mark.thorough
def test_a_token_and_then_a_lora_resume_to_the_bit(xl, tmp_path):
    steps = ("method=pivotal_tuning", "method.continue_token=true", "method.token_max_steps=2")
    steps = (*steps, "max_steps=2", "export.verify=auto")
    whole = xl.run(tmp_path / "whole", *steps, "checkpoint.every_n_steps=1")
    copy_checkpoint(whole, tmp_path / "parts", "checkpoints/phase-0/step-000001.ckpt")
    parts = xl.run(tmp_path / "parts", *steps)
    assert same(checkpoint(whole, 1)["state_dict"], checkpoint(parts, 1)["state_dict"])
    assert json.loads((whole / "run.json").read_text())["verified"]["diffusers"]["error"] is None


def folder(root: Path, source: Path, **index: object) -> str:
    """A copy of a model that names something else in its index."""
    shutil.copytree(source, root / "model")
    path = root / "model/model_index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **index}))
    return str(root / "model")


def test_an_architecture_is_known_by_its_pipeline(tiny_model_dir, tiny_xl_model_dir, tmp_path):
    assert architecture_of(str(tiny_model_dir)) is StableDiffusion
    assert architecture_of(str(tiny_xl_model_dir)) is StableDiffusionXL
    assert architecture_of(str(tmp_path / "nothing")) is StableDiffusion
    with pytest.raises(UserError, match="is a FluxPipeline: only folders of StableDiffusionPipe"):
        load_model(folder(tmp_path, tiny_xl_model_dir, _class_name="FluxPipeline"))


@pytest.mark.parametrize("absent", ["tokenizer_2/tokenizer_config.json", "text_encoder_2"])
def test_a_folder_that_is_not_whole_names_what_it_lacks(tiny_xl_model_dir, tmp_path, absent):
    path = Path(folder(tmp_path, tiny_xl_model_dir), absent)
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(UserError, match=f"lacks {absent}"):
        load_model(str(tmp_path / "model"))
