"""The settings of pretraining, checked and frozen: conf/pretrain.yaml as plain dataclasses."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dreambooth.errors import UserError, suggest
from dreambooth.pocket.pretraining import shards

STAGE_NEEDS = {
    "vae": (),
    "latents": ("vae",),
    "denoiser": ("latents",),
    "encoders": (),
    "probe": (),
    "export": ("vae", "denoiser"),
    "flow": ("latents",),
    "export_flow": ("vae", "flow"),
}  # every stage, and the stages whose results it reads
ENCODERS = ("dino", "clip")


@dataclass(frozen=True)
class TrainingSpec:
    """How the training loop trains one network; `save_seconds` lie between checkpoints."""

    samples: int
    batch_size: int
    lr: float
    ema_decay: float
    weight_decay: float
    decay: float
    save_seconds: float
    seed: int
    device: str


@dataclass(frozen=True)
class NetworkSpec:
    """What the stages that train a network share: data and optimization."""

    block: ClassVar[str]  # the stage's name in conf/pretrain.yaml

    scenes: int
    samples: int
    batch_size: int
    lr: float
    ema_decay: float
    weight_decay: float

    def __post_init__(self) -> None:
        for name in ("samples", "batch_size"):
            self._require_count(name)
        whole = is_count(self.scenes) and self.scenes % shards.SHARD == 0
        kind = f"a multiple of {shards.SHARD:,}, the number of scenes in one file"
        require(whole, f"{self.block}.scenes", self.scenes, kind)

    def _require_count(self, name: str) -> None:
        value = getattr(self, name)
        require(is_count(value), f"{self.block}.{name}", value, "a whole number greater than 0")


@dataclass(frozen=True)
class ModelSpec(NetworkSpec):
    """A network that trains on the world's first scenes, and may see none of the probe's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        last = shards.PROBE_SHARD * shards.SHARD
        kind = f"at most {last:,}, where the probe's own scenes begin"
        require(self.scenes <= last, f"{self.block}.scenes", self.scenes, kind)


@dataclass(frozen=True)
class VaeSpec(ModelSpec):
    """The VAE: sizes, the photo crops beside its scenes, and the weight of its KL term."""

    block: ClassVar[str] = "vae"

    channels: tuple[int, ...]
    latent_channels: int
    norm_num_groups: int
    crops_per_photo: int
    photo_share: float
    kl_weight: float


@dataclass(frozen=True)
class DenoiserSpec(ModelSpec):
    """The U-Net and its text encoder: sizes, captions and loss."""

    block: ClassVar[str] = "denoiser"

    channels: tuple[int, ...]
    heads: int
    norm_num_groups: int
    text_width: int
    text_layers: int
    caption_dropout: float
    identifier_share: float
    min_snr_gamma: float


@dataclass(frozen=True)
class FlowSpec(ModelSpec):
    """The flow-matching transformer: sizes and captions."""

    block: ClassVar[str] = "flow"

    width: int
    layers: int
    heads: int
    patch_size: int
    caption_dropout: float
    identifier_share: float


@dataclass(frozen=True)
class EncodersSpec(ModelSpec):
    """The metrics' CLIP and DINO, which have the same sizes, and the identities DINO sees."""

    block: ClassVar[str] = "encoders"

    which: tuple[str, ...]
    width: int
    layers: int
    text_layers: int
    identities: int
    identity_scale: float

    def __post_init__(self) -> None:
        super().__post_init__()
        require_names("encoders.which", self.which, ENCODERS, "encoder")


@dataclass(frozen=True)
class ProbeSpec(NetworkSpec):
    """The benchmarks' judge."""

    block: ClassVar[str] = "probe"


@dataclass(frozen=True)
class PretrainSpec:
    """All of conf/pretrain.yaml; fields have the names and the meaning of its keys.

    Raises:
        UserError: a value that no stage could use, with its key and what it must be.
    """

    stages: tuple[str, ...]
    cache: Path
    init: Path | None
    export_to: Path | None
    photos: Path | None
    seed: int
    device: str
    bf16: bool
    compile: bool
    workers: int
    threads: int | None
    save_seconds: float
    decay: float
    tokens_per_scene: int
    vae: VaeSpec
    denoiser: DenoiserSpec
    flow: FlowSpec
    encoders: EncodersSpec
    probe: ProbeSpec

    def __post_init__(self) -> None:
        require_names("stages", self.stages, STAGE_NEEDS, "stage")
        devices = ("auto", "cpu", "cuda")
        require(self.device in devices, "device", self.device, "auto, cpu or cuda")
        share = type(self.decay) in (int, float) and 0 < self.decay <= 1
        require(share, "decay", self.decay, "greater than 0 and at most 1")
        for name in ("workers", "tokens_per_scene"):
            value = getattr(self, name)
            require(is_count(value), name, value, "a whole number greater than 0")
        threads = self.threads is None or is_count(self.threads)
        require(threads, "threads", self.threads, "null or a whole number greater than 0")

    def training(self, network: NetworkSpec) -> TrainingSpec:
        """Join a network's own optimization with the settings that all stages share."""
        return TrainingSpec(
            samples=network.samples,
            batch_size=network.batch_size,
            lr=network.lr,
            ema_decay=network.ema_decay,
            weight_decay=network.weight_decay,
            decay=self.decay,
            save_seconds=self.save_seconds,
            seed=self.seed,
            device=self.device,
        )


def from_plain(plain: Mapping[str, Any]) -> PretrainSpec:
    """Build the spec from conf/pretrain.yaml's values as plain dicts, lists, numbers and texts.

    Raises:
        UserError: as `PretrainSpec`.
    """
    values = _tuples(plain)
    for name in ("cache", "init", "export_to", "photos"):
        values[name] = None if values[name] is None else Path(values[name])
    for kind in (VaeSpec, DenoiserSpec, FlowSpec, EncodersSpec, ProbeSpec):
        values[kind.block] = kind(**_tuples(values[kind.block]))
    return PretrainSpec(**values)


def is_count(value: object) -> bool:
    """Tell whether a value is a whole number greater than 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def require(holds: bool, key: str, value: object, kind: str) -> None:
    """Raise UserError naming the key, its value and what it must be, unless it `holds`."""
    if not holds:
        raise UserError(f"{key}={value} is not usable: {key} must be {kind}.")


def require_names(key: str, names: object, known: Collection[str], what: str) -> None:
    """Raise UserError unless `names` is a tuple of known names; suggest the nearest one."""
    require(isinstance(names, tuple), key, names, f"a list, such as [{names}]")
    assert isinstance(names, tuple)
    for name in names:
        if name not in known:
            raise UserError(suggest(str(name), known, what))


def _tuples(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Copy a mapping with its lists as tuples, which a frozen value needs."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in plain.items()}
