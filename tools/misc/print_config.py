"""Print a config with everything that it inherits: python tools/misc/print_config.py CONFIG
[--cfg-options KEY=VALUE ...]
"""

import argparse
import os
import os.path as osp
import sys

# where the tools' shared module is
sys.path.insert(0, osp.join(osp.dirname(osp.abspath(__file__)), '..'))
from command_line import UsageError, add_config_options, describe, read_config, run  # noqa: E402

SUFFIXES = ('.py', '.json', '.yml')


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    add_config_options(parser)
    parser.add_argument(
        '--save-path',
        metavar='FILE',
        help=f'also save it, to a file that ends in {", ".join(SUFFIXES)}',
    )
    return parser.parse_args(argv)


def save(cfg, path):
    if not path.endswith(SUFFIXES):
        raise UsageError(f'--save-path must end in one of {", ".join(SUFFIXES)}, but got {path}')
    try:
        os.makedirs(osp.dirname(path) or '.', exist_ok=True)
        cfg.dump(path)
    except OSError as error:
        raise UsageError(f'cannot write --save-path {path}: {describe(error)}') from error


def main():
    args = parse_args()
    cfg = read_config(args)
    if args.save_path is not None:
        save(cfg, args.save_path)
    print(cfg.pretty_text)


if __name__ == '__main__':
    run(main)
