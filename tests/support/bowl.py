"""A model whose loss over its weights is known in closed form."""

import torch
from mmengine.model import BaseModel
from torch import nn


class Bowl(BaseModel):
    """``loss = mean(image) * (sum of squared weights) + sum of squared biases``; a norm layer and a
    counter that a direction must leave alone or take along.
    """

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 2, 2)
        self.linear = nn.Linear(4, 3)
        self.norm = nn.BatchNorm2d(2)

    def forward(self, inputs, data_samples=None, mode='loss'):
        squares = self.conv.weight.square().sum() + self.linear.weight.square().sum()
        biases = self.conv.bias.square().sum() + self.linear.bias.square().sum()
        scale = torch.stack([image.mean() for image in inputs]).mean()
        norm = self.norm.weight.sum() * self.norm.running_var.mean()
        return dict(loss=scale * squares + biases + 0 * norm)


def bowl_batches():
    """Two batches, of one image and of two, whose means are 1 and 4."""
    return [dict(inputs=[torch.ones(1, 2, 2)]), dict(inputs=[torch.full((1, 2, 2), 4.0)] * 2)]
