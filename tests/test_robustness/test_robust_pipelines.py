"""Whatever a test pipeline does that mmseg or mmdet installs: ground truth and image agree in the
input, or the run is refused.
"""

import copy
import json
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope
from mmengine.utils import get_installed_path

from afan_mm.robustness import AttackError
from afan_mm.robustness.ground_truth import check_sample, ground_truth_frame, to_input_frame

HEIGHT, WIDTH = 120, 170
TOP, BOTTOM, LEFT, RIGHT = 23, 81, 40, 140  # a white rectangle on black
# What pipelines must have in them that are refused, and how many there are at least of others.
REFUSED = dict(
    mmseg={'LoadDepthAnnotation'},
    mmdet={
        'RandomCenterCropPad',
        'ProposalBroadcaster',
        'TransformBroadcaster',
        'LoadTextAnnotations',
        'meta_keys without scale_factor',
    },
)
AGREEING = dict(mmseg=15, mmdet=40)
# Pairs of images, which need a package that may not be there, and captions, of another library: the
# page on the protocol says so.
UNREADABLE = {'LoadMultipleRSImageFromFile', 'PackInputs'}


def pipelines_in(node):
    """Those of all data sets in a part of a config."""
    if isinstance(node, dict):
        if 'pipeline' in node:
            yield node['pipeline']
        node = [part for key, part in node.items() if key != 'pipeline']
    for part in node if isinstance(node, (list, tuple)) else ():
        yield from pipelines_in(part)


def installed_pipelines(library):
    """Each other test pipeline that a library installs, with the name of a config that has it."""
    found = {}
    folder = Path(get_installed_path(library)) / '.mim' / 'configs'
    for path in sorted(folder.rglob('*.py')):
        # the others have theirs from a base that is one of these
        if not re.search('test_pipeline|test_dataloader|val_dataloader', path.read_text()):
            continue
        try:
            cfg = Config.fromfile(str(path))
        except FileNotFoundError:  # a base that the library does not install
            continue
        for pipeline in pipelines_in(cfg.get('test_dataloader')):
            found.setdefault(json.dumps(pipeline, sort_keys=True, default=str), (path, pipeline))
    return [(path.name, pipeline) for path, pipeline in found.values()]


def rgb2id(color):
    """The segment that a pixel of a panoptic map names, as the package panopticapi counts it."""
    return color[..., 0] + 256 * color[..., 1].astype(int) + 256**2 * color[..., 2].astype(int)


@pytest.fixture
def panopticapi(monkeypatch):
    """What mmdet uses of it; the package itself is in no registry."""
    module = ModuleType('panopticapi')
    module.utils = SimpleNamespace(rgb2id=rgb2id)
    monkeypatch.setitem(sys.modules, 'panopticapi', module)


@pytest.fixture(scope='module')
def info(tmp_path_factory):
    """What the data sets of both libraries say of one image."""
    folder, inside = tmp_path_factory.mktemp('image'), np.zeros((HEIGHT, WIDTH), np.uint8)
    inside[TOP:BOTTOM, LEFT:RIGHT] = 1
    segments = [
        dict(id=rgb2id(np.full(3, 1 + thing)), category=1 - thing, is_thing=bool(thing))
        for thing in (0, 1)
    ]
    paths = {name: str(folder / f'{name}.png') for name in ('image', 'map')}
    cv2.imwrite(paths['image'], 255 * inside[..., None].repeat(3, 2))
    cv2.imwrite(paths['map'], 1 + inside)
    outline = [LEFT, TOP, RIGHT, TOP, RIGHT, BOTTOM, LEFT, BOTTOM]
    box = dict(bbox=[LEFT, TOP, RIGHT, BOTTOM], bbox_label=0, ignore_flag=0, mask=[outline])
    return dict(
        img_path=paths['image'],
        img_id=0,
        height=HEIGHT,
        width=WIDTH,
        seg_map_path=paths['map'],
        seg_fields=[],
        reduce_zero_label=None,
        label_map=None,
        instances=[box],
        segments_info=segments,
        text={'0': 'a thing'},
        custom_entities=False,
    )


class Data:
    def __init__(self, pipeline):
        # files are read from this machine
        self.pipeline = Compose(
            [dict(s, backend_args=None) if 'backend_args' in s else dict(s) for s in pipeline]
        )


def in_input(pipeline, info):
    """The image as packed, and its sample with the ground truth in that frame.

    Raises:
        AttackError: Where a robust evaluation refuses the pipeline.
    """
    info = copy.deepcopy(info)
    reduced = [step['reduce_zero_label'] for step in pipeline if 'reduce_zero_label' in step]
    info['reduce_zero_label'] = reduced[0] if reduced else False
    data = Data(pipeline)
    frame = ground_truth_frame(data)
    packed = data.pipeline(info)
    check_sample(packed['data_samples'])
    shape = tuple(packed['inputs'].shape[-2:])
    return packed['inputs'][0] > 127, to_input_frame(packed['data_samples'], shape, frame)


def disagreements(white, sample):
    """By the name of each ground truth there is: how far it is from the white pixels, as a share of
    the input or of its sides.
    """
    rows, columns = (white.any(axis).nonzero()[[0, -1], 0] for axis in (1, 0))
    box = torch.stack([columns[0], rows[0], columns[1] + 1, rows[1] + 1]).float()
    found, instances = {}, sample.get('gt_instances', None)
    if instances is not None and 'bboxes' in instances and len(instances.bboxes) == 1:
        boxes = getattr(instances.bboxes, 'tensor', instances.bboxes)
        found['box'] = float((boxes[0] - box).abs().max() / max(white.shape))
    if instances is not None and 'masks' in instances and len(instances.masks) == 1:
        mask = torch.from_numpy(instances.masks.to_ndarray()[0]).bool()
        found['mask'] = float((mask != white).float().mean())
    if 'gt_sem_seg' in sample:
        (labels,) = (values[0] for _, values in sample.gt_sem_seg.items())
        middle = labels[tuple(int(side.float().mean()) for side in (rows, columns))]
        found['map'] = float(((labels == middle) != white).float().mean())
    return found


def test_disagreement_is_seen():
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    white = torch.zeros(10, 10, dtype=torch.bool)
    white[2:5, 1:9] = True
    sample = SegDataSample(gt_sem_seg=PixelData(data=(1 + white.long())[None]))
    assert disagreements(white, sample) == dict(map=0)
    sample.gt_sem_seg.data = sample.gt_sem_seg.data.roll(1, 1)
    assert disagreements(white, sample)['map'] == pytest.approx(0.16)


@pytest.mark.parametrize('library', ['mmseg', 'mmdet'])
def test_ground_truth_and_image_agree_or_the_run_is_refused(library, info, panopticapi):
    agreeing, refused, wrong = [], {}, {}
    with DefaultScope.overwrite_default_scope(library):
        __import__(f'{library}.datasets')
        for name, pipeline in installed_pipelines(library):
            kinds = {step['type'].rpartition('.')[2] for step in pipeline}
            if 'scale_factor' not in pipeline[-1].get('meta_keys', ['scale_factor']):
                kinds.add('meta_keys without scale_factor')
            if kinds & UNREADABLE:
                continue
            try:
                found = disagreements(*in_input(pipeline, info))
            except AttackError as error:
                assert len(str(error).splitlines()) == 1
                refused[name] = kinds
                continue
            if not found or max(found.values()) > 0.02:
                wrong[name] = (found, pipeline)
            agreeing.append(name)
    assert wrong == {}
    assert len(agreeing) >= AGREEING[library]
    assert library != 'mmdet' or {'coco_panoptic.py', 'ade20k_panoptic.py'} <= set(agreeing)
    # nothing is refused but what is not understood, or has no annotations
    unloaded = {n for n, kinds in refused.items() if not any('Annotation' in k for k in kinds)}
    assert {
        n: k for n, k in refused.items() if n not in unloaded and not k & REFUSED[library]
    } == {}
