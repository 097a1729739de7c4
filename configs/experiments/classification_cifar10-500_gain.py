# classification_cifar10-500.py with a strength that is steered by its effect. Which gain of the
# loss is best? And at one gain: do the paper's moments add to the perturbation, or take from it,
# and is a divergence a better objective? Two seeds that the study does not use, on the images that
# it does not report: run with --half selection.
base = '../efficientnet_lite0/efficientnet-lite0_1xb64-156_cifar10-500-64x64.py'
seeds = [11, 12]
measures = ['stock', 'nll', 'calibration']
primary = 'accuracy/top1'
_late = '../efficientnet_lite0/afan_efficientnet-lite0_1xb64-156_cifar10-500-64x64_late.py'


def _arm(**settings):
    sites = range(3)
    return dict(
        config=_late,
        **{
            f'model.neck.afan.{site}.{key}': value
            for site in sites
            for key, value in settings.items()
        },
    )


arms = {
    'stock': dict(),
    'late': _arm(),
    **{f'gain_{gain}': _arm(target_gain=gain) for gain in (0.4, 0.8, 1.6, 2.4)},
    **{f'{kind}_0.8': _arm(target_gain=0.8, moments=kind) for kind in ('batch', 'instance')},
    'consistency_0.8': _arm(target_gain=0.8, objective='consistency'),
}
references = ['stock', 'gain_0.8']
del _late
