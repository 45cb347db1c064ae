"""What a file of weights says of itself: the fields that user interfaces show.

`modelspec.*` is Stability's specification (github.com/Stability-AI/ModelSpec), `ss_*` are the
fields of kohya's scripts. No date and no version: equal weights make equal files.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from dreambooth.training.prepare import Prepared

WIDTH_OF_V1, WIDTH_OF_V2 = 768, 1024  # of the text encoders
PREDICTED = {"epsilon": "epsilon", "v_prediction": "v"}  # the specification has no other
ADAPTERS = {"lora": "/lora", "adapter": "/lora", "token": "/textual-inversion"}


def metadata_of(prepared: Prepared, kind: str) -> dict[str, str]:
    """List the fields of a file that holds an export of `kind`."""
    spec, model = prepared.spec, prepared.model
    words, side = spec.subject.words, spec.sampling.resolution
    fields = {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": _architecture(prepared) + ADAPTERS.get(kind, ""),
        "modelspec.implementation": "https://github.com/huggingface/diffusers",
        "modelspec.title": f"{words.phrase}, {spec.config['method']['name']}",
        "modelspec.description": f"DreamBooth of a {words.class_noun} on {spec.model.name}",
        "modelspec.trigger_phrase": words.phrase,
        "modelspec.resolution": f"{side}x{side}",
    }
    if predicted := PREDICTED.get(model.process.prediction_type):
        fields["modelspec.prediction_type"] = predicted
    is_kohyas = kind == "lora" and "kohya" in model.export_layouts
    return fields | (_of_kohya(prepared) if is_kohyas else {})


def _architecture(prepared: Prepared) -> str:
    if prepared.model.modelspec is not None:
        return prepared.model.modelspec
    width = prepared.model.text_encoder.config.hidden_size
    if width == WIDTH_OF_V1:
        return "stable-diffusion-v1"
    if width == WIDTH_OF_V2:
        is_v = prepared.model.process.prediction_type == "v_prediction"
        return "stable-diffusion-v2-768-v" if is_v else "stable-diffusion-v2-512"
    return f"{prepared.spec.model.name}-stable-diffusion"


def _of_kohya(prepared: Prepared) -> dict[str, str]:
    """List what kohya's scripts write of a LoRA's training; rank and alpha are the file's own."""
    spec, config = prepared.spec, prepared.spec.config
    is_v2 = prepared.model.text_encoder.config.hidden_size == WIDTH_OF_V2
    is_xl = len(prepared.model.text_encoders) > 1
    prompts = Counter(prepared.batches.instance.prompts)
    fields: dict[str, Any] = {
        "ss_network_module": "networks.lora",
        "ss_sd_model_name": spec.model.path.rstrip("/").rpartition("/")[2],
        "ss_base_model_version": "sdxl_base_v1-0" if is_xl else "sd_v2" if is_v2 else "sd_v1",
        "ss_v2": is_v2,
        "ss_output_name": spec.subject.name,
        "ss_resolution": f"({spec.sampling.resolution}, {spec.sampling.resolution})",
        "ss_learning_rate": spec.method.phases[-1].lr,
        "ss_max_train_steps": spec.method.steps_before(len(spec.method.phases)),
        "ss_batch_size_per_device": spec.data.batch_size,
        "ss_num_train_images": len(prepared.training_photos),
        "ss_optimizer": config["optimizer"]["_target_"],
        "ss_lr_scheduler": spec.optimizer.lr_schedule,
        "ss_seed": spec.seed,
        "ss_tag_frequency": json.dumps({spec.subject.name: prompts}, sort_keys=True),
    }
    return {name: str(value) for name, value in fields.items()}
