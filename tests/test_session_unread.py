"""What the clean loss does not read, and what a tail must not: told, or counted as nothing."""

import pytest
import torch
import torch.nn.functional as F

from afan_mm import AFANSettings, tap
from support.tiny import gradients, optim_wrapper
from support.toy import EXACT, batch, host

detached_or_not = pytest.mark.parametrize('detach', (True, False), ids=('detached', 'attached'))


def reader(**settings):
    """A host whose loss reads the site in those batches only that have a ``y``; and a list that
    grows whenever the tail runs.
    """
    runs = []

    def run(model, x, y):
        def tail(feature):
            runs.append(feature)
            return dict(loss=F.cross_entropy(model.classifier(feature), labels))

        labels = torch.zeros(len(x), dtype=torch.long) if y is None else y
        feature = tap('site', model.front(x), tail, AFANSettings(**{**EXACT, **settings}))
        if y is None:
            return dict(loss_side=model.side(x).square().mean())
        return tail(feature)

    return host(run), runs


@detached_or_not
@pytest.mark.parametrize('settings, runs', ((dict(), 2), (dict(num_steps=2), 3)))
def test_a_batch_that_does_not_read_the_site_runs_as_many_passes_and_counts_none(
    settings, runs, detach
):
    """Two strengths, and with PGD-2 an attack pass: other ranks, whose batches do read the site,
    would wait for theirs.
    """
    model, calls = reader(detach=detach, **settings)
    wrapper = optim_wrapper(model)
    gradients(model, batch(), wrapper)
    assert len(calls) == 1 + runs  # the clean one
    calls.clear()
    found = gradients(model, dict(batch(), y=None), wrapper)
    assert len(calls) == runs
    x = batch()['x']
    expected = (2 * model.side(x) / model.side(x).numel()).T @ x  # of the mean of squares, by hand
    torch.testing.assert_close(found['side.weight'], expected, rtol=1e-10, atol=1e-12)
    others = [name for name in found if not name.startswith('side.')]
    assert not any(found[name] is not None and found[name].any() for name in others)


@detached_or_not
@pytest.mark.parametrize('perturbation', ('gradient', 'none'))
def test_a_first_batch_that_does_not_read_the_site_stops_the_run(perturbation, detach):
    model, _ = reader(detach=detach, perturbation=perturbation)
    with pytest.raises(
        RuntimeError, match=r"sites \['site'\] were tapped in their first step, but"
    ):
        gradients(model, dict(batch(), y=None))


def seldom(is_tapped=True):
    """A host with a site 'always', which its loss reads as long as ``model.reads`` is true, and one
    'seldom' in every other iteration; after a step in which that sits out, as a resumed run may
    begin.
    """

    def run(model, x, y):
        def tail(feature):
            return dict(loss=F.cross_entropy(model.classifier(feature), y))

        always, other = model.front(x), model.side(x)
        always = tap('always', always, tail, model.afan[0])
        always = always if model.reads else always.detach()
        other = tap('seldom', other, tail, model.afan[1]) if is_tapped else other
        return dict(loss=tail(always)['loss'] + tail(other)['loss'])

    model = host(run)
    model.afan = [
        AFANSettings(name=n, interval=i, **EXACT) for n, i in (('always', 1), ('seldom', 2))
    ]
    model.reads = True
    wrapper = optim_wrapper(model)
    wrapper.initialize_count_status(model, 1, 100)
    gradients(model, batch(), wrapper)
    return model, wrapper


def test_a_site_that_sits_out_the_first_step_is_checked_when_it_takes_part():
    model, wrapper = seldom(is_tapped=False)
    with pytest.raises(RuntimeError, match=r"sites \['seldom'\] were not reached"):
        gradients(model, batch(), wrapper)


def test_a_site_that_was_seen_to_run_is_not_checked_again_beside_another():
    """A later batch need not read it."""
    model, wrapper = seldom()
    model.reads = False
    for _ in range(3):
        gradients(model, batch(), wrapper)


@detached_or_not
def test_a_tail_that_reads_what_a_module_before_the_site_kept(detach):
    """Nothing can be said of a graph that is used up but how to do without."""

    def run(model, x, y):
        def tail(feature):
            return dict(loss=F.cross_entropy(model.classifier(feature + model.kept), y))

        model.kept = model.front(x)
        feature = model.middle(torch.tanh(model.kept))
        return tail(tap('site', feature, tail, AFANSettings(**dict(EXACT, detach=detach))))

    with pytest.raises(RuntimeError, match=r"\['site'\]: a tail .* keeps as an attribute.* before"):
        gradients(host(run), batch())


def test_other_errors_of_a_backward_stay_as_they_are():
    """Twice through a graph without sites is the host's own affair."""
    model = host(
        lambda model, x, y: dict(loss=F.cross_entropy(model.classifier(model.front(x)), y))
    )
    wrapper = optim_wrapper(model)
    with wrapper.optim_context(model):
        loss = model(**batch())['loss']
    wrapper.backward(loss)
    with pytest.raises(RuntimeError, match='^Trying to backward through the graph a second time'):
        with wrapper.optim_context(model):
            model(**batch())
        wrapper.backward(loss)
