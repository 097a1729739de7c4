"""What a step draws at a site: a matter of the step's key and the site's name alone."""

import random
from typing import List, Sequence

import torch

from .augment import Strength, draw
from .site import Site


class Draws:
    """Of one step.

    Args:
        key: Names the step.
    """

    def __init__(self, key: str):
        self.key = key

    def seed(self, site: Site, purpose: str) -> int:
        """Of whatever a site draws for one purpose."""
        return random.Random(f'{self.key}/{site.name}/{purpose}').getrandbits(63)

    def noise(self, site: Site) -> torch.Generator:
        """Of random starts and noise, on the device of the feature."""
        return torch.Generator(site.features[0].device).manual_seed(self.seed(site, 'noise'))

    def strengths(self, site: Site) -> List[Sequence[Strength]]:
        """Those of the site's passes: for each pass one for every site that it perturbs. They are
        the same for all, but where one has other samples (RoIs, not images).
        """
        seed = self.seed(site, 'strengths')
        drawn = [
            draw(
                each.settings,
                torch.Generator().manual_seed(seed),
                len(each.features[0]),
                each.features[0].device,
            )
            for each in site.group
        ]
        return list(zip(*drawn))
