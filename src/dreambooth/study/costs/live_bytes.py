"""Count the bytes of tensors that are alive at once, on any device, the meta device too."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # read where torch is not needed
    from torch import Tensor


class LiveBytes:
    """Count the bytes of the storages that are alive, but for those of some parameters."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.now = self.peak = 0
        self._parameters = [p.untyped_storage() for p in parameters]  # kept, as ids name them
        self._seen = {id(storage) for storage in self._parameters}

    def watched(self) -> Any:
        """Make a context in which every new storage is counted until it is freed."""
        from torch.utils._python_dispatch import TorchDispatchMode
        from torch.utils._pytree import tree_leaves

        note = self._note

        class Watch(TorchDispatchMode):
            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
                result = func(*args, **(kwargs or {}))
                for leaf in tree_leaves(result):
                    if hasattr(leaf, "untyped_storage"):
                        note(leaf.untyped_storage())
                return result

        return Watch()

    def _note(self, storage: Any) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self._seen:
            return
        self._seen.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size
