"""The stages of pretraining in order: what `dreambooth pretrain` runs (see conf/pretrain.yaml)."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace

import torch

from dreambooth.files import atomic
from dreambooth.pocket.pretraining import readiness
from dreambooth.pocket.pretraining.denoiser import pretrain_denoiser
from dreambooth.pocket.pretraining.encoders import pretrain_encoders
from dreambooth.pocket.pretraining.export import pretrain_export
from dreambooth.pocket.pretraining.export_flow import pretrain_export_flow
from dreambooth.pocket.pretraining.flow import pretrain_flow
from dreambooth.pocket.pretraining.latents import pretrain_latents
from dreambooth.pocket.pretraining.probe import pretrain_probe
from dreambooth.pocket.pretraining.spec import PretrainSpec
from dreambooth.pocket.pretraining.vae import pretrain_vae
from dreambooth.sampling.draw import torch_device

log = logging.getLogger(__name__)

STAGES: dict[str, Callable[[PretrainSpec], None]] = {
    "vae": pretrain_vae,
    "latents": pretrain_latents,
    "denoiser": pretrain_denoiser,
    "encoders": pretrain_encoders,
    "probe": pretrain_probe,
    "export": pretrain_export,
    "flow": pretrain_flow,
    "export_flow": pretrain_export_flow,
}


def pretrain(spec: PretrainSpec) -> None:
    """Run the stages that are asked for, each resumed where it stopped.

    Raises:
        UserError: what `readiness.check` finds before the first stage begins, a GPU that is not
            there, and what a stage raises.
    """
    readiness.check(spec)
    spec = replace(spec, device=torch_device(spec.device))
    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
    vae = spec.cache / "vae"
    if spec.init is not None and "vae" not in spec.stages and not vae.exists():
        with atomic(vae) as temporary:
            shutil.copytree(spec.init / "vae", temporary)
        (spec.cache / "vae.json").unlink(missing_ok=True)  # it describes another VAE
        log.info("vae: copied from %s", spec.init)
    for stage in spec.stages:
        STAGES[stage](spec)
