"""Write a small Pascal VOC devkit: handwritten digits on photographed textures.

Both sources ship inside the scikit-learn and scikit-image wheels, so nothing is downloaded.
Training and validation share no digit and no texture pixel. The same arguments always give the same
bytes::

    OUT_DIR/JPEGImages/*.jpg            size x size RGB
            Annotations/*.xml           boxes, for mmdet's XMLDataset and VOCDataset
            SegmentationClass/*.png     palette PNG for mmseg: 0 = background, 1..5 = digits 0..4
            ImageSets/{Main,Segmentation}/{train,val,trainval}.txt
"""

import argparse

from afan_mm.cli.command_line import run
from afan_mm.cli.digits_voc import make_digits_voc


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('out_dir', help='folder to create')
    parser.add_argument('--seed', type=int, default=0, help='default: %(default)s')
    parser.add_argument(
        '--train', type=int, default=480, help='training images, default: %(default)s'
    )
    parser.add_argument(
        '--val', type=int, default=120, help='validation images, default: %(default)s'
    )
    parser.add_argument(
        '--size', type=int, default=96, help='side of an image in pixels, default: %(default)s'
    )
    parser.add_argument('--overwrite', action='store_true', help='replace an older devkit')
    args = parser.parse_args()
    try:
        make_digits_voc(**vars(args))
    except (ValueError, OSError) as error:
        parser.error(str(error))


if __name__ == '__main__':
    run(main)
