"""Where a pretrained model's files are, how its parts are read, and a hash of what they hold."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import diffusers
import torch
from diffusers import AutoencoderKL, DDPMScheduler, SchedulerMixin, UNet2DConditionModel
from huggingface_hub import HfApi, is_offline_mode, snapshot_download
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from dreambooth.errors import RESTORE, UserError
from dreambooth.pocket import embedded

WEIGHT_PARTS = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}
MEND = "point model.path at a whole diffusers pipeline folder, or copy it there again"


def locate(path: str, revision: str | None, variant: str | None) -> tuple[Path, str | None]:
    """Folder that holds model `path`, and the resolved commit if it came from the hub.

    What exists, starts with `.`, `/` or `~`, or has more than one `/` is a local folder and is
    never asked of the hub. The hub's local cache is used first, then one question is asked.
    Raises UserError when the model cannot be had.
    """
    local = Path(path).expanduser()
    if local.exists() or path.startswith((".", "/", "~")) or path.count("/") > 1:
        if not local.is_dir():
            state = "is not a folder" if local.exists() else "does not exist"
            raise UserError(f"the model {path} {state}: {MEND}.")
        return local, None
    options = {"revision": revision, "allow_patterns": _patterns(variant)}
    try:
        folder = Path(snapshot_download(path, local_files_only=True, **options))
        if _first_absent(folder, variant) is None:
            return folder, folder.name
    except Exception:  # not in the cache, whatever type the client gives that
        pass
    try:
        if is_offline_mode():
            raise OSError("HF_HUB_OFFLINE is set and the local cache lacks it")
        # One quick question, for the download retries for minutes when there is no network.
        HfApi().model_info(path, revision=revision, timeout=10)
        folder = Path(snapshot_download(path, **options))
    except Exception as error:  # the client raises its HTTP library's own types
        raise UserError(
            f"the model {path} is neither a local folder nor to be had from the model hub "
            f"({reason(error)}): check the name and the network, or {MEND}."
        ) from error
    return folder, folder.name


def check_complete(folder: Path, variant: str | None) -> None:
    """Raise UserError naming the first thing that model `folder` lacks, or a foreign kind."""
    absent = _first_absent(folder, variant)
    if absent is not None:
        raise UserError(f"the model folder {folder} lacks {absent}: {mend(folder)}.")
    try:
        kind = json.loads((folder / "model_index.json").read_text()).get("_class_name")
    except (ValueError, OSError, AttributeError) as error:
        raise UserError(
            f"{folder / 'model_index.json'} cannot be read ({reason(error)}): {mend(folder)}."
        ) from error
    if kind != "StableDiffusionPipeline":
        raise UserError(
            f"the model {folder} is a {kind}: only StableDiffusionPipeline folders (Stable "
            "Diffusion 1.x and 2.x, or the embedded model) can be trained here."
        )


def load_part(folder: Path, part: str, variant: str | None) -> torch.nn.Module:
    """`unet`, `vae` or `text_encoder` of a model folder, float32, evaluation mode, frozen.

    Safetensors only. Raises UserError naming the part when weights are damaged, absent or do not
    fit its config. The global random state is left as it was.
    """
    where = folder / part
    dtype = "dtype" if part == "text_encoder" else "torch_dtype"
    try:
        with keep_random_state(), quiet():
            model, info = WEIGHT_PARTS[part].from_pretrained(
                where,
                variant=variant,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                **{dtype: torch.float32},
            )
    except Exception as error:  # each library has its own types for a damaged file
        raise UserError(f"{where} cannot be loaded ({reason(error)}): {mend(folder)}.") from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise UserError(
            f"{where} lacks {len(missing)} tensors, {missing[0]} first: {mend(folder)}."
        )
    return model.eval().requires_grad_(False)


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    """The folder's CLIP tokenizer; UserError when it cannot be read."""
    try:
        return CLIPTokenizer.from_pretrained(folder / "tokenizer")
    except Exception as error:
        raise UserError(
            f"{folder / 'tokenizer'} cannot be loaded ({reason(error)}): {mend(folder)}."
        ) from error


def load_schedulers(folder: Path) -> tuple[DDPMScheduler, SchedulerMixin]:
    """The training noise schedule, and the sampler that the folder names, of one config."""
    where = folder / "scheduler" / "scheduler_config.json"
    try:
        # latents are never clipped; where the file is silent, diffusers' default would be to
        config = {"clip_sample": False, **json.loads(where.read_text())}
        sampler = getattr(diffusers, config["_class_name"])
        return DDPMScheduler.from_config(config), sampler.from_config(config)
    except Exception as error:
        raise UserError(f"{where} cannot be loaded ({reason(error)}): {mend(folder)}.") from error


def check_fit(folder: Path, tokenizer, unet, vae, text_encoder) -> None:
    """Parts of different models load one by one but cannot work together."""
    width, vocabulary = text_encoder.config.hidden_size, text_encoder.config.vocab_size
    if unet.config.cross_attention_dim != width:
        raise UserError(
            f"{folder}/unet expects embeddings of width {unet.config.cross_attention_dim} but its "
            f"text_encoder gives {width}: {mend(folder, 'take both from one model')}."
        )
    if unet.config.in_channels != vae.config.latent_channels:
        raise UserError(
            f"{folder}/unet takes {unet.config.in_channels} channels but its vae gives "
            f"{vae.config.latent_channels}: "
            f"{mend(folder, 'inpainting and depth models cannot be trained here')}."
        )
    if len(tokenizer) > vocabulary:
        raise UserError(
            f"{folder}/tokenizer has {len(tokenizer)} tokens but its text_encoder knows "
            f"{vocabulary}: {mend(folder, 'take both from one model')}."
        )


def hash_folder(folder: Path, variant: str | None) -> str:
    """SHA-256 hex over the names and bytes of every file that a model is loaded from."""
    digest = hashlib.sha256()
    for file in sorted(_loaded_files(folder, variant)):
        digest.update(f"{file.relative_to(folder).as_posix()} {file.stat().st_size} ".encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def mend(folder: Path, otherwise: str = MEND) -> str:
    """What to do about a damaged model: of the embedded one, whose path no user set, restore it."""
    return RESTORE if folder.resolve() == embedded.FOLDER.resolve() else otherwise


def reason(error: Exception) -> str:
    """First line of an exception, or its type, short enough to stand in a sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160].rstrip(". ")


@contextmanager
def keep_random_state() -> Iterator[None]:
    """Leave torch's global generators as they were: a library's initial values are no event."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        yield


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars from transformers: a model of a second's loading needs none."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def _weights_stem(part: str, variant: str | None) -> str:
    stem = "model" if part == "text_encoder" else "diffusion_pytorch_model"
    return f"{stem}.{variant}" if variant else stem


def _loaded_files(folder: Path, variant: str | None) -> Iterator[Path]:
    for part in WEIGHT_PARTS:
        stem = re.escape(_weights_stem(part, variant))
        for file in (folder / part).glob("*"):
            if file.name == "config.json":
                yield file
            elif re.fullmatch(rf"{stem}(-\d+-of-\d+)?\.safetensors", file.name):
                yield file
    yield from (file for file in (folder / "tokenizer").glob("*") if file.is_file())
    yield folder / "scheduler" / "scheduler_config.json"


def _first_absent(folder: Path, variant: str | None) -> str | None:
    names = ["model_index.json", *(f"{part}/config.json" for part in WEIGHT_PARTS)]
    names += ["tokenizer/tokenizer_config.json", "scheduler/scheduler_config.json"]
    # without either, transformers makes a tokenizer that knows no word
    if not (folder / "tokenizer" / "vocab.json").is_file():
        names.append("tokenizer/tokenizer.json")
    for name in names:
        if not (folder / name).is_file():
            return name
    present = {(file.parent.name, file.suffix) for file in _loaded_files(folder, variant)}
    for part in WEIGHT_PARTS:
        if (part, ".safetensors") not in present:
            return f"{part}/{_weights_stem(part, variant)}.safetensors"
    return None


def _patterns(variant: str | None) -> list[str]:
    stems = [f"{part}/{_weights_stem(part, variant)}" for part in WEIGHT_PARTS]
    weights = [s + end for s in stems for end in (".safetensors", "-*-of-*.safetensors")]
    weights += [f"{part}/*.safetensors.index*.json" for part in WEIGHT_PARTS]
    configs = [f"{part}/config.json" for part in WEIGHT_PARTS]
    return ["model_index.json", "tokenizer/*", "scheduler/*.json", *configs, *weights]
