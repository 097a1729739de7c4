"""Contract 8 in a real Runner: resuming, being killed, EMA, and checkpoints that the stock model
loads.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner, find_latest_checkpoint, load_checkpoint
from torch.utils.data import Dataset

from afan_mm.checkpoint import allow_mmengine_checkpoints
from support.fast_python import python
from support.tiny import (
    HOSTS,
    assert_close,
    assert_identical,
    batch_of,
    build,
    parameters,
    stock_config,
    with_afan,
)
from support.versions import goes_on_with_the_data, older

NUM_ITERS, NUM_SAVED, NUM_KILLED = 8, 4, 6
AFAN = dict(epsilon=0.1, num_strengths=1, perturbation='gradient', random_start=True)


class InMemory(Dataset):
    """Five images, each a sample as a pipeline would pack it."""

    def __init__(self, host):
        self.batch = batch_of(host, num_samples=5)

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return {key: values[index] for key, values in self.batch.items()}


class Record(Hook):
    """The parameters after every iteration, and the losses logged."""

    def __init__(self):
        self.parameters, self.losses = [], []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.parameters.append(
            {name: p.detach().clone() for name, p in runner.model.named_parameters()}
        )
        self.losses.append(float(outputs['loss'].detach()))


class Kill(Hook):
    """What the machine does when it takes the process away: no handler runs, nothing is flushed."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == NUM_KILLED:
            os.kill(os.getpid(), signal.SIGKILL)


def config_of(host, auxiliary):
    if not auxiliary:
        return with_afan(stock_config(host), neck=AFAN, head=AFAN)
    settings = dict(AFAN, bn_stats='auxiliary')
    config = with_afan(stock_config(host), neck=settings, head=settings)
    config.update(type='AFANModel', base=config.type, afan=dict(settings, moments=None))
    return config


def make_runner(host, work_dir, hooks=(), auxiliary=False, **kwargs):
    """A run of eight iterations in random order that saves a checkpoint at the fourth and the
    last.
    """
    return Runner(
        model=config_of(host, auxiliary),
        work_dir=str(work_dir),
        experiment_name=Path(work_dir).name,
        train_dataloader=dict(
            batch_size=2,
            num_workers=0,
            dataset=InMemory(host),
            sampler=dict(type='InfiniteSampler', shuffle=True),
            collate_fn=dict(type='pseudo_collate'),
        ),
        train_cfg=dict(by_epoch=False, max_iters=NUM_ITERS),
        optim_wrapper=dict(
            type='AFANOptimWrapper', optimizer=dict(type='SGD', lr=0.01, momentum=0.9)
        ),
        param_scheduler=dict(type='PolyLR', by_epoch=False, end=NUM_ITERS),
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=NUM_SAVED)
        ),
        custom_hooks=[
            dict(type='EMAHook', momentum=0.3),
            dict(type='AFANHook', warmup_iters=6, interval=3),
            *hooks,
        ],
        randomness=dict(seed=0),
        default_scope='mmseg' if host == 'segmentor' else 'mmdet',
        log_level='WARNING',
        **kwargs,
    )


def saved(work_dir, iteration):
    allow_mmengine_checkpoints()  # the fork's loader takes its classes off the list again
    return torch.load(
        Path(work_dir) / f'iter_{iteration}.pth', weights_only=not older(torch, '2.6')
    )


def assert_same_end(one, other):
    """Model, average and optimizer of two runs are equal in every bit at the last iteration."""
    one, other = saved(one, NUM_ITERS), saved(other, NUM_ITERS)
    for part in ('state_dict', 'ema_state_dict'):
        assert_identical(one[part], other[part])
    first, second = (each['optimizer']['state'] for each in (one, other))
    assert first.keys() == second.keys() and len(first)
    for key in first:
        assert torch.equal(first[key]['momentum_buffer'], second[key]['momentum_buffer'])


@pytest.fixture(scope='module', params=HOSTS)
def finished(request, tmp_path_factory):
    """(host, work_dir, record) of an uninterrupted run."""
    work_dir, record = tmp_path_factory.mktemp(f'{request.param}_whole'), Record()
    make_runner(request.param, work_dir, [record]).train()
    return request.param, work_dir, record


def test_run_finishes_with_finite_losses(finished):
    _, _, record = finished
    assert len(record.losses) == NUM_ITERS
    assert all(map(torch.isfinite, map(torch.tensor, record.losses)))


@goes_on_with_the_data
def test_resumed_run_equals_the_whole_one(finished, tmp_path):
    host, work_dir, record = finished
    again = Record()
    make_runner(
        host,
        tmp_path / f'{host}_resumed',
        [again],
        resume=True,
        load_from=str(work_dir / f'iter_{NUM_SAVED}.pth'),
    ).train()
    assert again.losses == record.losses[NUM_SAVED:]
    assert_same_end(tmp_path / f'{host}_resumed', work_dir)


@goes_on_with_the_data
@pytest.mark.parametrize('host', HOSTS)
def test_resumed_run_with_auxiliary_norms(host, tmp_path):
    """Weights, momentum and averages of the auxiliary norms continue too."""
    record, again = Record(), Record()
    make_runner(host, tmp_path / f'{host}_own', [record], auxiliary=True).train()
    checkpoint = str(tmp_path / f'{host}_own' / f'iter_{NUM_SAVED}.pth')
    continued = tmp_path / f'{host}_continued'
    make_runner(host, continued, [again], True, resume=True, load_from=checkpoint).train()
    assert again.losses == record.losses[NUM_SAVED:]
    assert_same_end(tmp_path / f'{host}_own', continued)
    first, last = saved(tmp_path / f'{host}_own', NUM_SAVED), saved(continued, NUM_ITERS)
    own = [key for key in last['state_dict'] if 'afan_auxiliary.weight' in key]
    assert own and any(
        not torch.equal(first['state_dict'][key], last['state_dict'][key]) for key in own
    )


@goes_on_with_the_data
def test_killed_run_resumes_from_its_last_checkpoint(finished, tmp_path):
    host, work_dir, record = finished
    killed = tmp_path / f'{host}_killed'
    process = subprocess.run(
        [python(), __file__, host, str(killed)],
        timeout=120,
        capture_output=True,
        text=True,
        env=dict(
            os.environ,
            PYTHONPATH=os.pathsep.join(sys.path),
            OMP_NUM_THREADS=str(torch.get_num_threads()),
        ),
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert Path(find_latest_checkpoint(str(killed))).name == f'iter_{NUM_SAVED}.pth'
    again = Record()
    runner = make_runner(host, killed, [again], resume=True)
    runner.train()
    assert runner.iter == NUM_ITERS and again.losses == pytest.approx(
        record.losses[NUM_SAVED:], rel=1e-5
    )
    assert saved(killed, NUM_ITERS)['meta']['iter'] == NUM_ITERS


def test_ema_averages_the_trained_parameters(finished):
    """The saved average is the exponential one of the parameters after each update."""
    host, work_dir, record = finished
    expected = {name: p.clone() for name, p in record.parameters[0].items()}
    for step in record.parameters[1:]:
        for name, p in step.items():
            expected[name] = 0.7 * expected[name] + 0.3 * p
    averages = saved(work_dir, NUM_ITERS)['state_dict']
    assert_close({name: averages[name] for name in expected}, expected)
    assert not all(torch.equal(averages[name], p) for name, p in record.parameters[-1].items())


def test_checkpoint_is_a_stock_checkpoint(finished):
    host, work_dir, _ = finished
    stock = build(stock_config(host), seed=9)
    load_checkpoint(stock, str(work_dir / f'iter_{NUM_ITERS}.pth'), strict=True)
    assert_identical(parameters(stock), saved(work_dir, NUM_ITERS)['state_dict'])


if __name__ == '__main__':  # the run that is killed
    make_runner(sys.argv[1], sys.argv[2], [Kill()]).train()
