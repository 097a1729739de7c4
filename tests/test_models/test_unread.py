"""Sites of components which their host does not run, or whose features no loss reads: the first
step says so.
"""

import pytest
from mmdet.models.roi_heads import StandardRoIHead
from mmengine.registry import MODELS

from support.tiny import (
    build,
    detection_batch,
    detector_config,
    gradients,
    segmentation_batch,
    segmentor_config,
    with_afan,
)


@MODELS.register_module()
class OwnLossRoIHead(StandardRoIHead):
    """Computes the losses of its boxes without its method ``bbox_loss``."""

    def loss(self, x, rpn_results_list, batch_data_samples):
        self.bbox_loss = self.own_bbox_loss
        try:
            return super().loss(x, rpn_results_list, batch_data_samples)
        finally:
            del self.bbox_loss

    def own_bbox_loss(self, x, sampling_results):
        return StandardRoIHead.bbox_loss(self, x, sampling_results)


@pytest.mark.parametrize('site', ('vector', 'map'))
def test_a_roi_head_that_does_not_call_bbox_loss(site):
    config = detector_config()
    config.roi_head.type = 'OwnLossRoIHead'
    model = build(with_afan(config, head=dict(epsilon=0.1, site=site)))
    with pytest.raises(RuntimeError, match=r"A-FAN sites \['roi_head'\] were not reached"):
        gradients(model, detection_batch())


@pytest.mark.parametrize('detach', (True, False), ids=('detached', 'attached'))
def test_a_level_that_nobody_reads(detach):
    """DeepLabV3+ reads the first and the last level of its backbone, its auxiliary head the
    third.
    """
    messages = []
    for level in range(4):
        neck = dict(levels=[level], epsilon=0.1, detach=detach)
        try:
            gradients(build(with_afan(segmentor_config(), neck=neck)), segmentation_batch())
            messages.append(None)
        except RuntimeError as error:
            messages.append(str(error))
    assert messages[0] is messages[2] is messages[3] is None
    assert messages[1].startswith(
        "A-FAN sites ['neck'] were tapped in their first step, but the loss"
    )


def with_keyword(site):
    """A segmentor that calls its neck with keywords alone."""
    model = build(with_afan(segmentor_config(), neck=dict(epsilon=0.1, site=site)))
    model.extract_feat = lambda inputs: model.neck(inputs=model.backbone(inputs))
    return model


def test_a_neck_that_gets_its_feature_by_keyword():
    """Its input cannot be seen; its output can."""
    with pytest.raises(ValueError, match="site 'neck': .* argument, but got inputs by keyword"):
        gradients(with_keyword('input'), segmentation_batch())
    assert gradients(with_keyword('output'), segmentation_batch())
