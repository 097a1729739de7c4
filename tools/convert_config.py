"""Write the A-FAN config of a stock one: python tools/convert_config.py CONFIG [options]

CONFIG is a config file, or a name such as mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py. The
new config inherits from it, changes the components that A-FAN has a place in, and says in comments
why these. It runs under the stock tools.
"""

import argparse
import os
import os.path as osp
import tempfile

from command_line import UsageError, describe, run
from mmengine.config import Config
from preset_settings import preset_settings

from afan_mm.conversion import ConversionError, convert
from afan_mm.conversion.convert import inherit
from afan_mm.conversion.text import config_text

SETTINGS = ('epsilon', 'num_strengths', 'num_steps', 'moments', 'detach', 'estimator', 'interval')


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'config', help='config file, or mmdet::NAME, mmseg::NAME or mmpretrain::NAME'
    )
    parser.add_argument(
        '--out',
        metavar='FILE',
        help='where to write; default: afan_<name of the config>.py in this folder',
    )
    parser.add_argument('--force', action='store_true', help='replace FILE if it exists')
    parser.add_argument('--print', action='store_true', help='print the config, and write nothing')
    parser.add_argument(
        '--sites',
        metavar='SITE[,SITE...]',
        help="neck (the backbone's features), output (the neck's), head, or a path such as "
        'backbone.layer3 or '
        'roi_head.map; default: neck,head, as far as they fit',
    )
    parser.add_argument(
        '--preset',
        choices=['paper', 'released'],
        default='paper',
        help='settings of the paper or of its released code, for the data set of the config; '
        'default: paper',
    )
    settings = parser.add_argument_group(
        'settings of every site', argument_default=argparse.SUPPRESS
    )
    settings.add_argument(
        '--epsilon',
        type=fraction,
        help='largest strength, such as 0.4/255; default: that of the preset',
    )
    settings.add_argument(
        '--num-strengths',
        type=int,
        metavar='K',
        help='strengths a step; default: that of the preset',
    )
    settings.add_argument(
        '--num-steps', type=int, metavar='N', help='PGD steps; default: that of the preset'
    )
    settings.add_argument(
        '--moments',
        type=lambda text: None if text == 'none' else text,
        help='batch, instance, layer, group, positional or none; default: those of the preset',
    )
    settings.add_argument(
        '--detach',
        action='store_true',
        help='adversarial losses train the layers after the site only; default: as the preset',
    )
    settings.add_argument('--estimator', help='sum, single or per_sample; default: sum')
    settings.add_argument(
        '--interval',
        type=int,
        metavar='N',
        help='adversarial passes in every N-th iteration; default: 1',
    )
    return parser.parse_args(argv)


def fraction(text):
    """A number, or a quotient such as 0.4/255."""
    numerator, _, denominator = text.partition('/')
    try:
        return float(numerator) / float(denominator or 1)
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(
            f'must be a number or a quotient such as 0.4/255, but got {text!r}'
        ) from None


def read_text(text):
    """The config that a text is; files in it are named by their whole path."""
    with tempfile.TemporaryDirectory() as folder:
        path = osp.join(folder, 'config.py')
        with open(path, 'w', encoding='utf-8') as file:
            file.write(text)
        return Config.fromfile(path)


def read_stock(config):
    """The config, as one that inherits from it finds it."""
    if '::' not in config and not osp.isfile(config):
        raise UsageError(f'config must be a file or a name such as mmdet::NAME, but got {config}')
    address = config if '::' in config else osp.abspath(config)
    try:
        lazy = '::' not in config and config.endswith('.py') and Config._is_lazy_import(config)
        cfg = None if lazy else read_text(f'_base_ = [{address!r}]\n')
    except Exception as error:  # a config is a program and may fail in any way
        raise UsageError(f'cannot read config {config}: {describe(error)}') from error
    if lazy:
        raise UsageError(
            f'config must be one that others inherit by _base_, but {config} is in the pure '
            'Python style, with '
            "read_base() or imports: add the README's lines to it by hand"
        )
    return cfg


def target(args):
    """Where to write; UsageError where that is not possible."""
    stem = osp.splitext(osp.basename(args.config.rpartition('::')[2]))[0]
    path = args.out or f'afan_{stem}.py'
    if not path.endswith('.py'):
        raise UsageError(f'--out must end in .py, but got {path}')
    if args.print:
        return path
    if not osp.isdir(osp.dirname(path) or '.'):
        raise UsageError(f'--out must be in a folder that exists, but got {path}')
    if osp.exists(path) and osp.exists(args.config) and osp.samefile(path, args.config):
        raise UsageError(f'--out must be another file than the config, but got {path}')
    if osp.exists(path) and not args.force:
        raise UsageError(f'{path} exists; --force replaces it')
    return path


def same(one, other):
    """Whether two configs say the same; mmengine adds ``_scope_`` to what a config takes from
    ``_base_`` by name.
    """
    if isinstance(one, dict) and isinstance(other, dict):
        keys = (one.keys() | other.keys()) - {'_scope_'}
        return all(key in one and key in other and same(one[key], other[key]) for key in keys)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    # a function is made anew each time a config is read
    return one == other or callable(one) and callable(other)


def write(path, text, expected):
    """Write the config, once it has been read in its place and is what it should be."""
    temporary = f'{path[: -len(".py")]}.{os.getpid()}.tmp.py'
    try:
        with open(temporary, 'w', encoding='utf-8') as file:
            file.write(text)
        check(Config.fromfile(temporary), expected)
        os.replace(temporary, path)
    except OSError as error:
        raise UsageError(f'cannot write {path}: {describe(error)}') from error
    finally:
        if osp.exists(temporary):
            os.remove(temporary)


def check(found, expected):
    if not same(found._cfg_dict, expected._cfg_dict):
        different = [
            key for key in {**found, **expected} if not same(found.get(key), expected.get(key))
        ]
        raise UsageError(
            f'the new config does not read back as it should in {", ".join(different)}; nothing '
            'was written'
        )


def main():
    args = parse_args()
    path = target(args)
    cfg = read_stock(args.config)
    afan, notes = preset_settings(
        cfg, args.preset, {key: value for key, value in vars(args).items() if key in SETTINGS}
    )
    try:
        conversion = convert(cfg, args.sites.split(',') if args.sites is not None else None, **afan)
        reference = args.config if '::' in args.config else relative(args.config, path)
        text = config_text(reference, cfg, conversion, notes)
    except ConversionError as error:
        raise UsageError(f'{args.config} cannot be converted: {error}') from error
    if args.print:
        print(text, end='')
    else:
        write(path, text, inherit(cfg, conversion.overrides))
        print(f'wrote {path}')


def relative(config, path):
    """The address of a config file from the folder of the new one."""
    address = osp.relpath(config, osp.dirname(path) or '.').replace(os.sep, '/')
    return address if address.startswith('.') else f'./{address}'


if __name__ == '__main__':
    run(main)
