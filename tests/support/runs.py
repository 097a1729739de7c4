"""Real Runners over one fixed batch, and a record of what each iteration left behind."""

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from support.tiny import build, segmentation_batch, segmentor_config, with_afan

NECK = dict(epsilon=0.3, num_strengths=2)


class Trace(Hook):
    """What each iteration that ran left behind."""

    def __init__(self):
        self.started, self.scales, self.losses, self.reports = 0, [], [], []

    def before_train_iter(self, runner, *args, **kwargs):
        self.started += 1

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        scalars = runner.message_hub.log_scalars
        self.scales.append(getattr(runner.optim_wrapper, 'epsilon_scale', None))
        self.losses.append({key: value.item() for key, value in outputs.items()})
        self.reports.append(
            {key: buffer.current() for key, buffer in scalars.items() if '/afan/' in key}
        )


class Images(torch.utils.data.Dataset):
    """One fixed batch, over and over."""

    def __init__(self):
        self.batch = segmentation_batch()

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return dict(
            inputs=self.batch['inputs'][index], data_samples=self.batch['data_samples'][index]
        )


def train(model, work_dir, max_iters=2, hook=None, optim='AFANOptimWrapper', trace=None, **kwargs):
    """A real run with a log line each iteration; returns what it left on a Trace."""
    trace = Trace() if trace is None else trace
    runner = Runner(
        model=model,
        work_dir=str(work_dir),
        experiment_name=f'run_{id(trace)}',
        default_scope='mmseg',
        log_level='INFO',
        train_dataloader=dict(
            dataset=Images(),
            batch_size=2,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='pseudo_collate'),
        ),
        train_cfg=dict(by_epoch=False, max_iters=max_iters),
        log_processor=dict(by_epoch=False, num_digits=12),
        optim_wrapper=dict(
            dict(type=optim) if isinstance(optim, str) else optim,
            optimizer=dict(type='SGD', lr=0.01),
        ),
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=1),
            checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2),
        ),
        custom_hooks=[dict(type='AFANHook', interval=1) if hook is None else hook, trace],
        visualizer=dict(
            type='Visualizer',
            name=f'run_{id(trace)}',
            vis_backends=[dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')],
        ),
        **kwargs,
    )
    runner.train()
    trace.runner = runner
    return trace


def afan_model(neck=NECK, head=None, **changes):
    config = with_afan(segmentor_config(), neck=neck, head=head)
    config.update(changes)
    return build(config)
