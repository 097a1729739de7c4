"""The example without OpenMMLab: it runs, and its step is the one that NumPy computes."""

import copy
import importlib.util
import re
import subprocess

import numpy as np
import torch

from support.fast_python import python
from support.paths import ROOT

PATH = ROOT / 'examples' / 'plain_torch.py'
example = importlib.util.module_from_spec(
    importlib.util.spec_from_file_location('plain_torch', PATH)
)
example.__spec__.loader.exec_module(example)


def gradients(feature, y, weight, bias):
    """Of the mean cross entropy of ``feature @ weight.T + bias``: with respect to the three."""
    logits = feature @ weight.T + bias
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    p[np.arange(len(y)), y] -= 1
    p /= len(y)
    return p @ weight, p.T @ feature, p.sum(0)


def test_the_step_by_hand():
    """The chain rule, written out: no autograd in it."""
    torch.manual_seed(3)
    model, lr, epsilon = example.Classifier().double(), 0.5, 0.1
    x, y = torch.randn(5, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])
    before = {n: p.detach().numpy().copy() for n, p in model.named_parameters()}
    example.step(model, x, y)
    v, c = before['head.weight'], before['head.bias']
    inputs, labels = x.numpy(), y.numpy()
    feature = np.tanh(inputs @ before['front.weight'].T + before['front.bias'])
    clean = gradients(feature, labels, v, c)
    perturbed = gradients(feature + epsilon * np.sign(clean[0]), labels, v, c)
    inner = (clean[0] + perturbed[0]) * (1 - feature**2)
    steps = {
        'front.weight': inner.T @ inputs,
        'front.bias': inner.sum(0),
        'head.weight': clean[1] + perturbed[1],
        'head.bias': clean[2] + perturbed[2],
    }
    assert np.abs(perturbed[1] - clean[1]).max() > 1e-3  # the perturbation counts
    for name, parameter in model.named_parameters():
        expected = before[name] - lr * steps[name]
        np.testing.assert_allclose(parameter.detach(), expected, rtol=0, atol=1e-8, err_msg=name)


def test_the_model_stays_a_plain_one():
    """Nothing of A-FAN in its weights; evaluated, and copied, it is the module that it was."""
    model = example.Classifier().double()
    assert list(model.state_dict()) == ['front.weight', 'front.bias', 'head.weight', 'head.bias']
    x, y = torch.randn(4, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    example.step(model, x, y)
    assert torch.equal(copy.deepcopy(model)(x, y), model(x, y))


def test_the_command():
    result = subprocess.run([python(), str(PATH)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    (difference,) = re.findall(r'step and formula: (\S+)$', result.stdout.strip())
    assert float(difference) < 1e-8
