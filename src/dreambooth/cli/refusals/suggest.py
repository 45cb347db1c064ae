"""The nearest word that exists, for a key or a choice that does not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path

from dreambooth.cli.configuration.configs import COMMANDS, keys_of

# what diffusers' train_dreambooth.py calls it => what it is called here
DIFFUSERS = {
    "learning_rate": "lr",
    "max_train_steps": "max_steps",
    "with_prior_preservation": "ppl",
    "train_batch_size": "batch_size",
    "gradient_accumulation_steps": "accumulate",
    "prior_loss_weight": "prior.weight",
    "mixed_precision": "trainer.precision",
    "pretrained_model_name_or_path": "model.path",
    "instance_data_dir": "subject.photos",
    "class_data_dir": "prior.images_dir",
    "snr_gamma": "loss.min_snr_gamma",
}

# what other programs and their users call it; of several the first that a command has
OTHERS = {
    "steps": ("max_steps", "num_inference_steps"),
    "epochs": ("max_steps",),
    "rank": ("method.adapter.r",),
    "network_dim": ("method.adapter.r",),
    "alpha": ("method.adapter.lora_alpha",),
    "network_alpha": ("method.adapter.lora_alpha",),
    "class": ("subject.class_noun", "class_noun"),
    "sampler": ("scheduler",),
    "device": ("trainer",),
    "gpu": ("trainer", "device"),
    "ema": ("ema_decay",),
}

# arguments of Lightning's Trainer that a run sets itself => the keys that it sets them by
OF_TRAINER = {
    "accumulate_grad_batches": "accumulate",
    "check_val_every_n_epoch": "evaluation.every_n_steps",
    "default_root_dir": "hydra.run.dir",
    "enable_checkpointing": "checkpoint.every_n_steps",
    "fast_dev_run": "max_steps",
    "gradient_clip_val": "max_grad_norm",
    "limit_train_batches": "max_steps",
    "logger": "logger",
    "max_epochs": "max_steps",
    "max_steps": "max_steps",
    "max_time": "max_steps",
    "overfit_batches": "photos.use",
    "val_check_interval": "evaluation.every_n_steps",
}

# what earlier versions called it
EARLIER = {
    "method.lora.rank": "method.adapter.r",
    "method.lora.alpha": "method.adapter.lora_alpha",
    "method.lora.dropout": "method.adapter.lora_dropout",
    "method.lora.targets": "method.adapter.target_modules",
}


def no_choice(group: str, name: str, names: Iterable[str]) -> str:
    """Say that a group has no such choice, and name the nearest one, or else all."""
    offered = sorted(n for n in names if not n.startswith("_"))
    near = get_close_matches(name, offered, n=1, cutoff=0.4)
    hint = f"did you mean {group}={near[0]}?" if near else f"choose {', '.join(offered)}."
    if group == "subject":
        hint += " For your own photos: subject=folder subject.photos=DIR subject.class_noun=dog."
    return f"{group}={name} does not exist: {hint}"


def no_trainer_key(key: str, taken: Iterable[str]) -> str:
    """Say that a run takes no such argument of the Trainer, and name the key that does its work."""
    named = [name for name in taken if not name.startswith("_")]
    near = get_close_matches(key, named, n=1)
    if own := OF_TRAINER.get(key):
        hint = f"set {own} instead."
    else:
        hint = f"did you mean trainer.{near[0]}?" if near else f"it takes {', '.join(named)}."
    return f"trainer.{key} is no argument of the Trainer that a run takes: {hint}"


def no_key(command: str, key: str, folders: Sequence[Path]) -> str:
    """Say that a command has no such key, and name the nearest one or the command that has it.

    A key is also found by its last word, and by the name that diffusers' script or others give it.
    """
    own, names = keys_of(command, folders), {**DIFFUSERS, **EARLIER}
    names |= {name: k for name, keys in OTHERS.items() for k in reversed(keys) if k in own}
    here = names.get(key, key)
    if key in own:  # of a group without a choice
        group = key.partition(".")[0]
        return f"{key} needs a choice of {group}: give {group}=NAME too; --help lists them."
    owners = [c for c in COMMANDS if here in keys_of(c, folders)]
    if owners and command not in owners:
        what = "it" if here == key else here
        named = f"{', '.join(owners[:-1])} and {owners[-1]}" if owners[1:] else owners[0]
        return f"{command} has no key {key}: {what} belongs to {named}."
    # of a model's file no user sets what it recommends and how studies are scaled
    asked = [k for k in sorted(own) if not k.startswith(("model.recommended.", "model.scale."))]
    last_words = {k.rpartition(".")[2]: k for k in asked}
    aliases = {alias: k for alias, k in names.items() if k in own}
    meant = last_words | aliases | {k: k for k in own}
    near = get_close_matches(key, sorted(meant), n=1)
    hint = f"did you mean {meant[near[0]]}?" if near else "--help lists every key."
    return f"There is no key {key}: {hint}"
