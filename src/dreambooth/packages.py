"""Packages that only some options need: they are imported where they are used."""

from __future__ import annotations

from importlib.util import find_spec

from dreambooth.errors import UserError


def need(package: str, option: str, instead: str, module: str | None = None) -> None:
    """Refuse an option whose package is not installed; nothing is imported.

    Args:
        package: the package's name for pip.
        option: the setting that needs it, such as `optimizer=adamw_8bit`.
        instead: what to do without it, such as `choose optimizer=adamw`.
        module: the package's import name; None if it is `package`.

    Raises:
        UserError: names the option, the package and both ways out.
    """
    if find_spec(module or package) is None:
        raise UserError(
            f"{option} needs the package {package}, which is not installed here: run "
            f"`pip install {package}`, or {instead}."
        )
