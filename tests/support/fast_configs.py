"""What mmengine does again and again with configs is done once: it takes longer than a step of a tiny
model.
"""

import functools

import mmengine.config.config
import mmengine.config.utils
from yapf.yapflib import yapf_api

REMEMBERED = 16


def remember_configs():
    """Let mmengine find again where hosts are and the indexes that they install, a hundred files of
    which it reads for each config that inherits from theirs; and what it formatted lately, which it
    does up to six times a run.
    """
    utils, config = mmengine.config.utils, mmengine.config.config
    utils.load = functools.lru_cache(maxsize=None)(utils.load)
    config.is_installed = functools.lru_cache(maxsize=None)(config.is_installed)
    original, known = yapf_api.FormatCode, {}

    def remembering(text, **options):
        key = (text, str(options))
        if key not in known:
            if len(known) == REMEMBERED:
                known.clear()
            known[key] = original(text, **options)
        return known[key]

    # mmengine takes it when it is imported, its fork each time
    yapf_api.FormatCode = config.FormatCode = remembering
