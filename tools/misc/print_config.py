"""Print a config with everything that it inherits: python tools/misc/print_config.py CONFIG
[--cfg-options KEY=VALUE ...]
"""

import argparse
from typing import Optional, Sequence

from afan_mm.cli.command_line import add_config_options, run
from afan_mm.utils.configs import read_config
from afan_mm.utils.errors import UsageError
from afan_mm.utils.files import check_output, replacing

SUFFIXES = ('.py', '.json', '.yml')


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_config_options(parser)
    parser.add_argument(
        '--save-path',
        metavar='FILE',
        help=f'also save it, to a file that ends in {", ".join(SUFFIXES)}',
    )
    return parser.parse_args(argv)


def main() -> None:
    args = parse_args()
    if args.save_path is not None:
        check_output('--save-path', args.save_path, SUFFIXES)
    cfg = read_config(args.config, args.cfg_options)
    if args.save_path is not None:
        try:
            with replacing(args.save_path) as path:
                cfg.dump(path)
        except OSError as error:
            raise UsageError(f'--save-path: {error}') from error
    print(cfg.pretty_text)


if __name__ == '__main__':
    run(main)
