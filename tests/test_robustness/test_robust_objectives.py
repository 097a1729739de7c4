"""SegPGD's and CosPGD's weights by hand, and what they do to a segmentor."""

import copy
import math

import pytest
import torch

from afan_mm.robustness import AttackSettings, PixelAttack
from afan_mm.robustness.objectives import cospgd_weights, segpgd_weights, weighted_cross_entropy
from support.tiny import build, segmentation_batch, segmentor_config

LN2, LN3 = math.log(2), math.log(3)


def pixels(*columns):
    """(1, C, 1, W) of W pixels, each given by its C logits."""
    return torch.tensor(columns).T[None, :, None, :]


def test_segpgd_weights_by_hand():
    """Two pixels, the first right: lambda goes 0, 1/10, ..., 4/10 in five steps."""
    logits, labels = pixels((1.0, 0.0, 0.0), (1.0, 0.0, 0.0)), torch.tensor([[[0, 2]]])
    for step in range(1, 6):
        expected = torch.tensor([[[1 - (step - 1) / 10, (step - 1) / 10]]])
        torch.testing.assert_close(segpgd_weights(logits, labels, step, 5), expected)


def test_cospgd_weights_by_hand():
    """softmax(ln 3, 0, 0) = (3, 1, 1) / 5, of length sqrt(11) / 5; its cosine with an axis is a
    component over the length.
    """
    logits = pixels((LN3, 0.0, 0.0), (LN3, 0.0, 0.0), (0.0, 0.0, 0.0))
    expected = torch.tensor([[[3 / math.sqrt(11), 1 / math.sqrt(11), 1 / math.sqrt(3)]]])
    torch.testing.assert_close(cospgd_weights(logits, torch.tensor([[[0, 2, 1]]])), expected)


class Identity(torch.nn.Module):
    """A segmentor whose logits are its pixels."""

    align_corners = False

    def __init__(self, channels=3):
        super().__init__()
        self.channels = channels
        self.decode_head = torch.nn.Identity()

    def data_preprocessor(self, data, training):
        assert training is False
        return dict(inputs=torch.stack(data['inputs']), data_samples=data['data_samples'])

    def encode_decode(self, inputs, metas):
        assert metas[0]['img_shape'] == metas[0]['pad_shape'] == (1, 3)
        return inputs[:, : self.channels]


def labelled(*labels):
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    return SegDataSample(gt_sem_seg=PixelData(data=torch.tensor([[labels]])))


@pytest.mark.parametrize('attack', ['segpgd', 'cospgd'])
def test_objective_by_hand(attack):
    """Two pixels count, the third is ignored. Their cross-entropies are ln(5/3) and ln 5; weights
    3/4 and 1/4 at step 2 of 2.
    """
    image = torch.tensor(
        [[[LN3, LN3, 9.0]], [[0.0, 0.0, 0.0]], [[0.0, 0.0, 0.0]]], requires_grad=True
    )
    loss = weighted_cross_entropy(Identity(), image, labelled(0, 2, 255), attack, 2, 2)
    right, wrong = (0.75, 0.25) if attack == 'segpgd' else (3 / math.sqrt(11), 1 / math.sqrt(11))
    torch.testing.assert_close(
        loss, torch.tensor((right * math.log(5 / 3) + wrong * math.log(5)) / 2)
    )
    (gradient,) = torch.autograd.grad(loss, image)
    # The cross-entropy's gradient, softmax - one-hot, times a weight that is not differentiated.
    expected = torch.tensor(
        [
            [right * -0.4, wrong * 0.6, 0],
            [right * 0.2, wrong * 0.2, 0],
            [right * 0.2, wrong * -0.8, 0],
        ]
    )
    torch.testing.assert_close(gradient, expected[:, None] / 2)


def test_one_output_channel_is_two_classes():
    """sigmoid(ln 3) = 3/4: right, wrong, and a tie that goes to the first class."""
    image = torch.tensor([[[LN3, LN3, 0.0]]])
    loss = weighted_cross_entropy(Identity(1), image, labelled(1, 0, 0), 'segpgd', 1, 10)
    torch.testing.assert_close(loss, torch.tensor((math.log(4 / 3) + 0 + LN2) / 3))


def test_an_ignored_map_has_no_loss():
    image = torch.rand(3, 1, 3, requires_grad=True)
    loss = weighted_cross_entropy(Identity(), image, labelled(255, 255, 255), 'cospgd', 1, 1)
    assert loss == 0 and not torch.autograd.grad(loss, image)[0].any()


@pytest.mark.parametrize('name', ['segpgd', 'cospgd'])
def test_attack_equals_an_independent_one(name):
    """On a real segmentor, in ten lines from the papers; the test preprocessor pads the input,
    which no label covers.
    """
    config = segmentor_config()
    config.data_preprocessor.test_cfg = dict(size=(40, 48))
    model, batch = build(config).eval(), segmentation_batch(num_samples=1)
    clean, label = batch['inputs'][0].float(), batch['data_samples'][0].gt_sem_seg.data
    perturbed, mean, std = clean.clone(), model.data_preprocessor.mean, model.data_preprocessor.std
    for t in range(3):
        perturbed.requires_grad_()
        padded = torch.nn.functional.pad((perturbed[[2, 1, 0]] - mean) / std, (0, 16, 0, 8))[None]
        logits = torch.nn.functional.interpolate(
            model.decode_head(model.extract_feat(padded)),
            (40, 48),
            mode='bilinear',
            align_corners=False,
        )[:, :, :32, :32]
        if name == 'segpgd':
            weight = torch.where(logits.argmax(1) == label, 1 - t / 6, t / 6)
        else:
            chance = logits.softmax(1)
            weight = chance.gather(1, label[None])[0] / chance.norm(dim=1)
        loss = (
            weight.detach() * torch.nn.functional.cross_entropy(logits, label, reduction='none')
        ).mean()
        perturbed = perturbed.detach() + 2 * torch.autograd.grad(loss, perturbed)[0].sign()
        perturbed = torch.min(torch.max(perturbed, clean - 3), clean + 3).clamp(0, 255)
    settings = AttackSettings.for_library(
        'mmseg', attack=name, num_steps=3, step_size=2 / 255, epsilon=3 / 255
    )
    found = PixelAttack(model, settings)(copy.deepcopy(batch)).images[0]
    # a sign may turn where a gradient is nothing but rounding
    assert (found == perturbed).double().mean() > 0.999
