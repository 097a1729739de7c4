"""Common corruptions: noise, blur, weather and compression at five severities.

The protocol is that of Michaelis et al., "Benchmarking Robustness in Object Detection", 2019:
fifteen corruptions (Hendrycks and Dietterich 2019) at severities 1 to 5, mPC (Eq. 1 there), the
mean of a metric over all of them, and rPC (Eq. 2), mPC over the metric on clean images. The images
are those of the package ``imagecorruptions``, which mmdet's own ``Corrupt`` imports too.
"""

import hashlib
import inspect
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np
from mmengine.registry import TRANSFORMS

from .settings import AttackError

SEVERITIES = (1, 2, 3, 4, 5)
MAIN_METRICS = ('mIoU', 'bbox_mAP', 'mAP', 'top1')

Performance = Dict[Tuple[str, int], Dict[str, float]]  # metrics by corruption and severity


class CorruptionError(AttackError):
    """A corruption cannot be applied; one line says why."""


def corruption_names(subset: str = 'common') -> List[str]:
    """The names of a subset: 'common' are the fifteen of the benchmark, 'all' nineteen."""
    return _package().get_corruption_names(subset)


@TRANSFORMS.register_module()
class CommonCorruption:
    """Corrupts an image; stands behind the transform that loads it.

    The random parts of a corruption depend on the image's path, the corruption and the severity
    alone, so that every model sees the same images.

    Args:
        corruption: Its name, see :func:`corruption_names`; None for none.
        severity: From 1 to 5.
        channel_order: Of the loaded image; 'bgr' is what mmcv loads. Defaults to 'bgr'.
    """

    def __init__(
        self, corruption: Optional[str] = None, severity: int = 1, channel_order: str = 'bgr'
    ):
        if corruption is not None and corruption not in corruption_names('all'):
            raise CorruptionError(
                f'corruption must be one of {", ".join(corruption_names("all"))}, '
                f'but got {corruption!r}'
            )
        if severity not in SEVERITIES:
            raise CorruptionError(f'severity must be one of {SEVERITIES}, but got {severity!r}')
        self.corruption, self.severity = corruption, severity
        self.reverse = -1 if channel_order == 'bgr' else 1

    def __call__(self, results: dict) -> dict:
        """Replace ``img`` (H, W, 3), of which each side must have 32 pixels."""
        if self.corruption is None:
            return results
        image = results['img']
        if image.dtype != np.uint8 or image.ndim != 3 or min(image.shape[:2]) < 32:
            raise CorruptionError(
                'a corruption needs an image of bytes with three channels and at least 32 x 32 '
                f'pixels, but got {image.shape} of {image.dtype}'
            )
        rgb = np.ascontiguousarray(image[..., :: self.reverse])
        name = str(results.get('img_path', results.get('sample_idx')))
        changed = corrupt(rgb, self.corruption, self.severity, name)
        results['img'] = np.ascontiguousarray(changed[..., :: self.reverse])
        return results


def corrupt(image: np.ndarray, corruption: str, severity: int, name: str) -> np.ndarray:
    """The corrupted image (H, W, 3) in RGB, the same for the same name, and no other random draws
    of the process changed.
    """
    package = _package()
    text = f'{name.rsplit("/", 1)[-1]} {corruption} {severity}'
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], 'little')
    # two of them draw from a generator of their own
    accepts = inspect.signature(package.corruption_dict[corruption]).parameters
    own = dict(seed=seed) if 'seed' in accepts else {}
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        return package.corrupt(image, severity=severity, corruption_name=corruption, **own)
    finally:
        np.random.set_state(state)


def main_metric(names: Sequence[str]) -> str:
    """The metric that a task is judged by, among those of its evaluator."""
    for ending in MAIN_METRICS:
        for name in names:
            if name == ending or name.endswith(f'/{ending}'):
                return name
    raise CorruptionError(f'metric must be given, one of {", ".join(names)}')


def summarize(clean: Mapping[str, float], corrupted: Performance, metric: str) -> Dict[str, float]:
    """``clean``, ``mPC`` and ``rPC`` (a fraction of clean) of a metric, and its mean over the
    severities of each corruption.
    """
    by_corruption: Dict[str, List[float]] = {}
    for (corruption, _), metrics in corrupted.items():
        by_corruption.setdefault(corruption, []).append(metrics[metric])
    means = {corruption: float(np.mean(values)) for corruption, values in by_corruption.items()}
    mpc = float(np.mean(list(means.values())))
    rpc = mpc / clean[metric] if clean[metric] else float('nan')
    return dict(clean=clean[metric], mPC=mpc, rPC=rpc, **means)


def headline(metric: str, figures: Mapping[str, float]) -> str:
    """The figures of :func:`summarize` in a line."""
    return (
        f'{metric}: clean {figures["clean"]:.4g}, mPC {figures["mPC"]:.4g}, '
        f'rPC {figures["rPC"]:.1%}'
    )


def _package() -> Any:
    try:
        import imagecorruptions  # an extra
    except ImportError as error:
        raise CorruptionError(
            'corruptions need the package imagecorruptions: pip install imagecorruptions-imaug '
            f'({error})'
        ) from error
    return imagecorruptions
