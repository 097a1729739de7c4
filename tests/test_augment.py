"""The settings of a site: what they refuse, and the perturbations they define."""

import math

import pytest
import torch

from afan_mm import AFANSettings, augment

FULL = augment.Strength(1.0)

NAN, INF = float('nan'), float('inf')
NUMBER, FINITE = 'must be a number >= 0', 'must be a finite number >= 0'

# setting, wrong value, error, what the message says is allowed
WRONG = [
    (key, value, kind, allowed.replace('>=', '>') if key == 'eps' else allowed)
    for key in ('epsilon', 'step_size', 'noise_epsilon', 'adv_weight', 'eps')
    for value, kind, allowed in (
        (-0.1, ValueError, FINITE),
        (NAN, ValueError, FINITE),
        (INF, ValueError, FINITE),
        (True, TypeError, NUMBER),
        ([0.1], TypeError, NUMBER),
    )
]
# an epsilon may be a quotient, as on a command line
WRONG += [
    (key, '0.1/x', ValueError, 'must be a number or a quotient such as 0.4/255')
    for key in ('epsilon', 'step_size', 'noise_epsilon')
]
WRONG += [('adv_weight', '0.1', TypeError, NUMBER), ('eps', '0.1', TypeError, 'a number > 0')]
WRONG += [(key, None, TypeError, NUMBER) for key in ('epsilon', 'adv_weight')]
WRONG += [('eps', None, TypeError, 'a number > 0')]
WRONG += [
    (key, value, ValueError, f'must be an integer >= {least}')
    for key, least in (('num_steps', 1), ('num_strengths', 0), ('num_groups', 1))
    for value in (least - 1, -3, 1.0, 1.5, NAN, '1', True, None)
]
WRONG += [
    (key, value, ValueError, f'must be one of {allowed}')
    for key, allowed in (
        ('epsilon_unit', ('absolute', 'std', 'norm', 'pixel')),
        ('norm', ('linf', 'l2')),
        ('norm_over', ('sample', 'position')),
        ('strengths', ('uniform', 'linspace')),
        ('moments', ('batch', 'instance', 'layer', 'group', 'positional', None)),
        ('perturbation', ('gradient', 'gaussian', 'gradient+gaussian', 'none')),
        ('bn_stats', ('clean', 'all', 'auxiliary')),
        ('draws', ('own', 'clean')),
    )
    for value in ('Batch', '', 1, True, ['batch'])
]
WRONG += [
    (key, None, ValueError, 'must be one of')
    for key in (
        'epsilon_unit',
        'norm',
        'norm_over',
        'strengths',
        'perturbation',
        'bn_stats',
        'draws',
    )
]
WRONG += [('name', 3, TypeError, 'must be a str'), ('name', None, TypeError, 'must be a str')]
WRONG += [
    (key, value, TypeError, 'must be a bool')
    for key in ('random_start', 'detach')
    for value in (1, 'yes', None)
]


@pytest.mark.parametrize(
    'key, value, kind, allowed', WRONG, ids=[f'{key}={value!r}' for key, value, _, _ in WRONG]
)
def test_wrong_setting_is_refused(key, value, kind, allowed):
    """The message names the setting, what is allowed and what came."""
    with pytest.raises(kind) as error:
        AFANSettings(**{key: value})
    message = str(error.value)
    assert type(error.value) is kind
    assert (
        message.startswith(f'{key} ')
        and allowed in message
        and message.endswith(f'but got {value!r}')
    )


def test_unit_of_the_norm_needs_the_l2_norm():
    with pytest.raises(
        ValueError, match="epsilon_unit must be 'absolute', 'std' or.*norm='linf'.*got 'norm'"
    ):
        AFANSettings(epsilon_unit='norm')
    AFANSettings(epsilon_unit='norm', norm='l2')


@pytest.mark.parametrize('perturbation', ('gradient', 'gaussian', 'none'))
def test_size_of_the_noise_needs_both(perturbation):
    with pytest.raises(
        ValueError,
        match=f"noise_epsilon must be None with perturbation='{perturbation}'.*but got 0.2",
    ):
        AFANSettings(perturbation=perturbation, noise_epsilon=0.2)


def test_limits_are_allowed():
    AFANSettings(
        epsilon=0,
        step_size=0,
        adv_weight=0,
        num_steps=1,
        num_strengths=0,
        num_groups=1,
        moments=None,
    )


def test_unknown_setting_lists_the_known_ones():
    with pytest.raises(
        ValueError,
        match=r"no setting \['epsilom', 'steps'\]; did you mean 'epsilon' or 'eps'\? it knows "
        r"\['name', 'epsilon', .*'bn_stats', 'draws', 'objective', 'channel_axis'\]$",
    ):
        AFANSettings.from_config(dict(steps=3, epsilom=0.1, epsilon=0.1))


def test_config_goes_before_its_defaults():
    assert AFANSettings.from_config(dict(epsilon=0.5), name='neck') == AFANSettings(
        name='neck', epsilon=0.5
    )
    assert AFANSettings.from_config(dict(name='mine'), name='neck').name == 'mine'


@pytest.mark.parametrize(
    'settings, passes',
    (
        (dict(), 0),
        (dict(num_steps=3), 2),
        (dict(random_start=True), 1),
        (dict(num_steps=3, random_start=True), 3),
        (dict(num_steps=3, num_strengths=0), 0),
        (dict(num_steps=3, random_start=True, perturbation='gaussian'), 0),
        (dict(num_steps=3, perturbation='none'), 0),
        (dict(num_steps=3, random_start=True, perturbation='gradient+gaussian'), 3),
    ),
)
def test_num_attack_passes_is_how_often_the_gradient_is_asked_for(settings, passes):
    settings = AFANSettings(**settings)
    assert settings.num_attack_passes == passes
    asked = []

    def gradient(levels):
        asked.append(levels)
        return [torch.ones_like(level) for level in levels]

    if settings.num_strengths:
        augment.perturb(
            settings, [torch.zeros(2, 3)], gradient, [torch.ones(2, 3)], 1.0, torch.Generator()
        )
        assert len(asked) == passes


def perturb(feature, scale=1.0, seed=0, **settings):
    """The perturbation of one feature on a loss that is linear with random weights, and these
    weights.
    """
    weight = torch.randn(feature.shape, generator=torch.Generator().manual_seed(99))
    found = augment.perturb(
        AFANSettings(**settings),
        [feature],
        lambda levels: [weight],
        [weight],
        scale,
        torch.Generator().manual_seed(seed),
    )
    assert bool(found.finite)
    return found.deltas[0], weight


def test_step_size_defaults_to_epsilon():
    delta, weight = perturb(torch.zeros(2, 3, 4, 4), epsilon=0.3)
    torch.testing.assert_close(delta, 0.3 * weight.sign())
    delta, weight = perturb(torch.zeros(2, 3, 4, 4), epsilon=0.3, step_size=0.1, num_steps=2)
    torch.testing.assert_close(delta, 0.2 * weight.sign())


@pytest.mark.parametrize('scale', (0.0, 0.25))
def test_warm_up_scales_radius_and_step(scale):
    for settings in (
        dict(step_size=0.1),
        dict(step_size=0.1, num_steps=5),
        dict(perturbation='gaussian'),
        dict(epsilon_unit='std', step_size=0.1),
    ):
        feature = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(1))
        full, _ = perturb(feature, 1.0, epsilon=0.3, **settings)
        scaled, _ = perturb(feature, scale, epsilon=0.3, **settings)
        torch.testing.assert_close(scaled, scale * full)


def test_gaussian_noise_has_standard_deviation_epsilon():
    """Drawn from the given generator alone."""
    feature = torch.zeros(8, 16, 16, 16)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    noise, _ = perturb(feature, epsilon=0.3, perturbation='gaussian')
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    again, _ = perturb(feature, epsilon=0.3, perturbation='gaussian')
    other, _ = perturb(feature, epsilon=0.3, perturbation='gaussian', seed=1)
    assert torch.equal(noise, again) and not torch.equal(noise, other)
    # 32768 draws: std known to 0.4 %, mean to 0.0017, and 68.27 % within one std to 0.3 %
    assert abs(noise.std() / 0.3 - 1) < 0.02 and abs(noise.mean()) < 0.008
    assert abs((noise.abs() < 0.3).float().mean() - math.erf(0.5**0.5)) < 0.015


def test_no_perturbation():
    delta, _ = perturb(torch.randn(2, 3), epsilon=0.3, perturbation='none')
    assert torch.equal(delta, torch.zeros(2, 3))


@pytest.mark.parametrize('perturbation', ('gradient', 'gaussian'))
def test_std_units_follow_each_channel(perturbation):
    """Channels 1 and 2 have standard deviations 2 and 0.5; channel 0 is constant and stays."""
    signs = torch.tensor([1.0, -1.0]).repeat(32).view(4, 1, 4, 4)
    for constant in (0.0, 0.1, -3.7, 1000.0):
        feature = torch.cat([torch.full_like(signs, constant), 2 * signs + 7, 0.5 * signs], 1)
        delta, _ = perturb(feature, epsilon=0.3, epsilon_unit='std', perturbation=perturbation)
        unit, _ = perturb(torch.zeros_like(feature), epsilon=0.3, perturbation=perturbation)
        torch.testing.assert_close(
            delta, unit * torch.tensor([0.0, 2.0, 0.5]).view(1, 3, 1, 1), rtol=1e-5, atol=1e-7
        )


def test_half_precision_features_are_perturbed_in_full():
    for dtype in (torch.float16, torch.bfloat16):
        delta, weight = perturb(torch.ones(2, 3, dtype=dtype))
        assert delta.dtype == torch.float32
        torch.testing.assert_close(delta, 0.4 / 255 * weight.sign())


@pytest.mark.parametrize('moments', ('batch', 'positional', None))
@pytest.mark.parametrize(
    'dtype', (torch.float16, torch.bfloat16, torch.float32, torch.float64), ids=str
)
def test_mix_is_the_exact_mix_rounded_once(dtype, moments):
    """Its precision is the feature's, whatever that of the delta, and its values those of float64
    to one rounding.
    """
    clean = torch.rand(3, 4, 5, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    delta = 0.05 * torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(1))
    settings = AFANSettings(moments=moments)
    mixed = augment.mix(
        settings, clean, delta.to(torch.float64) if dtype == torch.float64 else delta, FULL
    )
    exact = augment.mix(settings, clean.double(), delta.double(), FULL)
    assert mixed.dtype == dtype and not torch.equal(mixed, clean)
    torch.testing.assert_close(mixed.double(), exact, rtol=torch.finfo(dtype).eps, atol=1e-6)


def test_mix_is_differentiable_in_the_clean_feature():
    clean = torch.randn(
        3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    ).requires_grad_()
    delta = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for moments in (None, 'batch', 'layer'):
        assert torch.autograd.gradcheck(
            lambda f, moments=moments: augment.mix(AFANSettings(moments=moments), f, delta, FULL),
            clean,
        )
