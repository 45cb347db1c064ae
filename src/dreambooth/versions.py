"""The versions that a run is made with: of this program, of Python, and of the libraries."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from dreambooth import __version__

LIBRARIES = ("torch", "diffusers", "transformers", "peft", "pytorch-lightning")


@cache
def versions() -> dict[str, str]:
    """Return versions by name; `commit` only where the program runs from a git checkout.

    A commit whose files were changed since ends with `, changed`.
    """
    found = {"dreambooth": __version__, "commit": _commit(), "python": platform.python_version()}
    return {name: text for name, text in found.items() if text} | {
        name: text for name in LIBRARIES if (text := _installed(name))
    }


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Ask git which commit the sources are of; None outside a checkout or without git."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    commit = _git(root, "rev-parse", "HEAD")
    changed = commit and _git(root, "status", "--porcelain", "--untracked-files=no")
    return f"{commit}, changed" if changed else commit


def _git(root: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ("git", "-C", str(root), *words), capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
