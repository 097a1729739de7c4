"""The runner that a config names, with what the library's own tools do before."""

import mmdet.utils
import pytest
from mmengine.config import Config
from mmengine.registry import RUNNERS

from afan_mm.cli.runner import build_runner


@RUNNERS.register_module()
class NamedRunner:
    @classmethod
    def from_cfg(cls, cfg):
        return cfg.default_scope


@pytest.mark.parametrize('scope, calls', [('mmdet', [1]), ('mmseg', [])])
def test_dynamos_cache_has_the_size_that_mmdets_tools_give_it(scope, calls, monkeypatch):
    found = []
    monkeypatch.setattr(mmdet.utils, 'setup_cache_size_limit_of_dynamo', lambda: found.append(1))
    cfg = Config(dict(default_scope=scope, runner_type='NamedRunner'))
    assert build_runner(cfg) == scope and found == calls
