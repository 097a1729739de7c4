"""Contract 1: A-FAN that is switched off changes no bit of the training, and A-FAN that is on never
shifts the host's random streams.
"""

import pytest

from support.tiny import (
    HOSTS,
    assert_identical,
    batch_of,
    build,
    detector_config,
    optim_wrapper,
    parameters,
    random_streams,
    seed_everything,
    segmentor_config,
    train,
    with_afan,
)

SITES = [(host, site) for host in HOSTS for site in ('neck', 'head', 'both')]


def random_config(host):
    """A stock config whose training draws random numbers: dropout, or sampling of anchors and
    RoIs.
    """
    if host == 'segmentor':
        return segmentor_config(dropout=0.3)
    config = detector_config()
    config.train_cfg.rpn.sampler.update(num=16, pos_fraction=0.5)
    config.train_cfg.rcnn.sampler.update(num=8, pos_fraction=0.25)
    return config


def with_sites(host, site, **settings):
    return with_afan(
        random_config(host),
        neck=settings if site != 'head' else None,
        head=settings if site != 'neck' else None,
    )


def run(host, config, kind, num_steps=20, seed=1, batch=None):
    """Logs, final parameters and buffers, and the random streams after a few steps."""
    model = build(config)
    wrapper = optim_wrapper(model, kind)
    seed_everything(seed)
    logs = train(model, wrapper, [batch or batch_of(host, seed=step) for step in range(num_steps)])
    return logs, parameters(model), random_streams()


@pytest.fixture(scope='module')
def stock():
    """Twenty stock steps of each host."""
    return {host: run(host, random_config(host), 'OptimWrapper') for host in HOSTS}


@pytest.mark.parametrize('host', HOSTS)
def test_stock_training_is_random_and_repeatable(host):
    """The comparisons below mean something: another seed changes the losses, the same one repeats
    them.
    """
    batch = batch_of(host)
    first, again, other = (
        run(host, random_config(host), 'OptimWrapper', 2, seed, batch)[0] for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


@pytest.mark.parametrize(
    'kind, num_strengths',
    (('OptimWrapper', 3), ('AFANOptimWrapper', 0)),
    ids=('stock_wrapper', 'no_strengths'),
)
@pytest.mark.parametrize('host', HOSTS)
def test_switched_off_is_bit_identical(host, kind, num_strengths, stock):
    logs, state, streams = run(host, with_sites(host, 'both', num_strengths=num_strengths), kind)
    stock_logs, stock_state, stock_streams = stock[host]
    assert logs == stock_logs
    assert_identical(state, stock_state)
    assert_identical(streams, stock_streams)


@pytest.mark.parametrize(
    'settings',
    (
        dict(),
        dict(detach=True, num_steps=2, random_start=True),
        dict(perturbation='gaussian'),
        dict(norm='l2', epsilon_unit='norm', epsilon=0.1, perturbation='gradient+gaussian'),
    ),
    ids=('pgd1', 'pgd2_random_start', 'gaussian', 'l2_and_noise'),
)
@pytest.mark.parametrize('host, site', SITES)
def test_passes_leave_random_streams_alone(host, site, settings):
    """After one step the streams stand where the stock step leaves them, and the clean losses are
    the stock ones.
    """
    logs, state, streams = run(host, with_sites(host, site, **settings), 'AFANOptimWrapper', 1)
    stock_logs, stock_state, stock_streams = run(host, random_config(host), 'OptimWrapper', 1)
    assert_identical(streams, stock_streams)
    assert logs == stock_logs
    with pytest.raises(AssertionError):  # the passes did run
        assert_identical(state, stock_state)


@pytest.mark.parametrize('host', HOSTS)
def test_passes_do_not_depend_on_random_streams(host):
    """Dropout and sampling of the passes follow ``afan_seed`` alone: an equal clean step gives an
    equal whole step.
    """
    config = with_afan(
        segmentor_config() if host == 'segmentor' else detector_config(), neck=dict(), head=dict()
    )
    first, second = (run(host, config, 'AFANOptimWrapper', 2, seed) for seed in (1, 2))
    assert first[0] == second[0]
    assert_identical(first[1], second[1])
