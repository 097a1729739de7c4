"""The picture of one image of the robust evaluation, against panels made by hand, and every kind of
prediction drawn.
"""

import cv2
import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData, PixelData

from afan_mm.visualization import predictions
from afan_mm.visualization.predictions import draw_comparison

META = dict(classes=('a', 'b', 'c'), palette=[(255, 0, 0), (0, 255, 0), (0, 0, 255)])


def sample(library, ori_shape=(20, 30), **metainfo):
    from mmdet.structures import DetDataSample
    from mmseg.structures import SegDataSample

    kind = dict(mmdet=DetDataSample, mmseg=SegDataSample)[library]
    return kind(
        metainfo=dict(
            dict(ori_shape=ori_shape, img_shape=(10, 15), img_path='folder/name.png'), **metainfo
        )
    )


def boxes(with_scores=True):
    instances = InstanceData(
        bboxes=torch.tensor([[3.0, 2.0, 12.0, 18.0], [15.0, 4.0, 28.0, 16.0]]),
        labels=torch.tensor([0, 2]),
    )
    if with_scores:
        instances.scores = torch.tensor([0.9, 0.1])
    return instances


def masks():
    shown = torch.zeros(2, 20, 30, dtype=torch.bool)
    shown[0, 2:18, 3:12], shown[1, 4:16, 15:28] = True, True
    return shown


def segmentation(label, **metainfo):
    made = sample('mmseg', **metainfo)
    labels = torch.full((1, 20, 30), label)
    made.set_data(
        dict(
            gt_sem_seg=PixelData(data=torch.ones_like(labels)), pred_sem_seg=PixelData(data=labels)
        )
    )
    return made


@pytest.fixture
def panels(monkeypatch):
    """What :func:`draw_comparison` arranges."""
    kept, arrange = {}, predictions._arrange

    def spy(given, title):
        kept.update(given)
        return arrange(given, title)

    monkeypatch.setattr(predictions, '_arrange', spy)
    return kept


def test_panels_by_hand(panels, tmp_path):
    """BGR becomes RGB, padding goes, the difference is magnified around grey, and each prediction
    has the class's colour.
    """
    clean = torch.full((3, 16, 16), 7.0)  # 10 x 15 are the image
    clean[:, :10, :15] = torch.tensor([10.0, 20.0, 30.0])[:, None, None]
    perturbed = clean.clone()
    perturbed[0, :10, :15] += 4
    path = tmp_path / 'new' / 'x.png'
    draw_comparison(META, clean, perturbed, segmentation(0), segmentation(2), 10, str(path))
    names = list(panels)
    assert [name.split(' (')[0] for name in names] == [
        'clean image',
        'perturbed image',
        'difference x 10',
        'ground truth',
        'prediction on the clean image',
        'prediction on the perturbed image',
    ]
    assert 'largest 4 of 255' in names[2]
    assert all(panel.shape == (320, 480, 3) for panel in panels.values())  # the original 20 x 30
    for panel, colour in zip(panels.values(), ((30, 20, 10), (30, 20, 14), (128, 128, 168))):
        assert (panel == colour).all()
    corners = [panel[-1, -1].tolist() for panel in list(panels.values())[3:]]
    expected = [
        [0.4 * pixel + 0.6 * colour for pixel, colour in zip(image, META['palette'][label])]
        for image, label in (((30, 20, 10), 1), ((30, 20, 10), 0), ((30, 20, 14), 2))
    ]
    assert np.abs(np.array(corners) - expected).max() <= 1
    picture = cv2.imread(str(path))
    assert (
        picture.shape[0] > 2 * 320
        and picture.shape[1] > 3 * 480
        and not list(path.parent.glob('*.tmp'))
    )


@pytest.mark.parametrize(
    'direction,corner', (('horizontal', (0, -1)), ('vertical', (-1, 0)), ('diagonal', (-1, -1)))
)
def test_flips_are_undone(direction, corner, panels, tmp_path):
    """A mark at the upper left of the input is where it was in the original image."""
    image = torch.zeros(3, 10, 15)
    image[:, 0, 0] = 255
    flipped = segmentation(0, flip=True, flip_direction=direction)
    draw_comparison(META, image, image, flipped, flipped, 1, str(tmp_path / 'x.png'))
    assert panels['clean image'][corner].tolist() == [255] * 3 and panels['clean image'].mean() < 5


def test_boxes_are_in_the_original_frame(panels, tmp_path):
    """The edge of a box of the original image is where it is in the panel, 16 times as large; weak
    detections are left out.
    """
    made = sample('mmdet')
    made.set_data(dict(gt_instances=boxes(False), pred_instances=boxes()))
    image = torch.full((3, 10, 15), 100.0)
    before = made.gt_instances.bboxes.clone()
    draw_comparison(META, image, image, made, made, 1, str(tmp_path / 'x.png'))
    truth, prediction = (
        panels['ground truth'],
        panels['prediction on the clean image (score > 0.3)'],
    )
    red, blue = truth[16 * 10, 16 * 3], truth[16 * 10, 16 * 28]
    assert red[0] > 180 > 80 > red[2] and blue[2] > 180 > 80 > blue[0]
    assert prediction[16 * 10, 16 * 3, 0] > 180 and (prediction[16 * 10, 16 * 28] == 100).all()
    assert torch.equal(made.gt_instances.bboxes, before)


def panoptic(with_empty):
    """An empty prediction, or one instance and the background."""
    labels = torch.zeros(1, 20, 30, dtype=torch.long)
    if not with_empty:
        labels[:, :10] = 1 + 1000
    return PixelData(sem_seg=labels)


@pytest.mark.parametrize(
    'kind', ('boxes', 'masks', 'bitmap masks', 'panoptic', 'nothing found', 'no palette')
)
def test_kinds_of_detectors(kind, panels, tmp_path):
    """Drawn predictions differ from the bare image, an empty one does not."""
    from mmdet.structures.mask import BitmapMasks

    made, meta = sample('mmdet'), dict(META)
    truth, found = boxes(False), boxes()
    if 'masks' in kind:
        truth.masks = BitmapMasks(masks().numpy().astype(np.uint8), 20, 30)
        found.masks = truth.masks if kind == 'bitmap masks' else masks()
    if kind == 'nothing found':
        found = found[:0]
    if kind == 'no palette':
        meta.pop('palette')
        made.gt_sem_seg = PixelData(sem_seg=torch.ones(1, 20, 30, dtype=torch.long))
    made.gt_instances = truth
    if kind == 'panoptic':
        made.pred_panoptic_seg = panoptic(False)
    else:
        made.pred_instances = found
    image = torch.full((3, 10, 15), 100.0)
    draw_comparison(meta, image, image, made, made, 1, str(tmp_path / 'x.png'))
    drawn = next(
        panel for name, panel in panels.items() if name.startswith('prediction on the clean')
    )
    assert (drawn != panels['clean image']).any() == (kind != 'nothing found')
    assert (panels['ground truth'] != panels['clean image']).any()
    if 'masks' in kind:  # filled, not outlined only
        assert abs(int(drawn[16 * 10, 16 * 7, 0]) - int(drawn[16 * 10, 16 * 7, 2])) > 50


def test_refusals(tmp_path):
    """Images of two shapes, and a folder that is a file; nothing is left behind."""
    image = torch.zeros(3, 10, 15)
    with pytest.raises(
        ValueError, match=r'must both be \(3, H, W\), but got \(3, 10, 15\) and \(3, 9, 15\)'
    ):
        draw_comparison(
            META, image, image[:, 1:], segmentation(0), segmentation(0), 1, str(tmp_path / 'x.png')
        )
    (tmp_path / 'file').write_text('')
    with pytest.raises(OSError, match='cannot write .*x.png'):
        draw_comparison(
            META,
            image,
            image,
            segmentation(0),
            segmentation(0),
            1,
            str(tmp_path / 'file' / 'x.png'),
        )
    assert [path.name for path in tmp_path.iterdir()] == ['file']
