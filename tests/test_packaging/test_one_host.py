"""Segmentation needs neither mmdet nor mmpretrain, detection neither mmseg nor mmpretrain: configs
are converted and models trained while the import of these is refused.
"""

import os
import subprocess

import pytest

from support.fast_python import python
from support.paths import ROOT

REFUSE = """
import sys


class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {refused}:
            raise ModuleNotFoundError(f'{{name}} is refused', name=name)


sys.meta_path.insert(0, Refuse())
"""
STOCK = dict(
    segmentor='mmseg::deeplabv3plus/deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024.py',
    detector='mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
)
USE = """
from afan_mm.cli.main import main
from support.tiny import batch_of, build, optim_wrapper, stock_config, train, with_afan

afan = dict(epsilon=0.3, num_strengths=1)
model = build(with_afan(stock_config({host!r}), neck=afan, head=afan))
(log,) = train(model, optim_wrapper(model), [batch_of({host!r})])
print('loss', log['loss'])
main(['convert', {stock!r}, '--print'])
"""
# (host, what cannot be imported)
CASES = (('segmentor', ('mmdet', 'mmpretrain')), ('detector', ('mmseg', 'mmpretrain')))


def run(code, *refused):
    """Run it in an interpreter that cannot import some packages."""
    path = os.pathsep.join([str(ROOT), str(ROOT / 'tests')])
    return subprocess.run(
        [python(), '-c', REFUSE.format(refused=refused) + code],
        env=dict(os.environ, PYTHONPATH=path, OMP_NUM_THREADS='1'),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize('host, refused', CASES)
def test_the_other_hosts_are_not_needed(host, refused):
    result = run(USE.format(host=host, stock=STOCK[host]), *refused)
    assert result.returncode == 0, result.stdout
    assert 'loss ' in result.stdout and "type='AFANOptimWrapper'" in result.stdout


def test_an_import_is_refused():
    result = run('import mmseg', 'mmdet', 'mmseg')
    assert result.returncode != 0 and 'mmseg is refused' in result.stdout
