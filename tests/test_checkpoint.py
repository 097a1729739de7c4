"""Checkpoints that mmengine writes load under torch's safe loading, and malicious ones still do
not.
"""

import importlib.util
import os
import pickle
import subprocess
import zipfile

import mmengine.optim
import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.dataset import BaseDataset
from mmengine.logging import HistoryBuffer
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler

from afan_mm.checkpoint import allow_mmengine_checkpoints
from support.fast_python import python
from support.versions import lists_safe_classes, older

STOCK_RUN = """
import sys
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner


class Points(torch.utils.data.Dataset):
    metainfo = dict(classes=('a', 'b'), palette=[(1, 2, 3), (4, 5, 6)])

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return dict(x=torch.full((3, ), float(index)))


class Toy(BaseModel):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, 1)

    def forward(self, x, mode='tensor'):
        y = self.linear(x)
        return dict(loss=y.square().mean()) if mode == 'loss' else y


class BestScore(Hook):
    def after_train_iter(self, runner, *args, **kwargs):
        import numpy
        runner.message_hub.update_info('best_score', numpy.float64(0.5))  # as CheckpointHook(save_best=...) does


def build_runner(work_dir, **kwargs):
    return Runner(
        model=Toy(), work_dir=work_dir, experiment_name=f'toy_{len(kwargs)}', log_level='ERROR',
        train_dataloader=dict(
            dataset=Points(), sampler=dict(type='DefaultSampler', shuffle=True), batch_size=2,
            collate_fn=dict(type='default_collate')),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9)),
        param_scheduler=[
            dict(type='OneCycleLR', eta_max=0.1, total_steps=8, by_epoch=False),
            dict(type='MultiStepLR', milestones=[1], by_epoch=True)
        ],
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1)),
        custom_hooks=[dict(type='EMAHook'), BestScore()], **kwargs)


if __name__ == '__main__':
    build_runner(sys.argv[1], train_cfg=dict(by_epoch=True, max_epochs=1)).train()
    assert 'afan_mm' not in sys.modules
    try:
        torch.load(sys.argv[1] + '/epoch_1.pth')
    except Exception as error:
        print('refused:', type(error).__name__)
"""


@pytest.fixture(scope='module')
def stock_run(tmp_path_factory):
    """The folder of a run of one epoch, made by a process that never saw afan_mm, and what that
    process printed.
    """
    folder = tmp_path_factory.mktemp('stock')
    (folder / 'stock_run.py').write_text(STOCK_RUN)
    process = subprocess.run(
        [python(), 'stock_run.py', str(folder)],
        cwd=str(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.returncode == 0, process.stdout
    return folder, process.stdout


@pytest.fixture(autouse=True)
def allowed():
    allow_mmengine_checkpoints()


def load_script(folder):
    spec = importlib.util.spec_from_file_location('stock_run', str(folder / 'stock_run.py'))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_stock_checkpoint_loads(stock_run):
    folder, printed = stock_run
    if tuple(map(int, torch.__version__.split('.')[:2])) >= (2, 6):
        assert 'refused: UnpicklingError' in printed  # otherwise the module is no longer needed
    checkpoint = torch.load(str(folder / 'epoch_1.pth'))
    history = checkpoint['message_hub']['log_scalars']['train/loss']
    assert type(history) is HistoryBuffer and history.statistics('mean', 2) == history.mean() > 0
    assert checkpoint['message_hub']['runtime_info']['best_score'] == 0.5
    assert checkpoint['ema_state_dict'].keys() >= {'module.linear.weight'}
    assert OneCycleParamScheduler._annealing_cos in checkpoint['param_schedulers'][0].values()


def test_stock_checkpoint_resumes(stock_run, tmp_path):
    folder, _ = stock_run
    runner = load_script(folder).build_runner(
        str(tmp_path),
        train_cfg=dict(by_epoch=True, max_epochs=2),
        resume=True,
        load_from=str(folder / 'epoch_1.pth'),
    )
    runner.train()
    assert (runner.epoch, runner.iter) == (2, 4)
    assert len(runner.message_hub.get_scalar('train/loss').data[0]) == 4


@lists_safe_classes
def test_checkpoint_of_numpy_1_loads(stock_run, tmp_path):
    """numpy 2 moved the functions by which its arrays are pickled; published checkpoints name the
    old place.
    """
    with zipfile.ZipFile(str(stock_run[0] / 'epoch_1.pth')) as source, zipfile.ZipFile(
        str(tmp_path / 'old.pth'), 'w'
    ) as target:
        for name in source.namelist():
            target.writestr(
                name, source.read(name).replace(b'numpy._core.multiarray', b'numpy.core.multiarray')
            )
    checkpoint = torch.load(str(tmp_path / 'old.pth'), weights_only=True)
    assert checkpoint['message_hub']['log_scalars']['train/loss'].mean() > 0


@lists_safe_classes
@pytest.mark.parametrize(
    'dtype', [bool, np.int32, np.int64, np.uint8, np.float16, np.float32, np.float64]
)
def test_plain_numbers_load(dtype, tmp_path):
    torch.save([np.ones(2, dtype), dtype(1)], str(tmp_path / 'numbers.pth'))
    array, scalar = torch.load(str(tmp_path / 'numbers.pth'), weights_only=True)
    assert array.dtype == dtype and scalar == 1


@lists_safe_classes
@pytest.mark.parametrize(
    'config',
    [
        dict(type='OneCycleLR', eta_max=0.1, total_steps=5, anneal_strategy='linear'),
        dict(type='CosineAnnealingLR', T_max=5),
        dict(type='PolyLR', end=5),
        dict(type='ReduceOnPlateauLR', monitor='loss'),
        dict(type='StepLR', step_size=2),
    ],
    ids=lambda config: config['type'],
)
def test_schedules_load(config, tmp_path):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    config = dict(config)
    scheduler = getattr(mmengine.optim, config.pop('type'))(optimizer, **config)
    torch.save(scheduler.state_dict(), str(tmp_path / 'schedule.pth'))
    assert torch.load(str(tmp_path / 'schedule.pth'), weights_only=True) == scheduler.state_dict()


@pytest.mark.skipif(older(torch, '2.5'), reason='torch 2.5 is the first with this context')
def test_a_loader_may_list_getattr_itself(tmp_path):
    """As the fork onedl-mmengine does while it loads."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = mmengine.optim.OneCycleLR(optimizer, eta_max=0.1, total_steps=5)
    torch.save(scheduler.state_dict(), str(tmp_path / 'schedule.pth'))
    with torch.serialization.safe_globals([getattr]):
        found = torch.load(str(tmp_path / 'schedule.pth'), weights_only=True)
    assert found == scheduler.state_dict()


class Call:
    """Pickles as a call of ``function``, which a naive loader makes."""

    def __init__(self, function, *args):
        self.parts = (function, args)
        self.name = '-'.join(
            [
                function.__name__,
                *(str(getattr(arg, '__name__', getattr(arg, 'name', arg))) for arg in args),
            ]
        )

    def __reduce__(self):
        return self.parts


@pytest.mark.parametrize(
    'attack',
    [
        Call(os.system, 'exit 1'),
        Call(eval, '1 + 1'),
        Call(getattr, HistoryBuffer, '__init__'),
        Call(getattr, HistoryBuffer, 'register_statistics'),
        Call(getattr, HistoryBuffer, '__subclasses__'),
        Call(getattr, Call(getattr, HistoryBuffer, 'mean'), '__globals__'),
        Call(getattr, dict, 'get'),
        Call(getattr, np.ndarray, 'tofile'),
        Call(getattr, HistoryBuffer, 'missing', 1),
        Call(OneCycleParamScheduler, None),
        Call(HistoryBuffer.mean, None),
    ],
    ids=lambda attack: attack.name,
)
def test_malicious_checkpoint_is_refused(attack, tmp_path):
    torch.save(attack, str(tmp_path / 'attack.pth'))
    with pytest.raises((pickle.UnpicklingError, TypeError)):
        torch.load(str(tmp_path / 'attack.pth'), weights_only=True)


def test_scheduler_is_only_looked_into(tmp_path):
    torch.save(
        OneCycleParamScheduler.__new__(OneCycleParamScheduler), str(tmp_path / 'scheduler.pth')
    )
    with pytest.raises((pickle.UnpicklingError, TypeError)):
        torch.load(str(tmp_path / 'scheduler.pth'), weights_only=True)


@lists_safe_classes
def test_getattr_itself_is_never_listed():
    allowed = torch.serialization.get_safe_globals()
    assert not {getattr, eval, exec, os.system} & {item for item in allowed if callable(item)}
    allow_mmengine_checkpoints()
    assert len(torch.serialization.get_safe_globals()) == len(allowed)


@lists_safe_classes
def test_metainfo_with_a_dict_inside_loads(tmp_path):
    """As a data set reads it from a config, and CheckpointHook writes it."""
    metainfo = Config(
        dict(metainfo=dict(classes=('a', 'b'), names=dict(a=['x', dict(y=1)])))
    ).metainfo
    dataset = BaseDataset(metainfo=metainfo, serialize_data=False, lazy_init=True)
    path = str(tmp_path / 'checkpoint.pth')
    torch.save(dict(meta=dict(dataset_meta=dataset.metainfo), state_dict={}), path)
    found = torch.load(path, weights_only=True)['meta']['dataset_meta']
    assert found == dict(classes=('a', 'b'), names=dict(a=['x', dict(y=1)]))
    assert type(found['names']) is ConfigDict
