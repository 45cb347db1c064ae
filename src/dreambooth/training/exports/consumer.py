"""Run programs that load exports where nothing of this package can be imported.

`fresh_process` has a process that forks for each program, so that every one runs in a fresh
process and none waits for the imports of a consumer's libraries again. It is this file, a script of
its own, or a fork of a command that has imported these libraries and has not begun to work.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any, NoReturn, TextIO

PROGRAM, RESULT, PICTURE = "program.py", "result.json", "out.png"  # in the folder of a job
HIDDEN: Any = {
    "dreambooth": None,  # no consumer has it
    "bitsandbytes": None,  # PEFT would import it, for seconds; no export has quantized weights
}
SAVING = "image.save("  # begins a program's last line; its picture goes into the folder of the job


def digest(tensor: Any) -> str:
    """Hash a tensor's values in float32, whatever its dtype, shape and device."""
    values = tensor.detach().float().cpu().contiguous().numpy()
    return hashlib.sha256(values).hexdigest()


def held(pipeline: Any) -> dict[str, list[str]]:
    """Hash what a pipeline's networks hold.

    Returns:
        `adapters`: of the tensors that PEFT has put around layers; `weights`: of all floating-point
        tensors; `words`: of the embeddings of each word that was added to a tokenizer.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from torch.nn import Module

    parts = {name: part for name, part in pipeline.components.items() if isinstance(part, Module)}
    adapters, weights = [], []
    for part in parts.values():
        weights += [digest(x) for x in part.state_dict().values() if x.is_floating_point()]
        for layer in (module for module in part.modules() if isinstance(module, BaseTunerLayer)):
            state = layer.state_dict().items()
            adapters += [digest(x) for name, x in state if not name.startswith("base_layer.")]
    words = [digest(row) for row in _added_rows(pipeline, parts)]
    return {"adapters": adapters, "weights": weights, "words": words}


def _added_rows(pipeline: Any, parts: dict[str, Any]) -> Iterator[Any]:
    for name, part in parts.items():
        tokenizer = pipeline.components.get(name.replace("text_encoder", "tokenizer"))
        if name.startswith("text_encoder") and tokenizer is not None:
            yield from part.get_input_embeddings().weight[[*tokenizer.get_added_vocab().values()]]


def work(folder: str) -> None:
    """Run the program in `folder`, and write its picture and `result.json` there."""
    names: dict[str, Any] = {}
    result: dict[str, Any] = {"error": None}
    try:
        with open(os.path.join(folder, PROGRAM), encoding="utf-8") as file:
            lines = [line for line in file if not line.startswith(SAVING)]
        exec(compile("".join(lines), PROGRAM, "exec"), names)
        names["image"].save(os.path.join(folder, PICTURE))
        result |= held(names["pipe"])
    except Exception as error:  # whatever a consumer raises
        lines = str(error).strip().splitlines() or [""]
        kind = type(error).__name__
        result["error"] = f"{kind}: {lines[0][:160].rstrip('. ')}" if lines[0] else kind
    with open(os.path.join(folder, RESULT), "w", encoding="utf-8") as file:
        json.dump(result, file)


def serve(pipeline: str) -> None:
    """Import what a program imports, and do the jobs whose folders standard input names.

    A line with an exit code follows each; a negative one is a signal's.
    """
    replies = os.fdopen(os.dup(1), "w")
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    # asking for GPUs must not start CUDA, which no fork could use any more
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    has_gpu = _import(pipeline)
    os.dup2(silent, 2)  # from here on, what fails is in the result
    _do_all(sys.stdin, replies, has_gpu)


def serve_forked(jobs: int, replies: int) -> NoReturn:
    """As `serve`, in a fork of a command on a CPU.

    Args:
        jobs, replies: descriptors of the pipes that lead here and back.
    """
    os.setsid()  # what ends the command by a key must not end this one halfway
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    silent = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(silent, stream)
    for name in [name for name in sys.modules if name.partition(".")[0] == "dreambooth"]:
        del sys.modules[name]
    sys.modules.update(HIDDEN)
    gc.freeze()
    try:
        with open(jobs) as lines, open(replies, "w") as answers:
            _do_all(lines, answers, has_gpu=False)
    finally:
        os._exit(0)


def _do_all(jobs: Iterable[str], replies: TextIO, has_gpu: bool) -> None:
    for line in jobs:
        print(_do(line.rstrip("\n"), has_gpu), file=replies, flush=True)


def _import(pipeline: str) -> bool:
    """Import what programs need, without starting CUDA; tell whether there is a GPU."""
    gc.disable()  # libraries make a million objects that stay
    sys.modules["scipy.stats"] = ModuleType("scipy.stats")  # takes a second; loads where it is used
    import diffusers
    import peft  # noqa: F401
    import torch
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    getattr(diffusers, pipeline)
    _ = DDIMScheduler().compatibles  # imports all samplers, as loading a pipeline does
    del sys.modules["scipy.stats"]
    gc.freeze()
    gc.enable()
    return torch.cuda.is_available()


def _do(folder: str, has_gpu: bool) -> int:
    alone = [sys.executable, "-P", __file__, "--alone", folder]
    if sys.platform != "linux":  # libraries of other systems do not survive a fork
        return subprocess.call(alone, stdout=1, stderr=2)
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    import torch

    if has_gpu and torch.cuda._is_in_bad_fork():  # CUDA has been started after all
        os.execv(sys.executable, alone)
    work(folder)
    os._exit(0)


if __name__ == "__main__":
    sys.modules.update(HIDDEN)
    if sys.argv[1] == "--alone":
        work(sys.argv[2])
    else:
        serve(sys.argv[1])
