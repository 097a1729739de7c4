"""Wrong A-FAN configs, made by mutating shipped ones, and what becomes of them.

``python -m support.config_fuzz 200`` in this folder's parent tries that many, and prints what each was
and what was said of it.
"""

import copy
import random
import re
import sys
import tempfile
from collections import Counter
from typing import Any, Dict, List, NamedTuple

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmengine.structures import InstanceData  # noqa: F401  unpickled with a batch

from afan_mm.cli.config_check import check_config, check_model
from afan_mm.settings import AFANSettings
from afan_mm.utils.errors import UsageError, is_message
from support.paths import ROOT
from support.tiny import detection_batch, segmentation_batch

NUM_ITERS = 2
FOLDER = ROOT / 'configs'
SHIPPED = dict(
    segmentor='deeplabv3plus/afan_deeplabv3plus_r18-d8_1xb8-300_digits-96x96.py',
    detector='faster_rcnn/afan_faster-rcnn_r18_fpn_1xb4-280_digits.py',
)
HEADS = dict(segmentor='decode_head', detector='roi_head')
VALUES = (
    None, True, -1, 0, 1, 2, 3, 0.5, -0.5, float('nan'), float('inf'), 'x', '', '0.4/255', 'batch', 'l2', 'linf',
    'std', 'norm', 'position', 'complement', 'none', [], {}, [1], [True, False], (-1,), dict(a=1), 'FPN', 'ResNet',
)  # fmt: skip
NEW = ('joint', 'norm', 'norm_over', 'noise_epsilon', 'epsilon_unit', 'perturbation')
KNOWN = tuple(AFANSettings.__dataclass_fields__)


class Mutant(NamedTuple):
    """A config, what was done to the shipped one, and whole words of which a refusal must have
    one. A value is no such word: 1 and 'x' are in many a message.
    """

    cfg: Config
    done: str
    culprits: List[str]


class Samples(torch.utils.data.Dataset):
    """One batch of a host, sample by sample."""

    def __init__(self, host: str):
        self.batch = dict(segmentor=segmentation_batch, detector=detection_batch)[host]()

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Dict[str, Any]:
        return {key: copy.deepcopy(value[index]) for key, value in self.batch.items()}


def small(host: str) -> Config:
    """A shipped config whose model is thin."""
    cfg = Config.fromfile(str(FOLDER / SHIPPED[host]))
    model = cfg.model
    model.backbone.base_channels = 4
    if host == 'segmentor':
        model.backbone.stem_channels = 4
        model.data_preprocessor.size = (32, 32)
        model.decode_head.update(in_channels=16, channels=8, c1_in_channels=4, c1_channels=4)
        model.auxiliary_head.update(in_channels=8, channels=4)
    else:
        model.neck.update(in_channels=[4, 8, 16, 32], out_channels=8)
        model.rpn_head.update(in_channels=8, feat_channels=8)
        model.roi_head.bbox_roi_extractor.out_channels = 8
        model.roi_head.bbox_head.update(in_channels=8, fc_out_channels=16)
        model.train_cfg.rpn_proposal.update(nms_pre=20, max_per_img=10)
    return cfg


def mutate(cfg: Config, host: str, rng: random.Random) -> Mutant:
    """One wrong config; some come out right by chance."""
    cfg = copy.deepcopy(cfg)
    model, head = cfg.model, HEADS[host]
    name = rng.choice(['neck', head])
    part = model[name]
    kind = rng.choice(MUTATIONS)
    places = [part, part.afan, cfg.optim_wrapper, cfg.custom_hooks[0]]
    if kind == 'value':
        node = rng.choice(places[:2] * 2 + places[2:])
        key = rng.choice(
            [k for k in node if k not in STOCK_KEYS and (node is not part or k in OWN)]
        )
        given = node[key] = copy.deepcopy(rng.choice(VALUES))
        return Mutant(cfg, f'{name}: {key}={given!r}', [key])
    if kind == 'new':
        key = rng.choice(NEW * 2 + KNOWN + ('site', 'levels', 'reuse_proposals'))
        given = part.afan[key] = copy.deepcopy(rng.choice(VALUES))
        return Mutant(cfg, f'{name}.afan: {key}={given!r}', [key])
    if kind == 'weight':
        given = cfg.optim_wrapper['clean_weight'] = rng.choice(VALUES)
        return Mutant(cfg, f'clean_weight={given!r}', ['clean_weight'])
    if kind == 'key':
        node = rng.choice(places)
        key = rng.choice([k for k in node if k not in STOCK_KEYS])
        at = rng.randrange(len(key))
        wrong = rng.choice([key[:at] + key[at + 1 :], key[:at] + key[at] * 2 + key[at + 1 :]])
        node[wrong] = node.pop(key)
        return Mutant(cfg, f'{name}: {key} -> {wrong}', [wrong, key])
    if kind == 'type':
        node = rng.choice([part, cfg.optim_wrapper, cfg.custom_hooks[0]])
        given = node['type'] = rng.choice([*TYPES, node['type'][:-1], node['type'].lower()])
        return Mutant(cfg, f'{name}: type={given!r}', [given, 'optim wrapper'])
    if kind == 'setting':  # beside afan, or in another part
        node = rng.choice([part, cfg.optim_wrapper, cfg.custom_hooks[0], model])
        key = rng.choice([*KNOWN, 'site', 'levels'])
        node[key] = rng.choice(VALUES)
        return Mutant(cfg, f'{name}: {key}={node[key]!r} out of place', [key])
    if kind == 'place':
        other = rng.choice(['backbone', 'neck', head, 'auxiliary_head', 'data_preprocessor'])
        moved = dict(part)
        if rng.random() < 0.5 and isinstance(model.get(other), dict):
            moved = dict(model[other], type=part.type, base=model[other].get('type'), afan={})
        model[other] = moved
        return Mutant(cfg, f'{name} at {other}', [other, part.type])
    key = rng.choice(['base', 'afan', 'type'])
    given = part.pop(key)
    return Mutant(cfg, f'{name} without {key}={given!r}', [key, name])


MUTATIONS = (
    'value',
    'value',
    'new',
    'new',
    'new',
    'weight',
    'key',
    'key',
    'type',
    'setting',
    'place',
    'drop',
)
STOCK_KEYS = ('optimizer', 'clip_grad', '_scope_', 'loss_decode')
OWN = ('type', 'base', 'afan')
TYPES = (
    'AFANNeckWrapper',
    'AFANDecodeHead',
    'AFANRoIHead',
    'AFANClsHead',
    'AFANHook',
    'FPN',
    'OptimWrapper',
    'AFAN',
)


def outcome(mutant: Mutant, host: str, work_dir: str) -> str:
    """'trained', 'refused: <message>', or 'fault: <what came instead>'."""
    try:
        train(mutant.cfg, host, work_dir)
    except Exception as error:
        message = str(error)
        if not isinstance(error, UsageError) and not is_message(error):
            return f'fault: {type(error).__name__}: {message[:300]}'
        named = any(
            re.search(rf'(?<!\w){re.escape(word)}(?!\w)', message) for word in mutant.culprits
        )
        good = named and '\n' not in message
        return f'{"refused" if good else "fault, says"}: {message}'
    return 'trained'


def train(cfg: Config, host: str, work_dir: str) -> None:
    """What tools/train.py does with a config, on samples in memory.

    Raises:
        AssertionError: If the training ends early or leaves parameters that are not finite.
    """
    check_config(cfg)
    check_model(cfg)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        runner = Runner(
            model=cfg.model,
            work_dir=work_dir,
            experiment_name=f'fuzz{random.random()}',
            default_scope=cfg.default_scope,
            log_level='ERROR',
            train_dataloader=dict(
                dataset=Samples(host),
                batch_size=2,
                num_workers=0,
                sampler=dict(type='DefaultSampler', shuffle=False),
                collate_fn=dict(type='pseudo_collate'),
            ),
            train_cfg=dict(by_epoch=False, max_iters=NUM_ITERS),
            optim_wrapper=cfg.optim_wrapper,
            default_hooks=dict(checkpoint=None, logger=None),
            custom_hooks=cfg.custom_hooks,
        )
        runner.train()
    assert runner.iter == NUM_ITERS, f'trained for {runner.iter} iterations'
    unfinite = [k for k, p in runner.model.named_parameters() if not p.isfinite().all()]
    assert not unfinite, f'not finite after training: {unfinite}'


def fuzz(count: int, seed: int = 0) -> List[str]:
    """A line for each of so many wrong configs: what was done, and what came of it."""
    rng, stock = random.Random(seed), {host: small(host) for host in SHIPPED}
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            host = list(SHIPPED)[number % len(SHIPPED)]
            mutant = mutate(stock[host], host, rng)
            lines.append(f'{host}, {mutant.done} | {outcome(mutant, host, folder)}')
            if __name__ == '__main__':
                print(number, lines[-1], flush=True)
    return lines


if __name__ == '__main__':
    found = fuzz(int(sys.argv[1]), *map(int, sys.argv[2:]))
    print(Counter(line.rpartition(' | ')[2].partition(':')[0] for line in found))
