# The panels of the paper's Figure 5 on BCCD: PGD steps, number of strengths,
# location and step size, an arm for each setting, on the backbone alone. The rest is of Sec. 5:
# PGD-1, five strengths, 0.3/255, last stage.
# One panel, and its picture:
#   python tools/experiment.py configs/experiments/ablation_bccd.py --arms stock 'steps-*'
#   python tools/analysis_tools/ablation.py work_dirs/experiments/ablation_bccd/report.json
base = '../faster_rcnn/faster-rcnn_r18_fpn_1xb4-250_bccd-240x180.py'
seeds = [0, 1, 2]
primary = 'mAP'
references = ['stock']


def _arm(site='backbone.layer4', **settings):
    sites = [site] if isinstance(site, str) else site
    afan = dict(dict(epsilon=0.3 / 255, num_steps=1, num_strengths=5), **settings)
    return dict(
        custom_hooks=[dict(type='AFANHook', interval=50)],
        optim_wrapper=dict(type='AFANOptimWrapper'),
        model=dict(
            neck=dict(
                type='AFANNeckWrapper',
                base='FPN',
                afan=[dict(afan, name=each.rpartition('.')[2], site=each) for each in sites],
            )
        ),
    )


_b1, _b2, _b3, _b4 = (f'backbone.layer{stage}' for stage in (1, 2, 3, 4))
arms = {
    'stock': dict(),
    **{f'steps-{steps}': _arm(num_steps=steps) for steps in (1, 3, 5)},
    **{f'strengths-{k}': _arm(num_strengths=k) for k in (1, 3, 5)},
    'location-B1': _arm(_b1),
    'location-B2': _arm(_b2),
    'location-B3': _arm(_b3),
    'location-B4': _arm(_b4),
    'location-B3+B4': _arm([_b3, _b4]),
    'location-B2+B3+B4': _arm([_b2, _b3, _b4]),
    **{f'step_size-{size}': _arm(epsilon=float(size) / 255) for size in ('0.1', '0.3', '1', '10')},
}
del _b1, _b2, _b3, _b4
