"""What reads a run or a model from outside gets from an A-FAN one what it gets from a stock one."""

import json
from collections import Counter
from functools import partial

import pytest
import torch
from mmengine.analysis import get_model_complexity_info
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from support.runs import afan_model, train
from support.tiny import HOSTS, batch_of, build, stock_config, with_afan

AFAN = dict(epsilon=0.3, num_strengths=2)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """The folder of what a run of four iterations logged."""
    work_dir = tmp_path_factory.mktemp('run')
    train(afan_model(), work_dir, max_iters=4)
    (scalars,) = work_dir.glob('*/vis_data/scalars.json')
    return scalars.parent


def logged(folder):
    """The values of each figure over the iterations, from mmengine's own text file."""
    lines = [json.loads(line) for line in (folder / 'scalars.json').read_text().splitlines()]
    return {key: [line[key] for line in lines] for key in lines[0] if key not in ('step', 'iter')}


def test_tensorboard_receives_every_figure(run):
    expected = logged(run)
    assert any(key.startswith('afan/') for key in expected)
    events = EventAccumulator(str(run))
    events.Reload()
    found = {
        tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()['scalars']
    }
    assert expected.keys() <= found.keys()
    for key, values in expected.items():
        assert found[key] == pytest.approx(values, rel=1e-6, nan_ok=True)


def pair(host):
    """The stock model and the A-FAN one, for inference, with equal weights."""
    config = stock_config(host)
    stock, ours = build(config, seed=1), build(with_afan(config, neck=AFAN, head=AFAN), seed=2)
    ours.load_state_dict(stock.state_dict())
    return stock.eval(), ours.eval()


def forward(model):
    """What an exporter takes of a model: images in, tensors out."""
    names = {'roi_head': 'extract_feat', 'decode_head': 'forward'}
    (method,) = [method for name, method in names.items() if hasattr(model, name)]

    class Exported(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, images):
            return getattr(self.model, method)(images)

    return Exported().eval()


def tensors(outputs):
    return list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]


@pytest.mark.parametrize('host', HOSTS)
def test_torchscript_trace_equals_that_of_stock(host, tmp_path):
    traced = []
    for index, model in enumerate(pair(host)):
        path = str(tmp_path / f'{index}.pt')
        torch.jit.trace(forward(model), torch.randn(1, 3, 64, 64)).save(path)
        traced.append(torch.jit.load(path))
    kinds = [Counter(node.kind() for node in each.inlined_graph.nodes()) for each in traced]
    assert kinds[0]['aten::_convolution'] == kinds[1]['aten::_convolution'] > 10
    images = torch.randn(2, 3, 64, 64)
    outputs = [tensors(each(images)) for each in traced]
    assert all(torch.equal(ours, stock) for stock, ours in zip(*outputs))
    assert not torch.equal(outputs[0][0][0], outputs[0][0][1])


def complexity(model, host):
    """As the get_flops.py of the hosts counts it."""
    batch = batch_of(host, num_samples=1)
    data = model.data_preprocessor(batch)
    model.forward = partial(model.forward, data_samples=data['data_samples'])
    found = get_model_complexity_info(
        model, None, inputs=data['inputs'], show_table=False, show_arch=False
    )
    return found['flops'], found['params'], found['activations']


@pytest.mark.parametrize('host', HOSTS)
def test_flops_are_those_of_stock(host):
    stock, ours = (complexity(model, host) for model in pair(host))
    assert ours == stock and stock[0] > 1e6
