"""The settings of the presets that suit the task and the data of a config."""

from dataclasses import fields
from functools import lru_cache
from typing import Any, Dict, List, Optional, Tuple

from mmengine.config import Config

from ..settings import AFANSettings
from ..utils.configs import dicts, type_name
from ..utils.files import shipped

PRESETS = ('recommended', 'paper', 'released')
SITES = dict(recommended=['late'])  # of a preset that has sites of its own
DEFAULTS = {field.name: field.default for field in fields(AFANSettings)}
# By the names of mmpretrain's data sets.
CLASSIFICATION = dict(CIFAR10='cls_cifar', CIFAR100='cls_cifar', ImageNet='cls_imagenet')
ALWAYS = ('epsilon', 'num_strengths')  # stated even where they are the defaults


@lru_cache(maxsize=None)
def read_preset(preset: str) -> Config:
    """The file of ``configs/_base_/presets`` of this name."""
    return Config.fromfile(str(shipped('configs') / '_base_' / 'presets' / f'{preset}.py'))


def preset_entry(cfg: Config, library: Optional[str] = None) -> Tuple[str, str]:
    """The name of the presets' entry for the task and data of a config, and a sentence on why this
    one.

    Args:
        cfg: The stock config.
        library: That of its model. Defaults to the ``default_scope``.
    """
    parts = dicts((cfg.get('train_dataloader') or {}).get('dataset'))
    kinds = {
        type_name(part): str(part)
        for part in parts
        if type_name(part).endswith('Dataset') or type_name(part) in CLASSIFICATION
    }
    if any('decode_head' in part for part in dicts(cfg.get('model'))):
        year = 'voc07' if '2007' in kinds.get('PascalVOCDataset', '') else 'voc12'
        known, usual = (
            dict(CityscapesDataset='seg_cityscapes', PascalVOCDataset=f'seg_{year}'),
            'seg_voc12',
        )
    elif (library or cfg.get('default_scope')) == 'mmpretrain':
        known, usual = CLASSIFICATION, 'cls_imagenet'
    else:
        known, usual = dict(VOCDataset='det_voc07', CocoDataset='det_coco'), 'det_coco'
    for kind, entry in known.items():
        if kind in kinds:
            return entry, f'{entry}, for {kind}'
    return (
        usual,
        f'{usual}, as it has none for {" and ".join(sorted(kinds)) or "the data of this config"}',
    )


def preset_settings(
    cfg: Config, preset: str, given: Dict[str, Any], library: Optional[str] = None
) -> Tuple[Dict[str, Dict[str, Any]], List[str]]:
    """Settings of ``neck`` and ``head``, keys of ``optim_wrapper``, and sentences for the reader on
    where they come from.

    Args:
        cfg: The stock config.
        preset: One of ``PRESETS``.
        given: Settings of every site, which win over those of the preset.
        library: As that of :func:`preset_entry`.
    """
    name, reason = preset_entry(cfg, library)
    entry = read_preset(preset)[name]
    parts: Dict[str, Dict[str, Any]] = dict(optim_wrapper={})
    for part in ('neck', 'head'):
        stated = {**entry[part], **given}
        parts[part] = {
            key: stated[key]
            for key, default in DEFAULTS.items()
            if key in stated and (key in ALWAYS or key in given or stated[key] != default)
        }
    if entry.optim_wrapper.clean_weight != 1:
        parts['optim_wrapper'] = dict(clean_weight=entry.optim_wrapper.clean_weight)
    same = preset == 'recommended'
    source = 'the same for every task and data set' if same else f'entry {reason}'
    notes = [
        f"Settings: preset '{preset}', {source}."
        + (f' Given instead: {", ".join(given)}.' if given else '')
    ]
    if same and (library or cfg.get('default_scope')) == 'mmdet':
        notes.append(
            'A detector whose backbone trains lost its hardest class by it in the study: train '
            'stock beside it, and compare them class by class.'
        )
    if preset == 'released':
        notes.append("The preset's own sites and learning rates are not taken over.")
    return parts, notes
