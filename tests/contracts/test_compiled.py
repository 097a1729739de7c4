"""A step that torch compiles, as ``compile=True`` of the Runner has it, gives the gradients of the
same step without.
"""

import torch
import torch.nn.functional as F

from afan_mm import AFANSettings, tap
from support.tiny import gradients_at_updates, optim_wrapper
from support.toy import EXACT, assert_same, batch, host
from support.versions import compiles


@compiles
def test_gradients_are_those_of_the_step_as_it_is():
    """At an attached site, within whose backward passes run. No backend that needs a compiler."""

    def run(model, x, y):
        def tail(feature):
            feature = model.middle(torch.tanh(feature))
            return dict(loss=F.cross_entropy(model.classifier(feature), y))

        feature = torch.relu_(model.front(x))
        return tail(tap('site', feature, tail, AFANSettings(**EXACT)))

    found, graphs = [], []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    for is_compiled in (False, True):
        model = host(run)
        if is_compiled:
            model.train_step = torch.compile(model.train_step, backend=backend)
        found += gradients_at_updates(model, optim_wrapper(model), [batch()])
    assert graphs
    assert_same(found[1], found[0])
