"""Eigenvalues, trace and density against matrices whose spectrum is known, and of the Hessian
against the one that torch writes out in full.
"""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import trapezoid
from scipy.sparse.linalg import aslinearoperator
from torch import nn
from torch.nn import functional as F

from afan_mm.analysis.hessian import HessianOperator, find_tail, merge_tails
from afan_mm.analysis.products import CountedOperator, JournalledOperator
from afan_mm.analysis.spectrum import (
    combine_traces,
    estimate_trace,
    lanczos_quadrature,
    largest_eigenvalues,
    probe_trace,
    rademacher,
    smooth_density,
)


def symmetric(eigenvalues, seed=0):
    """A matrix with these eigenvalues."""
    size = len(eigenvalues)
    basis = np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))[0]
    return basis @ np.diag(eigenvalues) @ basis.T


def test_eigenvalues_of_a_known_matrix():
    """The largest in magnitude, a negative one among them; the errors bound what is off."""
    spectrum = np.array([10.0, -7.0, 3.0] + [0.01 * i for i in range(57)])
    matrix = symmetric(spectrum)
    found = largest_eigenvalues(aslinearoperator(matrix), k=3, tol=1e-8)
    np.testing.assert_allclose(found.values, [10, -7, 3], atol=1e-6)
    assert (found.errors < 1e-5).all()
    np.testing.assert_allclose(found.vectors.T @ found.vectors, np.eye(3), atol=1e-10)
    np.testing.assert_allclose(found.products, matrix @ found.vectors, atol=1e-10)


def test_the_error_is_the_residual():
    """Stopped early, each value is within its error of an eigenvalue, and the error is not zero."""
    spectrum = np.linspace(0.5, 1, 200)
    found = largest_eigenvalues(aslinearoperator(symmetric(spectrum)), k=2, tol=0.3)
    assert (found.errors > 1e-6).all()
    distance = np.abs(found.values[:, None] - spectrum).min(1)
    assert (distance <= found.errors).all()


@pytest.mark.parametrize('k', (0, 60))
def test_number_of_eigenvalues_is_checked(k):
    with pytest.raises(ValueError, match=f'k must be an integer from 1 to 59, but got {k}'):
        largest_eigenvalues(aslinearoperator(np.eye(60)), k=k)


def test_hutchinson_of_a_diagonal_matrix_is_exact():
    """Signs squared are one: the diagonal is summed without error; with -1, 2, 5 that is 6."""
    trace = estimate_trace(aslinearoperator(np.diag([-1.0, 2.0, 5.0])), num_probes=4)
    assert trace == (6.0, 0.0, 'hutchinson', 4)


def test_hutchinson_by_hand():
    """[[1, 2], [2, 5]]: a probe with equal signs gives 6 + 4 = 10, with different ones 6 - 4 =
    2.
    """
    operator = aslinearoperator(np.array([[1.0, 2.0], [2.0, 5.0]]))
    assert probe_trace(operator, np.array([1.0, 1.0])) == (10, 10)
    assert probe_trace(operator, np.array([1.0, -1.0])) == (2, 2)
    (trace,) = combine_traces([(10.0, 10.0), (2.0, 2.0), (2.0, 2.0)])
    # sample variance ((10 - 14/3)^2 + 2 (2 - 14/3)^2) / 2 = 64/3; over 3 probes
    assert trace.value == pytest.approx(14 / 3) and trace.error == pytest.approx(8 / 3)


def test_hutchplusplus_is_better_where_few_eigenvalues_hold_the_spectrum():
    """And unbiased: the mean over many seeds is the trace, and the errors are of the right size."""
    spectrum = np.concatenate([[100.0, 50.0, -30.0], np.full(97, 0.1)])
    operator = aslinearoperator(symmetric(spectrum))
    basis = largest_eigenvalues(operator, k=3, tol=1e-10)
    traces = [estimate_trace(operator, 10, basis, seed) for seed in range(50)]
    plain = [estimate_trace(operator, 10, None, seed) for seed in range(50)]
    assert {trace.method for trace in traces} == {'hutch++'}
    assert np.mean([t.value for t in traces]) == pytest.approx(spectrum.sum(), abs=0.04)
    assert max(t.error for t in traces) < 0.2 < 2 < min(t.error for t in plain)
    off = [(t.value - spectrum.sum()) / t.error for t in plain]
    assert 0.7 < np.sqrt(np.mean(np.square(off))) < 1.5


def test_hutchinson_is_kept_where_it_is_better():
    """Diagonal but for the basis: what Hutchinson sums exactly, a projection mixes."""
    operator = aslinearoperator(np.diag([1.0, 1, 1, 1, 2, 3, 1, 1]))
    basis = largest_eigenvalues(operator, k=1)._replace(
        vectors=np.full((8, 1), 8**-0.5), products=(operator @ np.full((8, 1), 8**-0.5))
    )
    first, second = combine_traces(
        [probe_trace(operator, rademacher(8, 0, i), basis) for i in range(6)], basis.trace
    )
    assert (first.method, second.method) == ('hutchinson', 'hutch++')
    assert first.value == 11 and first.error == 0 < second.error


def test_quadrature_has_the_moments_of_the_density():
    """m nodes integrate polynomials up to degree 2 m - 1 exactly: the vector's own moments."""
    matrix = symmetric(np.linspace(-1, 3, 30))
    start = rademacher(30, 0, 0)
    nodes, weights = lanczos_quadrature(aslinearoperator(matrix), start, num_steps=4)
    assert len(nodes) == 4 and weights.sum() == pytest.approx(1)
    for degree in range(8):
        moment = start @ np.linalg.matrix_power(matrix, degree) @ start / 30
        assert weights @ nodes**degree == pytest.approx(moment, rel=1e-9, abs=1e-9)
    assert abs(weights @ nodes**8 - start @ np.linalg.matrix_power(matrix, 8) @ start / 30) > 1e-6


def test_quadrature_ends_in_an_invariant_space():
    """A matrix with two different eigenvalues needs two steps, whatever was asked for."""
    matrix = symmetric([2.0] * 5 + [-1.0] * 5)
    nodes, weights = lanczos_quadrature(aslinearoperator(matrix), rademacher(10, 0, 1), 40)
    np.testing.assert_allclose(nodes, [-1, 2], atol=1e-9)


def test_density_of_the_whole_spectrum():
    """Against the eigenvalues themselves under the same bells; it integrates to one."""
    spectrum = np.concatenate([np.random.default_rng(1).normal(0, 0.5, 395), [4, 5, 6, 7, 8.0]])
    operator = aslinearoperator(symmetric(spectrum))
    found = [lanczos_quadrature(operator, rademacher(400, 7, i), 60) for i in range(30)]
    grid = np.linspace(-3, 10, 500)
    density = smooth_density(found, grid, 0.2)
    exact = smooth_density([(spectrum, np.full(400, 1 / 400))], grid, 0.2)
    assert trapezoid(density, grid) == pytest.approx(1, abs=1e-3)
    assert np.abs(density - exact).max() < 0.02 * exact.max()


class Small(nn.Module):
    """Convolution, batch norm in evaluation mode, a smooth activation, a linear layer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(2, 3, 3)
        self.norm = nn.BatchNorm2d(3)
        self.linear = nn.Linear(3, 4)
        self.norm.running_mean.normal_()
        self.double().eval()

    def forward(self, image):
        return self.linear(torch.tanh(self.norm(self.conv(image))).mean((2, 3)))


def small_problem():
    model = Small()
    generator = torch.Generator().manual_seed(1)
    data = [
        (
            torch.randn(n, 2, 6, 6, generator=generator, dtype=torch.double),
            torch.randint(4, (n,), generator=generator),
        )
        for n in (5, 3)
    ]
    losses = [lambda d=d: F.cross_entropy(model(d[0]), d[1]) for d in data]
    return model, data, losses


def full_hessian(model, data):
    """By torch's own functional Hessian of the mean over all samples at once."""
    names, values = zip(*model.named_parameters())
    images, labels = (torch.cat(parts) for parts in zip(*data))

    def loss(flat):
        parts = flat.split([v.numel() for v in values])
        state = {name: p.view_as(v) for name, p, v in zip(names, parts, values)}
        return F.cross_entropy(torch.func.functional_call(model, state, (images,)), labels)

    start = torch.cat([v.detach().reshape(-1) for v in values])
    return torch.autograd.functional.hessian(loss, start).numpy()


def test_hessian_of_a_small_model():
    """Products, eigenvalues and trace; batches of different size count by their samples."""
    model, data, losses = small_problem()
    full = full_hessian(model, data)
    operator = HessianOperator(losses, list(model.parameters()), [5 / 8, 3 / 8])
    assert operator.shape == full.shape
    np.testing.assert_allclose(operator @ np.eye(len(full)), full, atol=1e-12)
    assert operator.products == len(full)
    eigenvalues = np.linalg.eigvalsh(full)
    largest = eigenvalues[np.argsort(-np.abs(eigenvalues))[:4]]
    basis = largest_eigenvalues(operator, 4, tol=1e-10)
    np.testing.assert_allclose(basis.values, largest, rtol=1e-8)
    trace = estimate_trace(operator, 400, basis)
    assert abs(trace.value - np.trace(full)) < 3 * trace.error < 0.2 * np.trace(full)


def test_a_loss_that_is_linear_has_no_curvature():
    weight = torch.ones(3, requires_grad=True)
    constant = torch.ones(2, requires_grad=True)
    operator = HessianOperator([lambda: weight.sum()], [weight, constant])
    assert (operator @ np.ones(5) == 0).all()


class Once(torch.autograd.Function):
    """Twice its input; its backward cannot be differentiated."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return 2 * grad


def test_tail():
    """What lies before the operator on any path is out; beside and after it is in."""
    names = ('front', 'both', 'beside', 'after', 'unused')
    p = {name: torch.ones(2, requires_grad=True) for name in names}
    hidden = Once.apply(p['front'] * p['both']) * p['after']
    loss = (hidden**2).sum() + (p['both'] * p['beside']).sum()
    tail = find_tail(loss, p)
    assert tail[:4] == (['beside', 'after'], ['front', 'both'], ['unused'], ['Once'])
    other = find_tail((p['front'] * p['unused']).sum(), p)
    merged = merge_tails([tail, other])
    assert merged[:4] == (['beside', 'after', 'unused'], ['front', 'both'], [], ['Once'])
    operator = HessianOperator(
        [lambda: (Once.apply(p['front']) ** 2 * p['after'] ** 3).sum()], [p['after']]
    )
    # 4 * front**2 * 6 * after at ones
    np.testing.assert_allclose(operator @ np.eye(2), 24 * np.eye(2))


def test_journal_repeats_no_product(tmp_path):
    """An interrupted Lanczos goes on with the products on disk, and ends in the same numbers."""
    matrix = aslinearoperator(symmetric(np.linspace(-1, 1, 100)))
    path = str(tmp_path / 'folder' / 'products.bin')
    straight = largest_eigenvalues(matrix, 2)

    class Stop(Exception):
        pass

    counted = CountedOperator(matrix)

    def stop():
        if counted.products == 12:
            raise Stop

    counted.on_product = stop
    with pytest.raises(Stop):
        largest_eigenvalues(JournalledOperator(counted, path), 2)
    with open(path, 'r+b') as file:  # cut off in the middle of a record
        file.truncate(file.seek(0, 2) - 5)
    stored = JournalledOperator(counted, path).stored
    assert stored == 10
    again = CountedOperator(matrix)
    whole = CountedOperator(JournalledOperator(again, path))
    resumed = largest_eigenvalues(whole, 2)
    assert again.products == whole.products - stored
    for ours, expected in zip(resumed, straight):
        np.testing.assert_array_equal(ours, expected)


def test_journal_of_another_computation_is_replaced(tmp_path):
    matrix = symmetric([1.0, 2, 3])
    path = str(tmp_path / 'products.bin')
    for vector in np.eye(3):
        JournalledOperator(aslinearoperator(matrix), path).matvec(vector)
    counted = CountedOperator(aslinearoperator(matrix))
    journal = JournalledOperator(counted, path)
    np.testing.assert_allclose(journal.matvec(np.eye(3)[2]), matrix[2])
    assert counted.products == 0 and journal.stored == 1
    np.testing.assert_allclose(journal.matvec(np.ones(3)), matrix.sum(0))
    assert counted.products == 1 and journal.stored == 2
    journal.remove()
    assert not (tmp_path / 'products.bin').exists()


def test_single_precision_is_kept_as_it_is(tmp_path):
    """The file holds a product in the weights' precision, and gives back what was computed."""
    weight = torch.randn(50, generator=torch.Generator().manual_seed(0)).requires_grad_()
    operator = HessianOperator([lambda: (weight**4).sum()], [weight])
    journal = JournalledOperator(operator, str(tmp_path / 'products.bin'))
    vector = rademacher(50, 0, 0)
    first = journal.matvec(vector)
    assert (tmp_path / 'products.bin').stat().st_size == 32 + 50 * 4
    again = JournalledOperator(operator, str(tmp_path / 'products.bin')).matvec(vector)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_allclose(first, 12 * weight.detach().numpy() ** 2 * vector, rtol=1e-5)
    assert operator.products == 1 and math.isfinite(first.sum())
