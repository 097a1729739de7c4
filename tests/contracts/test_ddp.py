"""Contract 9: two processes under MMDistributedDataParallel train as one, whatever each of them
sees.
"""

import os
import socket
import subprocess
import sys
from datetime import timedelta
from types import MappingProxyType

import pytest
import torch
import torch.nn.functional as F
from mmengine.model import MMDistributedDataParallel

from afan_mm import AFANSettings, tap
from support import toy
from support.fast_python import python
from support.tiny import (
    HOSTS,
    assert_close,
    assert_identical,
    average,
    batch_of,
    build,
    gradients,
    gradients_at_updates,
    optim_wrapper,
    parameters,
    stock_config,
    train,
    with_afan,
)

RANKS = (0, 1)
# a batch without objects
NOTHING = dict(segmentor=dict(ignore=True), detector=dict(boxes=[[], []]))
# options of DDP that allow parameters without a gradient
UNUSED = {
    'unused': dict(find_unused_parameters=True),
    'unused static': dict(static_graph=True),
    'unused static found': dict(static_graph=True, find_unused_parameters=True),
}


def model_of(
    host,
    detach=False,
    extra=False,
    strengths='linspace',
    joint=False,
    auxiliary=False,
    objective='loss',
):
    """With ``extra``, a layer that only some ranks use, and one that none does; with ``auxiliary``,
    norms for the adversarial passes, and a site at the image.
    """
    settings = dict(epsilon=0.1, num_strengths=2, strengths=strengths, detach=detach, joint=joint)
    settings['objective'] = objective
    if auxiliary:
        settings['bn_stats'] = 'auxiliary'
    config = with_afan(stock_config(host), neck=settings, head=settings)
    if auxiliary:
        config.update(type='AFANModel', base=config.type, afan=dict(settings, moments=None))
    model = build(config)
    if extra:
        torch.manual_seed(7)
        model.extra, model.unused = torch.nn.Conv2d(8, 8, 1), torch.nn.Conv2d(8, 8, 1)
    return model


def use_extra(model):
    """Add what ``model.extra`` computes to the backbone's first level."""
    model.backbone.register_forward_hook(
        lambda module, args, levels: (levels[0] + model.extra(levels[0]), *levels[1:])
    )


def count_tails(model):
    """A list that grows whenever the last layer runs."""
    calls = []
    last = (
        model.decode_head.conv_seg
        if hasattr(model, 'decode_head')
        else model.roi_head.bbox_head.fc_cls
    )
    last.register_forward_hook(lambda *_: calls.append(1))
    return calls


def work(rank, port, out):
    """All the scenarios on one rank; its results go to a file, and the tests judge them."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        'gloo',
        init_method=f'tcp://127.0.0.1:{port}',
        rank=rank,
        world_size=len(RANKS),
        timeout=timedelta(seconds=60),
    )
    results = {host: run(rank, host) for host in HOSTS}
    results['errors'] = {
        (missing, accumulative_counts): error_of_first_step(rank, missing, accumulative_counts)
        for missing in (None, 'tap', 'loss')
        for accumulative_counts in (1, 2)
    }
    results['order'] = {
        (unread, detached): order_of_passes(rank, unread, detached)
        for unread in ('first', 'second')
        for detached in ((), ('first',), ('second',))
    }
    results['auxiliary'] = trained_with_auxiliary_norms(MMDistributedDataParallel)
    torch.save(results, f'{out}/{rank}.pth')
    torch.distributed.destroy_process_group()


def run(rank, host):
    """The results of every scenario, by its name."""
    results = {}

    def step(name, batches, setup=None, options=MappingProxyType({}), **kwargs):
        model = model_of(
            host,
            kwargs.pop('detach', False),
            'unused' in name,
            joint=name.startswith('joint'),
            auxiliary=name == 'auxiliary',
            objective='consistency' if 'consistency' in name else 'loss',
        )
        if setup:
            setup(model)
        calls = count_tails(model)
        replicas = MMDistributedDataParallel(model, **options)
        results[name] = gradients_at_updates(replicas, optim_wrapper(replicas, **kwargs), batches)
        results[f'{name}/calls'] = len(calls)

    step('attached', [batch_of(host, seed=rank)])
    step('detached', [batch_of(host, seed=rank)], detach=True)
    step('joint', [batch_of(host, seed=rank)])
    step('auxiliary', [batch_of(host, seed=rank)])
    step('joint consistency', [batch_of(host, seed=rank)])
    for name in ('joint nothing', 'joint consistency nothing'):
        step(name, [batch_of(host, seed=rank, **(NOTHING[host] if rank else {}))])
    step(
        'accumulated', [batch_of(host, seed=2 * i + rank) for i in range(2)], accumulative_counts=2
    )
    for name, options in UNUSED.items():
        setup = use_extra if rank == 0 else None
        step(name, [batch_of(host, seed=rank)] * 2, setup=setup, options=options)
    step('nothing', [batch_of(host, seed=rank, **(NOTHING[host] if rank else {}))])

    model = model_of(host, strengths='uniform')
    replicas = MMDistributedDataParallel(model)
    train(
        replicas, optim_wrapper(replicas), [batch_of(host, seed=10 * rank + i) for i in range(10)]
    )
    results['trained'] = {name: p.detach() for name, p in model.named_parameters()}
    for kind in ('OptimWrapper', 'AFANOptimWrapper'):
        results[f'buffers/{kind}'] = buffers_at_forwards(rank, host, kind)
    return results


def buffers_at_forwards(rank, host, kind):
    """The running mean of the first norm at the start of each forward pass, two of which make an
    update.
    """
    model, found = model_of(host), []
    norm = next(m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d))
    replicas = MMDistributedDataParallel(model, broadcast_buffers=True)
    model.register_forward_pre_hook(lambda *_: found.append(norm.running_mean.clone()))
    batches = [batch_of(host, seed=10 * rank + i) for i in range(5)]
    train(replicas, optim_wrapper(replicas, kind, accumulative_counts=2), batches)
    return torch.stack(found)


def error_of_first_step(rank, missing, accumulative_counts):
    """What a first step says in which the last rank does not tap the site, or its loss does not read
    it.
    """

    def run(model, x, y):
        def tail(feature):
            return dict(loss=F.cross_entropy(model.classifier(feature), y))

        feature = model.front(x)
        if rank != RANKS[-1] or missing != 'tap':
            feature = tap('site', feature, tail, model.afan)
        return tail(feature.detach() if rank == RANKS[-1] and missing == 'loss' else feature)

    model = toy.host(run)
    model.afan = AFANSettings(name='site', **toy.EXACT)
    replicas = MMDistributedDataParallel(model)
    wrapper = optim_wrapper(replicas, accumulative_counts=accumulative_counts)
    try:
        replicas.train_step(toy.batch(seed=rank), wrapper)
    except RuntimeError as error:
        return str(error)
    return None


def order_of_passes(rank, unread, detached):
    """The sites whose tails run in a second step, one after the other, with what each tail adds up
    over the ranks; the loss of the last rank does not read one of them.
    """
    seen: list = []
    all_read = True

    def run(model, x, y):
        def part(name, site, layer, size):
            def tail(feature):
                normalizer = torch.tensor(float(size))
                torch.distributed.all_reduce(normalizer)
                seen.append((name, normalizer.item()))
                if name == unread and rank == RANKS[-1] and not all_read:
                    return {f'loss_{name}': feature.new_zeros(())}
                return {f'loss_{name}': layer(feature).square().sum() / normalizer.item()}

            settings = AFANSettings(name=name, **dict(toy.EXACT, detach=name in detached))
            return tail(tap(name, site(x), tail, settings))

        first = part('first', model.front, model.classifier, 1)
        return {**first, **part('second', model.side, model.middle, 10)}

    replicas = MMDistributedDataParallel(toy.host(run), find_unused_parameters=True)
    wrapper = optim_wrapper(replicas)
    replicas.train_step(toy.batch(seed=rank), wrapper)
    all_read = False
    seen.clear()
    replicas.train_step(toy.batch(seed=rank), wrapper)
    return seen


def trained_with_auxiliary_norms(replicate=lambda model: model):
    """Parameters after steps of which every second one has adversarial passes."""
    torch.manual_seed(0)
    settings = dict(epsilon=0.1, num_strengths=1, strengths='linspace')
    settings.update(bn_stats='auxiliary', interval=2)
    config = with_afan(stock_config('segmentor'), neck=settings)
    config.update(type='AFANModel', base=config.type)
    model = build(config)
    replicas = replicate(model)
    train(replicas, optim_wrapper(replicas), [batch_of('segmentor')] * 4)
    return parameters(model)


@pytest.fixture(scope='module')
def both_ranks(tmp_path_factory):
    """What each rank found."""
    out = tmp_path_factory.mktemp('ddp')
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path), OMP_NUM_THREADS='1')
    processes = [
        subprocess.Popen(
            [python(), __file__, str(rank), str(port), str(out)],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in RANKS
    ]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=240)
            assert process.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()
    return [torch.load(out / f'{rank}.pth') for rank in RANKS]


@pytest.fixture(params=HOSTS)
def ranks(request, both_ranks):
    """(host, results of rank 0, results of rank 1)"""
    return (request.param, *(results[request.param] for results in both_ranks))


@pytest.mark.parametrize(
    'name', ('attached', 'detached', 'joint', 'joint consistency', 'auxiliary')
)
def test_gradients_are_the_average(ranks, name):
    host, *results = ranks
    alone = [
        gradients(
            model_of(
                host,
                name == 'detached',
                joint=name.startswith('joint'),
                auxiliary=name == 'auxiliary',
                objective='consistency' if 'consistency' in name else 'loss',
            ),
            batch_of(host, seed=rank),
        )
        for rank in RANKS
    ]
    for result in results:
        assert_close(result[name][0], average(alone))
    with pytest.raises(AssertionError):  # a rank that kept its own gradients would show
        assert_close(alone[0], average(alone))


def test_accumulation(ranks):
    host, *results = ranks
    alone = [gradients(model_of(host), batch_of(host, seed=seed)) for seed in range(4)]
    for result in results:
        assert len(result['accumulated']) == 1
        assert_close(result['accumulated'][0], average(alone))


@pytest.mark.parametrize('name', UNUSED)
def test_parameter_that_one_rank_uses(ranks, name):
    """The others count zero, as in one process with the whole batch; what no rank uses has no
    gradient.
    """
    host, *results = ranks
    alone = []
    for rank in RANKS:
        model = model_of(host, extra=True)
        if rank == 0:
            use_extra(model)
        alone.append(gradients(model, batch_of(host, seed=rank)))
    expected = average(alone, weights=[0.5, 0.5])
    assert expected['extra.weight'].norm() > 0 and expected['unused.weight'] is None
    for result in results:
        assert_close(result[name][0], expected)
        assert len(result[name]) == 2


@pytest.mark.parametrize(
    'name, num_passes', (('nothing', 5), ('joint nothing', 3), ('joint consistency nothing', 3))
)
def test_rank_without_objects(ranks, name, num_passes):
    """It runs as many passes as the other rank, and its gradients count."""
    host, *results = ranks
    alone = [
        gradients(
            model_of(
                host,
                joint=name.startswith('joint'),
                objective='consistency' if 'consistency' in name else 'loss',
            ),
            batch_of(host, seed=rank, **(NOTHING[host] if rank else {})),
        )
        for rank in RANKS
    ]
    for result in results:
        assert_close(result[name][0], average(alone))
    # clean, and two strengths at two sites, or at both together
    assert results[0][f'{name}/calls'] == results[1][f'{name}/calls'] >= num_passes


def test_buffers_are_broadcast_as_in_the_stock_step(ranks):
    """Before the first forward pass after an update, and only then."""
    _, first, second = ranks
    same = {
        kind: [torch.equal(*each) for each in zip(first[kind], second[kind])]
        for kind in ('buffers/OptimWrapper', 'buffers/AFANOptimWrapper')
    }
    assert same['buffers/AFANOptimWrapper'] == same['buffers/OptimWrapper']
    assert same['buffers/OptimWrapper'] == [True, False, True, False, True]


def test_ranks_stay_equal(ranks):
    host, first, second = ranks
    assert_identical(first['trained'], second['trained'])
    start = parameters(model_of(host))
    assert not any(
        torch.equal(p, start[name])
        for name, p in first['trained'].items()
        if name.endswith('conv1.weight')
    )


@pytest.mark.parametrize('unread', ('first', 'second'))
@pytest.mark.parametrize('detached', ((), ('first',), ('second',)))
def test_passes_run_in_one_order_on_all_ranks(both_ranks, unread, detached):
    """What a tail reduces over the ranks must meet its like, also where one does not read a site."""
    first, second = (results['order'][unread, detached] for results in both_ranks)
    assert first == second
    assert set(first) == {('first', 2.0), ('second', 20.0)} and len(first) == 6


def test_auxiliary_norms_that_no_pass_reached_stay(both_ranks):
    """Momentum does not move them there: two ranks with the same batch are as one process."""
    for results in both_ranks:
        assert_identical(results['auxiliary'], trained_with_auxiliary_norms())


@pytest.mark.parametrize('accumulative_counts', (1, 2))
@pytest.mark.parametrize('missing, message', (('tap', 'not reached'), ('loss', 'does not depend')))
def test_what_one_rank_finds_missing_stops_all(both_ranks, missing, message, accumulative_counts):
    """The others would wait for it in their next step."""
    first, second = (results['errors'] for results in both_ranks)
    assert "A-FAN sites ['site'] were" in second[missing, accumulative_counts]
    assert message in second[missing, accumulative_counts]
    assert (
        first[missing, accumulative_counts] == f'On rank 1: {second[missing, accumulative_counts]}'
    )
    assert first[None, accumulative_counts] is second[None, accumulative_counts] is None


if __name__ == '__main__':
    work(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
