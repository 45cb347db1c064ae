"""Which encoders there are, and how one is loaded."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from dreambooth.errors import RESTORE, UserError, reason
from dreambooth.files import cache_key
from dreambooth.metrics import pretrained
from dreambooth.metrics.feature_cache import FeatureCache
from dreambooth.metrics.features import Encoder
from dreambooth.metrics.preprocess import CLIP, IMAGENET, Preprocess, from_folder
from dreambooth.pocket import embedded

R256C224 = Preprocess(256, 224, "bicubic", *IMAGENET)  # original DINO, eval_knn.py; also DINOv2's
SQ224 = Preprocess(224, None, "bilinear", *IMAGENET)  # ViTImageProcessor's default
CLIP224 = Preprocess(224, 224, "bicubic", *CLIP)  # OpenAI clip.py
POCKET_WEIGHTS = embedded.FOLDER / "encoders"


@dataclass(frozen=True)
class Source:
    """Where an encoder comes from and what its weights must be.

    Attributes:
        kind: `dino` (images) or `clip` (images and texts).
        backbone: its part of a score's id.
        folder: the name of its folder in the package or in a user's own folder of encoders.
        network: its class in transformers.
        repo: its repository on the model hub; None for the encoders in this package.
        preprocess: its input; None reads the folder's preprocessor_config.json.
        width, patch: of the image tower, compared with the weights; None compares nothing.
    """

    kind: str
    backbone: str
    folder: str
    network: str
    repo: str | None = None
    preprocess: Preprocess | None = None
    width: int | None = None
    patch: int | None = None


_VITS16 = ("dino_vits16", "ViTModel", "facebook/dino-vits16")
_VITS8 = ("dino_vits8", "ViTModel", "facebook/dino-vits8")
_V2S = ("dinov2_s", "Dinov2Model", "facebook/dinov2-small")
_V2B = ("dinov2_b", "Dinov2Model", "facebook/dinov2-base")
_B32 = ("clip_b32", "CLIPModel", "openai/clip-vit-base-patch32")
_B16 = ("clip_b16", "CLIPModel", "openai/clip-vit-base-patch16")
_L14 = ("clip_l14", "CLIPModel", "openai/clip-vit-large-patch14")
ENCODERS = {
    "dino_vits16": Source("dino", "vits16.hub", *_VITS16, R256C224, 384, 16),
    "dino_vits16_hf": Source("dino", "vits16.hf", *_VITS16, SQ224, 384, 16),
    "dino_vits8": Source("dino", "vits8.hub", *_VITS8, R256C224, 384, 8),
    "dinov2_s": Source("dino", "v2_vits14.hf", *_V2S, R256C224, 384, 14),
    "dinov2_b": Source("dino", "v2_vitb14.hf", *_V2B, R256C224, 768, 14),
    "clip_b32": Source("clip", "b32", *_B32, CLIP224, 768, 32),
    "clip_b16": Source("clip", "b16", *_B16, CLIP224, 768, 16),
    "clip_l14": Source("clip", "l14", *_L14, CLIP224, 1024, 14),
    "pocket_dino": Source("dino", "pocket", "dino", "ViTModel"),
    "pocket_clip": Source("clip", "pocket", "clip", "CLIPModel"),
}


def load_encoder(
    name: str,
    *,
    device: str | torch.device = "cpu",
    encoders_dir: Path | str | None = None,
    cache_dir: Path | str | None = None,
) -> Encoder:
    """Load an encoder of `ENCODERS` in float32 and evaluation mode, frozen.

    Its weights are looked for in `encoders_dir/<name>`, then in this package (pocket encoders) or
    on the model hub (the others). The global random state does not change.

    Args:
        cache_dir: where features of image files are kept between runs; None keeps none.

    Raises:
        UserError: an unknown name, weights that are not available, or weights that do not fit
            the name.
    """
    if name not in ENCODERS:
        raise UserError(f"there is no encoder {name}: use one of {', '.join(ENCODERS)}.")
    source = ENCODERS[name]
    folder = _local_folder(name, source, encoders_dir)
    loaded = _read(name, source, folder)
    model = loaded.network
    _check_architecture(str(folder or source.repo), source, model)
    preprocess = source.preprocess
    variant = f"{source.kind}.{source.backbone}"
    if preprocess is None:
        assert folder is not None  # an encoder without a repository
        preprocess = from_folder(folder, _fix(folder, "put its own file there"))
    if source.kind == "dino" or source.preprocess is None:
        variant = f"{variant}.{preprocess.id}"
    if source.backbone.endswith(".hub"):
        # the original network's LayerNorm epsilon; the hub's configuration says 1e-12
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = 1e-6
    model = model.float().eval().requires_grad_(False)
    weights_hash = hash_weights(model)
    facts = {"input": asdict(preprocess), "model": _relevant(model.config.to_dict())}
    cache_id = f"{variant}-{weights_hash}-{cache_key(**facts)}"
    return Encoder(
        name=name,
        variant=variant,
        model_id=source.repo or name,
        weights_hash=weights_hash,
        model=model.to(device),
        preprocess=preprocess,
        device=torch.device(device),
        tokenizer=loaded.tokenizer,
        cache=FeatureCache(cache_dir, cache_id) if cache_dir else None,
    )


def hash_weights(model: nn.Module) -> str:
    """Hash sorted tensor names, shapes and bytes: the first 16 hex digits of their SHA-256."""
    digest = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        digest.update(f"{key} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _relevant(config: dict) -> dict:
    """Leave out the entries of a model's configuration that do not change its features."""
    irrelevant = ("transformers_version", "_name_or_path", "dtype", "architectures")
    kept = {k: v for k, v in config.items() if k not in irrelevant}
    return {k: _relevant(v) if isinstance(v, dict) else v for k, v in kept.items()}


def _local_folder(name: str, source: Source, encoders_dir: Path | str | None) -> Path | None:
    """Find the encoder's folder; None if it is to be read from the model hub."""
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


def _read(name: str, source: Source, folder: Path | None) -> pretrained.Pretrained:
    """Read the network and a CLIP's tokenizer, whole; explain what is missing or damaged."""
    with_tokenizer = source.kind == "clip"
    parts = "config.json and model.safetensors"
    if with_tokenizer:
        parts = "config.json, model.safetensors and tokenizer files"
    try:
        if folder is None:
            assert source.repo is not None
            loaded = pretrained.read_from_hub(source.repo, source.network, with_tokenizer)
        else:
            loaded = pretrained.read(str(folder), source.network, with_tokenizer)
    except pretrained.UNREADABLE as error:
        if folder is None:
            raise UserError(
                f"the encoder {name} needs {source.repo}, which the model hub did not give "
                f"({reason(error)}): put its {parts} in DIR/{source.folder} and pass "
                "evaluation.encoders_dir=DIR, or download it once online, after which "
                "HF_HUB_OFFLINE=1 works. evaluation.encoders=pocket takes this package's own small "
                "networks, whose scores compare with each other alone."
            ) from error
        raise UserError(
            f"the encoder {name} cannot be loaded from {folder} ({reason(error)}): "
            f"{_fix(folder, f'put {parts} of the whole model there')}."
        ) from error
    if loaded.missing:
        raise UserError(
            f"{folder or source.repo} lacks {len(loaded.missing)} tensors of {name}, "
            f"{loaded.missing[0]} first: {_fix(folder, 'put the whole model there')}."
        )
    return loaded


def _check_architecture(where: str, source: Source, model: nn.Module) -> None:
    config = getattr(model.config, "vision_config", model.config)
    found = (getattr(config, "hidden_size", None), getattr(config, "patch_size", None))
    if source.width and found != (source.width, source.patch):
        raise UserError(
            f"{where} holds a model of width {found[0]} and patch {found[1]}, but "
            f"{source.backbone} has width {source.width} and patch {source.patch}: put the right "
            "weights there."
        )


def _fix(folder: Path | None, otherwise: str) -> str:
    """Say what to do about a damaged encoder: restore this package's own, else `otherwise`."""
    return RESTORE if folder and folder.is_relative_to(POCKET_WEIGHTS) else otherwise
