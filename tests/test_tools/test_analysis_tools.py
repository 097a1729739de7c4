"""tools/analysis_tools/{hessian,landscape,sharpness}.py on tiny models of both hosts: what they
print and write, and their one-line errors.
"""

import importlib.util
import json
import sys

import cv2
import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import MODELS

from afan_mm.analysis import commands
from afan_mm.analysis.checkpoints import build_model, named_paths, read_states
from afan_mm.analysis.commands import sharpness_of_checkpoints
from afan_mm.analysis.sharpness import SharpnessSettings
from afan_mm.auxiliary_norms import auxiliary_norms
from afan_mm.utils.configs import read_config
from afan_mm.utils.errors import UsageError
from support.digits import digits_voc
from support.paths import TOOLS
from support.robust_runs import config, make_data
from support.tiny import build, stock_config


class Toy(BaseModel):
    def forward(self, inputs, data_samples=None, mode='tensor'):
        return inputs


def load(name):
    spec = importlib.util.spec_from_file_location(
        f'tool_{name}', TOOLS / 'analysis_tools' / f'{name}.py'
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hessian, landscape, sharpness = map(load, ('hessian', 'landscape', 'sharpness'))


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_data(digits_voc, tmp_path_factory.mktemp('analysis') / 'digits')


@pytest.fixture(scope='module', params=['mmseg', 'mmdet'])
def project(request, data, tmp_path_factory):
    """A stock config and two checkpoints."""
    folder = tmp_path_factory.mktemp(f'analysis_{request.param}')
    cfg = config(request.param, data, folder / 'unused', batch_size=2)
    for key in ('work_dir', 'experiment_name'):
        cfg.pop(key)
    cfg.val_dataloader = cfg.test_dataloader
    for name, seed in (('one', 0), ('two', 1)):
        torch.save(dict(state_dict=build(cfg.model, seed).state_dict()), folder / f'{name}.pth')
    cfg.dump(str(folder / 'stock.py'))
    return request.param, folder


@pytest.fixture
def tool(monkeypatch, project):
    """Runs a command in the folder of the project."""

    def call(module, *arguments):
        monkeypatch.chdir(project[1])
        given = ['stock.py', *arguments, '--device', 'cpu']
        monkeypatch.setattr(sys, 'argv', [module.__name__, *given])
        module.main()

    return call


def test_hessian(project, tool, capsys):
    """The tail of a detector's heads and all of a segmentor; both checkpoints, on the same data."""
    host, folder = project
    part = 'roi_head.bbox_head.fc_cls|auxiliary_head.conv_seg'
    extra = [] if host == 'mmdet' else ['--plot', 'out/density.png', '--density-steps', '3']
    arguments = ['--split', 'test', '--batches', '2', '--eigenvalues', '1', '--probes', '2']
    tool(
        hessian,
        *('first=one.pth', 'two.pth', *arguments, '--parameters', part),
        *('--json', 'out/hessian.json', '--work-dir', 'work', *extra),
    )
    printed = capsys.readouterr().out
    results = json.loads((folder / 'out' / 'hessian.json').read_text())
    assert set(results) == {'first', 'two'}
    for name, found in results.items():
        assert found['images'] == found['batches'] == 2 and found['trace'][0]['probes'] == 2
        assert f'{name}:' in printed and f'{abs(found["eigenvalues"][0]["value"]):.4g}' in printed
    assert results['first']['loss'] != results['two']['loss']
    if extra:
        assert cv2.imread(str(folder / 'out' / 'density.png')) is not None


def test_hessian_of_nothing(project, tool):
    host = project[0]
    with pytest.raises(UsageError, match=r"--parameters must fit .* 'nose' fits none of \d+"):
        tool(hessian, 'one.pth', '--split', 'test', '--parameters', 'nose')
    if host == 'mmdet':
        with pytest.raises(UsageError, match='through RoIAlignFunction'):
            tool(hessian, 'one.pth', '--split', 'test', '--parameters', '^backbone')


def test_landscape(project, tool, capsys):
    """A line between the checkpoints has their losses at its ends; a curve, and a plane."""
    folder = project[1]
    data = ['--split', 'test', '--batches', '2']
    tool(
        landscape,
        *('a=one.pth', 'b=two.pth', '--line', '--points', '3', '--range', '0', '1'),
        *(*data, '--out-dir', 'line'),
    )
    line = json.loads((folder / 'line' / 'landscape.json').read_text())
    assert line['axes'] == [[0.0, 0.5, 1.0]] and 'line/curves.png' in capsys.readouterr().out
    tool(landscape, 'a=one.pth', 'b=two.pth', '--points', '3', *data, '--out-dir', 'curve')
    curve = json.loads((folder / 'curve' / 'landscape.json').read_text())
    ends = line['losses']['a to b']
    for name, end in (('a', ends[0]), ('b', ends[2])):
        assert curve['losses'][name][1] == pytest.approx(end, rel=1e-5)
    tool(
        landscape,
        *('one.pth', '--points', '2', '--points-y', '2', *data, '--out-dir', 'plane'),
    )
    for name in ('contours', 'surface'):
        assert cv2.imread(str(folder / 'plane' / f'{name}.png')) is not None


@pytest.mark.parametrize('given', (('nan', 'nan'), ('-1', 'inf'), ('1', '-1'), ('0', '0')))
def test_range_of_a_landscape(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['landscape', 'gone.py', 'gone.pth', '--range', *given])
    message = f'--range must be two finite numbers, LOW < HIGH, but got {" ".join(given)}'
    with pytest.raises(UsageError, match=message):
        landscape.main()


def test_landscape_of_one_end(tool):
    with pytest.raises(UsageError, match='--line must have two checkpoints .* but got 1 and 1'):
        tool(landscape, 'one.pth', '--line', '--split', 'test', '--batches', '1')


def test_sharpness(project, tool, capsys):
    """A stock config gets the sites of the conversion; images are taken one by one."""
    folder = project[1]
    tool(
        sharpness,
        *('one.pth', 'two.pth', '--images', '2', '--points', '2', '--random', '1'),
        *('--epsilon', '0.4', '--epsilon-unit', 'std', '--json', 'sharp.json'),
        *('--plot', 'sharp.png'),
    )
    results = json.loads((folder / 'sharp.json').read_text())
    printed = capsys.readouterr().out
    assert set(results) == {'one', 'two'} and len(results['one']) == 2
    for site, found in results['one'].items():
        assert found['images'] == 2 and found['unit'] == 'std' and found['epsilon'] == 0.4
        assert found['adversarial']['mean'][-1] > 0
        assert site in printed
    assert cv2.imread(str(folder / 'sharp.png')) is not None


def test_sharpness_keeps_no_more_than_a_hundred_images_in_memory():
    assert sharpness.parse_args(['config.py', 'one.pth']).images == 100


def test_sharpness_of_a_wrong_site(tool):
    with pytest.raises(UsageError, match=r"sites must be among .* got \['nek'\]"):
        tool(sharpness, 'one.pth', '--sites', 'nek', '--images', '1')


def test_settings_that_do_not_fit(project):
    cfg = read_config(str(project[1] / 'stock.py'))
    settings = SharpnessSettings(overrides=dict(epsilon=-1.0))
    with pytest.raises(UsageError, match='epsilon must be'):
        sharpness_of_checkpoints(cfg, [str(project[1] / 'one.pth')], settings, images=1)


@pytest.mark.parametrize(
    'overrides, message',
    [
        (dict(epsilon_unit='pixel'), "epsilon_unit='pixel' needs an image"),
        (dict(epsilon_unit='norm'), "epsilon_unit must be 'absolute', 'std' or"),
        (dict(epsilon_unit='metre'), 'epsilon_unit must be one of'),
    ],
)
def test_a_unit_that_does_not_fit_is_refused_at_once(project, monkeypatch, overrides, message):
    """Before the images of the split are read, let alone measured."""
    cfg, checkpoint = read_config(str(project[1] / 'stock.py')), str(project[1] / 'one.pth')
    read, take = [], commands.take_batches
    monkeypatch.setattr(
        commands, 'take_batches', lambda loader, n, seed: read.append(n) or take(loader, n, seed)
    )
    with pytest.raises(UsageError, match=message):
        sharpness_of_checkpoints(cfg, [checkpoint], SharpnessSettings(overrides=overrides))
    assert set(read) <= {1}


def test_names_of_checkpoints(tmp_path):
    """Given, or that of the file, or the whole path where files share a name."""
    (tmp_path / 'x=y.pth').touch()
    odd = str(tmp_path / 'x=y.pth')
    assert named_paths(['A-FAN=a/best.pth', 'b/last.pth', odd]) == {
        'A-FAN': 'a/best.pth',
        'last': 'b/last.pth',
        'x=y': odd,
    }
    assert named_paths(['a/best.pth', 'b/best.pth']) == {
        'a/best.pth': 'a/best.pth',
        'b/best.pth': 'b/best.pth',
    }
    with pytest.raises(UsageError, match='different names, but several are m'):
        named_paths(['m=a.pth', 'm=b.pth'])


def test_checkpoint_of_another_model(tmp_path):
    torch.save(dict(state_dict=torch.nn.Linear(2, 3).state_dict()), tmp_path / 'other.pth')
    with pytest.raises(UsageError, match='checkpoint must be of the model of the config'):
        read_states(torch.nn.Linear(2, 2), dict(other=str(tmp_path / 'other.pth')))


def test_auxiliary_norms_stay_where_they_are_asked_for():
    """The pictures of features need them; all else looks at the model that is deployed."""
    afan = dict(epsilon=0.1, epsilon_unit='pixel', moments=None, bn_stats='auxiliary')
    stock = stock_config('segmentor')
    model = dict(stock, type='AFANModel', base=stock['type'], afan=afan)
    cfg = Config(dict(model=model, default_scope='mmseg'))
    assert not auxiliary_norms(build_model(cfg)) and auxiliary_norms(build_model(cfg, 'cpu', True))


def test_preprocessor_beside_the_model():
    """Where mmpretrain's configs have it: the model gets it, as from mmengine's runner."""
    stated = dict(type='ImgDataPreprocessor', mean=[7.0], std=[2.0])
    model = dict(type='ToyModelOfAnalysis')
    MODELS.register_module(name='ToyModelOfAnalysis', module=Toy, force=True)
    built = build_model(Config(dict(model=model, data_preprocessor=stated)))
    assert float(built.data_preprocessor.mean) == 7.0
    own = dict(model, data_preprocessor=dict(stated, mean=[3.0]))
    built = build_model(Config(dict(model=own, data_preprocessor=stated)))
    assert float(built.data_preprocessor.mean) == 3.0
