# Which learning rate is best for a stock detector, whose backbone trains, with 20 images to learn
# from? And what is it in late joint A-FAN that loses the hardest class there: which site, what
# strength? Seeds that the study does not use, on the images that it does not report: run with
# --half selection.
base = '../faster_rcnn/faster-rcnn_lite0_fpn_1xb4-300_bccd20-240x180.py'
seeds = [11, 12]
measures = ['stock', 'detection_calibration']
primary = 'mAP'
references = ['stock']

_late = dict(config='../faster_rcnn/afan_faster-rcnn_lite0_fpn_1xb4-300_bccd20-240x180_late.py')
_best = {'optim_wrapper.optimizer.lr': 0.0005}
_sites = dict(neck='model.neck.afan', map='model.roi_head.afan.0', vector='model.roi_head.afan.1')


def _everywhere(key):
    return ', '.join(f'{site}.{key}' for site in _sites.values())


arms = dict(
    stock=dict(),
    rate=dict(),
    longer=dict(_best, factor=2),
    late=dict(_late),
    late_longer=dict(_late, **_best, factor=2),
    strength=dict(_late, **_best),
    gain=dict(_late, **_best),
    noise=dict(_late, **_best),
    lighter=dict(_late, **_best),
    detached=dict(_late, **_best),
    consistency=dict(_late, **_best),
    warmed_up={**_late, **_best, 'custom_hooks.0.warmup_iters': 300},
)
grid = dict(
    rate={'optim_wrapper.optimizer.lr': [0.00025, 0.0005, 0.002]},  # stock's: 0.001
    late={'optim_wrapper.optimizer.lr': [0.0005, 0.001, 0.002]},
    strength={_everywhere('epsilon'): [0.0001, 0.001, 0.02]},  # late's: 0.1
    gain={_everywhere('target_gain'): [0.1]},
    noise={_everywhere('perturbation'): ['gaussian']},
    lighter={_everywhere('adv_weight'): [0.2]},
    detached={_everywhere('detach'): [True]},
    consistency={_everywhere('objective'): ['consistency']},
)
for _site in _sites:  # alone
    arms[_site] = dict(_late, **_best)
    for _other in set(_sites) - {_site}:
        arms[_site][f'{_sites[_other]}.num_strengths'] = 0
del _late, _best, _sites, _everywhere, _site, _other
