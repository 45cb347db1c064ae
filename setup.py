"""Copy `conf/` into the wheel as `dreambooth.conf`; all else is in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConf(build_py):
    """Build the package; an editable install reads conf/ where it is and needs no copy."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            packaged = Path(self.build_lib) / "dreambooth" / "conf"
            shutil.rmtree(packaged, ignore_errors=True)
            shutil.copytree("conf", packaged)


setup(cmdclass={"build_py": BuildWithConf})
