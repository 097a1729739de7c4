"""A-FAN on a model of your own, by ``tap``: python examples/digits_classifier.py, or make quick

A small classifier of scikit-learn's handwritten digits learns from a few of them: as it is (stock),
with the same passes unperturbed (control), and with A-FAN. Needs torch, mmengine and scikit-learn;
mmcv is not used. Results: test accuracies, and two pictures.
"""

import argparse
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from sklearn.datasets import load_digits
from torch import nn

from afan_mm import AFANOptimWrapper, AFANSettings, tap
from afan_mm.visualization import capture, choose_view, draw_site, save_png
from afan_mm.visualization.canvas import new_figure, render

# Largest strength: a share of the feature's own l2 norm. The weights of the losses sum to one, so
# that no arm takes larger steps than another.
AFAN = dict(
    epsilon=0.1, epsilon_unit='norm', norm='l2', moments=None, num_strengths=1, adv_weight=0.5
)
ARMS = {
    'stock': dict(AFAN, num_strengths=0),
    'control': dict(AFAN, perturbation='none'),
    'A-FAN': AFAN,
}


class Classifier(BaseModel):
    """Two convolutions, a hidden layer, and a site before the classifier."""

    def __init__(self, afan):
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
        )
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10))
        self.afan = AFANSettings.from_config(afan, name='feature')

    def forward(self, inputs, labels=None, mode='tensor'):
        def tail(feature):
            return dict(loss=F.cross_entropy(self.head(feature), labels))

        feature = self.backbone(inputs)
        if mode == 'tensor':
            return self.head(feature)
        return tail(tap('feature', feature, tail, self.afan))


def load(seed, per_class):
    """Training images, a few of each class, and all the others to test on."""
    data = load_digits()
    inputs = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(data.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    train = torch.cat([order[labels[order] == digit][:per_class] for digit in range(10)])
    rest = torch.ones(len(labels), dtype=torch.bool).index_fill(0, train, False)
    return (inputs[train], labels[train]), (inputs[rest], labels[rest])


def train(arm, seed, epochs, per_class):
    """Train one arm; the model, and its test accuracy after every epoch."""
    (inputs, labels), test = load(seed, per_class)
    torch.manual_seed(seed)
    model = Classifier(ARMS[arm])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    clean_weight = 1.0 if arm == 'stock' else 0.5
    wrapper = AFANOptimWrapper(optimizer=optimizer, afan_seed=seed, clean_weight=clean_weight)
    accuracies = []
    for _ in range(epochs):
        model.train()
        for batch in torch.randperm(len(labels)).split(20):
            model.train_step(dict(inputs=inputs[batch], labels=labels[batch]), wrapper)
        model.eval()
        with torch.no_grad():
            accuracies.append((model(test[0]).argmax(1) == test[1]).float().mean().item())
    return model, accuracies


def draw_curves(curves, path):
    """Test accuracy over the epochs: one line for each run."""
    figure = new_figure(700, 420)
    axes = figure.add_subplot()
    for (arm, runs), color in zip(curves.items(), ('tab:gray', 'tab:orange', 'tab:blue')):
        for index, run in enumerate(runs):
            label = arm if index == 0 else None
            width = 4 if arm == 'stock' else 1  # seen where the control covers it
            axes.plot(range(1, len(run) + 1), run, color=color, label=label, linewidth=width)
    axes.set(xlabel='epoch', ylabel='test accuracy')
    axes.legend()
    save_png(render(figure), str(path))


def draw_feature(model, path):
    """Clean and perturbed feature of one test image, as the site's loss moves it."""
    _, (inputs, labels) = load(0, 1)
    batch = dict(inputs=inputs[:1], labels=labels[:1])
    (features,) = capture(model, batch, num_strengths=3, magnify=1.0)
    image = (inputs[0, 0, :, :, None].repeat(1, 1, 3) * 255).byte().numpy()
    target = f'the digit {labels[0]}'
    save_png(draw_site(features, image, choose_view(features), 1.0, target), str(path))


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--seeds', type=int, default=3, help='runs of each arm; default: 3')
    parser.add_argument('--epochs', type=int, default=40, help='default: 40')
    parser.add_argument(
        '--per-class', type=int, default=10, help='training images of each digit; default: 10'
    )
    parser.add_argument('--out-dir', default='work_dirs/quick', help='default: %(default)s')
    args = parser.parse_args(argv)
    out = Path(args.out_dir)
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # a model of this size only loses by more
    curves = {}
    for arm in ARMS:
        start = time.time()
        runs = [train(arm, seed, args.epochs, args.per_class) for seed in range(args.seeds)]
        curves[arm] = [accuracies for _, accuracies in runs]
        last = torch.tensor([run[-1] for run in curves[arm]], dtype=torch.float64) * 100
        print(
            f'{arm:<8} test accuracy {last.mean():.2f} ± {last.std(unbiased=False):.2f} % '
            f'({args.seeds} seeds), {time.time() - start:.0f} s',
            flush=True,
        )
    draw_curves(curves, out / 'accuracy.png')
    draw_feature(runs[0][0], out / 'feature.png')
    print(f'pictures: {out}/accuracy.png, {out}/feature.png')


if __name__ == '__main__':
    try:
        main()
    except KeyboardInterrupt:
        print('\ndigits_classifier.py: interrupted; the same command starts anew', file=sys.stderr)
        sys.exit(130)
