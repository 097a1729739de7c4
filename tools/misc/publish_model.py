"""Strip a checkpoint of what only training needs: python tools/misc/publish_model.py IN_FILE
OUT_FILE

The published file is OUT_FILE with the first eight digits of its own sha256 added to its name.
Weights averaged by ``EMAHook`` need no option: in its checkpoints they are the ``state_dict``, and
the others, ``ema_state_dict``, are dropped. The file of an A-FAN model is one of the stock model.
"""

import argparse
from typing import Optional, Sequence

from afan_mm.cli.command_line import run
from afan_mm.utils.models import publish


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('in_file', help='checkpoint of a training run')
    parser.add_argument(
        'out_file', help='where to write, in a folder that exists; .pth may be left out'
    )
    parser.add_argument(
        '--save-keys',
        nargs='+',
        default=['meta', 'state_dict'],
        metavar='KEY',
        help='what to keep of the checkpoint; default: meta state_dict',
    )
    return parser.parse_args(argv)


def main() -> None:
    args = parse_args()
    print(publish(args.in_file, args.out_file, args.save_keys))


if __name__ == '__main__':
    run(main)
