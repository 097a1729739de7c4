"""Which modules are told that they train while the loss of an attack is computed."""

import copy
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from mmengine.logging import MessageHub
from mmengine.structures import PixelData
from torch import nn

from afan_mm.isolation import LAYERS, evaluation_mode, flow_modules, isolated_random
from afan_mm.robustness import AttackSettings, PixelAttack
from afan_mm.robustness.settings import ATTACKS_OF
from support.families import family_model
from support.tiny import (
    HOSTS,
    batch_of,
    build,
    detection_batch,
    hub_model,
    segmentation_batch,
    stock_config,
)


class Flow(nn.Module):
    """Asks whether it trains, and calls dropout by itself."""

    def __init__(self):
        super().__init__()
        self.norm, self.drop, self.inner = (
            nn.BatchNorm1d(2),
            nn.Dropout(),
            nn.Sequential(nn.Linear(2, 2)),
        )

    def forward(self, x):
        return F.dropout(x if self.training else -x, training=self.training)


class OwnNorm(nn.BatchNorm1d):
    def forward(self, x):
        return super().forward(x) if self.training else x


class DropRows(nn.Module):
    def forward(self, x):
        return x[1:] if self.training else x


class Inherits(Flow):
    pass


def test_control_flow_is_told_and_layers_are_not():
    model = nn.ModuleList([Flow(), Inherits(), OwnNorm(2), DropRows(), nn.MultiheadAttention(2, 1)])
    assert flow_modules(model) == [model[0], model[1]]


def test_dropout_by_function_is_off_inside():
    model, x = nn.Sequential(Flow()).train(), torch.ones(100)
    with evaluation_mode(model, flow_modules(model)):
        assert torch.equal(model(x), x)
        assert torch.equal(F.alpha_dropout(x, 0.5, True), x)
    assert (model(x) == 0).any()


@pytest.mark.parametrize('host', HOSTS)
def test_where_no_code_asks_nothing_depends_on_the_flag(host):
    model = build(stock_config(host)).eval()
    told = flow_modules(model)
    assert model in told and not any(isinstance(module, (nn.Conv2d, *LAYERS)) for module in told)
    data = model.data_preprocessor(batch_of(host), False)
    losses = []
    for training in (told, ()):
        with evaluation_mode(model, training), isolated_random(0, torch.device('cpu')):
            losses.append(model.parse_losses(model(**copy.deepcopy(data), mode='loss'))[0])
    assert losses[0] == losses[1]


def test_flags_and_what_losses_collect_come_back():
    model = nn.Sequential(Flow(), Flow()).train()
    model[1].norm.eval()
    flags = [module.training for module in model.modules()]
    buffer = torch.tensor([0.0, float('nan')])
    model[0].register_buffer('counts', buffer)
    model[1].history = [1]
    with pytest.raises(ZeroDivisionError), evaluation_mode(model, [model[0]]):
        assert model[0].training and not any(
            module.training for module in model.modules() if module is not model[0]
        )
        buffer += 1
        model[1].history.append(2)
        raise ZeroDivisionError
    assert flags == [module.training for module in model.modules()]
    assert (
        model[0].counts is buffer
        and buffer[0] == 0
        and buffer[1].isnan()
        and model[1].history == [1]
    )


def fcos_config():
    """FCOS scales its boxes by the stride unless it trains."""
    model = hub_model(
        'mmdet::fcos/fcos_r50-caffe_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco.py'
    )
    model.backbone.update(depth=18, base_channels=8, init_cfg=None)
    model.neck.update(in_channels=[8, 16, 32, 64], out_channels=32)
    model.bbox_head.update(
        in_channels=32, feat_channels=32, num_classes=5, norm_cfg=dict(type='GN', num_groups=4)
    )
    return model


def test_a_loss_that_differs_in_evaluation_mode():
    """The loss of the attack is the training loss: nothing in this model but that flag depends on
    the mode.
    """
    model, batch = build(fcos_config()), detection_batch(num_samples=1)
    nn.init.ones_(model.bbox_head.conv_reg.bias)
    data = model.data_preprocessor(copy.deepcopy(batch), False)
    losses = {
        mode: float(model.train(mode).parse_losses(model(**data, mode='loss'))[0].detach())
        for mode in (True, False)
    }
    attack = PixelAttack(model.eval(), AttackSettings.for_library('mmdet'))
    assert model.bbox_head in attack.flow_modules
    assert (
        abs(losses[True] - losses[False]) > 0.1
        and float(attack.losses(batch).detach()) == losses[True]
    )
    assert not any(module.training for module in model.modules())


def ddrnet_config():
    """DDRNet returns what its auxiliary loss needs only where it trains."""
    model = hub_model('mmseg::ddrnet/ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024.py')
    model.backbone.update(channels=8, ppm_channels=8)
    model.decode_head.update(in_channels=32, channels=8)
    return model


def pidnet_config():
    """So does PIDNet; its auxiliary losses are of edges, too."""
    model = hub_model('mmseg::pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes.py')
    model.backbone.update(channels=8, ppm_channels=8)
    model.decode_head.update(in_channels=32, channels=8)
    return model


@pytest.mark.parametrize('name', ATTACKS_OF['mmseg'])
@pytest.mark.parametrize('config', [ddrnet_config, pidnet_config])
def test_a_loss_that_fails_in_evaluation_mode(config, name):
    """The training loss is that of a model that trains, and a weighted cross-entropy that of the
    prediction.
    """
    model = config()
    for part in (model.backbone, model.decode_head):
        part.update(init_cfg=None, norm_cfg=dict(type='BN'))
    model = build(model).eval()
    batch = segmentation_batch(num_samples=1, size=64)
    (sample,) = batch['data_samples']
    sample.gt_edge_map = PixelData(data=(sample.gt_sem_seg.data > 2).long())
    with pytest.raises((ValueError, AssertionError)):
        model(**model.data_preprocessor(copy.deepcopy(batch), False), mode='loss')
    settings = AttackSettings.for_library('mmseg', attack=name, num_steps=2)
    attack = PixelAttack(model, settings)

    def objective(images):
        if name == 'pgd':
            return attack.losses(dict(batch, inputs=images))
        data = model.data_preprocessor(dict(inputs=images, data_samples=[sample.clone()]), False)
        (predicted,) = model(**data, mode='predict')
        return F.cross_entropy(predicted.seg_logits.data[None], sample.gt_sem_seg.data)

    perturbed = attack(batch).images
    with torch.no_grad():
        assert objective(perturbed) > objective(batch['inputs'])


@pytest.mark.parametrize(
    'name', ['boxinst/boxinst_r50_fpn_ms-90k_coco', 'tood/tood_r50_fpn_1x_coco']
)
def test_a_loss_that_changes_with_the_training(name):
    """The attack raises that of its end, whether or not a training ran in this process. BoxInst
    warms a loss of masks up, which its preprocessor makes of boxes; TOOD has another assigner in
    the first epochs.
    """
    model = family_model(f'mmdet/{name}.py')
    model.bbox_head.norm_cfg = dict(type='GN', num_groups=4)
    model, batch = build(model), detection_batch(num_samples=1)
    batch['inputs'][0].fill_(100)  # neighbours of one colour, which BoxInst compares
    known, losses = MessageHub.get_current_instance().runtime_info, []
    for now in (0, 10**6):
        data = model.data_preprocessor(copy.deepcopy(batch), True)
        mode = evaluation_mode(model, flow_modules(model))
        with patch.dict(known, iter=now, epoch=now), mode:
            losses.append(float(model.parse_losses(model(**data, mode='loss'))[0].detach()))
    assert losses[0] != losses[1]
    attack = PixelAttack(model.eval(), AttackSettings.for_library('mmdet', num_steps=1))
    for left in ({}, dict(iter=0, epoch=0)):
        with patch.dict(known, left, clear=True):
            assert float(attack.losses(batch).detach()) == pytest.approx(losses[1], rel=1e-5)
            assert not torch.equal(attack(batch).images[0], batch['inputs'][0].float())
            assert known == left


def test_dropout_of_a_hosts_own_is_off():
    """GLIP's attention calls dropout by itself, with its flag."""
    from mmdet.models.utils.vlfuse_helper import BiMultiHeadAttention

    torch.manual_seed(0)
    sizes = dict(v_dim=8, l_dim=8, embed_dim=8, num_heads=2)
    model = nn.Sequential(BiMultiHeadAttention(dropout=0.5, **sizes)).eval()
    inputs = torch.randn(1, 6, 8), torch.randn(1, 4, 8)
    expected = model[0](*inputs)[0]
    with evaluation_mode(model, flow_modules(model)):
        assert torch.equal(model[0](*inputs)[0], expected)
