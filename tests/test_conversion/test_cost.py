"""What a converted config says of its cost, by hand."""

import pytest

from afan_mm import AFANSettings
from afan_mm.conversion.cost import estimated_cost

LATE = dict(joint=True, num_strengths=1, estimator='per_sample')


@pytest.mark.parametrize(
    'sites, expected',
    [
        # one pass, from the first of the joint sites
        ([(LATE, 0.4), (LATE, 0.1), (LATE, 0)], 1.4),
        # three strengths at each site: 3 x 0.4 + 3 x 0.1
        ([(dict(num_strengths=3), 0.4), (dict(num_strengths=3), 0.1)], 2.5),
        # three strengths, one for each sample of a pass
        ([(dict(num_strengths=3, estimator='per_sample'), 0.4)], 1.4),
        # five steps of PGD, the first from the clean backward, and a pass: 5 x 0.2
        ([(dict(num_strengths=1, num_steps=5), 0.2)], 2.0),
        # every fourth step, beside a site that is off
        ([(dict(LATE, interval=4), 0.4), (dict(num_strengths=0), 0.3)], 1.1),
        # a joint site, and one on its own
        ([(dict(num_strengths=1), 0.5), (LATE, 0.3), (LATE, 0.2)], 1.8),
    ],
)
def test_estimated_cost(sites, expected):
    sites = [(AFANSettings(**settings), share) for settings, share in sites]
    assert estimated_cost(sites) == pytest.approx(expected)
