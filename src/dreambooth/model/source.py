"""Where a pretrained model's files are, which of them it needs, and a hash of what they hold."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, is_offline_mode, snapshot_download
from transformers import PreTrainedModel

from dreambooth.errors import RESTORE, UserError, reason
from dreambooth.files import folder_hash
from dreambooth.pocket import embedded

COPY_AGAIN = "point model.path at a whole diffusers pipeline folder, or copy it there again"


@dataclass(frozen=True)
class Layout:
    """What the folder of one kind of model holds.

    `pipeline` is the diffusers class that `model_index.json` names, `networks` the class of each
    network by the name of its folder. `described` says in words which models those are. `optional`
    names the networks and tokenizers that the folder may lack, where its index says so.
    """

    pipeline: Any
    networks: Mapping[str, Any] = field(hash=False)
    described: str
    tokenizers: tuple[str, ...] = ("tokenizer",)
    optional: tuple[str, ...] = ()

    def present_in(self, folder: Path) -> Layout:
        """Leave out the optional parts that the index of a folder says are not there."""
        if not self.optional:
            return self
        try:
            index = json.loads((folder / "model_index.json").read_text())
            absent = {name for name in self.optional if (index.get(name) or [None])[0] is None}
        except (OSError, ValueError, AttributeError):  # `check_complete` says what is amiss
            return self
        return replace(
            self,
            networks={name: kind for name, kind in self.networks.items() if name not in absent},
            tokenizers=tuple(name for name in self.tokenizers if name not in absent),
        )

    @property
    def absent(self) -> tuple[str, ...]:
        """The optional parts that were left out."""
        present = (*self.networks, *self.tokenizers)
        return tuple(name for name in self.optional if name not in present)

    def weights_stem(self, network: str, variant: str | None) -> str:
        """Return the name of a network's weight files, without shard number and suffix."""
        is_transformers = issubclass(self.networks[network], PreTrainedModel)
        stem = "model" if is_transformers else "diffusion_pytorch_model"
        return f"{stem}.{variant}" if variant else stem

    def patterns(self, variant: str | None) -> list[str]:
        """List the files to download, as glob patterns."""
        stems = [f"{part}/{self.weights_stem(part, variant)}" for part in self.networks]
        weights = [s + end for s in stems for end in (".safetensors", "-*-of-*.safetensors")]
        weights += [f"{part}/*.safetensors.index*.json" for part in self.networks]
        configs = [f"{part}/config.json" for part in self.networks]
        tokenizers = [f"{name}/*" for name in self.tokenizers]
        return ["model_index.json", *tokenizers, "scheduler/*.json", *configs, *weights]


@dataclass(frozen=True)
class Source:
    """Where a model comes from.

    `path` and `revision` are as the user gave them; `folder` holds the files; `commit` is the
    resolved commit of a model from the hub. `max_sequence_length` is what the model's pipeline is
    told, None where it takes none.
    """

    path: str
    revision: str | None
    variant: str | None
    folder: Path
    commit: str | None
    layout: Layout
    max_sequence_length: int | None = None

    @cached_property
    def weights_hash(self) -> str:
        """A hash of the files' content, or of hub id, commit and variant; computed once.

        With a `max_sequence_length`, which pictures depend on too, it is of both.
        """
        if self.commit is None:
            found = folder_hash(self.folder, self.files())
        else:
            name = f"{self.path}@{self.commit}:{self.variant}"
            found = hashlib.sha256(name.encode()).hexdigest()
        if self.max_sequence_length is None:
            return found
        return hashlib.sha256(f"{found}:{self.max_sequence_length}".encode()).hexdigest()

    def files(self) -> Iterator[Path]:
        """Yield every file that the model is loaded from."""
        for network in self.layout.networks:
            stem = re.escape(self.layout.weights_stem(network, self.variant))
            for file in (self.folder / network).glob("*"):
                if file.name == "config.json":
                    yield file
                elif re.fullmatch(rf"{stem}(-\d+-of-\d+)?\.safetensors", file.name):
                    yield file
        for name in self.layout.tokenizers:
            yield from (file for file in (self.folder / name).glob("*") if file.is_file())
        yield self.folder / "scheduler" / "scheduler_config.json"

    def first_absent(self) -> str | None:
        """Name the first file that the folder lacks; None when it is whole."""
        networks = self.layout.networks
        names = ["model_index.json", *(f"{network}/config.json" for network in networks)]
        tokenizers = self.layout.tokenizers
        names += [f"{name}/tokenizer_config.json" for name in tokenizers]
        names.append("scheduler/scheduler_config.json")
        # without either, transformers makes a tokenizer that knows no word
        spelled = [n for n in tokenizers if not (self.folder / n / "vocab.json").is_file()]
        names += [f"{name}/tokenizer.json" for name in spelled]
        for name in names:
            if not (self.folder / name).is_file():
                return name
        present = {(file.parent.name, file.suffix) for file in self.files()}
        for network in networks:
            if (network, ".safetensors") not in present:
                stem = self.layout.weights_stem(network, self.variant)
                return f"{network}/{stem}.safetensors"
        return None


def is_local(path: str) -> bool:
    """Tell whether a model is a local folder: it exists, or no hub id could be written so."""
    written = path.startswith((".", "/", "~")) or path.count("/") > 1
    return written or Path(path).expanduser().exists()


def ask_hub(path: str, revision: str | None) -> None:
    """Ask the hub one quick question: without a network its downloads retry for a minute or more.

    Raises:
        Exception: of the client's HTTP library; there is no network, or no such model.
    """
    HfApi().model_info(path, revision=revision, timeout=10)


def locate(
    path: str,
    revision: str | None,
    variant: str | None,
    layout: Layout,
    max_sequence_length: int | None = None,
) -> Source:
    """Find the folder of model `path`, downloading it from the hub if need be.

    A local folder is never asked of the hub. The hub's local cache is used first, then one question
    is asked.

    Raises:
        UserError: there is no such folder, or the hub does not give the model.
    """

    def source(folder: Path, commit: str | None) -> Source:
        own = layout.present_in(folder)
        return Source(path, revision, variant, folder, commit, own, max_sequence_length)

    local = Path(path).expanduser()
    if is_local(path):
        if not local.is_dir():
            state = "is not a folder" if local.exists() else "does not exist"
            raise UserError(f"the model {path} {state}: {COPY_AGAIN}.")
        return source(local, None)

    def snapshot(only_cached: bool) -> Source:
        files = layout.patterns(variant)
        downloaded = snapshot_download(
            path, revision=revision, allow_patterns=files, local_files_only=only_cached
        )
        return source(Path(downloaded), Path(downloaded).name)

    try:
        cached = snapshot(only_cached=True)
        if cached.first_absent() is None:
            return cached
    except Exception:  # it is not in the cache: each version of the client has its own type
        pass
    try:
        if is_offline_mode():
            raise OSError("HF_HUB_OFFLINE is set and the local cache lacks it")
        ask_hub(path, revision)
        return snapshot(only_cached=False)
    except Exception as error:  # the client raises its HTTP library's own types
        raise UserError(
            f"the model {path} is neither a local folder nor available from the model hub "
            f"({reason(error)}): check the name and the network, or {COPY_AGAIN}."
        ) from error


def check_complete(source: Source) -> None:
    """Refuse a folder that is not whole or holds another kind of model.

    Raises:
        UserError: names the first file that is absent, or the kind.
    """
    folder, layout = source.folder, source.layout
    absent = source.first_absent()
    if absent is not None:
        raise UserError(f"the model folder {folder} lacks {absent}: {fix_for(folder)}.")
    index = folder / "model_index.json"
    try:
        kind = json.loads(index.read_text()).get("_class_name")
    except (ValueError, OSError, AttributeError) as error:
        raise UserError(f"{index} cannot be read ({reason(error)}): {fix_for(folder)}.") from error
    if kind != layout.pipeline.__name__:
        raise UserError(
            f"the model {folder} is a {kind}: only {layout.pipeline.__name__} folders "
            f"({layout.described}) can be trained here."
        )


def fix_for(folder: Path, otherwise: str = COPY_AGAIN) -> str:
    """Say how to fix a damaged model; an embedded one, whose path no user set, is restored."""
    own = [each.resolve() for each in embedded.FOLDERS.values()]
    return RESTORE if folder.resolve() in own else otherwise
