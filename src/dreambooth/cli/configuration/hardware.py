"""Where and how the networks of a run work: device, processes, precision of frozen weights."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch

from dreambooth.cli.configuration.factories import trainer_factory
from dreambooth.errors import UserError
from dreambooth.model.quantization import check_quantization
from dreambooth.study.costs.sizes import ON_GPU
from dreambooth.training.spec import HardwareSpec

# adapters of PEFT that need no more of a layer than its outputs, or read quantised weights (DoRA);
# others have updates of the weights' shape, which 4 bits do not keep
UNDER_QUANTIZED = ("LoraConfig", "OFTConfig")
# what launchers of several machines tell each process
STARTED_BY = ("SLURM_JOB_ID", "MASTER_ADDR", "TORCHELASTIC_RUN_ID")


def hardware_spec(config: Mapping[str, Any]) -> HardwareSpec:
    """Build what says where and how the networks run.

    Raises:
        UserError: a Trainer that cannot be made on this machine.
    """
    _check_sharding(config)
    _check_processes(config["trainer"])
    _check_offload(config)
    device = _device(config["trainer"])  # first: it words what Lightning would refuse too
    _check_half(config["frozen_dtype"], config["trainer"]["precision"], device)
    quantize = config["model"]["quantize"]
    if quantize is not None:
        _check_quantization(config, quantize, device)
    return HardwareSpec(
        trainer_factory(config["trainer"]),
        device,
        config["frozen_dtype"],
        config["gradient_checkpointing"],
        config["compile"],
        quantize,
        config["offload"] and device == "cuda",  # a CPU's networks are in one memory anyway
    )


def _check_half(frozen_dtype: str, precision: str, device: str) -> None:
    """Refuse float16 weights under a CPU's autocast, which is bfloat16 whatever is asked.

    Raises:
        UserError: names both keys.
    """
    if device == "cpu" and frozen_dtype == "float16" and precision != "32-true":
        raise UserError(
            f"frozen_dtype=float16 cannot be used with trainer.precision={precision} on a CPU, "
            "which computes that in bfloat16 and mixes no two half precisions: use "
            "frozen_dtype=bfloat16."
        )


def _check_quantization(config: Mapping[str, Any], bits: str, device: str) -> None:
    """Refuse quantised layers that would have to train, and those that the device cannot run.

    Raises:
        UserError: names the method, the adapter or the device.
    """
    method, adapter = config["method"], config["method"].get("adapter") or {}
    kinds = [phase["unet"] for phase in method["phases"]]
    kind = adapter.get("_target_", "").rpartition(".")[2]
    if any(each not in ("frozen", "adapter") for each in kinds):
        fault = f"method={method['name']} trains weights of the denoiser, which must be frozen"
    elif "adapter" in kinds and kind not in UNDER_QUANTIZED:
        fault = f"{kind} needs the exact weights of its layers"
    elif adapter.get("use_dora") and bits == "8bit":
        fault = "PEFT loses the scales of 8-bit layers under DoRA, where model.quantize=4bit works"
    else:
        return check_quantization(bits, device)
    raise UserError(
        f"model.quantize={bits} cannot be used, because {fault}: use method=lora, or "
        "model.quantize=null."
    )


def _check_processes(trainer: Mapping[str, Any]) -> None:
    """Refuse more processes on a CPU than it has cores, and machines that nothing starts.

    Raises:
        UserError: names the key, and how many there are.
    """
    nodes = trainer.get("num_nodes", 1)
    if nodes != 1 and not any(name in os.environ for name in STARTED_BY):
        raise UserError(
            f"trainer.num_nodes={nodes} waits for ever for processes on other machines, and no "
            "launcher started this one: use srun or torchrun, or trainer.num_nodes=1."
        )
    devices, on_gpu = trainer.get("devices"), trainer["accelerator"] in ("gpu", "cuda", "mps")
    if on_gpu or torch.cuda.is_available() and trainer["accelerator"] == "auto":
        return  # Lightning counts the GPUs
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if isinstance(devices, str) and devices.isdecimal():  # which Lightning takes too
        devices = int(devices)
    if isinstance(devices, int) and devices > (cores or 1):
        raise UserError(
            f"trainer.devices={devices} is more than the {cores} cores of this machine's CPU that "
            "a run may use: use fewer."
        )


def _check_offload(config: Mapping[str, Any]) -> None:
    """Refuse moving weights whose gradients several processes share.

    Raises:
        UserError: names the key.
    """
    devices = config["trainer"].get("devices")
    if config["offload"] and devices not in (1, "1") and not _is_list_of_one(devices):
        raise UserError(
            f"offload=true works in one process, and trainer.devices={devices}: use "
            "trainer.devices=1 or offload=false."
        )


def _is_list_of_one(devices: Any) -> bool:
    return isinstance(devices, list) and len(devices) == 1


def _check_sharding(config: Mapping[str, Any]) -> None:
    """Refuse what divided weights cannot do.

    Raises:
        UserError: names the key.
    """
    strategy = config["trainer"].get("strategy")
    if not isinstance(strategy, Mapping) or not strategy["_target_"].endswith("sharding.Sharded"):
        return
    phases = config["method"]["phases"]
    kinds = [phase[part] for phase in phases for part in ("unet", "text_encoder")]
    for key, is_refused in (
        ("method", len(phases) > 1 or any(kind not in ("full", "frozen") for kind in kinds)),
        ("ema_decay", config["ema_decay"] is not None),
        ("compile", config["compile"]),
    ):
        if is_refused:
            raise UserError(
                f"trainer=fsdp trains method=full without ema_decay and compile, and {key} asks "
                "for something else: change it, or use trainer=ddp."
            )


def _device(trainer: Mapping[str, Any]) -> str:
    """Return `cuda` where the trainer may use it, else `cpu`.

    Raises:
        UserError: a GPU is asked for, and PyTorch finds none.
    """
    accelerator, found = trainer["accelerator"], torch.cuda.is_available()
    if accelerator in ON_GPU and not found:
        raise UserError(
            f"trainer.accelerator={accelerator} needs a GPU, and PyTorch finds none here: use "
            "trainer=auto or trainer=cpu."
        )
    return "cuda" if found and accelerator in ("auto", "gpu", "cuda") else "cpu"
