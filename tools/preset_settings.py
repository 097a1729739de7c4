"""The settings of configs/_base_/presets/ that suit the task and the data of a config."""

import os.path as osp
from dataclasses import fields

from mmengine.config import Config

from afan_mm import AFANSettings

PRESETS = osp.join(osp.dirname(osp.abspath(__file__)), '..', 'configs', '_base_', 'presets')
DEFAULTS = {field.name: field.default for field in fields(AFANSettings)}
# By the names of mmpretrain's data sets.
CLASSIFICATION = dict(CIFAR10='cls_cifar', CIFAR100='cls_cifar', ImageNet='cls_imagenet')
ALWAYS = ('epsilon', 'num_strengths')  # stated even where they are the defaults


def nodes(value):
    """Every dict in a part of a config."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    for each in value if isinstance(value, (list, tuple)) else ():
        yield from nodes(each)


def preset_entry(cfg):
    """The name of the presets' entry for the task and data of a config, and a sentence on why this
    one.
    """
    parts = nodes(cfg.get('train_dataloader', {}).get('dataset'))
    kinds = {
        str(part['type']).rsplit('.', 1)[-1]: str(part)
        for part in parts
        if str(part.get('type')).endswith('Dataset') or part.get('type') in CLASSIFICATION
    }
    if any('decode_head' in part for part in nodes(cfg.get('model'))):
        year = 'voc07' if '2007' in kinds.get('PascalVOCDataset', '') else 'voc12'
        known, usual = (
            dict(CityscapesDataset='seg_cityscapes', PascalVOCDataset=f'seg_{year}'),
            'seg_voc12',
        )
    elif cfg.get('default_scope') == 'mmpretrain':
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


def preset_settings(cfg, preset, given):
    """What ``convert`` takes, and sentences for the reader on where it comes from.

    Args:
        cfg: The stock config.
        preset: 'paper' or 'released'.
        given: Settings of the user, which win over those of the preset.
    """
    name, reason = preset_entry(cfg)
    entry = Config.fromfile(osp.join(PRESETS, f'{preset}.py'))[name]
    parts = {}
    for part in ('neck', 'head'):
        stated = {**entry[part], **given}
        parts[part] = {
            key: stated[key]
            for key, default in DEFAULTS.items()
            if key in stated and (key in ALWAYS or key in given or stated[key] != default)
        }
    if entry.optim_wrapper.clean_weight != 1:
        parts['optim_wrapper'] = dict(clean_weight=entry.optim_wrapper.clean_weight)
    notes = [
        f"Settings: preset '{preset}', entry {reason}."
        + (f' From the command line: {", ".join(given)}.' if given else '')
    ]
    if preset == 'released':
        notes.append("The preset's own sites and learning rates are not taken over.")
    return parts, notes
