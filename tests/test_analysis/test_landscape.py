"""The landscape of a loss that is known in closed form, and of real models."""

import copy
import io
import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from afan_mm.analysis.directions import Surface, line_direction, random_direction, weights_at
from afan_mm.analysis.landscape import loss_at, measure_landscape, measure_line
from afan_mm.analysis.landscape_plot import draw_contours, draw_curves, draw_surface
from afan_mm.analysis.losses import FixedLosses
from support.bowl import Bowl, bowl_batches
from support.tiny import HOSTS, assert_identical, batch_of, build, parameters, stock_config

SCALE = (1 * 1 + 2 * 4) / 3  # mean over the images


def bowl():
    return FixedLosses(Bowl(), bowl_batches())


def scaled(model, factor):
    return {name: factor * value for name, value in model.state_dict().items()}


def test_filters_have_the_norms_of_the_weights():
    """By hand on a convolution: output channel by output channel; nothing with one axis moves."""
    model = Bowl()
    origin = model.state_dict()
    direction = random_direction(model, origin, seed=3)
    assert set(direction) == {'conv.weight', 'linear.weight'}
    for name, moved in direction.items():
        for filter_, weight in zip(moved, origin[name]):
            assert float(filter_.norm()) == pytest.approx(float(weight.norm()), rel=1e-5)
    again = random_direction(model, scaled(model, 3.0), seed=3)
    for name in direction:  # the same noise, three times as long
        torch.testing.assert_close(again[name], 3 * direction[name])
    other = random_direction(model, origin, seed=4)
    assert not torch.allclose(other['conv.weight'], direction['conv.weight'])


def test_frozen_weights_do_not_move_and_shift_no_noise():
    model = Bowl()
    free = random_direction(model, model.state_dict())
    model.conv.weight.requires_grad_(False)
    frozen = random_direction(model, model.state_dict())
    assert set(frozen) == {'linear.weight'}
    torch.testing.assert_close(frozen['linear.weight'], free['linear.weight'])


@pytest.mark.parametrize('groups', (1, 2))
def test_transposed_convolution(groups):
    """Its filters, the weights of one output channel, lie across the first axis."""
    model = nn.Sequential(nn.ConvTranspose2d(4, 6, 3, groups=groups))
    weight = model[0].weight.detach()
    moved = random_direction(model, model.state_dict())['0.weight']
    for channel in range(6):
        group, within = divmod(channel, 6 // groups)
        rows = slice(group * 4 // groups, (group + 1) * 4 // groups)
        ours, theirs = moved[rows, within].norm(), weight[rows, within].norm()
        assert float(ours) == pytest.approx(float(theirs), rel=1e-5)


def test_curve_against_the_closed_form():
    """|w + a d|^2 for each filter, with |d| = |w|: |w|^2 (1 + a^2 + 2 a cos)."""
    losses = bowl()
    model = losses.model
    states = {'one': model.state_dict(), 'three': scaled(model, 3.0)}
    states = copy.deepcopy(states)
    axis = [-1.0, 0.0, 0.5]
    result = measure_landscape(losses, states, [axis], seed=7)
    assert result['axes'] == [axis] and result['about'] == dict(kind='random', seed=7, images=3)
    for name, state in states.items():
        noise = random_direction(model, state, 7)
        for step, value in zip(axis, result['losses'][name]):
            expected = 0.0
            for key in ('conv.weight', 'linear.weight'):
                for w, d in zip(state[key].flatten(1), noise[key].flatten(1)):
                    square = float(w @ w)
                    cosine = float(w @ d) / square
                    expected += SCALE * square * (1 + step**2 + 2 * step * cosine)
            biases = sum(float(state[k].square().sum()) for k in ('conv.bias', 'linear.bias'))
            assert value == pytest.approx(expected + biases, rel=1e-5)


def test_plane_has_the_curves_on_its_axes():
    """The first axis is outside; the second direction is that of the next seed."""
    losses = bowl()
    states = dict(model=copy.deepcopy(losses.model.state_dict()))
    x, y = [-0.5, 0.0, 1.0], [0.0, 2.0]
    plane = measure_landscape(losses, states, [x, y], seed=1)['losses']['model']
    first = measure_landscape(losses, states, [x], seed=1)['losses']['model']
    second = measure_landscape(losses, states, [y], seed=2)['losses']['model']
    assert np.shape(plane) == (3, 2)
    np.testing.assert_allclose([row[0] for row in plane], first)
    np.testing.assert_allclose(plane[1], second)


def test_line_moves_everything():
    """Biases, norm layers and statistics too; both ends have their own loss; integers stay."""
    losses = bowl()
    model = losses.model
    start = copy.deepcopy(model.state_dict())
    end = copy.deepcopy(scaled(model, -2.0))
    end['norm.running_var'] = torch.tensor([5.0, 0.2])
    end['norm.num_batches_tracked'] = torch.tensor(9)
    surface = Surface(start, [line_direction(start, end)])
    before = parameters(model)
    with weights_at(model, surface, [1.0]):
        inside = parameters(model)
    assert_identical(parameters(model), before)
    for name in end:
        if name != 'norm.num_batches_tracked':
            torch.testing.assert_close(inside[name], end[name], msg=name)
    assert inside['norm.num_batches_tracked'] == 0
    with weights_at(model, surface, [2.0]):  # 1 + 2 * (0.2 - 1) would be negative
        torch.testing.assert_close(model.norm.running_var, torch.tensor([9.0, 0.0]))
    result = measure_line(losses, start, end, [0.0, 0.5, 1.0], ('a', 'b'))
    values = result['losses']['a to b']
    own = losses.mean()
    # the weights are those of the start times 1, -0.5 and -2
    np.testing.assert_allclose(values, [own, own / 4, 4 * own], rtol=1e-5)
    assert result['about'] == dict(kind='line', start='a', end='b', images=3)


def test_ends_of_different_models():
    start = Bowl().state_dict()
    end = {name: value for name, value in start.items() if name != 'conv.bias'}
    end['linear.weight'] = torch.ones(1, 4)
    with pytest.raises(ValueError, match=r'differ in conv\.bias, linear\.weight'):
        line_direction(start, end)


def test_goes_on_where_it_stopped(tmp_path, monkeypatch):
    """Points in the file are not computed again, those of other weights or axes are."""
    import afan_mm.analysis.landscape as module

    losses, path = bowl(), str(tmp_path / 'numbers' / 'landscape.json')
    states = dict(model=copy.deepcopy(losses.model.state_dict()))
    axis = [float(i) for i in range(6)]
    expected = measure_landscape(losses, states, [axis])
    calls, limit = [], 4

    def counted(*args):
        if len(calls) == limit:
            raise KeyboardInterrupt
        calls.append(args)
        return loss_at(*args)

    monkeypatch.setattr(module, 'loss_at', counted)
    with pytest.raises(KeyboardInterrupt):
        measure_landscape(losses, states, [axis], path=path)
    with open(path) as file:
        assert json.load(file)['losses']['model'][3:] == [
            expected['losses']['model'][3],
            None,
            None,
        ]
    calls.clear()
    limit = 99
    assert measure_landscape(losses, states, [axis], path=path) == expected and len(calls) == 2
    more = dict(states, other=scaled(losses.model, 2.0))
    calls.clear()
    found = measure_landscape(losses, more, [axis], path=path)
    assert len(calls) == 6 and found['losses']['model'] == expected['losses']['model']
    calls.clear()
    measure_landscape(losses, states, [axis], seed=1, path=path)
    assert len(calls) == 6
    calls.clear()
    another = FixedLosses(losses.model, losses.batches, about=dict(loss_weight=2))
    measure_landscape(another, states, [axis], seed=1, path=path)
    assert len(calls) == 6


def test_losses_that_are_not_finite():
    """They are None in the numbers, and holes in the pictures."""
    losses = bowl()
    states = dict(model=copy.deepcopy(losses.model.state_dict()))
    result = measure_landscape(losses, states, [[0.0, 1.0, 1e30], [0.0, 1.0]])
    values = result['losses']['model']
    assert values[2] == [None, None] and all(map(math.isfinite, values[0]))
    json.dumps(result, allow_nan=False)
    assert draw_contours(result).shape[2] == 3
    with pytest.raises(ValueError, match='losses must hold a finite number'):
        draw_contours(dict(result, losses=dict(model=[[None] * 2] * 3)))


def test_several_processes_give_the_same_numbers():
    losses = bowl()
    states = dict(model=copy.deepcopy(losses.model.state_dict()))
    axes = [[0.0, 1.0], [0.0, 0.5]]
    alone = measure_landscape(losses, states, axes)
    assert measure_landscape(losses, states, axes, processes=2) == alone


@pytest.mark.parametrize('axes', ([], [[0.0]] * 3))
def test_number_of_axes(axes):
    losses = bowl()
    with pytest.raises(ValueError, match=f'one or two lists of steps, but got {len(axes)}'):
        measure_landscape(losses, {}, axes)


@pytest.mark.parametrize('host', HOSTS)
def test_real_models(host):
    """The loss at the origin is the model's own; model and data can be sent to a process."""
    model = build(stock_config(host))
    losses = FixedLosses(model, [batch_of(host)])
    states = dict(model=copy.deepcopy(model.state_dict()))
    before = parameters(model)
    values = measure_landscape(losses, states, [[0.0, 1.0]])['losses']['model']
    assert_identical(parameters(model), before)
    with losses.evaluating():
        assert values[0] == losses.mean() != values[1]
    file = io.BytesIO()
    torch.save(losses, file)
    file.seek(0)
    sent = torch.load(file, weights_only=False)
    with sent.evaluating():
        assert sent.mean() == values[0]


def result_of(function, kind='random'):
    x, y = np.linspace(-1, 1, 11), np.linspace(-1, 1, 9)
    names = dict(stock=4.0, afan=1.0)
    return dict(
        about=dict(kind=kind, seed=0, images=3, start='a', end='b'),
        axes=[x.tolist(), y.tolist()] if function is not draw_curves else [x.tolist()],
        losses={
            name: (
                (factor * x[:, None] ** 2 + y**2 + 0.1).tolist()
                if function is not draw_curves
                else (factor * x**2 + 0.1).tolist()
            )
            for name, factor in names.items()
        },
    )


@pytest.mark.parametrize('function', (draw_curves, draw_contours, draw_surface))
def test_pictures(function):
    """A picture with many colours; a change of one model changes it."""
    result = result_of(function)
    picture = function(result)
    assert picture.dtype == np.uint8 and len(np.unique(picture.reshape(-1, 3), axis=0)) > 20
    result['losses']['afan'] = result['losses']['stock']
    assert (function(result) != picture).any()
    assert (function(result, log=True) != function(result)).any()
    shifted = {n: (np.array(v) - 0.1).tolist() for n, v in result['losses'].items()}
    with pytest.raises(ValueError, match='log needs losses > 0, but the least is 0'):
        function(dict(result, losses=shifted), log=True)
