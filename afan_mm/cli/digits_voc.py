"""A small Pascal VOC devkit: handwritten digits on photographed textures.

Both sources ship inside the scikit-learn and scikit-image wheels, so nothing is downloaded.
Training and validation share no digit and no texture pixel. The same arguments always give the same
bytes::

    OUT_DIR/JPEGImages/*.jpg            size x size RGB
            Annotations/*.xml           boxes, for mmdet's XMLDataset and VOCDataset
            SegmentationClass/*.png     palette PNG for mmseg: 0 = background, 1..5 = digits 0..4
            ImageSets/{Main,Segmentation}/{train,val,trainval}.txt
"""

import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Dict, List, Tuple, Union

import numpy as np
from mmengine.utils import track_iter_progress
from numpy.random import Generator
from PIL import Image
from skimage import data as skimage_data
from sklearn.datasets import load_digits

Sources = Tuple[np.ndarray, np.ndarray, List[np.ndarray]]  # images, labels and textures
Drawn = Tuple[int, Tuple[int, int, int, int], int]  # label, box, difficult
CLASSES = tuple('01234')  # ten would take a CPU longer to learn than the demo has
SPLITS = ('train', 'val')
TEXTURES = (
    'brick',
    'grass',
    'gravel',
    'coffee',
    'chelsea',
    'rocket',
    'hubble_deep_field',
    'immunohistochemistry',
    'moon',
    'coins',
)
TOP_LEVEL = ('JPEGImages', 'Annotations', 'SegmentationClass', 'ImageSets')
PALETTE = [
    [0, 0, 0],
    [128, 0, 0],
    [0, 128, 0],
    [128, 128, 0],
    [0, 0, 128],
    [128, 0, 128],
    [0, 128, 128],
    [128, 128, 128],
    [64, 0, 0],
    [192, 0, 0],
    [64, 128, 0],
]
MIN_VISIBLE = 0.35  # digits that show less of their stroke are marked `difficult`
MIN_SIDE = 4  # pixels; scraps with a thinner box get no box at all, so no box has zero area


def split_digits(num_digits: int, seed: int) -> Dict[str, np.ndarray]:
    """Split digit indices at random: two thirds for training. Returns {'train': int array, 'val':
    int array}.
    """
    order = np.random.default_rng(seed).permutation(num_digits)
    cut = num_digits * 2 // 3
    return dict(train=order[:cut], val=order[cut:])


def split_texture(shape: Tuple[int, ...]) -> Dict[str, Tuple[slice, slice]]:
    """Cut a picture of `shape` (h, w, ...) across its longer axis: two thirds for training.

    Returns:
        dict: {'train': (rows, cols), 'val': (rows, cols)}, pairs of slices that share no pixel.
    """
    axis = int(shape[1] >= shape[0])
    cut = shape[axis] * 2 // 3
    regions = {}
    for split, span in zip(SPLITS, (slice(0, cut), slice(cut, shape[axis]))):
        regions[split] = (slice(None), span) if axis else (span, slice(None))
    return regions


def load_sources(seed: int) -> Dict[str, Sources]:
    """Load the raw material of each split.

    Returns:
        dict: split -> (images (N, 8, 8) in [0, 16], labels (N,) in 0..4, list of textures (h, w, 3)
            uint8).
    """
    digits = load_digits(n_class=len(CLASSES))
    indices = split_digits(len(digits.target), seed)
    textures = [getattr(skimage_data, name)() for name in TEXTURES]
    textures = [t if t.ndim == 3 else np.stack([t] * 3, axis=-1) for t in textures]
    return {
        s: (
            digits.images[indices[s]],
            digits.target[indices[s]],
            [t[split_texture(t.shape)[s]] for t in textures],
        )
        for s in SPLITS
    }


def draw_background(rng: Generator, textures: List[np.ndarray], size: int) -> np.ndarray:
    """Crop, mirror, resize, fade and tint one texture. Returns (size, size, 3) float in [0,
    255].
    """
    texture = textures[rng.integers(len(textures))]
    side = int(min(texture.shape[:2]) * rng.uniform(0.5, 1))
    top, left = (rng.integers(length - side + 1) for length in texture.shape[:2])
    crop = texture[top : top + side, left : left + side][:, :: rng.choice([-1, 1])]
    crop = np.asarray(Image.fromarray(crop).resize((size, size), Image.BICUBIC), dtype=float)
    # strokes must stand out from it
    crop = crop.mean(axis=(0, 1)) + rng.uniform(0.2, 0.7) * (crop - crop.mean(axis=(0, 1)))
    # leaves room for brighter strokes
    return np.clip(crop * rng.uniform(0.4, 0.9, size=3) + rng.uniform(-40, 20), 0, 180)


def draw_stroke(rng: Generator, digit: np.ndarray, size: int) -> np.ndarray:
    """Enlarge an 8x8 digit smoothly, stretch and turn it. Returns coverage (h, w) in [0, 1], h and
    w < `size`.
    """
    # the margin keeps strokes off the edge
    digit = Image.fromarray(np.pad(digit * 255 / 16, 1).astype(np.uint8))
    height = size * np.exp(rng.uniform(np.log(0.3), np.log(0.55)))
    shape = int(height * rng.uniform(0.75, 1.1)), int(height)
    grey = digit.resize(shape, Image.BICUBIC).rotate(
        rng.uniform(-12, 12), Image.BICUBIC, expand=True
    )
    # a steep ramp: crisp edges in spite of the upscaling
    return np.clip((np.asarray(grey) / 255 - 0.3) / 0.2, 0, 1)


def draw_window(rng: Generator, shape: Tuple[int, ...], size: int) -> Tuple[slice, slice]:
    """Place a (h, w) rectangle in a square of side `size`. Returns (rows, cols), a pair of
    slices.
    """
    return tuple(
        slice(start, start + n) for n, start in zip(shape, rng.integers(size - np.array(shape) + 1))
    )


def paint(rng: Generator, window: np.ndarray, coverage: np.ndarray) -> None:
    """Paint a stroke into `window` (h, w, 3) in place, brighter than what lies beneath it."""
    beneath = window[coverage >= 0.5].mean(axis=0)
    colour = np.clip(beneath + rng.uniform(60, 140) + rng.normal(0, 25, size=3), 0, 255)
    alpha = coverage[..., None] * rng.uniform(0.8, 1)
    window += alpha * (colour - window)


def draw_scene(
    rng: Generator, images: np.ndarray, labels: np.ndarray, textures: List[np.ndarray], size: int
) -> Tuple[np.ndarray, np.ndarray, List[Drawn]]:
    """Draw three to five digits, later ones on top.

    Returns:
        tuple: image (size, size, 3) uint8; mask (size, size) uint8, 0 = background, label + 1
        elsewhere; objects, a list of (label, (x1, y1, x2, y2) around the visible pixels, ends
        included, counted from 0, difficult 0 or 1).
    """
    image = draw_background(rng, textures, size)
    chosen = rng.integers(len(labels), size=rng.integers(3, 6))
    owner = np.full((size, size), -1)  # which digit, by order of painting, a pixel shows
    areas = []
    for i, index in enumerate(chosen):
        coverage = draw_stroke(rng, images[index], size)
        # Digits overlap, but not all on one heap: the least covered of a few places.
        window = min(
            (draw_window(rng, coverage.shape, size) for _ in range(4)),
            key=lambda w: (owner[w] >= 0).mean(),
        )
        paint(rng, image[window], coverage)
        owner[window][coverage >= 0.5] = i
        areas.append((coverage >= 0.5).sum())
    image += rng.normal(0, rng.uniform(2, 12), size=image.shape)

    objects = []
    for i, index in enumerate(chosen):
        ys, xs = np.nonzero(owner == i)
        if len(ys) and min(np.ptp(ys), np.ptp(xs)) + 1 >= MIN_SIDE:
            box = tuple(int(v) for v in (xs.min(), ys.min(), xs.max(), ys.max()))
            objects.append((int(labels[index]), box, int(len(ys) < MIN_VISIBLE * areas[i])))
    mask = np.append(labels[chosen] + 1, 0)[owner]  # owner -1 picks the appended background
    return np.clip(image, 0, 255).astype(np.uint8), mask.astype(np.uint8), objects


def write_annotation(path: Path, size: int, objects: List[Drawn]) -> None:
    """Write one VOC annotation; its pixel coordinates count from 1."""
    root = ET.Element('annotation')
    ET.SubElement(root, 'filename').text = f'{path.stem}.jpg'
    size_node = ET.SubElement(root, 'size')
    for key, value in (('width', size), ('height', size), ('depth', 3)):
        ET.SubElement(size_node, key).text = str(value)
    ET.SubElement(root, 'segmented').text = '1'
    for label, box, difficult in objects:
        node = ET.SubElement(root, 'object')
        ET.SubElement(node, 'name').text = CLASSES[label]
        ET.SubElement(node, 'difficult').text = str(difficult)
        box_node = ET.SubElement(node, 'bndbox')
        for key, value in zip(('xmin', 'ymin', 'xmax', 'ymax'), box):
            ET.SubElement(box_node, key).text = str(value + 1)
    ET.ElementTree(root).write(path)


def write_devkit(root: Path, seed: int, counts: Dict[str, int], size: int) -> None:
    """Write all files below `root`, a new folder. `counts` maps a split to its number of images."""
    for folder in (*TOP_LEVEL[:3], 'ImageSets/Main', 'ImageSets/Segmentation'):
        (root / folder).mkdir(parents=True)
    sources = load_sources(seed)
    names = {s: [f'{s}_{i:05d}' for i in range(counts[s])] for s in SPLITS}
    for split, index in track_iter_progress([(s, i) for s in SPLITS for i in range(counts[s])]):
        # so no image depends on how many there are
        rng = np.random.default_rng([seed, SPLITS.index(split), index])
        image, mask, objects = draw_scene(rng, *sources[split], size)
        name = names[split][index]
        Image.fromarray(image).save(root / 'JPEGImages' / f'{name}.jpg', quality=92)
        png = Image.fromarray(mask)
        png.putpalette(np.ravel(PALETTE).tolist())  # turns the grey picture into a palette picture
        png.save(root / 'SegmentationClass' / f'{name}.png')
        write_annotation(root / 'Annotations' / f'{name}.xml', size, objects)
    names['trainval'] = names['train'] + names['val']
    for split, lines in names.items():
        for task in ('Main', 'Segmentation'):
            (root / 'ImageSets' / task / f'{split}.txt').write_text('\n'.join(lines) + '\n')


def check_out_dir(out_dir: Path, overwrite: bool) -> None:
    """Refuse to replace anything but an empty folder or, with `overwrite`, an older devkit."""
    if not out_dir.exists():
        return
    if not out_dir.is_dir():
        raise FileExistsError(f'out_dir must be a folder, but {out_dir} is a file')
    found = sorted(p.name for p in out_dir.iterdir())
    if found and not overwrite:
        raise FileExistsError(
            f'out_dir must be new or empty unless overwrite is set, but {out_dir} holds {found[:5]}'
        )
    foreign = [name for name in found if name not in TOP_LEVEL]
    if foreign:
        raise FileExistsError(
            f'overwrite replaces only {list(TOP_LEVEL)}, but {out_dir} also holds {foreign[:5]}'
        )


def make_digits_voc(
    out_dir: Union[str, Path],
    seed: int = 0,
    train: int = 480,
    val: int = 120,
    size: int = 96,
    overwrite: bool = False,
) -> None:
    """Generate the devkit; on an error `out_dir` stays as it was.

    Args:
        out_dir: Folder to create.
        seed: At least 0. Defaults to 0.
        train: Number of training images, at least 1. Defaults to 480.
        val: Number of validation images, at least 1. Defaults to 120.
        size: Height and width in pixels, 64 to 512. Defaults to 96.
        overwrite: Replace an older devkit. Defaults to False.
    """
    for name, value, low, high in (
        ('seed', seed, 0, 2**32 - 1),
        ('train', train, 1, 99999),
        ('val', val, 1, 99999),
        ('size', size, 64, 512),
    ):
        if not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f'{name} must be an integer from {low} to {high}, but got {value!r}')
    out_dir = Path(out_dir).resolve()
    check_out_dir(out_dir, overwrite)
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out_dir.parent, prefix='.digits_voc_') as scratch:
        new = Path(scratch, 'new')
        write_devkit(new, seed, dict(train=train, val=val), size)
        if out_dir.exists():
            out_dir.rename(Path(scratch, 'old'))  # deleted with the scratch folder
        new.rename(out_dir)
