"""From tensors to a picture, and from a picture to a file; what every picture of the package
shares.
"""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ..utils.files import replacing


def to_rgb(image: Tensor) -> np.ndarray:
    """An image as the pipelines of mmdet and mmseg give it, (3, H, W) BGR in [0, 255], as (H, W, 3)
    RGB in uint8.
    """
    image = image.detach().cpu().float().round().clamp(0, 255)
    return np.ascontiguousarray(image.numpy().astype(np.uint8).transpose(1, 2, 0)[..., ::-1])


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of ``width`` x ``height`` pixels that is drawn in memory, whatever
    matplotlib's backend is.
    """
    figure = Figure(figsize=(width / 100, height / 100), dpi=100)
    FigureCanvasAgg(figure)
    return figure


def render(figure: Figure) -> np.ndarray:
    """The pixels of a figure, (H, W, 3) RGB in uint8."""
    figure.canvas.draw()
    return np.array(figure.canvas.buffer_rgba())[..., :3]


def save_png(image: np.ndarray, path: str) -> None:
    """Write a picture under its final name only when it is complete.

    Args:
        image: (H, W, 3) RGB in uint8.
        path: Where to; its folder is made.

    Raises:
        OSError: If the folder or the file cannot be written.
    """
    with replacing(path) as temporary:
        Image.fromarray(image).save(temporary, format='PNG', optimize=True)
