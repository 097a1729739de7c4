"""The gradients of one step of Faster R-CNN, against the formula of the paper written out as one
big graph, in float64.
"""

import pytest

from support.exact import EPSILON, assert_same, detection_formula
from support.tiny import build, detection_batch, detector_config, gradients, with_afan


@pytest.mark.parametrize('detach', (True, False), ids=('detached', 'attached'))
@pytest.mark.parametrize(
    'sites, kind',
    (
        (('vector',), 'batch'),
        (('vector',), 'positional'),
        (('map',), 'instance'),
        (('neck',), 'batch'),
        (('pyramid',), 'layer'),
        (('neck', 'vector'), None),
    ),
)
def test_step_equals_the_formula(sites, kind, detach):
    batch = detection_batch(size=96)
    for num_steps, step_size in ((1, EPSILON), (3, 0.2)):
        settings = dict(
            epsilon=EPSILON,
            num_steps=num_steps,
            step_size=step_size,
            moments=kind,
            detach=detach,
            num_strengths=2,
            strengths='linspace',
            adv_weight=0.7,
        )
        necks = dict(neck=settings, pyramid=dict(settings, site='output', levels=[0]))
        neck = next((necks[site] for site in sites if site in necks), None)
        head = next((dict(settings, site=site) for site in sites if site not in necks), None)
        model = build(with_afan(detector_config(), neck=neck, head=head)).double()
        stock = build(detector_config()).double()
        assert_same(
            gradients(model, batch),
            detection_formula(stock, batch, sites, num_steps, step_size, kind, detach),
        )
