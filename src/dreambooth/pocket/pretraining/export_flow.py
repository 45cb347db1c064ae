"""Stage `export_flow`: write the flow-matching model as a Stable Diffusion 3 folder."""

from __future__ import annotations

import torch
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import (
    StableDiffusion3Pipeline,
)
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)

from dreambooth.files import atomic
from dreambooth.pocket import world
from dreambooth.pocket.embedded import FOLDERS, weights_hash
from dreambooth.pocket.pretraining.checkpoints import load_average, progress_of, training_record
from dreambooth.pocket.pretraining.export import check_vae, load_in_float32, trained_vae
from dreambooth.pocket.pretraining.flow import build_transformer, text_folder
from dreambooth.pocket.pretraining.model_card import flow_card, quality_table
from dreambooth.pocket.pretraining.spec import PretrainSpec
from dreambooth.pocket.pretraining.text_pair import TextPair
from dreambooth.pocket.pretraining.tokenizer import build_tokenizer


def pretrain_export_flow(spec: PretrainSpec) -> None:
    """Write pipeline and card, all or nothing, in half precision; at any time of the training.

    Raises:
        UserError: a checkpoint that does not fit the configured sizes or the VAE in the cache.
    """
    cache, target = spec.cache, FOLDERS["pocket_flow"]
    if spec.export_to is not None:
        target = spec.export_to.with_name(f"{spec.export_to.name}_flow")
    text = TextPair(text_folder(spec))
    transformer = build_transformer(spec.flow, spec.vae.latent_channels, text)
    state = load_average(transformer, cache / "flow.pt")
    check_vae(state, cache)
    pipeline = StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
        vae=trained_vae(cache / "vae", shift_factor=0.0),  # SD3's pipeline adds a shift
        text_encoder=text.first,
        tokenizer=build_tokenizer(world.vocabulary()),
        text_encoder_2=text.second,
        tokenizer_2=build_tokenizer(world.vocabulary()),
        text_encoder_3=None,  # pyright: ignore[reportArgumentType]
        tokenizer_3=None,  # pyright: ignore[reportArgumentType]
    ).to(dtype=torch.float16)
    record = training_record(progress_of(state), cache / "flow.jsonl")
    with atomic(target) as temporary:
        pipeline.save_pretrained(temporary, safe_serialization=True)
        for encoder in ("text_encoder", "text_encoder_2"):
            load_in_float32(temporary / encoder / "config.json")
        quality = quality_table(cache / "flow_quality.json", weights_hash(temporary))
        (temporary / "README.md").write_text(flow_card(record, quality))
