"""Strip a checkpoint of what only training needs: python tools/misc/publish_model.py IN_FILE
OUT_FILE

The published file is OUT_FILE with the first eight digits of its own sha256 added to its name.
Weights averaged by ``EMAHook`` need no option: in its checkpoints they are the ``state_dict``, and
the others, ``ema_state_dict``, are dropped. The file of an A-FAN model is one of the stock model.
"""

import argparse
import hashlib
import os
import os.path as osp
import sys

import torch

# where the tools' shared module is
sys.path.insert(0, osp.join(osp.dirname(osp.abspath(__file__)), '..'))
from command_line import UsageError, describe, read_checkpoint, run  # noqa: E402


def parse_args(argv=None):
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


def publish(in_file, out_file, save_keys):
    """Write the chosen keys of a checkpoint; returns the path of the new file."""
    if osp.isdir(out_file):
        raise UsageError(f'out_file must name a file, but {out_file} is a folder')
    checkpoint = read_checkpoint(in_file)
    missing = [key for key in save_keys if key not in checkpoint]
    if missing:
        there = ', '.join(map(str, checkpoint))
        raise UsageError(
            f'--save-keys must be among {there} for {in_file}, but got {", ".join(missing)}'
        )
    stem = out_file[: -len('.pth')] if out_file.endswith('.pth') else out_file
    temporary = f'{stem}.{os.getpid()}.tmp'
    try:
        with open(temporary, 'wb') as file:
            torch.save({key: checkpoint[key] for key in save_keys}, file)
        with open(temporary, 'rb') as file:
            published = f'{stem}-{hashlib.sha256(file.read()).hexdigest()[:8]}.pth'
        os.replace(temporary, published)
    except (OSError, RuntimeError) as error:
        # torch hides that a disk is full behind an error of its own
        raise UsageError(
            f'cannot write {out_file}: {describe(error.__context__ or error)}'
        ) from error
    finally:
        if osp.exists(temporary):
            os.remove(temporary)
    return published


def main():
    args = parse_args()
    print(publish(args.in_file, args.out_file, args.save_keys))


if __name__ == '__main__':
    run(main)
