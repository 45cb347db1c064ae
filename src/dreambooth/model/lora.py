"""Low-rank adapters (Hu et al. 2021, arXiv:2106.09685): add, save, load, merge.

An adapted layer computes `W x + (alpha / rank) B A x` with W frozen, A Gaussian and B zero at the
start, so that a fresh adapter changes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer

from dreambooth.errors import UserError
from dreambooth.files import atomic
from dreambooth.model.adapters.formats import LORA_FILE, find_lora, read_lora
from dreambooth.model.loading import keep_random_state
from dreambooth.model.stable_diffusion import LatentDiffusion

ADAPTER = "default"
LORA_PARTS = ("unet", "text_encoder")


@dataclass(frozen=True)
class LoRASettings:
    """`targets` are ends of module names, such as `to_q` or `to_out.0`, of either network."""

    rank: int
    alpha: float
    dropout: float
    targets: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", tuple(self.targets))
        if self.rank < 1 or self.alpha <= 0 or not 0 <= self.dropout < 1 or not self.targets:
            raise UserError(
                f"LoRA of rank {self.rank}, alpha {self.alpha}, dropout {self.dropout} and "
                f"{len(self.targets)} targets: rank must be at least 1, alpha above 0, dropout in "
                "[0, 1), and one target or more."
            )


def add_lora(model: LatentDiffusion, part: str, settings: LoRASettings, seed: int) -> None:
    """Put fresh float32 adapters into `unet` or `text_encoder`, `A ~ N(0, 1/rank^2)`, `B = 0`.

    A depends on `seed`, the part and the layers' names alone; the global random state is left as
    it was. Raises UserError for a target that names no layer of the model.
    """
    module = getattr(model, part)
    if has_lora(module):
        raise UserError(f"the {part} has LoRA adapters already: train from a model without them.")
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=_targets_of(model, part, settings.targets),
        init_lora_weights="gaussian",
    )
    with keep_random_state():
        module.add_adapter(config, ADAPTER)
    key = hashlib.sha256(f"{seed}/lora/{part}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(key[:7], "big"))
    for name, parameter in sorted(lora_parameters(module)):
        parameter.data = parameter.data.float()
        if ".lora_A." in name:
            draw = torch.randn(parameter.shape, generator=generator) / settings.rank
            parameter.data.copy_(draw)


def has_lora(module: torch.nn.Module) -> bool:
    """Whether any layer of `module` has an adapter."""
    return any(isinstance(layer, BaseTunerLayer) for layer in module.modules())


def lora_parameters(module: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """Adapter parameters of `module` by name."""
    return ((name, p) for name, p in module.named_parameters() if ".lora_" in name)


def save_lora(model: LatentDiffusion, folder: str | Path) -> Path:
    """Write the adapters as `folder/pytorch_lora_weights.safetensors`, atomically.

    `StableDiffusionPipeline.load_lora_weights(folder)` loads it; alpha is in the file's metadata.
    """
    adapted = {part: getattr(model, part) for part in LORA_PARTS if has_lora(getattr(model, part))}
    if not adapted:
        raise UserError("the model has no LoRA adapters to save: train one with method=lora.")
    layers = {part: get_peft_model_state_dict(module) for part, module in adapted.items()}
    if "text_encoder" in layers:
        # `text_model.` is what every version of diffusers reads; transformers 5 has dropped it.
        prefix = "text_model."
        state = layers["text_encoder"].items()
        state = {prefix + name.removeprefix(prefix): tensor for name, tensor in state}
        layers["text_encoder"] = convert_state_dict_to_diffusers(state)
    with atomic(Path(folder) / LORA_FILE) as file:
        StableDiffusionPipeline.save_lora_weights(
            file.parent,
            **{f"{part}_lora_layers": state for part, state in layers.items()},
            **{f"{part}_lora_adapter_metadata": _metadata(m) for part, m in adapted.items()},
        )
    return Path(folder) / LORA_FILE


def load_lora(target: LatentDiffusion | StableDiffusionPipeline, path: str | Path) -> int:
    """Put the adapters of a file or folder into a model or pipeline; returns how many tensors.

    Reads diffusers' and kohya's layout and PEFT's (`adapter_model.safetensors` with its config).
    Raises UserError, changing nothing, unless every tensor fits.
    """
    pipeline = target.pipeline() if isinstance(target, LatentDiffusion) else target
    parts = {part: getattr(pipeline, part) for part in LORA_PARTS}
    for part, module in parts.items():
        if has_lora(module):
            raise UserError(f"the {part} has LoRA adapters already: load {path} into a fresh one.")
    state, alphas, metadata = read_lora(find_lora(path), parts)
    loaders = {"unet": pipeline.load_lora_into_unet}
    loaders["text_encoder"] = pipeline.load_lora_into_text_encoder
    for part, module in parts.items():
        if not any(name.startswith(f"{part}.") for name in state):
            continue
        with keep_random_state():
            loaders[part](state, alphas, module, adapter_name=ADAPTER, metadata=metadata)
    return len(state)


def merge_lora(model: LatentDiffusion) -> None:
    """Add every adapter into its layer: `W <- W + (alpha / rank) B A`; merged ones are left."""
    for part in LORA_PARTS:
        module = getattr(model, part)
        if has_lora(module):
            model.restore(part)  # a sum rounded to bf16 would lose most of a small adapter
        for layer in module.modules():
            if isinstance(layer, BaseTunerLayer) and not layer.merged:
                layer.merge()


def _metadata(module: torch.nn.Module) -> dict[str, object]:
    # The whole config would hold paths of this machine and fields that other versions refuse.
    config = module.peft_config[ADAPTER]
    targets = sorted(config.target_modules)
    return {"r": config.r, "lora_alpha": config.lora_alpha, "target_modules": targets}


def _targets_of(model: LatentDiffusion, part: str, targets: tuple[str, ...]) -> list[str]:
    names = {p: [n for n, _ in getattr(model, p).named_modules()] for p in LORA_PARTS}

    def found(target: str, where: str) -> bool:
        return any(name == target or name.endswith(f".{target}") for name in names[where])

    lost = [t for t in targets if not any(found(t, p) for p in LORA_PARTS)]
    here = [t for t in targets if found(t, part)]
    if lost or not here:
        fault = f"{lost[0]} names no layer of the model" if lost else f"none is in the {part}"
        raise UserError(
            f"of the LoRA targets {', '.join(targets)}, {fault}: use ends of module names, such as "
            "to_q, to_k, to_v, to_out.0 in the unet and q_proj, k_proj, v_proj, out_proj in the "
            "text_encoder."
        )
    return here
