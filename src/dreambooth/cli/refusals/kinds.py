"""What kind of value each key of a training configuration takes. Imports nothing heavy."""

from __future__ import annotations

from dreambooth.cli.drawing.axes import is_seed, is_whole

POSITIVE = (
    "lr",
    "max_steps",
    "resolution",
    "batch_size",
    "accumulate",
    "max_grad_norm",
    "augment.num_crops",
    "prior.num_class_images",
    "prior.batch_size",
    "prior.num_inference_steps",
    "checkpoint.every_n_steps",
    "checkpoint.keep",
    "sampling.num_inference_steps",
    "sampling.batch_size",
    "photos.rendered",
    "reuse.keep_gib",
    "export.rank",
    "logger.wait",
    "trainer.log_every_n_steps",
)
NOT_NEGATIVE = (
    "prior.weight",
    "prior.weight_end",
    "prior.guidance_scale",
    "sampling.guidance_scale",
    "lr_warmup_steps",
    "loss.noise_offset",
    "samples.every_n_steps",
)
WHOLE = (
    "max_steps",
    "resolution",
    "batch_size",
    "accumulate",
    "augment.num_crops",
    "prior.num_class_images",
    "prior.batch_size",
    "lr_warmup_steps",
    "prior.num_inference_steps",
    "checkpoint.every_n_steps",
    "checkpoint.keep",
    "sampling.num_inference_steps",
    "sampling.batch_size",
    "samples.every_n_steps",
    "export.rank",
    "trainer.log_every_n_steps",
)
OPTIONAL = {
    "text_encoder_lr": ("null or greater than 0", lambda v: v > 0),
    "text_encoder_stop_step": (
        "null or a whole number greater than 0",
        lambda v: is_whole(v) and v > 0,
    ),
    "loraplus_lr_ratio": ("null or a number, 1 or greater", lambda v: v >= 1),
    "loss.min_snr_gamma": ("null or greater than 0", lambda v: v > 0),
    "ema_decay": ("null or between 0 and 1", lambda v: 0 < v < 1),
    "checkpoint.patience": (
        "null or a whole number greater than 0",
        lambda v: is_whole(v) and v > 0,
    ),
    "checkpoint.keep_when_finished": (
        "null or a whole number, 0 or greater",
        lambda v: is_whole(v) and v >= 0,
    ),
    "photos.use": ("null or a whole number greater than 0", lambda v: is_whole(v) and v > 0),
}
SEEDS = ("seed", "prior.seed")
TEXTS = ("instance_prompt", "class_prompt", "subject_phrase", "identifier", "cache_dir")
TEXTS += ("output_dir", "model.name", "model.path", "method.name", "subject.name")
TEXTS += ("subject.class_noun", "scheduler.name", "prior.sampler.name", "optimizer._target_")
FOLDERS = ("subject.photos", "photos.root", "prior.images_dir")
LISTS = {
    "samples.prompts": ('["a {subject}"]', lambda v: isinstance(v, str) and bool(v.strip())),
    "samples.seeds": ("[0,1]", is_seed),
    "export.layouts": (
        "[diffusers,kohya]",
        lambda v: v in ("diffusers", "kohya", "peft", "single_file"),
    ),
    "evaluation.metrics": ("[dino,clip_t]", lambda v: isinstance(v, str)),
}
# what the block `method` may hold
METHOD = ("name", "phases", "adapter", "token", "uses_prior", "identifier", "subject_phrase")
METHOD += ("token_lr", "token_max_steps", "continue_token")
# what a run takes of the arguments of Lightning's Trainer; it sets the others itself, or has no use
TRAINER = ("_target_", "accelerator", "devices", "num_nodes", "strategy", "precision")
TRAINER += ("log_every_n_steps", "benchmark", "deterministic", "detect_anomaly", "profiler")
SWITCHES = (
    "dry_run",
    "ppl",
    "train_text_encoder",
    "gradient_checkpointing",
    "offload",
    "compile",
    "augment.random_crop",
    "augment.flip",
    "reuse.enabled",
    "logger.wandb",
    "logger.tensorboard",
    "logger.artifacts",
)
CHOICES = {
    "pairing": ("independent", "diffusers"),
    "prior.kind": ("images", "prediction"),
    "prior.weight_schedule": ("constant", "linear", "cosine"),
    "loss.noise_schedule_dtype": ("float32", "latents"),
    "loss.timesteps": ("uniform", "logit_normal", "mode", "shifted"),
    "loss.weighting": ("none", "sigma_sqrt", "sigma_squared", "cosmap"),
    "frozen_dtype": ("float32", "bfloat16", "float16"),
    "model.quantize": (None, "8bit", "4bit"),
    "export.kind": ("auto", "full", "lora", "none"),
    "export.dtype": ("float32", "float16", "bfloat16"),
    "trainer.accelerator": ("auto", "cpu", "gpu", "cuda", "mps"),
    "trainer.precision": ("32-true", "bf16-mixed", "16-mixed"),
    "lr_schedule": (
        "constant",
        "constant_with_warmup",
        "linear",
        "cosine",
        "cosine_with_restarts",
        "polynomial",
    ),
}
