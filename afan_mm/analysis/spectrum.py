"""Eigenvalues, trace and spectral density of a symmetric operator that is known by its products
alone.
"""

import math
from typing import Callable, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from scipy.linalg import eigh_tridiagonal
from scipy.sparse.linalg import LinearOperator, eigsh

WHICH = ('LM', 'LA', 'SA')


class Eigenpairs(NamedTuple):
    """What :func:`largest_eigenvalues` found, the largest magnitude first.

    Attributes:
        values: (k,).
        errors: (k,), the residual norms ``|H v - value v|`` of unit vectors v. A symmetric operator
            has an eigenvalue within this distance of the value (Parlett, 1998, Theorem 4.5.1).
        vectors: (P, k), orthonormal.
        products: (P, k), ``H @ vectors``.
    """

    values: np.ndarray
    errors: np.ndarray
    vectors: np.ndarray
    products: np.ndarray

    @property
    def trace(self) -> float:
        """``tr(Q' H Q)`` of the vectors Q."""
        return float(np.sum(self.vectors * self.products))


class Trace(NamedTuple):
    """An estimate of a trace.

    Attributes:
        value: The estimate; unbiased.
        error: Its standard error over the probes; nan with one probe.
        method: 'hutchinson' or 'hutch++'.
        probes: How many random vectors it rests on.
    """

    value: float
    error: float
    method: str
    probes: int


def largest_eigenvalues(
    operator: LinearOperator,
    k: int = 5,
    which: str = 'LM',
    tol: float = 1e-3,
    seed: int = 0,
) -> Eigenpairs:
    """Extreme eigenvalues by the implicitly restarted Lanczos method (ARPACK, through scipy).

    Memory is that of ``max(2 k + 1, 20)`` vectors, whatever the number of products.

    Args:
        operator: (P, P), symmetric.
        k: How many. Defaults to 5.
        which: 'LM' the largest in magnitude, the first of which is the spectral norm; 'LA' the
            largest; 'SA' the smallest. Defaults to 'LM'.
        tol: Relative accuracy at which the iteration stops; the errors say what was reached.
            Defaults to 1e-3.
        seed: Of the start vector. Defaults to 0.

    Raises:
        ValueError: If k is not from 1 to P - 1, or ``which`` is unknown.
        scipy.sparse.linalg.ArpackNoConvergence: If it does not converge.
    """
    size = operator.shape[0]
    if which not in WHICH:
        raise ValueError(f'which must be one of {WHICH}, but got {which!r}')
    if not 1 <= k < size:
        raise ValueError(f'k must be an integer from 1 to {size - 1}, but got {k!r}')
    start = np.random.default_rng(seed).standard_normal(size)
    values, vectors = eigsh(operator, k=k, which=which, tol=tol, v0=start)
    order = np.argsort(-np.abs(values))
    values, vectors = values[order], np.linalg.qr(vectors[:, order])[0]
    products = np.stack([operator.matvec(vector) for vector in vectors.T], axis=1)
    errors = np.linalg.norm(products - values * vectors, axis=0)
    return Eigenpairs(values, errors, vectors, products)


def rademacher(size: int, seed: int, index: int) -> np.ndarray:
    """The probe of that number: (size,), independent signs."""
    return np.random.default_rng([seed, index]).choice((-1.0, 1.0), size)


def probe_trace(
    operator: LinearOperator, probe: np.ndarray, basis: Optional[Eigenpairs] = None
) -> Tuple[float, float]:
    """What one product says of the trace: the term of Hutchinson's estimator, and that of the part
    that a basis leaves.

    Args:
        operator: (P, P), symmetric.
        probe: (P,) of independent signs.
        basis: Orthonormal vectors Q with their products. Defaults to None, no vectors.

    Returns:
        ``g' H g``, and ``p' H p`` with ``p = (1 - Q Q') g``.
    """
    product = operator.matvec(probe)
    plain = float(probe @ product)
    if basis is None:
        return plain, plain
    inside = basis.vectors.T @ probe
    rest = probe - basis.vectors @ inside
    return plain, float(rest @ (product - basis.products @ inside))


def combine_traces(
    terms: Sequence[Tuple[float, float]], exact: Optional[float] = None
) -> List[Trace]:
    """The estimates that the terms of :func:`probe_trace` give, the better one first.

    Hutchinson (1989) is the mean of the first terms. Hutch++ (Meyer et al., 2021, Algorithm 1) adds
    to the mean of the second ones the trace on the basis, ``tr(Q' H Q)``, which is exact; here the
    basis is what Lanczos found instead of products with random vectors. It is better where few
    eigenvalues hold most of the spectrum, and both rest on the same products.

    Args:
        terms: Of each probe.
        exact: The trace on the basis, :attr:`Eigenpairs.trace`. Defaults to None, no basis.
    """
    plain, rest = zip(*terms)
    found = [_mean(plain, 0.0, 'hutchinson')]
    if exact is not None:
        found.append(_mean(rest, exact, 'hutch++'))
    return sorted(found, key=lambda trace: trace.error)


def _mean(terms: Sequence[float], exact: float, method: str) -> Trace:
    error = float(np.std(terms, ddof=1)) / math.sqrt(len(terms)) if len(terms) > 1 else math.nan
    return Trace(exact + float(np.mean(terms)), error, method, len(terms))


def estimate_trace(
    operator: LinearOperator,
    num_probes: int = 30,
    basis: Optional[Eigenpairs] = None,
    seed: int = 0,
    on_probe: Callable[[], None] = lambda: None,
) -> Trace:
    """The trace by Hutchinson's estimator or, where its error is smaller, by that of Hutch++.

    Args:
        operator: (P, P), symmetric.
        num_probes: Products with random signs; the error falls with their root. Defaults to 30.
        basis: From :func:`largest_eigenvalues`, for Hutch++. Defaults to None, Hutchinson alone.
        seed: Of the signs. Defaults to 0.
        on_probe: Called after each product.
    """
    terms = []
    for index in range(num_probes):
        terms.append(probe_trace(operator, rademacher(operator.shape[0], seed, index), basis))
        on_probe()
    return combine_traces(terms, None if basis is None else basis.trace)[0]


def lanczos_quadrature(
    operator: LinearOperator, start: np.ndarray, num_steps: int = 40
) -> Tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of the Gauss quadrature of the operator's spectral density as seen from one
    vector (Golub and Welsch, 1969; Ubaru, Chen and Saad, 2017).

    Three vectors are kept, whatever the number of steps, and none is made orthogonal again: what
    rounding adds are copies of nodes, among which the weight of one is divided (Greenbaum, 1989).

    Args:
        operator: (P, P), symmetric.
        start: (P,), not zero.
        num_steps: Products, and so nodes; fewer where the vector lies in a smaller invariant space.
            Defaults to 40.

    Returns:
        Nodes (m,), rising, and their weights (m,), which sum to 1.
    """
    before, vector = np.zeros_like(start), start / np.linalg.norm(start)
    diagonal: List[float] = []
    beside: List[float] = []
    for _ in range(min(num_steps, operator.shape[0])):
        product = operator.matvec(vector) - (beside[-1] if beside else 0.0) * before
        diagonal.append(float(vector @ product))
        product -= diagonal[-1] * vector
        norm = float(np.linalg.norm(product))
        beside.append(norm)
        if norm <= 1e-6 * max(map(abs, diagonal)):  # of products in single precision
            break
        before, vector = vector, product / norm
    nodes, vectors = eigh_tridiagonal(np.array(diagonal), np.array(beside[:-1]))
    return nodes, vectors[0] ** 2


def smooth_density(
    quadratures: Sequence[Tuple[np.ndarray, np.ndarray]], grid: np.ndarray, width: float
) -> np.ndarray:
    """The mean of several quadratures as a density, each node a normal distribution.

    Args:
        quadratures: From :func:`lanczos_quadrature`.
        grid: (n,), where to evaluate.
        width: Standard deviation of the normal distributions.

    Returns:
        (n,), which integrates to 1.
    """
    total = np.zeros_like(grid)
    for nodes, weights in quadratures:
        bells = np.exp(-0.5 * ((grid[:, None] - nodes) / width) ** 2)
        total += bells @ weights / (width * math.sqrt(2 * math.pi))
    return total / len(quadratures)
