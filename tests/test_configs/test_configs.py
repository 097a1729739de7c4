"""The shipped configs and those the README shows: they build, read their data, and run under the
libraries' own tools.
"""

import importlib.util
import re
import subprocess
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, init_default_scope

from afan_mm.conversion import ConversionError, convert
from afan_mm.models.component import AFANComponent
from support.digits import digits_voc
from support.fast_python import python
from support.paths import DIGITS, REAL_DATA, ROOT, is_for_a_cpu

CONFIGS = sorted(
    path
    for path in (ROOT / 'configs').glob('*/*.py')
    if is_for_a_cpu(path) and 'scratch' not in path.name
)


def sites_of(cfg):
    """Names of the A-FAN components of a config's model, built without pretrained weights."""
    init_default_scope(cfg.default_scope)
    cfg.model.pretrained = None
    if cfg.default_scope == 'mmdet':
        cfg.model.pop('pretrained')
        backbone = cfg.model.backbone
        (backbone.base if isinstance(backbone.get('base'), dict) else backbone).init_cfg = None
    return sorted(
        name
        for name, module in MODELS.build(cfg.model).named_modules()
        if isinstance(module, AFANComponent)
    )


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_config_has_the_sites_its_name_says(path):
    cfg = Config.fromfile(str(path))
    if cfg.default_scope == 'mmpretrain':
        pytest.importorskip('mmpretrain')
        sites = ['neck']
    else:
        sites = sorted(['roi_head' if cfg.default_scope == 'mmdet' else 'decode_head', 'neck'])
    assert sites_of(cfg) == (sites if path.name.startswith('afan_') else [])


@pytest.mark.parametrize('path', [path for path in CONFIGS if 'lite0' in path.stem])
def test_a_partly_frozen_backbone_is_converted(path):
    """The registered builder is a function, not a class."""
    cfg = Config.fromfile(str(path))
    if path.stem.startswith('afan_'):
        with pytest.raises(ConversionError, match='an A-FAN config already'):
            convert(cfg)
    else:
        assert convert(cfg, preset='paper').overrides['model']['neck']['type'] == 'AFANNeckWrapper'


@pytest.mark.parametrize(
    'page, expected',
    (
        ('README.md', [['decode_head', 'neck']]),
        ('docs/get_started.md', [['decode_head', 'neck'], ['neck', 'roi_head']]),
    ),
)
def test_configs_of_a_page(page, expected, tmp_path):
    """Those that turn a stock config into A-FAN, as they stand there."""
    blocks = [
        block
        for block in re.findall(r'```python\n(.*?)```', (ROOT / page).read_text(), re.S)
        if '_base_' in block
    ]
    sites = []
    for index, block in enumerate(blocks):
        path = tmp_path / f'config{index}.py'
        path.write_text(block)
        sites.append(sites_of(Config.fromfile(str(path))))
    assert sites == expected


@pytest.mark.parametrize(
    'name, config, images',
    (
        ('camvid', 'deeplabv3plus_r18-d8_1xb4-250_camvid-240x180', (367, 101)),
        ('camvid', 'deeplabv3plus_lite0-d16_1xb8-900_camvid30-160x120', (30, 101)),
        ('bccd', 'faster-rcnn_r18_fpn_1xb4-250_bccd-240x180', (205, 87)),
        ('bccd', 'faster-rcnn_lite0_fpn_1xb4-250_bccd40-240x180', (40, 87)),
        ('cifar10', 'efficientnet-lite0_1xb64-156_cifar10-500-64x64', (500, 5000)),
    ),
)
def test_real_data_is_read(name, config, images):
    if not (REAL_DATA / name).is_dir():
        pytest.skip(f'{REAL_DATA / name} is not there')
    cfg = Config.fromfile(str(next(path for path in CONFIGS if path.stem == f'afan_{config}')))
    if cfg.default_scope == 'mmpretrain':
        pytest.importorskip('mmpretrain')
    init_default_scope(cfg.default_scope)
    for loader, count in zip((cfg.train_dataloader, cfg.val_dataloader), images):
        # inside SeededSubset
        loader.dataset.get('dataset', loader.dataset).data_root = f'{REAL_DATA / name}/'
        dataset = DATASETS.build(loader.dataset)
        assert len(dataset) == count and dataset[0]['inputs'].shape[0] == 3


@pytest.mark.parametrize('host', ('mmseg', 'mmdet'))
def test_stock_tools_run_an_afan_config(host, tmp_path):
    """Training, resuming from its checkpoint and evaluating with the tools that come with mmseg and
    mmdet.
    """
    data = tmp_path / 'digits'
    digits_voc.make_digits_voc(data, train=8, val=2)
    tools = Path(importlib.util.find_spec(host).origin).parent / '.mim' / 'tools'
    options = [
        f'{loader}_dataloader.dataset.data_root={data}/' for loader in ('train', 'val', 'test')
    ]
    options += [
        'train_dataloader.batch_size=2',
        'train_cfg.val_interval=2',
        'default_hooks.checkpoint.interval=2',
    ]

    def run(tool, *arguments, iters=2):
        command = [
            python(),
            str(tools / tool),
            str(DIGITS[host]),
            *map(str, arguments),
            '--work-dir',
            str(tmp_path / 'work'),
        ]
        result = subprocess.run(
            [*command, '--cfg-options', *options, f'train_cfg.max_iters={iters}'],
            cwd=str(tmp_path),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert result.returncode == 0, result.stdout[-3000:]
        return result.stdout

    assert 'A-FAN sites:' in run('train.py')
    assert 'resumed' in run('train.py', '--resume', iters=4)
    assert re.search(r'(mIoU|AP50): ', run('test.py', tmp_path / 'work' / 'iter_4.pth'))
