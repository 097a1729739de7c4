# The panels of the paper's Figure 4, around the preset recommended.py in place of the paper's
# settings: EfficientNet-Lite0 on 500 CIFAR-10 images, an arm for each number of PGD steps, number
# of strengths (a pass each, which share the weight of one), location and length of the
# perturbation. The rest is the preset's: one step, one strength for each sample, the last two
# stages and the pooled vector together, a tenth of the feature's own length. In half the iterations
# of the study's config.
# One panel, and its picture:
#   python tools/experiment.py configs/experiments/ablation_cifar10-500.py --arms stock 'steps-*'
#   python tools/analysis_tools/ablation.py work_dirs/experiments/ablation_cifar10-500/report.json
base = '../efficientnet_lite0/efficientnet-lite0_1xb64-156_cifar10-500-64x64.py'
common = {
    'train_cfg.max_iters': 78,
    'train_cfg.val_interval': 78,
    'param_scheduler.1.end': 78,
    'default_hooks.checkpoint.interval': 78,
}
seeds = [0, 1]
primary = 'accuracy/top1'
references = ['stock']
_late = '../efficientnet_lite0/afan_efficientnet-lite0_1xb64-156_cifar10-500-64x64_late.py'
_sites = dict(S6=0, S7=1, V=2)  # stages six and seven, and the vector


def _arm(location='S6+S7+V', **settings):
    changes = {}
    for name, index in _sites.items():
        here = dict(settings) if name in location.split('+') else dict(num_strengths=0)
        changes.update({f'model.neck.afan.{index}.{key}': value for key, value in here.items()})
    return dict(config=_late, **changes)


def _several(k):
    return dict(num_strengths=k, estimator='sum', adv_weight=0.5 / k)


arms = {
    'stock': dict(),
    'steps-1': _arm(),
    **{f'steps-{steps}': _arm(num_steps=steps) for steps in (3, 5)},
    'strengths-1': _arm(),
    **{f'strengths-{k}': _arm(**_several(k)) for k in (3, 5)},
    **{f'location-{where}': _arm(where) for where in ('S6', 'S7', 'V', 'S7+V', 'S6+S7+V')},
    **{f'length-{size}': _arm(epsilon=size) for size in (0.02, 0.05)},
    'length-0.1': _arm(),
    'length-0.3': _arm(epsilon=0.3),
}
del _late, _sites
