"""Products of an operator with vectors: counted, and kept on disk so that none is repeated."""

import hashlib
import json
import os
import os.path as osp
from typing import Any, Callable, Dict, Optional

import numpy as np
from scipy.sparse.linalg import LinearOperator

DIGEST = hashlib.sha256().digest_size


class JournalledOperator(LinearOperator):
    """An operator that writes each product to a file, and on a second run reads it there.

    A deterministic method, such as ARPACK's from a given start vector, asks for the same products
    again; a digest of each vector makes sure that it does. The file grows by P numbers a product.

    Args:
        operator: (P, P).
        path: Of the file; its folder is made.
    """

    def __init__(self, operator: LinearOperator, path: str):
        super().__init__(dtype=operator.dtype, shape=operator.shape)
        self.operator = operator
        self.path = path
        self.precision = np.dtype(getattr(operator, 'precision', np.float64))
        self._record = DIGEST + operator.shape[0] * self.precision.itemsize
        self._next = 0
        os.makedirs(osp.dirname(path) or '.', exist_ok=True)
        with open(path, 'ab'):
            pass

    @property
    def stored(self) -> int:
        """How many products the file holds."""
        return osp.getsize(self.path) // self._record

    def remove(self) -> None:
        """Delete the file, once what it was for is done."""
        os.remove(self.path)

    def _matvec(self, vector: np.ndarray) -> np.ndarray:
        vector = vector.ravel()
        digest = hashlib.sha256(np.ascontiguousarray(vector).tobytes()).digest()
        offset, self._next = self._next * self._record, self._next + 1
        with open(self.path, 'r+b') as file:
            file.seek(offset)
            record = file.read(self._record)
            if len(record) == self._record and record.startswith(digest):
                return np.frombuffer(record[DIGEST:], self.precision).astype(self.dtype)
            product = self.operator.matvec(vector).astype(self.precision)
            # what follows belongs to another computation, or was cut off
            file.seek(offset)
            file.truncate()
            file.write(digest + product.tobytes())
        # as a later run reads it
        return product.astype(self.dtype)

    _rmatvec = _matvec


class CountedOperator(LinearOperator):
    """An operator that counts its products.

    Args:
        operator: (P, P), symmetric.
        on_product: Called after each.

    Attributes:
        products: How many there were.
    """

    def __init__(self, operator: LinearOperator, on_product: Callable[[], None] = lambda: None):
        super().__init__(dtype=operator.dtype, shape=operator.shape)
        self.operator = operator
        self.on_product = on_product
        self.products = 0

    def _matvec(self, vector: np.ndarray) -> np.ndarray:
        product = self.operator.matvec(vector.ravel())
        self.products += 1
        self.on_product()
        return product

    _rmatvec = _matvec


def read_state(path: str) -> Optional[Dict[str, Any]]:
    """What an interrupted run has written to a JSON file; None where there is no such file, or it
    is damaged.
    """
    try:
        with open(path) as file:
            content = json.load(file)
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
