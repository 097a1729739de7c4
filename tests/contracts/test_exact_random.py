"""Random networks with skips, activations in place, and up to three sites upstream of each other:
the gradients of one step against the formula on a plain network, in float64.
"""

import random

import pytest
import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import nn

from support.exact import EPSILON, assert_same, objective_gradients
from support.tiny import gradients
from support.toy import batch
from support.versions import compiles

SEEDS = range(12)
WIDTH, NUM_CLASSES = 6, 3
ACTIVATIONS = dict(relu=nn.ReLU, elu=nn.ELU, leaky_relu=nn.LeakyReLU)


class Plan:
    """What a seed says of a network, its sites and the attack.

    Attributes:
        activations: Of each block, all in place.
        skips: The earlier blocks whose outputs are added to what each block reads.
        auxiliary: The block whose output the second loss reads.
        sites: The blocks whose outputs are perturbed.
    """

    def __init__(self, seed):
        draw = random.Random(seed)
        depth = draw.randint(4, 7)
        self.activations = [draw.choice(sorted(ACTIVATIONS)) for _ in range(depth)]
        self.skips = [
            draw.sample(range(i - 1), draw.randint(0, min(2, i - 1))) if i else []
            for i in range(depth)
        ]
        self.auxiliary = draw.randrange(depth)
        self.sites = sorted(draw.sample(range(depth), draw.randint(1, 3)))
        self.num_steps, self.detach = draw.randint(1, 2), draw.random() < 0.5
        self.kind = draw.choice((None, 'batch'))

    @property
    def step_size(self):
        return EPSILON if self.num_steps == 1 else 0.2

    @property
    def afan(self):
        settings = dict(
            epsilon=EPSILON,
            num_strengths=2,
            strengths='linspace',
            adv_weight=0.7,
            num_steps=self.num_steps,
            step_size=self.step_size,
            moments=self.kind,
            detach=self.detach,
        )
        return [dict(settings, site=f'blocks.{index}') for index in self.sites]


@MODELS.register_module()
class RandomNetwork(BaseModel):
    """Blocks of a linear layer and an activation, and two heads; no other operation is a module."""

    def __init__(self, seed):
        super().__init__()
        self.plan = Plan(seed)
        torch.manual_seed(seed)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH if i else 4, WIDTH), ACTIVATIONS[name](inplace=True))
            for i, name in enumerate(self.plan.activations)
        )
        self.head, self.side = nn.Linear(WIDTH, NUM_CLASSES), nn.Linear(WIDTH, NUM_CLASSES)

    def loss(self, x, y):
        outputs = []
        for block, skips in zip(self.blocks, self.plan.skips):
            if outputs:
                x = outputs[-1] + sum(outputs[j] for j in skips)
                x.mul_(1.1)
            outputs.append(block(x))
        side = self.side(outputs[self.plan.auxiliary])
        return dict(
            loss_main=F.cross_entropy(self.head(outputs[-1]), y),
            loss_side=F.cross_entropy(side, y),
        )

    def forward(self, x, y, mode='loss'):
        return self.loss(x, y)


def build(seed, **kwargs):
    return MODELS.build(dict(kwargs or dict(type='RandomNetwork'), seed=seed)).double().train()


def ours(seed):
    return build(seed, type='AFANModel', base='RandomNetwork', afan=Plan(seed).afan)


def losses_after(model, outputs, y):
    """The losses of the objective from the outputs of the first blocks, but the side's where it
    reads one before the last of these; and the outputs of all blocks.
    """
    plan, outputs, given = model.plan, list(outputs), len(outputs)
    for i in range(given, len(plan.skips)):
        x = 1.1 * (outputs[-1] + sum(outputs[j] for j in plan.skips[i]))
        linear = model.blocks[i][0]
        outputs.append(getattr(F, plan.activations[i])(F.linear(x, linear.weight, linear.bias)))
    loss = F.cross_entropy(model.head(outputs[-1]), y)
    if plan.auxiliary >= given - 1:
        loss = loss + F.cross_entropy(model.side(outputs[plan.auxiliary]), y)
    return loss, outputs


def formula(model, x, y):
    """Eq. 6 on explicit graphs; what by-passes a site stays as in the clean pass."""
    plan = model.plan
    linear = model.blocks[0][0]
    first = getattr(F, plan.activations[0])(F.linear(x, linear.weight, linear.bias))
    clean, outputs = losses_after(model, [first], y)

    def cut(tensor):
        return tensor.detach() if plan.detach else tensor

    def place(site):
        before = [cut(output) for output in outputs[:site]]
        return outputs[site], lambda feature: losses_after(model, [*before, feature], y)[0]

    places = [place(site) for site in plan.sites]
    return objective_gradients(model, clean, places, plan.num_steps, plan.step_size, plan.kind, cut)


@pytest.mark.parametrize('seed', SEEDS)
def test_step_equals_the_formula(seed):
    data = batch(seed=seed)
    assert_same(gradients(ours(seed), data), formula(build(seed), **data))


def test_the_networks_are_of_every_kind():
    """One, two and three sites, PGD-1 and 2, skips past a site, losses before one, and the rest."""
    plans = [Plan(seed) for seed in SEEDS]
    assert {len(plan.sites) for plan in plans} == {1, 2, 3}
    assert {(plan.num_steps, plan.detach) for plan in plans} == {
        (steps, detach) for steps in (1, 2) for detach in (False, True)
    }
    assert {plan.kind for plan in plans} == {None, 'batch'}
    past = [
        any(j < site < i for site in plan.sites for i, s in enumerate(plan.skips) for j in s)
        for plan in plans
    ]
    assert sum(past) >= 4 and any(plan.auxiliary < plan.sites[0] for plan in plans)


@compiles
def test_a_compiled_network_has_the_same_gradients():
    """Of the shortest one, in a forward that torch compiles for autograd, where nothing stays in
    place.
    """
    seed = min(SEEDS, key=lambda seed: len(Plan(seed).skips))
    model, data = ours(seed), batch()
    expected = gradients(model, data)
    model.forward = torch.compile(model.forward, backend='aot_eager')
    assert_same(gradients(model, data), expected)
