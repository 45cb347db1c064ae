"""Full fine-tuning whose weights and optimizer state are divided among processes (FSDP)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeGuard

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import ModelParallelStrategy
from pytorch_lightning.strategies.strategy import Strategy
from torch import Tensor, nn
from torch.optim import Optimizer

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_state_dict_pre_hooks", "_state_dict_hooks")
HOOKS += ("_load_state_dict_pre_hooks", "_load_state_dict_post_hooks")


class Sharded(ModelParallelStrategy):
    """Divide every network that trains among the processes, with its gradients and its optimizer.

    It is PyTorch's `fully_shard` (FSDP2), which also runs on CPUs; Lightning's `FSDPStrategy`, the
    older FSDP, refuses them. Gradients are averaged over processes, as in DDP. Checkpoints are
    those of one process: a run may be resumed on another number of processes. While the first
    process draws, and when training has ended, each process holds the whole weights.
    """

    def __init__(self) -> None:
        super().__init__(save_distributed_checkpoint=False)
        self.blocks: dict[nn.Module, type[nn.Module]] = {}  # what is sharded => its own class

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        """Load a checkpoint into the whole weights, before they are divided."""
        return False

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Have Lightning call `load_optimizer_state_dict`."""
        return True

    def setup_environment(self) -> None:
        """Connect the processes; all of them divide the weights."""
        self._data_parallel_size, self._tensor_parallel_size = self.num_processes, 1
        super().setup_environment()

    def setup(self, trainer: pl.Trainer) -> None:
        """Divide the networks that train, then make the optimizer of the parts."""
        assert self.accelerator is not None
        self.accelerator.setup(trainer)
        self.model_to_device()
        model: Any = trainer.lightning_module.model
        for name in (model.denoiser, *model.text_encoders):
            network = model.network(name)
            if any(parameter.requires_grad for parameter in network.parameters()):
                self._shard(network)
        self.barrier()
        self.setup_optimizers(trainer)
        self.setup_precision_plugin()

    def _shard(self, network: nn.Module) -> None:
        """Divide a network block by block: one block at a time is whole in a step."""
        from torch.distributed.fsdp import fully_shard

        lists = [m for m in network.modules() if isinstance(m, nn.ModuleList)]
        inner = {id(m) for outer in lists for m in outer.modules() if m is not outer}
        blocks = [block for outer in lists if id(outer) not in inner for block in outer]
        for module in (*blocks, network):
            self.blocks[module] = type(module)
            fully_shard(module, mesh=self.device_mesh["data_parallel"])

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Have the whole weights in each process, so that one of them can use the model alone."""
        sharded: list[Any] = list(self.blocks)
        for module in sharded:
            module.set_reshard_after_forward(False)
            module.unshard()
        try:
            yield
        finally:
            for module in sharded:
                module.reshard()
                module.set_reshard_after_forward(True)

    def on_train_end(self) -> None:
        """Put the whole weights back, as plain parameters of plain modules."""
        module: Any
        for module, own_class in self.blocks.items():
            module.reshard()
            for owner in module.modules():
                for name, parameter in list(owner.named_parameters(recurse=False)):
                    if is_divided(parameter):
                        tensor = parameter.full_tensor().detach()
                        setattr(owner, name, nn.Parameter(tensor, parameter.requires_grad))
            module.__class__ = own_class
            for hooks in HOOKS:
                getattr(module, hooks).clear()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return nothing: the module lists what trains itself."""
        return {}

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the optimizer's whole state on the first process."""
        state: Any = Strategy.optimizer_state(self, optimizer)
        return {**state, "state": {k: gathered(own) for k, own in state["state"].items()}}

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Divide a whole optimizer state as its parameters are."""
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            state = {
                number: {name: _divided(value, parameters[number]) for name, value in own.items()}
                for number, own in saved["state"].items()
            }
            optimizer.load_state_dict({**saved, "state": state})

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> Any:
        """Read and verify a checkpoint of one file."""
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only)


def gathered(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Return divided tensors whole on the first process, in its memory; all processes take part.

    What is not divided is returned as it is.
    """
    return {name: _whole(tensor) for name, tensor in tensors.items()}


def local(tensor: Tensor) -> Tensor:
    """Return this process's part of a divided tensor; any other is whole."""
    return tensor.to_local() if is_divided(tensor) else tensor


def is_divided(value: Any) -> TypeGuard[DTensor]:
    """Tell a DTensor by what it has, because importing the class takes time."""
    return hasattr(value, "full_tensor")


def _whole(tensor: Any) -> Any:
    if not is_divided(tensor):
        return tensor
    full = tensor.full_tensor().cpu()
    return full if torch.distributed.get_rank() == 0 else torch.empty(0)


def _divided(value: Any, parameter: Tensor) -> Any:
    from torch.distributed.tensor import distribute_tensor

    is_like = isinstance(value, Tensor) and value.shape == parameter.shape and value.dim() > 0
    if not (is_like and is_divided(parameter)):
        return value
    value = value.to(parameter.device)
    return distribute_tensor(value, parameter.device_mesh, parameter.placements)
