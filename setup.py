"""Beside pyproject.toml: configs, tools and model index go into the package, where mim looks."""

import os
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = ('configs', 'tools', 'model-index.yml')


class BuildWithMim(build_py):
    """Fill ``afan_mm/.mim``: with copies in what is built, with links in an editable install."""

    def run(self):
        super().run()
        if self.editable_mode:
            folder = Path('afan_mm', '.mim')
            shutil.rmtree(str(folder), ignore_errors=True)
            folder.mkdir()
            for name in SHIPPED:
                (folder / name).symlink_to(Path('..', '..', name))
        elif not self.dry_run:
            for source, target in self._copies():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(str(source), str(target))

    def get_outputs(self, include_bytecode=1):
        shipped = [] if self.editable_mode else [str(target) for _, target in self._copies()]
        return super().get_outputs(include_bytecode) + shipped

    def _copies(self):
        """Each shipped file, and its place in what is built."""
        target = Path(self.build_lib, 'afan_mm', '.mim')
        for name in SHIPPED:
            for source in [Path(name)] if os.path.isfile(name) else sorted(Path(name).rglob('*')):
                if source.is_file() and '__pycache__' not in source.parts:
                    yield source, target / source


setup(cmdclass=dict(build_py=BuildWithMim))
