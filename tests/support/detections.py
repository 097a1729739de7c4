"""What a metric of mmdet is given of an image."""

import torch


def instances(*rows):
    """Each row a box and its label, for a detection its score as well."""
    rows = torch.tensor(rows, dtype=torch.float32).reshape(len(rows), -1)
    found = dict(bboxes=rows[:, :4].reshape(-1, 4), labels=rows[:, 4:5].flatten().long())
    return dict(found, scores=rows[:, 5]) if rows.shape[1] == 6 else found


def no_instances():
    return dict(bboxes=torch.zeros(0, 4), labels=torch.zeros(0).long(), scores=torch.zeros(0))


def sample(truth, detections, ignored=None):
    return dict(gt_instances=truth, pred_instances=detections, ignored_instances=ignored or {})
