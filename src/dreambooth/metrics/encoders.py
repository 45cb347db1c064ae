"""Which encoders exist, where their weights come from, and how they are loaded."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError

import torch
from huggingface_hub import HfApi, is_offline_mode
from safetensors import SafetensorError
from torch import nn
from transformers import AutoTokenizer, CLIPModel, Dinov2Model, PreTrainedModel, ViTModel
from transformers.utils import logging

from dreambooth.errors import RESTORE, UserError
from dreambooth.files import cache_key
from dreambooth.metrics.feature_cache import FeatureCache
from dreambooth.metrics.features import Encoder
from dreambooth.metrics.preprocess import CLIP, IMAGENET, Preprocess, from_folder

R256C224 = Preprocess(256, 224, "bicubic", *IMAGENET)  # original DINO, eval_knn.py; also DINOv2's
SQ224 = Preprocess(224, None, "bilinear", *IMAGENET)  # ViTImageProcessor's default
CLIP224 = Preprocess(224, 224, "bicubic", *CLIP)  # OpenAI clip.py
POCKET_WEIGHTS = Path(__file__).parents[1] / "pocket" / "weights" / "encoders"


@dataclass(frozen=True)
class Source:
    """`kind` dino or clip; `width` and `patch` of the image tower, checked against the weights.

    `preprocess=None`: the folder's own preprocessor_config.json, for encoders without a repository.
    """

    kind: str
    backbone: str
    folder: str
    repo: str | None = None
    model: type[PreTrainedModel] | None = None
    preprocess: Preprocess | None = None
    width: int | None = None
    patch: int | None = None


_VITS16 = ("dino_vits16", "facebook/dino-vits16", ViTModel)
_VITS8 = ("dino_vits8", "facebook/dino-vits8", ViTModel)
_V2S = ("dinov2_s", "facebook/dinov2-small", Dinov2Model)
_V2B = ("dinov2_b", "facebook/dinov2-base", Dinov2Model)
_B32 = ("clip_b32", "openai/clip-vit-base-patch32", CLIPModel)
_B16 = ("clip_b16", "openai/clip-vit-base-patch16", CLIPModel)
_L14 = ("clip_l14", "openai/clip-vit-large-patch14", CLIPModel)
ENCODERS = {
    "dino_vits16": Source("dino", "vits16.hub", *_VITS16, R256C224, 384, 16),
    "dino_vits16_hf": Source("dino", "vits16.hf", *_VITS16, SQ224, 384, 16),
    "dino_vits8": Source("dino", "vits8.hub", *_VITS8, R256C224, 384, 8),
    "dinov2_s": Source("dino", "v2_vits14.hf", *_V2S, R256C224, 384, 14),
    "dinov2_b": Source("dino", "v2_vitb14.hf", *_V2B, R256C224, 768, 14),
    "clip_b32": Source("clip", "b32", *_B32, CLIP224, 768, 32),
    "clip_b16": Source("clip", "b16", *_B16, CLIP224, 768, 16),
    "clip_l14": Source("clip", "l14", *_L14, CLIP224, 1024, 14),
    "pocket_dino": Source("dino", "pocket", "dino"),
    "pocket_clip": Source("clip", "pocket", "clip"),
}


def load_encoder(
    name: str,
    *,
    device: str | torch.device = "cpu",
    encoders_dir: Path | str | None = None,
    cache_dir: Path | str | None = None,
) -> Encoder:
    """Load encoder `name` of `ENCODERS`, float32, evaluation mode, frozen.

    Weights are looked for in `encoders_dir/<name>`, then, for the pocket encoders, in the package,
    for the others on the model hub; safetensors before PyTorch's file, of which tensors alone are
    read. `cache_dir` keeps features between runs. No global random state is touched. Raises
    UserError, in one sentence, for an unknown name, weights that cannot be had or that do not fit
    the name.
    """
    if name not in ENCODERS:
        raise UserError(f"there is no encoder {name}: use one of {', '.join(ENCODERS)}.")
    source = ENCODERS[name]
    folder = _local_folder(name, source, encoders_dir)
    where = str(folder or source.repo)
    with _no_progress_bar():
        model, tokenizer = _load(name, source, where)
    _check_architecture(where, source, model)
    preprocess = source.preprocess or from_folder(folder, _mend(where, "put its own file there"))
    variant = f"{source.kind}.{source.backbone}"
    if source.kind == "dino" or source.preprocess is None:
        variant = f"{variant}.{preprocess.id}"
    if source.backbone.endswith(".hub"):
        # The original network's LayerNorm epsilon; the hub's configuration says 1e-12.
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = 1e-6
    model = model.float().eval().requires_grad_(False)
    weights_hash = hash_weights(model)
    facts = {"input": asdict(preprocess), "model": _plain(model.config.to_dict())}
    cache_id = f"{variant}-{weights_hash}-{cache_key(**facts)}"
    return Encoder(
        name=name,
        variant=variant,
        model_id=source.repo or name,
        weights_hash=weights_hash,
        model=model.to(device),
        preprocess=preprocess,
        device=torch.device(device),
        tokenizer=tokenizer,
        cache=FeatureCache(cache_dir, cache_id) if cache_dir else None,
    )


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def hash_weights(model: nn.Module) -> str:
    """First 16 hex digits of the SHA-256 over sorted parameter names, shapes and float bytes."""
    digest = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        digest.update(f"{key} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _plain(config: dict) -> dict:
    """A model's configuration without what says nothing of its features."""
    idle = ("transformers_version", "_name_or_path", "dtype", "architectures")
    kept = {k: v for k, v in config.items() if k not in idle}
    return {k: _plain(v) if isinstance(v, dict) else v for k, v in kept.items()}


def _local_folder(name: str, source: Source, encoders_dir: Path | str | None) -> Path | None:
    candidates = []
    if encoders_dir is not None:
        candidates = [Path(encoders_dir) / name, Path(encoders_dir) / source.folder]
    if source.repo is None:
        candidates.append(POCKET_WEIGHTS / source.folder)
    for folder in candidates:
        if (folder / "config.json").is_file():
            return folder
    if source.repo is None:
        looked = ", ".join(str(folder) for folder in candidates)
        raise UserError(
            f"the encoder {name} has no config.json in {looked}: {RESTORE}, or pass "
            "evaluation.encoders_dir=DIR."
        )
    return None


def _load(name: str, source: Source, where: str) -> tuple[nn.Module, object | None]:
    try:
        if where != source.repo:
            model, info, tokenizer = _from_pretrained(source, where, local_files_only=True)
        else:
            model, info, tokenizer = _from_hub(source)
    except (OSError, ValueError, RuntimeError, KeyError, UnpicklingError, SafetensorError) as error:
        parts = "config.json and model.safetensors"
        if source.kind == "clip":
            parts = "config.json, model.safetensors and tokenizer files"
        if where != source.repo:
            mend = _mend(where, f"put {parts} of the whole model there")
            raise UserError(
                f"the encoder {name} cannot be loaded from {where} ({_reason(error)}): {mend}."
            ) from error
        raise UserError(
            f"the encoder {name} needs {where}, which the model hub did not give "
            f"({_reason(error)}): put its {parts} in DIR/{source.folder} and pass "
            "evaluation.encoders_dir=DIR, or fetch it once online, after which HF_HUB_OFFLINE=1 "
            "works."
        ) from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise UserError(
            f"{where} lacks {len(missing)} tensors of {name}, {missing[0]} first: "
            f"{_mend(where, 'put the whole model there')}."
        )
    return model, tokenizer


def _from_pretrained(source: Source, where: str, local_files_only: bool) -> tuple:
    model_class = source.model or _pocket_class(source, where)
    options = {"add_pooling_layer": False} if model_class is ViTModel else {}
    model, info = model_class.from_pretrained(
        where,
        weights_only=True,
        output_loading_info=True,
        local_files_only=local_files_only,
        dtype=torch.float32,
        **options,
    )
    tokenizer = None
    if source.kind == "clip":
        words = [Path(where, file) for file in ("tokenizer.json", "vocab.json")]
        if Path(where).is_dir() and not any(file.is_file() for file in words):
            # transformers would make a tokenizer that knows no word
            raise OSError("it has no tokenizer.json")
        tokenizer = AutoTokenizer.from_pretrained(where, local_files_only=local_files_only)
    return model, info, tokenizer


def _from_hub(source: Source) -> tuple:
    """The hub's local cache first; else one quick question before transformers' many retries."""
    try:
        return _from_pretrained(source, source.repo, local_files_only=True)
    except (OSError, ValueError):
        if is_offline_mode():
            raise
    # or transformers asks a bot for a safetensors copy of a repository that has none
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    try:
        HfApi().model_info(source.repo, timeout=10)
    except Exception as error:  # the client raises its HTTP library's own types
        raise OSError(_reason(error)) from error
    return _from_pretrained(source, source.repo, local_files_only=False)


def _pocket_class(source: Source, where: str) -> type[PreTrainedModel]:
    if source.kind == "clip":
        return CLIPModel
    config, _ = ViTModel.config_class.get_config_dict(where)
    return Dinov2Model if config.get("model_type") == "dinov2" else ViTModel


def _check_architecture(where: str, source: Source, model: nn.Module) -> None:
    config = getattr(model.config, "vision_config", model.config)
    if source.width and (config.hidden_size, config.patch_size) != (source.width, source.patch):
        raise UserError(
            f"{where} holds a model of width {config.hidden_size} and patch {config.patch_size}, "
            f"but {source.backbone} has width {source.width} and patch {source.patch}: put the "
            "right weights there."
        )


def _mend(where: str, otherwise: str) -> str:
    return RESTORE if Path(where).is_relative_to(POCKET_WEIGHTS) else otherwise


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160].rstrip(". ")
