"""The lines of Python that load an export with diffusers and draw one of the run's pictures."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from transformers import CLIPTextModelWithProjection

from dreambooth.model.interface import BaseModel
from dreambooth.model.source import Source
from dreambooth.model.token_files import TOKEN_FILE, read_token


@dataclass(frozen=True)
class Picture:
    """One picture of a run; `resolution` is pixels a side.

    A `dtype` other than `float32` draws under autocast, as the run does, and `offload` with one
    network at a time on the GPU.
    """

    prompt: str
    seed: int
    num_inference_steps: int
    guidance_scale: float
    resolution: int
    negative_prompt: str = ""
    device: str = "cpu"
    dtype: str = "float32"
    offload: bool = False


def snippet(
    model: BaseModel, kind: str, exported: Path, scheduler: SchedulerMixin, picture: Picture
) -> str:
    """Write a program that draws `picture` from an export and saves it as `out.png`.

    Args:
        model: the base model that was trained.
        kind: `full`, a pipeline folder that names `scheduler` as its sampler; `single_file`, a
            whole model as one file; `lora` or `adapter`, a folder, which may hold a token's file
            too; `kohya`, an adapter as one file; or `token`, a textual-inversion file. All but the
            first two are loaded into the base model. Beside one file may lie that of a token.
        exported: that folder or file.
        scheduler: the sampler that the run drew the picture with.
    """
    pipeline, sampler = model.layout.pipeline.__name__, type(scheduler).__name__
    if kind == "full":
        load = _load(pipeline, str(exported), **dict.fromkeys(model.layout.absent))
        lines = [f"from diffusers import {pipeline}", "", load]
    else:
        names = ", ".join(sorted((pipeline, sampler)))
        options = _arguments(sampler_options(model.source, scheduler))
        load = _load(pipeline, model.source.path, **_loading_options(model.source))
        if kind == "single_file":
            load = _load_single_file(pipeline, exported, model.source.path)
        lines = [
            f"from diffusers import {names}",
            "",
            load,
            f"pipe.scheduler = {sampler}.from_config(pipe.scheduler.config{options})",
        ]
        lines += _load_learned(model, kind, exported)
    return "\n".join(["import torch", *lines, *_draw(model, picture)]) + "\n"


def sampler_options(source: Source, scheduler: SchedulerMixin) -> dict[str, Any]:
    """List what makes `scheduler` of the sampler that a model's folder names.

    `type(scheduler).from_config(pipe.scheduler.config, **options)` then samples as `scheduler`
    does, where `pipe` is loaded from the folder.
    """
    config = json.loads((source.folder / "scheduler" / "scheduler_config.json").read_text())
    named = getattr(diffusers, config["_class_name"]).from_config(config)
    wanted: Any = scheduler
    plain = type(wanted).from_config(named.config).config
    names = [name for name in inspect.signature(type(wanted).__init__).parameters if name in plain]
    return {name: wanted.config[name] for name in names if wanted.config[name] != plain[name]}


def _loading_options(source: Source) -> dict[str, Any]:
    """List what `from_pretrained` must be told to load the model that was trained."""
    options: dict[str, Any] = {"revision": source.revision, "variant": source.variant}
    options = {name: value for name, value in options.items() if value is not None}
    index = json.loads((source.folder / "model_index.json").read_text())
    if (index.get("safety_checker") or [None])[0] is not None:
        options["safety_checker"] = None  # it blackens pictures, and no run uses it
    # of a folder without them, diffusers must be told so
    return options | dict.fromkeys(source.layout.absent)


def _load(pipeline: str, path: str, **options: Any) -> str:
    # transformers would keep a text encoder in the dtype of its file, beside a float32 U-Net
    where = f"{_text(path)}{_arguments(options)}, dtype=torch.float32"
    return f"pipe = {pipeline}.from_pretrained({where})"


def _load_single_file(pipeline: str, file: Path, base: str) -> str:
    # the base model's folder has the tokenizer and the sizes, which the file has not
    where = f"{_text(str(file))}, config={_text(base)}, dtype=torch.float32"
    return f"pipe = {pipeline}.from_single_file({where})"


def _load_learned(model: BaseModel, kind: str, exported: Path) -> list[str]:
    """Write the lines that put what was learned into the base model."""
    folder = exported.parent if kind in ("single_file", "kohya") else exported
    file = exported if kind == "token" else folder / TOKEN_FILE
    has_token = kind == "token" or file.is_file()
    lines = _load_token(model, file) if has_token else []
    if kind in ("lora", "kohya"):
        lines.append(f"pipe.load_lora_weights({_text(str(exported))})")
    elif kind == "adapter":
        lines.insert(0, "from peft import PeftModel")
        for name in model.trainable_networks:
            if (place := exported / name).is_dir():
                loaded = f"PeftModel.from_pretrained(pipe.{name}, {_text(str(place))})"
                lines.append(f"pipe.{name} = {loaded}.get_base_model()")
    return lines


def _load_token(model: BaseModel, file: Path) -> list[str]:
    """Write the lines that load a token's file."""
    path, encoders = _text(str(file)), model.token_encoders
    if len(encoders) == 1:
        return [f"pipe.load_textual_inversion({path})"]
    word = _text(read_token(file).token)
    lines = ["from safetensors.torch import load_file", f"learned = load_file({path})"]
    for encoder, name in encoders.items():
        tokenizer = f"pipe.{encoder.replace('text_encoder', 'tokenizer')}"
        into = f"text_encoder=pipe.{encoder}, tokenizer={tokenizer}"
        lines.append(f'pipe.load_textual_inversion(learned["{name}"], token={word}, {into})')
        if issubclass(model.layout.networks[encoder], CLIPTextModelWithProjection):
            # as `add_words`, which says why
            text = f"pipe.{encoder}.text_model"
            lines.append(f"{text}.eos_token_id = {tokenizer}.eos_token_id")
    return lines


def _draw(model: BaseModel, picture: Picture) -> list[str]:
    """Write the lines from the loaded pipeline `pipe` to the file."""
    call = [
        "image = pipe(",
        f"    prompt={_text(picture.prompt)},",
        *([f"    negative_prompt={_text(n)},"] if (n := picture.negative_prompt) else []),
        f"    num_inference_steps={picture.num_inference_steps},",
        f"    guidance_scale={picture.guidance_scale},",
        f"    height={picture.resolution},",
        f"    width={picture.resolution},",
        *(f"    {name}={value!r}," for name, value in model.drawing_options.items()),
        f"    generator=torch.Generator().manual_seed({picture.seed}),",
        ").images[0]",
    ]
    if picture.dtype != "float32":
        under = f'with torch.autocast("{picture.device}", torch.{picture.dtype}):'
        call = [under, *(f"    {line}" for line in call)]
    before = [f'pipe.to("{picture.device}")'] if picture.device != "cpu" else []
    before = ["pipe.enable_model_cpu_offload()"] if picture.offload else before
    if picture.dtype == "float16" and model.overflows_in_float16:
        outside = f'torch.autocast("{picture.device}", enabled=False)'
        decode = "lambda latents, **options: decode(latents.float(), **options)"
        before += ["decode = pipe.vae.decode", f"pipe.vae.decode = {outside}({decode})"]
    return [*before, *call, 'image.save("out.png")']


def _arguments(options: dict[str, Any]) -> str:
    return "".join(f", {name}={value!r}" for name, value in options.items())


def _text(value: str) -> str:
    """Write a Python string in double quotes."""
    return json.dumps(value, ensure_ascii=False)
