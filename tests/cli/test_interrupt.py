"""SIGTERM and a pipe without a reader end a command without a traceback."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from spine import ROOT, environment

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")


def ended(code: str, **options) -> subprocess.CompletedProcess:
    code = f"import os, signal, sys\nfrom dreambooth.cli.interrupt import *\n{code}"
    return subprocess.run(
        [sys.executable, "-c", code],
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        **options,
    )


@pytest.mark.parametrize("block", ["importing", "interruptible"])
def test_sigterm_is_one_line(block):
    done = ended(f"with {block}():\n    os.kill(os.getpid(), signal.SIGTERM)\n    input()")
    assert done.returncode == 143
    assert done.stderr.strip() == "Stopped. The same command continues with what is cached."


def test_the_signals_are_taken_over_before_any_slow_import():
    code = (
        "import sys\nbefore = {*sys.modules}\nfrom dreambooth.cli.interrupt import importing\n"
        "print({'typing', 're', 'threading', 'collections.abc'} & sys.modules.keys() - before)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60)
    assert done.stdout == "set()\n", done.stderr


def test_ctrl_c_while_an_object_is_removed_is_not_ignored():
    code = (
        "class Removed:\n    def __del__(self): signal.raise_signal(signal.SIGINT)\n"
        "with interruptible():\n    Removed()\n    input()"
    )
    done = ended(code)
    assert (done.returncode, done.stderr.strip().count("\n")) == (130, 0), done.stderr


def test_a_pipe_whose_reader_has_gone_ends_without_a_word():
    reader, writer = os.pipe()
    os.close(reader)
    done = ended("with interruptible():\n    print('x')\n", stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_flags_that_do_not_go_together_are_one_sentence():
    command = [sys.executable, str(ROOT / "train.py"), "-m", "seed=0,1", "--cfg", "job"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == "error: -m and --cfg do not go together: leave one out.\n"
