"""The shell scripts of tools/: two processes on a CPU evaluate as one does, and Slurm is asked for
what the user said.
"""

import json
import os
import re
import socket
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.model import MMDistributedDataParallel

from afan_mm.cli import runner as cli_runner
from afan_mm.utils.errors import UsageError
from support.digits import digits_voc
from support.fast_python import python
from support.paths import DIGITS, TOOLS
from support.tools import configure_test, configure_train, test, train

GPUS = 2
LOADERS = ('train', 'val', 'test')
# Untrained, so that predictions are of many classes, and metrics would show a lost or doubled
# image. Each process has its own running statistics and a checkpoint has those of the first: only
# where nothing updates them does validation give what a test of the checkpoint gives.
SETTINGS = dict(
    mmseg=['optim_wrapper.optimizer.lr=1e-4', 'model.backbone.norm_cfg.type=SyncBN'],
    mmdet=[
        'model.test_cfg.rcnn.score_thr=0.0',
        'model.backbone.norm_eval=True',
        'val_evaluator.iou_thrs=0.1',
        'test_evaluator.iou_thrs=0.1',
    ],
)
# one class of six, and no box found
NOTHING_LEARNT = dict(mmseg=dict(mAcc=16.67), mmdet={'pascal_voc/mAP': 0.0})
RECORDER = """#!/usr/bin/env bash
printf '%s\\n' "$PYTHONPATH" "$@" > "$RECORD"
"""


def launch(script, *arguments, cwd, **environment):
    """Run a script of tools/ from another folder."""
    defaults = dict(os.environ, OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='', PYTHON=python())
    return subprocess.run(
        [str(TOOLS / script), *map(str, arguments)],
        cwd=str(cwd),
        env={**defaults, **environment},
        capture_output=True,
        text=True,
        timeout=240,
    )


def free_port():
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return str(free.getsockname()[1])


def distribute(script, *arguments, cwd):
    """Run a script in two processes; both must succeed."""
    result = launch(script, *arguments, cwd=cwd, PORT=free_port())
    assert result.returncode == 0, result.stdout[-1000:] + result.stderr[-3000:]
    return result.stdout + result.stderr


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Three validation images: two processes cannot share them evenly."""
    root = tmp_path_factory.mktemp('launchers') / 'digits'
    digits_voc.make_digits_voc(root, train=4, val=3)
    return root


def options_of(host, data):
    options = [f'{loader}_dataloader.dataset.data_root={data}/' for loader in LOADERS]
    return [
        '--cfg-options',
        *options,
        'train_dataloader.batch_size=2',
        'train_cfg.max_iters=2',
        'train_cfg.val_interval=2',
        'default_hooks.checkpoint.interval=2',
        *SETTINGS[host],
    ]


def metrics_of(work_dir):
    """What a run of test.py wrote, less how long it took."""
    (path,) = Path(work_dir).glob('*/*.json')
    return {key: value for key, value in json.loads(path.read_text()).items() if 'time' not in key}


def last_validation(work_dir):
    """The metrics that training logged last."""
    (path,) = Path(work_dir).glob('*/vis_data/scalars.json')
    logged = json.loads(path.read_text().splitlines()[-1])
    return {key: value for key, value in logged.items() if 'time' not in key and key != 'step'}


def alone(host, data, checkpoint, work_dir):
    """The metrics of test.py in this process, without a launcher."""
    cfg = configure_test(
        str(DIGITS[host]), str(checkpoint), '--work-dir', str(work_dir), *options_of(host, data)
    )
    cli_runner.build_runner(cfg).test()
    return metrics_of(work_dir)


@pytest.mark.parametrize('host', ('mmseg', 'mmdet'))
def test_two_processes_train_and_evaluate_as_one(host, data, tmp_path):
    options = options_of(host, data)
    log = distribute(
        'dist_train.sh', DIGITS[host], GPUS, '--work-dir', 'my work', *options, cwd=tmp_path
    )
    assert (
        'A-FAN sites:' in log
        and 'GPU number: 2' in log
        and ('SyncBN does not run on a CPU' in log) == (host == 'mmseg')
    )
    checkpoint = tmp_path / 'my work' / 'iter_2.pth'
    expected = alone(host, data, checkpoint, tmp_path / 'alone')
    assert all(expected[key] != value for key, value in NOTHING_LEARNT[host].items())
    if host == 'mmseg':
        distribute(
            'dist_test.sh',
            DIGITS[host],
            checkpoint,
            GPUS,
            '--work-dir',
            'test',
            *options,
            cwd=tmp_path,
        )
        found = metrics_of(tmp_path / 'test')
    else:
        found = last_validation(tmp_path / 'my work')
    assert found == pytest.approx(expected)


def test_torch_launcher_of_old(tmp_path):
    """torch.distributed.launch passes the rank as an option, --local-rank, or --local_rank before
    torch 2.
    """
    (tmp_path / 'show.py').write_text('import sys\nprint(sys.argv[1])')
    command = [python(), '-m', 'torch.distributed.launch', '--nproc_per_node=1', 'show.py']
    result = subprocess.run(
        command, cwd=str(tmp_path), stdout=subprocess.PIPE, text=True, check=True
    )
    option = result.stdout.strip()
    assert option.replace('_', '-') == '--local-rank=0'
    for spelling in (option, '--local-rank=3', '--local_rank=3'):
        for args in (
            train.parse_args(['config.py', spelling]),
            test.parse_args(['config.py', 'weights.pth', spelling]),
        ):
            assert args.local_rank == int(spelling[-1])


def test_process_group_ends_with_the_process(tmp_path, monkeypatch):
    """And every kind of SyncBN becomes BatchNorm, with no trace of either in the config."""
    for name, value in dict(
        RANK='0', LOCAL_RANK='0', WORLD_SIZE='1', MASTER_ADDR='127.0.0.1', MASTER_PORT=free_port()
    ).items():
        monkeypatch.setenv(name, value)
    at_exit = []
    monkeypatch.setattr(cli_runner, 'get_device', lambda: 'cpu')
    monkeypatch.setattr(cli_runner, 'atexit', SimpleNamespace(register=at_exit.append))
    cfg = configure_train(
        str(DIGITS['mmseg']),
        '--launcher',
        'pytorch',
        '--work-dir',
        str(tmp_path),
        '--cfg-options',
        'model.backbone.norm_cfg.type=SyncBN',
        'model.decode_head.norm_cfg.type=MMSyncBN',
        'env_cfg.dist_cfg.timeout=77',
    )
    before = cfg.to_dict()
    try:
        runner = cli_runner.build_runner(cfg)
        assert torch.distributed.get_backend() == 'gloo' and torch.distributed.get_world_size() == 1
        kinds = {
            type(module).__name__
            for module in runner.model.modules()
            if hasattr(module, 'running_mean')
        }
        assert isinstance(runner.model, MMDistributedDataParallel) and kinds == {
            '_BatchNormXd',
            'BatchNorm2d',
        }
        assert cfg.to_dict() == before
        assert len(at_exit) == 1
    finally:
        for function in at_exit:
            function()
    assert not torch.distributed.is_initialized()


def test_other_launchers_need_an_accelerator(monkeypatch):
    monkeypatch.setattr(cli_runner, 'get_device', lambda: 'cpu')
    cfg = configure_train(str(DIGITS['mmseg']), '--launcher', 'slurm')
    with pytest.raises(
        UsageError,
        match="must be 'pytorch' or 'none' where there is only a CPU, but got 'slurm'",
    ):
        cli_runner.build_runner(cfg)


def record(tmp_path, command, script, *arguments, **environment):
    """What a script runs: the arguments that it gives to a command of this name, after the
    PYTHONPATH that it sets.
    """
    fake = tmp_path / 'bin' / command
    fake.parent.mkdir()
    fake.write_text(RECORDER)
    fake.chmod(0o755)
    path = os.pathsep.join([str(fake.parent), os.environ['PATH']])
    result = launch(
        script, *arguments, cwd=tmp_path, PATH=path, RECORD=str(tmp_path / 'record'), **environment
    )
    assert result.returncode == 0, result.stderr
    python_path, *given = (tmp_path / 'record').read_text().splitlines()
    assert Path(python_path.split(os.pathsep)[0]).resolve() == TOOLS.parent
    return given


def test_dist_train(tmp_path):
    """Without variables; with the python that a user calls."""
    given = record(
        tmp_path, 'python', 'dist_train.sh', 'my config.py', 3, '--work-dir', 'my work', PYTHON=''
    )
    assert given == [
        '-m',
        'torch.distributed.run',
        '--nnodes=1',
        '--node_rank=0',
        '--master_addr=127.0.0.1',
        '--master_port=29500',
        '--nproc_per_node=3',
        str(TOOLS / 'train.py'),
        'my config.py',
        '--launcher',
        'pytorch',
        '--work-dir',
        'my work',
    ]


def test_dist_test(tmp_path):
    environment = dict(
        NNODES='2', NODE_RANK='1', MASTER_ADDR='10.0.0.1', PORT='29501', PYTHON='python3.8'
    )
    given = record(
        tmp_path,
        'python3.8',
        'dist_test.sh',
        'config.py',
        'my weights.pth',
        8,
        '--out',
        'my out',
        **environment,
    )
    assert given == [
        '-m',
        'torch.distributed.run',
        '--nnodes=2',
        '--node_rank=1',
        '--master_addr=10.0.0.1',
        '--master_port=29501',
        '--nproc_per_node=8',
        str(TOOLS / 'test.py'),
        'config.py',
        'my weights.pth',
        '--launcher',
        'pytorch',
        '--out',
        'my out',
    ]


def test_slurm_train(tmp_path):
    given = record(
        tmp_path,
        'srun',
        'slurm_train.sh',
        'gpu',
        'my job',
        'my config.py',
        'my work',
        '--cfg-options',
        'a="[1, 2]"',
    )
    assert given == [
        '-p',
        'gpu',
        '--job-name=my job',
        '--gres=gpu:8',
        '--ntasks=8',
        '--ntasks-per-node=8',
        '--cpus-per-task=5',
        '--kill-on-bad-exit=1',
        python(),
        '-u',
        str(TOOLS / 'train.py'),
        'my config.py',
        '--work-dir=my work',
        '--launcher=slurm',
        '--cfg-options',
        'a="[1, 2]"',
    ]


def test_slurm_test(tmp_path):
    environment = dict(
        GPUS='4',
        GPUS_PER_NODE='2',
        CPUS_PER_TASK='3',
        SRUN_ARGS='--quotatype=auto -x node1',
        PY_ARGS='--tta --show',
    )
    given = record(
        tmp_path,
        'srun',
        'slurm_test.sh',
        'gpu',
        'job',
        'config.py',
        'weights.pth',
        '--out',
        'out.pkl',
        **environment,
    )
    command = [
        python(),
        '-u',
        str(TOOLS / 'test.py'),
        'config.py',
        'weights.pth',
        '--launcher=slurm',
        '--tta',
        '--show',
        '--out',
        'out.pkl',
    ]
    assert given == [
        '-p',
        'gpu',
        '--job-name=job',
        '--gres=gpu:2',
        '--ntasks=4',
        '--ntasks-per-node=2',
        '--cpus-per-task=3',
        '--kill-on-bad-exit=1',
        '--quotatype=auto',
        '-x',
        'node1',
        *command,
    ]
    args = test.parse_args(command[3:])
    assert (args.config, args.checkpoint, args.launcher, args.out) == (
        'config.py',
        'weights.pth',
        'slurm',
        'out.pkl',
    )


@pytest.mark.parametrize(
    'script, arguments',
    (
        ('dist_train.sh', 'CONFIG GPUS'),
        ('dist_test.sh', 'CONFIG CHECKPOINT GPUS'),
        ('slurm_train.sh', 'PARTITION JOB_NAME CONFIG WORK_DIR'),
        ('slurm_test.sh', 'PARTITION JOB_NAME CONFIG CHECKPOINT'),
    ),
)
def test_usage(script, arguments, tmp_path):
    result = launch(script, *arguments.split()[:-1], cwd=tmp_path)
    assert result.returncode == 2 and result.stdout == ''
    assert re.fullmatch(
        rf'usage: .*{re.escape(script)} {arguments} \[options of (train|test).py\]\n', result.stderr
    )
