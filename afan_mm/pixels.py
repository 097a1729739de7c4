"""The pixels of an image that a host has normalised (``epsilon_unit='pixel'``)."""

from typing import Optional

from torch import nn

from .attack import Bounds
from .site import Site

WHITE = 255.0  # the libraries read images of 8 bits


def pixel_bounds(model: nn.Module, site: Site) -> Optional[Bounds]:
    """What black and white are after the model's data preprocessor, each (C, 1, 1).

    Args:
        model: The host. Its data preprocessor has ``mean`` and ``std``, as those of the libraries,
            or does not normalise.
        site: A site of it.

    Returns:
        None where no site that is perturbed with this one has ``epsilon_unit='pixel'``.

    Raises:
        ValueError: If the feature of such a site is no image, by its number of channels.
    """
    at_pixels = [each for each in site.group if each.settings.epsilon_unit == 'pixel']
    if not at_pixels:
        return None
    feature = at_pixels[0].features[0]
    mean, std = feature.new_zeros(1, 1, 1), feature.new_ones(1, 1, 1)
    for part in model.data_preprocessor.modules():
        if getattr(part, 'std', None) is not None:
            mean, std = part.mean.to(feature), part.std.to(feature)
    for each in at_pixels:
        for level in each.features:
            if level.dim() < 4 or len(std) not in (1, level.shape[-3]):
                raise ValueError(
                    f"A-FAN site {each.name!r}: epsilon_unit='pixel' needs an image of {len(std)} "
                    'channels, as AFANModel perturbs it, but got a feature of shape '
                    f'{tuple(level.shape)}'
                )
    return (0 - mean) / std, (WHITE - mean) / std
