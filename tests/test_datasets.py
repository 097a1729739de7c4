"""The part of a data set that the run's seed chooses."""

import pytest
import torch
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS

from afan_mm import datasets

LABELS = [0] * 7 + [1] * 5 + [2] * 8


@DATASETS.register_module(force=True)
class NumberedImages(BaseDataset):
    def load_data_list(self):
        return [dict(number=number, label=label) for number, label in enumerate(LABELS)]

    def get_cat_ids(self, index):
        return [self.get_data_info(index)['label']]


class TwoLabels(NumberedImages):
    def get_cat_ids(self, index):
        return [0, 1]


def subset(num_samples, kind='NumberedImages', serialize_data=False, **kwargs):
    dataset = dict(type=kind, serialize_data=serialize_data)  # to do so takes a second
    return DATASETS.build(
        dict(type='SeededSubset', num_samples=num_samples, dataset=dataset, **kwargs)
    )


def numbers(dataset):
    return [dataset[index]['number'] for index in range(len(dataset))]


def test_every_class_has_as_many():
    dataset = subset(12, balanced=True, seed=3, serialize_data=True)
    drawn = numbers(dataset)
    assert isinstance(dataset, BaseDataset) and len(set(drawn)) == 12
    assert [sum(LABELS[n] == label for n in drawn) for label in range(3)] == [4, 4, 4]


def test_the_runs_seed_draws():
    def drawn(seed):
        torch.manual_seed(seed)
        torch.rand(5)  # what was drawn since does not matter
        return numbers(subset(10))

    assert drawn(1) == drawn(1) != drawn(2)
    assert drawn(2) == numbers(subset(10, seed=2))
    # A part for everyone: with 40 seeds every sample is drawn at least once, or 1e-11 is met.
    assert {n for seed in range(40) for n in drawn(seed)} == set(range(20))
    assert numbers(subset(20)) == list(range(20))


def test_the_processes_of_a_run_draw_alike(monkeypatch):
    """With ``diff_rank_seed`` torch's seed is another one in each."""

    def of_the_first(seeds):
        seeds[0] = 2

    monkeypatch.setattr(datasets, 'broadcast_object_list', of_the_first)
    torch.manual_seed(3)
    assert numbers(subset(10)) == numbers(subset(10, seed=2))


@pytest.mark.parametrize(
    'num_samples, balanced, message',
    (
        (21, False, 'num_samples must be a multiple of 1, at least 1 and at most 20, but got 21'),
        (0, False, 'but got 0'),
        (18, True, 'of 3, at least 1 and at most 5 for each class, but got 18'),
        (10, True, 'multiple of 3'),
    ),
)
def test_sizes(num_samples, balanced, message):
    with pytest.raises(ValueError, match=message):
        subset(num_samples, balanced=balanced)


def test_several_classes_for_each_sample():
    with pytest.raises(ValueError, match='one class for each sample'):
        subset(2, TwoLabels, balanced=True)
