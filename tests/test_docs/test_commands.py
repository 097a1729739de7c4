"""Every command of the README: run as it stands, run shortened, or listed with why it is not."""

import os
import re
import subprocess

import pytest

from support.fast_python import python
from support.paths import ROOT

DIGITS = 'afan_deeplabv3plus_r18-d8_1xb8-300_digits-96x96'
SHORT = (
    ' --cfg-options train_cfg.max_iters=2 train_cfg.val_interval=2 train_dataloader.batch_size=2 '
    'default_hooks.checkpoint.interval=2 default_hooks.logger.interval=1 custom_hooks.0.interval=1'
)
# What is added to a command, or replaced in it, so that it takes seconds instead of minutes.
SHORTENED = {
    'python tools/dataset_converters/digits_voc.py data/digits': ('', ' --train 8 --val 2'),
    f'afan train {DIGITS}.py': ('', SHORT),
    f'afan test {DIGITS}.py work_dirs/{DIGITS}/iter_300.pth': ('iter_300.pth', 'iter_2.pth'),
}
NOT_RUN = {
    'pip install .': 'tests/test_packaging/test_install.py builds and installs the same',
    'make setup': 'it made the environment that the tests run in',
    'source .venv/bin/activate': 'the tests run in the environment already',
}


def commands():
    """The lines of the README's shell blocks."""
    blocks = re.findall(r'^```sh\n(.*?)^```', (ROOT / 'README.md').read_text(), re.S | re.M)
    return [line for block in blocks for line in block.splitlines()]


@pytest.fixture(scope='module')
def clone(tmp_path_factory):
    """A folder that looks like a clone to a command, and what the commands find on their path."""
    folder = tmp_path_factory.mktemp('clone')
    for name in ('configs', 'tools'):
        (folder / name).symlink_to(ROOT / name)
    programs = folder / 'bin'
    programs.mkdir()
    for name, arguments in (('python', ''), ('afan', '-m afan_mm ')):
        path = programs / name
        path.write_text(f'#!/bin/sh\nexec {python()} {arguments}"$@"\n')
        path.chmod(0o755)
    return folder


def run(command, clone):
    """Run one line in a shell, as a reader would; its output."""
    variables = dict(
        os.environ,
        PATH=f'{clone / "bin"}{os.pathsep}{os.environ["PATH"]}',
        PYTHONPATH=str(ROOT),
        OMP_NUM_THREADS='1',
    )
    result = subprocess.run(
        ['sh', '-c', command],
        cwd=str(clone),
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert result.returncode == 0, f'{command}\n{result.stdout[-3000:]}'
    return result.stdout


def test_commands_of_the_readme(clone):
    """In their order, as one depends on another."""
    found, said = commands(), {}
    assert set(SHORTENED) | set(NOT_RUN) <= set(found)  # nothing is listed that is gone
    for command in found:
        if command not in NOT_RUN:
            old, new = SHORTENED.get(command, ('', ''))
            short = command.replace(old, new) if old else command + new
            said[command.split()[1]] = run(short, clone)
    assert 'mmcv.ops: compiled' in said['env']
    assert 'A-FAN sites:' in said['train']
    assert re.search(r'mIoU: ', said['test'])
    assert 'decode_head' in said['health']
