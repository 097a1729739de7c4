"""What images a dataset has: their number, and a digest that does not depend on where they lie."""

import hashlib
import json
import os
from typing import Any, Tuple

import numpy as np


def describe(dataset: Any) -> Tuple[int, str]:
    """Size and digest of a dataset: of its annotations and of the names and sizes of its files, not
    of the times at which they were written; of one without ``get_data_info`` of its size alone.
    """
    found = hashlib.sha256()
    if not hasattr(dataset, 'get_data_info'):
        found.update(str(len(dataset)).encode())
        return len(dataset), found.hexdigest()
    for index in range(len(dataset)):
        info = _placeless(dataset.get_data_info(index))
        found.update(json.dumps(info, sort_keys=True, default=str).encode())
    return len(dataset), found.hexdigest()


def _placeless(node: Any) -> Any:
    """What a sample is, without where it lies: of a file its name and size."""
    if isinstance(node, dict):
        return {str(key): _placeless(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [_placeless(each) for each in node]
    if isinstance(node, np.ndarray):
        return node.tolist()
    if isinstance(node, str) and os.sep in node:
        size = os.path.getsize(node) if os.path.isfile(node) else None
        return [os.path.basename(node), size]
    return node
