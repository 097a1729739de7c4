"""What the adversarial passes must leave as the clean pass left it, whoever counts it."""

import copy
import gc
import random
import weakref
from collections import OrderedDict, deque
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.model import ExponentialMovingAverage
from torch import nn

from afan_mm import AFANSettings, host_state, tap
from afan_mm.isolation import isolated_random, restored_state
from support.tiny import (
    assert_close,
    assert_identical,
    build,
    gradients,
    optim_wrapper,
    parameters,
    segmentation_batch,
    segmentor_config,
    with_afan,
)
from support.toy import batch, host


class Meter:
    """Not a module."""

    def __init__(self):
        self.count, self.history, self.sums = 0, deque(maxlen=4), np.zeros(1)

    def update(self):
        self.count += 1
        self.history.append(self.count)
        self.sums += 1


class OwnNorm(nn.Module):
    """A batch norm of a host's own, which torch's flags do not reach."""

    def __init__(self):
        super().__init__()
        self.register_buffer('mean', torch.zeros(6))
        self.register_buffer('var', torch.ones(6))

    def forward(self, x):
        return F.batch_norm(x, self.mean, self.var, training=self.training)


class ReadOnly(dict):
    def __setitem__(self, key, value):
        raise TypeError('read-only')

    clear = update = __delitem__ = __setitem__


class Counter(nn.Module):
    """Counts its calls in every way."""

    def __init__(self):
        super().__init__()
        self.number, self.tensor = 0, torch.zeros(1, dtype=torch.float64)
        self.numbers, self.nested = [], {'a': [{'b': 0}], 'c': (set(), [torch.zeros(1)])}
        self.meters, self.constant = [Meter()], ReadOnly(a=1)
        self.register_buffer('buffer', torch.zeros(1))
        self.register_buffer('renewed', torch.zeros(1))

    def forward(self, x):
        self.number += 1
        self.tensor += 1
        self.numbers.append(self.number)
        self.nested['a'][0]['b'] += 1
        self.nested['c'][0].add(self.number)
        self.nested['c'][1][0] += 1
        self.nested[f'call {self.number}'] = self.number
        self.meters[0].update()
        self.buffer += 1
        self.renewed = self.renewed + 1
        setattr(self, f'call_{self.number}', self.number)
        return x

    def state(self):
        meter = self.meters[0]
        return copy.deepcopy(
            (
                sorted(k for k in vars(self) if not k.startswith('_')),
                self.number,
                self.numbers,
                list(self.nested),
                self.nested['a'],
                self.nested['c'][0],
                float(self.nested['c'][1][0]),
                (meter.count, list(meter.history), float(meter.sums[0])),
                [float(t) for t in (self.tensor, self.buffer, self.renewed)],
            )
        )


def counting_host(**settings):
    def run(model, x, y):
        def tail(feature):
            feature = model.own_norm(model.counter(feature))
            feature = model.instance_norm(feature[:, :, None].expand(-1, -1, 4))[:, :, 0]
            feature = model.spectral(model.norm(feature))
            return dict(loss=F.cross_entropy(model.classifier(feature), y))

        afan = AFANSettings(epsilon=0.3, num_strengths=2, moments=None, **settings)
        return tail(tap('site', model.front(x), tail, afan))

    model = host(run)
    model.counter, model.own_norm = Counter(), OwnNorm().double()
    model.instance_norm = nn.InstanceNorm1d(6, track_running_stats=True).double()
    torch.manual_seed(1)
    model.spectral = nn.utils.spectral_norm(nn.Linear(6, 6)).double()
    return model.train()


class Collector(nn.Module):
    """Has what cannot be written to, draws from streams of its own, and moves a teacher."""

    def __init__(self):
        super().__init__()
        self.register_buffer('expanded', torch.ones(1, 1, dtype=torch.float64).expand(8, 6))
        self.grid = torch.meshgrid(torch.arange(3), torch.arange(2), indexing='ij')
        self.constant = np.arange(3)
        self.constant.flags.writeable = False
        self.torch, self.legacy = torch.Generator(), np.random.RandomState(0)
        self.numpy, self.python = np.random.default_rng(0), random.Random(0)
        self.system = random.SystemRandom()
        self.recent = OrderedDict(start=0)
        self.student = nn.Linear(6, 6).double()
        self.teacher = ExponentialMovingAverage(self.student, momentum=0.1)
        self.teacher.steps += 1  # the first update would be a copy
        self.student.weight.data.add_(1)

    def forward(self, x):
        self.teacher.update_parameters(self.student)
        self.recent[self.draws()] = len(self.recent)
        self.recent.pop('start', None)
        return self.teacher(x) + x * self.expanded

    def draws(self):
        return (
            float(torch.rand((), generator=self.torch)),
            self.legacy.rand(),
            self.numpy.random(),
            self.python.random(),
        )


def test_streams_teachers_and_what_cannot_be_written_to():
    found = []
    for kind in ('OptimWrapper', 'AFANOptimWrapper'):
        model = counting_host()
        torch.manual_seed(2)
        model.counter = Collector()
        model.train_step(batch(), optim_wrapper(model, kind))
        collector = model.counter
        found.append((collector.draws(), list(collector.recent.items()), collector.teacher))
    (*stock, teacher), (*ours, ours_teacher) = found
    assert ours == stock and len(ours[1]) == 1
    assert_identical(parameters(ours_teacher), parameters(teacher))


@pytest.mark.parametrize('detach', (True, False))
@pytest.mark.parametrize('num_steps', (1, 2))
def test_the_passes_leave_what_the_clean_pass_left(detach, num_steps):
    states, buffers = [], []
    for kind in ('OptimWrapper', 'AFANOptimWrapper'):
        model = counting_host(detach=detach, num_steps=num_steps)
        wrapper = optim_wrapper(model, kind)
        if kind != 'OptimWrapper':
            wrapper.health.due = True
        model.train_step(batch(), wrapper)
        states.append(model.counter.state())
        buffers.append(dict(model.named_buffers()))
    assert states[0] == states[1]
    for name, buffer in buffers[0].items():
        assert torch.equal(buffer, buffers[1][name]), name


def test_every_pass_counts_where_that_is_asked_for():
    """``bn_stats='all'``: the clean pass and two more; a measurement counts nothing."""
    for due in (False, True):
        model = counting_host(bn_stats='all')
        wrapper = optim_wrapper(model)
        wrapper.health.due = due
        model.train_step(batch(), wrapper)
        assert model.counter.number == model.norm.num_batches_tracked == 3
        assert len(model.counter.meters[0].history) == 3


@pytest.mark.parametrize('copies', ('together', 'one by one'))
def test_buffers_of_every_kind(copies, monkeypatch):
    """Of several types, sparse, shared, transposed, and empty."""
    if copies == 'one by one':
        monkeypatch.setattr(host_state, '_foreach_copy', host_state._one_by_one)
    module, inner = nn.Module(), nn.Module()
    shared = torch.rand(3)
    values = dict(
        number=torch.tensor(4),
        rounded=torch.rand(5).half(),
        flags=torch.tensor([True, False]),
        transposed=torch.rand(2, 3).t(),
        sparse=torch.rand(2, 2).to_sparse(),
        empty=torch.rand(0),
        shared=shared,
    )
    for name, value in values.items():
        module.register_buffer(name, value)
    module.inner = inner
    inner.register_buffer('shared', shared)
    before = copy.deepcopy(values)
    with restored_state(module):
        for value in values.values():
            value.zero_()
        inner.shared = torch.ones(3)
    assert inner.shared is shared
    for name, value in values.items():
        assert getattr(module, name) is value
        assert torch.equal(value.to_dense(), before[name].to_dense()), name


def test_versions_stay_and_unchanged_containers_are_not_written_to():
    model = counting_host()
    buffer, norm = model.counter.buffer, model.own_norm
    version, constant = norm.mean._version, model.counter.constant
    with restored_state(model):
        norm(torch.randn(4, 6, dtype=torch.float64))
        model.counter(None)
    assert norm.mean._version == version and not norm.mean.any()
    assert model.counter.buffer is buffer and model.counter.constant is constant


def test_restored_after_an_error():
    model = counting_host()
    before = model.counter.state()
    with pytest.raises(KeyboardInterrupt), restored_state(model):
        model.counter(None)
        raise KeyboardInterrupt
    assert model.counter.state() == before


def test_hooks_of_the_user_run_once_on_what_is_taped():
    """A hook doubles what by-passes the site; an unperturbed pass is the clean one again, so
    gradients double as a whole.
    """
    control = dict(site='backbone.layer4', perturbation='none', num_strengths=1, moments=None)
    found = []
    for neck in (control, None):
        model = build(with_afan(segmentor_config(auxiliary=False), neck=neck)).double()
        model.backbone.layer1.register_forward_hook(lambda module, args, output: 2 * output)
        kind = 'OptimWrapper' if neck is None else 'AFANOptimWrapper'
        found.append(gradients(model, segmentation_batch(), optim_wrapper(model, kind)))
    ours, stock = found
    assert_close(ours, {name: None if g is None else 2 * g for name, g in stock.items()}, 1e-8)


@pytest.mark.parametrize('ends', ('in the forward', 'in a pass', 'without a backward'))
def test_a_step_that_ends_early_keeps_no_graph(ends):
    """By reference counting alone: memory is there again after an out-of-memory error."""
    alive = []

    class Node(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient

    def remembered(x):
        x = Node.apply(x)
        alive.append(weakref.ref(x.grad_fn))
        return x

    def run(model, x, y):
        def tail(feature):
            if ends == 'in a pass' and passes:
                raise MemoryError
            passes.append(1)
            return dict(loss=F.cross_entropy(model.classifier(feature), y))

        feature = tap('site', remembered(model.front(x)), tail, AFANSettings(epsilon=0.3))
        if ends == 'in the forward':
            raise MemoryError
        return tail(feature)

    passes, model = [], host(run)
    wrapper = optim_wrapper(model)
    gc.disable()
    try:
        if ends == 'without a backward':
            for _ in range(2):
                with wrapper.optim_context(model):
                    model(**batch())
            assert [ref() is None for ref in alive] == [True, False]
        else:
            # the error's traceback would keep the frames
            try:
                model.train_step(batch(), wrapper)
            except MemoryError as error:
                error.__traceback__ = None
            assert [ref() for ref in alive] == [None]
    finally:
        gc.enable()


@pytest.mark.parametrize('kind', ('cuda', 'xpu'))
def test_the_device_of_the_feature_is_seeded(monkeypatch, kind):
    """Not the current one. There is no accelerator in a test, so its calls are recorded."""
    second = torch.device(f'{kind}:1')
    current, seeded, restored = [torch.device(f'{kind}:0')], [], []

    @contextmanager
    def device(chosen):
        current.append(chosen)
        yield
        current.pop()

    module = SimpleNamespace(
        device=device,
        manual_seed=lambda seed: seeded.append((seed, current[-1])),
        get_rng_state=lambda device: f'state of {device}',
        set_rng_state=lambda *state: restored.append(state),
    )
    monkeypatch.setattr(torch, kind, module, raising=False)
    with isolated_random(3, second):
        assert not restored
    assert seeded == [(3, second)]
    assert restored == [(f'state of {second}', second)]
