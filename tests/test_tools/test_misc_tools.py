"""tools/misc: the printed config is the resolved one, and a published A-FAN checkpoint is one of
the stock model.
"""

import hashlib
import resource
import subprocess
import sys

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import save_checkpoint

from afan_mm.utils.errors import UsageError
from afan_mm.utils.models import publish
from support.fast_python import python
from support.paths import DIGITS, TOOLS
from support.runs import afan_model
from support.runs import train as run_training
from support.tiny import (
    HOSTS,
    assert_identical,
    batch_of,
    build,
    optim_wrapper,
    stock_config,
    train,
    with_afan,
)
from support.tools import load_tool

print_config, publish_model = load_tool('misc/print_config'), load_tool('misc/publish_model')


def call(module, monkeypatch, *arguments):
    monkeypatch.setattr(sys, 'argv', [module.__name__, *map(str, arguments)])
    module.main()


@pytest.mark.parametrize('suffix', ('.py', '.json', '.yml'))
def test_printed_and_saved_config_is_the_resolved_one(suffix, tmp_path, monkeypatch, capsys):
    saved = tmp_path / 'new' / f'config{suffix}'
    call(
        print_config,
        monkeypatch,
        DIGITS['mmdet'],
        '--cfg-options',
        'train_cfg.max_iters=7',
        '--save-path',
        saved,
    )
    expected = Config.fromfile(str(DIGITS['mmdet']))
    expected.train_cfg.max_iters = 7
    printed = Config.fromstring(capsys.readouterr().out, '.py')
    assert printed.to_dict() == expected.to_dict() and printed.model.roi_head.type == 'AFANRoIHead'
    found = Config.fromfile(str(saved))
    # json and yaml have no tuples
    assert (
        found.to_dict() == expected.to_dict()
        if suffix == '.py'
        else found.train_cfg == expected.train_cfg
    )


def test_print_config_refusals(tmp_path, monkeypatch):
    for path, message in (
        ('config.txt', 'must end in one of .py, .json, .yml, but got config.txt'),
        (
            f'{DIGITS["mmdet"]}/config.py',
            '--save-path must be a file in a folder that can be written',
        ),
    ):
        with pytest.raises(UsageError, match=message):
            call(print_config, monkeypatch, DIGITS['mmdet'], '--save-path', path)


@pytest.mark.parametrize(
    'tool, arguments, name',
    (
        ('print_config', ['gone.py'], 'config'),
        ('publish_model', ['gone.pth', 'out.pth'], 'checkpoint'),
    ),
)
def test_bad_input_is_one_line_and_exit_code_2(tool, arguments, name, tmp_path):
    """Run as a script, from another folder."""
    process = subprocess.run(
        [python(), str(TOOLS / 'misc' / f'{tool}.py'), *arguments],
        cwd=str(tmp_path),
        capture_output=True,
        text=True,
    )
    assert process.returncode == 2 and process.stdout == ''
    assert (
        process.stderr.splitlines()[-1]
        == f'{tool}.py: error: {name} must be a file, but got {arguments[0]}'
    )


@pytest.mark.parametrize('host', HOSTS)
def test_published_model_is_the_stock_model(host, tmp_path, monkeypatch, capsys):
    settings = dict(epsilon=0.1, num_strengths=1)
    model = build(with_afan(stock_config(host), neck=settings, head=settings))
    wrapper = optim_wrapper(model)
    train(model, wrapper, [batch_of(host)])
    checkpoint = dict(
        meta=dict(iter=1),
        state_dict=model.state_dict(),
        optimizer=wrapper.state_dict(),
        param_schedulers=[{}],
        message_hub={},
        ema_state_dict={},
    )
    save_checkpoint(checkpoint, str(tmp_path / 'iter_1.pth'))
    capsys.readouterr()
    call(publish_model, monkeypatch, tmp_path / 'iter_1.pth', tmp_path / 'model.pth')

    (published,) = tmp_path.glob('model*')
    assert capsys.readouterr().out == f'{published}\n'
    assert published.name == f'model-{hashlib.sha256(published.read_bytes()).hexdigest()[:8]}.pth'
    content = torch.load(str(published), weights_only=True)
    assert list(content) == ['meta', 'state_dict'] and content['meta'] == dict(iter=1)
    stock = build(stock_config(host), seed=1)
    stock.load_state_dict(content['state_dict'], strict=True)
    assert_identical(dict(stock.state_dict()), dict(model.state_dict()))


def test_published_weights_are_those_that_ema_averaged(tmp_path):
    """Of a real run: its checkpoint needs the safe loading of mmengine's own types."""
    trace = run_training(afan_model(), tmp_path, hook=dict(type='EMAHook', momentum=0.5))
    published = torch.load(
        publish(str(tmp_path / 'iter_2.pth'), str(tmp_path / 'model'), ['meta', 'state_dict'])
    )
    last = trace.runner.model.state_dict()
    ema = next(
        hook for hook in trace.runner.hooks if type(hook).__name__ == 'EMAHook'
    ).ema_model.module.state_dict()
    assert_identical(dict(published['state_dict']), dict(ema))
    with pytest.raises(AssertionError):
        assert_identical(dict(last), dict(ema))


def test_save_keys(tmp_path):
    torch.save(dict(state_dict={}, meta={}, epoch=3), str(tmp_path / 'in.pth'))
    published = publish(str(tmp_path / 'in.pth'), str(tmp_path / 'out.pth'), ['epoch'])
    assert torch.load(published) == dict(epoch=3)
    message = '--save-keys must be among state_dict, meta, epoch for .*, but got optimizer'
    with pytest.raises(UsageError, match=message):
        publish(str(tmp_path / 'in.pth'), str(tmp_path / 'out.pth'), ['meta', 'optimizer'])


def test_publish_refuses_where_it_cannot_write(tmp_path):
    torch.save(dict(state_dict=dict(weight=torch.zeros(100000)), meta={}), str(tmp_path / 'in.pth'))
    (tmp_path / 'out').mkdir()
    for out_file, message in (
        (tmp_path / 'gone' / 'out.pth', 'out_file must be in a folder that exists, but got .*gone'),
        (tmp_path / 'in.pth' / 'out.pth', 'in a folder that exists, but got .*in.pth'),
        (tmp_path / 'out', 'out_file must name a file, but .* is a folder'),
    ):
        with pytest.raises(UsageError, match=message):
            publish(str(tmp_path / 'in.pth'), str(out_file), ['state_dict'])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # as if the disk were full in the midst of it
    resource.setrlimit(resource.RLIMIT_FSIZE, (100000, limits[1]))
    try:
        with pytest.raises(UsageError, match='cannot write .*out-.*pth: File too large'):
            publish(str(tmp_path / 'in.pth'), str(tmp_path / 'out' / 'out.pth'), ['state_dict'])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list((tmp_path / 'out').iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == ['in.pth', 'out']
