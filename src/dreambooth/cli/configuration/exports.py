"""The block `export` of a configuration as what a run leaves of its model, checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dreambooth.errors import UserError
from dreambooth.training.output_spec import ExportSpec
from dreambooth.training.spec import MethodSpec

# layouts of what a run can export, and what it is in words
LAYOUTS = {
    "full": ("diffusers", "single_file"),
    "lora": ("diffusers", "kohya", "peft"),
    "adapter": ("diffusers", "peft"),
    "token": ("diffusers",),
    "none": ("diffusers",),
}
EXPORTED = {
    "full": "a whole model",
    "lora": "a LoRA",
    "adapter": "an adapter that only PEFT has",
    "token": "the embedding of a token",
    "none": "no model",
}


def export_spec(block: Mapping[str, Any], method: MethodSpec) -> ExportSpec:
    """Build what a run leaves of its model.

    Raises:
        UserError: a kind that the method does not make, or a layout that the kind does not have.
    """
    kind = method.export if block["kind"] == "auto" else block["kind"]
    if kind == "lora" and method.export == "token":
        raise UserError(
            "export.kind=lora needs a method that trains more than a word, such as method=lora: "
            "use export.kind=auto."
        )
    layouts, allowed = tuple(block["layouts"]), LAYOUTS[kind]
    for layout in layouts:
        if layout not in allowed:
            raise UserError(
                f"export.layouts has {layout}, and this run exports {EXPORTED[kind]}: use "
                f"{' or '.join(allowed)}."
            )
    if kind != "none" and "diffusers" not in layouts:
        raise UserError("export.layouts must hold diffusers, which generate.py loads a run from.")
    is_dora = method.adapter is not None and method.adapter.options.get("use_dora")
    if "kohya" in layouts and is_dora:
        raise UserError(
            "export.layouts has kohya, whose readers disagree on the norms of a DoRA: use "
            "diffusers or peft, or export.kind=full."
        )
    rank = block["rank"] if kind == "lora" and method.export != "lora" else None
    return ExportSpec(kind, block["dtype"], layouts, block["verify"], block["push_to_hub"], rank)
