"""What training holds in memory: against measured runs, sums by hand, and how it must grow."""

from __future__ import annotations

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from dreambooth.cli.configuration import resolvers  # noqa: F401  registers what the YAML files use
from dreambooth.cli.configuration.configs import CONF
from dreambooth.cli.refusals.resources import refuse_small_memory
from dreambooth.errors import UserError
from dreambooth.pocket.embedded import FOLDER
from dreambooth.study.costs.sizes import parameters_of
from dreambooth.study.costs.step_memory import Memory, memory_of
from dreambooth.weights_files import read_header

pytestmark = pytest.mark.thorough

UNET = 9_637_072  # parameters of the embedded model's
HALF = ("model.path=nobody/has-it", "photos.root=x", "method=lora", "ppl=false", "batch_size=1")
HALF += ("trainer.precision=bf16-mixed", "frozen_dtype=bfloat16")
SD = ("model=sd15", "model.path=nobody/has-it", "photos.root=x")


def memory(*overrides: str, on_gpu: bool = True) -> Memory:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", ["output_dir=out", "subject=dog", *overrides])
    found = memory_of(OmegaConf.to_container(cfg, resolve=True), on_gpu)
    assert found is not None
    return found


def shapes_of_unet() -> dict[str, list[int]]:
    (file,) = (FOLDER / "unet").glob("*.safetensors")
    return {n: entry["shape"] for n, entry in read_header(file).items() if n != "__metadata__"}


def test_measured_peaks_are_met():
    """docs/results/sd15_architecture.md: 16.2 GiB; docs/guide.md and later runs: 1.06 to 1.18."""
    small = ("resolution=64", "batch_size=1", "train_text_encoder=true")
    assert memory(*SD, *small, on_gpu=False).total == pytest.approx(16.2, rel=0.05)
    assert memory(on_gpu=False).total == pytest.approx(1.12, rel=0.1)


@pytest.mark.parametrize(("model", "least", "most"), [("sdxl", 4.7, 30), ("flux2_klein", 7.2, 60)])
def test_newer_models_hold_their_weights_and_a_step(model, least, most):
    """LoRA at 1024 px over a base in bfloat16: on the weights, which are known, what a step has."""
    own = (*HALF, f"model={model}", "offload=true")
    plain, less = memory(*own), memory(*own, "gradient_checkpointing=true")
    assert least < less.total < plain.total < most
    assert less.weights == plain.weights > least
    text = () if model == "flux2_klein" else ("train_text_encoder=true",)
    assert memory(*own, *text).activations >= plain.activations


def test_networks_that_wait_are_counted_where_they_are_at_work():
    """Of FLUX.2 klein, by turns: Qwen3 with the autoencoder, and the transformer with a step."""
    own = (*HALF, "model=flux2_klein", "gradient_checkpointing=true")
    transformer, qwen, vae = 3_875_544_576, 4_022_468_096, 84_046_115
    lora = 4 * 1_044_480 * 4
    less = memory(*own, "offload=true")
    assert less.weights * 2**30 == pytest.approx(2 * transformer + lora)
    assert less.activations > 1
    small = memory(*own, "offload=true", "model.quantize=4bit")  # Qwen3 needs more
    assert small.weights * 2**30 == pytest.approx(2 * (qwen + vae))
    assert (small.activations, small.optimizer) == (0, less.optimizer)
    same = memory(*own, "offload=true", on_gpu=False)  # a CPU's networks are in one memory
    assert same == memory(*own, on_gpu=False)
    text = (*SD, "method=lora", "train_text_encoder=true", "offload=true", "ppl=false")
    assert memory(*text).weights == pytest.approx((859_520_964 + 123_060_480) * 4 / 2**30, rel=0.01)


def test_a_gpu_must_hold_what_comes_before_a_step():
    """Float32, all at once, but Qwen3, which is never trained; with offload one by one."""
    own = (*HALF, "model=flux2_klein", "gradient_checkpointing=true")
    whole = 4 * 3_875_544_576 + 2 * (4_022_468_096 + 84_046_115)
    assert memory(*own).total * 2**30 == pytest.approx(whole)
    drawn = memory(*own, "offload=true", "ppl=true").total  # class images, by the transformer
    assert drawn * 2**30 == pytest.approx(4 * 3_875_544_576)
    without = ("offload=true", "ppl=true", "prior.kind=prediction")
    assert memory(*own, *without).total < 0.75 * drawn
    assert memory(*own, "ppl=true", on_gpu=False).activations > 0
    pictures = memory(*own, "model=sdxl", "offload=true", "model.quantize=4bit")  # after it
    assert pictures.weights * 2**30 == pytest.approx(2 * 2_567_463_684 + 4 * 4 * 1_451_520)


def test_a_step_grows_with_pixels_and_rows_and_shrinks_with_what_saves_memory():
    one = ("resolution=512", "batch_size=1", "ppl=false")
    plain = memory(*one)
    two = memory("resolution=512", "batch_size=2", "ppl=false")
    assert two.activations == pytest.approx(2 * plain.activations, rel=0.05)
    wide = memory("resolution=1024", "batch_size=1", "ppl=false")
    # attention is fused: four times the pixels need four times the memory, not sixteen
    assert wide.activations == pytest.approx(4 * plain.activations, rel=0.1)
    half = memory(*one, "trainer.precision=bf16-mixed")
    assert half.activations == pytest.approx(plain.activations / 2, rel=0.15)
    assert memory(*one, "gradient_checkpointing=true").activations < 0.7 * plain.activations
    lora = memory(*one, "method=lora")
    assert lora.activations < plain.activations and lora.gradients < 0.05 * plain.gradients
    assert plain.gradients == pytest.approx(UNET * 4 / 2**30)
    for name, share in (("adamw", 2), ("adamw_8bit", 0.5), ("prodigy", 4), ("adafactor", 0)):
        held = memory(*one, f"optimizer={name}").optimizer
        assert held == pytest.approx(share * plain.gradients)
    bits = memory(*one, "method=lora", "model.quantize=4bit")
    shapes = shapes_of_unet().items()
    linear = sum(s[0] * s[1] for name, s in shapes if len(s) == 2 and "emb" not in name)
    assert (lora.weights - bits.weights) * 2**30 == pytest.approx(linear * (4 - 0.515625))
    copied = memory("resolution=512", "batch_size=1", "prior.kind=prediction", "ema_decay=0.9")
    assert copied.copies == pytest.approx(2 * UNET * 4 / 2**30)


def test_a_transformer_is_estimated_by_its_own_architecture(tiny_sd3_model_dir):
    model = (f"model.path='{tiny_sd3_model_dir}'", "model=sd35_medium", "method=lora", "ppl=false")
    small, wide = (memory(*model, f"resolution={side}") for side in (16, 32))
    config = {"model": {"path": str(tiny_sd3_model_dir), "name": "x"}}
    assert small.weights * 2**30 == pytest.approx(4 * sum(parameters_of(config).values()), rel=0.1)
    # 4 times the patches of the image, and the same tokens of the prompt
    assert 1.3 < wide.activations / small.activations < 4
    longer = memory(*model, "resolution=16", "model.max_sequence_length=512")
    assert longer.activations > 1.5 * small.activations
    checkpointed = memory(*model, "resolution=16", "gradient_checkpointing=true")
    assert checkpointed.activations < small.activations


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("resolution=100000", r"[\d,]+\.\d GiB .*activations .*lower resolution"),
        ("method.adapter.r=100000", r"[\d,]+\.\d GiB .*lower the adapter's rank"),
    ],
)
def test_what_no_machine_holds_is_refused_with_its_figure(override, said):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", ["output_dir=out", *SD, "method=lora", override])
    config = OmegaConf.to_container(cfg, resolve=True)
    found = memory_of(config, True)
    with pytest.raises(UserError, match=said):
        refuse_small_memory(config, found, 80.0)
    refuse_small_memory(config, None, 80.0)
    preset = memory("trainer=gpu_8gb", "trainer.accelerator=cpu", *SD, "method=lora")
    assert preset.total < 6
    refuse_small_memory(config, preset, 8.0)
