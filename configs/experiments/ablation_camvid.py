# The panels of the paper's Figure 6 on 15 CamVid images, from ImageNet: PGD steps, number of
# strengths, location and step size, an arm for each setting, on the backbone alone. The rest is of
# Sec. 6: PGD-1, three strengths, 0.4/255, last stage. In 120 of the study's 400 iterations.
# One panel, and its picture:
#   python tools/experiment.py configs/experiments/ablation_camvid.py --arms stock 'steps-*'
#   python tools/analysis_tools/ablation.py work_dirs/experiments/ablation_camvid/report.json
base = '../deeplabv3plus/deeplabv3plus_lite0-d16_1xb4-400_camvid15-160x120.py'
common = {
    'train_cfg.max_iters': 120,
    'train_cfg.val_interval': 120,
    'param_scheduler.1.end': 120,
    'default_hooks.checkpoint.interval': 120,
}
seeds = [0, 1]
primary = 'mIoU'
references = ['stock']

# where the network's resolution falls, and the last stage; the first two are frozen
_stages = {
    f'B{i + 1}': f'backbone.timm_model.blocks.{block}' for i, block in enumerate((1, 2, 4, 6))
}


def _arm(location='B4', **settings):
    afan = dict(dict(epsilon=0.4 / 255, num_steps=1, num_strengths=3), **settings)
    return dict(
        custom_hooks=[dict(type='AFANHook', interval=50)],
        optim_wrapper=dict(type='AFANOptimWrapper'),
        model=dict(
            neck=dict(
                type='AFANNeckWrapper',
                base=None,
                afan=[dict(afan, name=each, site=_stages[each]) for each in location.split('+')],
            )
        ),
    )


arms = {
    'stock': dict(),
    **{f'steps-{steps}': _arm(num_steps=steps) for steps in (1, 3, 5)},
    **{f'strengths-{k}': _arm(num_strengths=k) for k in (1, 3, 5)},
    **{f'location-{where}': _arm(where) for where in ('B1', 'B2', 'B3', 'B4', 'B3+B4', 'B2+B3+B4')},
    **{f'step_size-{size}': _arm(epsilon=float(size) / 255) for size in ('0.1', '0.4', '1', '10')},
}
del _stages
