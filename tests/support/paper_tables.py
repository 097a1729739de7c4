"""The paper's tables of segmentation and detection as data, and the configs that they describe."""

import functools
import re

from mmengine.config import Config

from support.paths import CONFIGS, is_for_a_cpu

PAPER = sorted(
    path.stem
    for path in CONFIGS.glob('*/*.py')
    if path.parent.name in ('deeplabv3plus', 'faster_rcnn') and not is_for_a_cpu(path)
)


AFAN = [name for name in PAPER if name.startswith('afan_')]


# Table 5: batch size, iterations, initial learning rate, decay, weight decay. The last row is this
# project's choice for Table 7.
TABLE_5 = {
    'det_voc07': (8, 11250, 0.008, (6250, 8750), 5e-4),
    'det_coco': (8, 180000, 0.01, (120000, 160000), 5e-4),
    'seg_voc07': (4, 10000, 0.01, 'poly', 1e-4),
    'seg_voc12': (4, 30000, 0.01, 'poly', 1e-4),
    'seg_cityscapes': (4, 30000, 0.1, 'poly', 1e-4),
    'det_voc0712': (8, 37500, 0.008, (20833, 29167), 5e-4),
}


# What the released code's scripts have instead.
RELEASED = dict(
    TABLE_5,
    det_coco=(8, 180000, 0.01, (120000, 160000), 1e-4),
    seg_voc07=(4, 15000, 0.01, 'poly', 1e-4),
)


# Sec. 5 and 6, in units of 1/255: epsilon on the backbone and on the decoder or RoI, and the number
# of strengths at each.
STRENGTHS = {
    'det_voc07': (0.3, 0.3, 5, 5),
    'det_coco': (0.5, 0.5, 5, 5),
    'seg_voc07': (1.0, 1.0, 3, 3),
    'seg_voc12': (0.4, 0.4, 3, 3),
    'seg_cityscapes': (0.3, 0.3, 3, 3),
    'det_voc0712': (0.3, 0.3, 5, 5),
}


RELEASED_STRENGTHS = {
    'det_voc07': (1.0, 0.1, 4, 1),
    'det_coco': (0.1, 0.1, 4, 1),
    'seg_voc07': (0.03, 0.4, 2, 1),
    'seg_voc12': (0.01, 0.4, 2, 1),
    'seg_cityscapes': (0.02, 1.5, 2, 1),
}


# Clean, backbone and decoder / RoI weights of the released objectives.
RELEASED_WEIGHTS = {'seg': (0.7, 0.1, 0.1), 'det': (0.7 / 3, 0.7 / 3, 0.1)}


@functools.lru_cache(maxsize=None)
def load(name):
    folder = 'faster_rcnn' if 'rcnn' in name else 'deeplabv3plus'
    return Config.fromfile(str(CONFIGS / folder / f'{name}.py'))


def experiment(name):
    """The row of the tables that a config belongs to."""
    data = re.search(r'voc0712|voc07|voc12|coco|cityscapes', name).group()
    return f'{"det" if "rcnn" in name else "seg"}_{data}'


def row(name):
    return (RELEASED if name.endswith('_released') else TABLE_5)[experiment(name)]
