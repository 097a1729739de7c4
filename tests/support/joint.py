"""Equation 6 for sites that are perturbed together, on explicit graphs."""

import torch

from support.exact import EPSILON, RATIOS, naive_mix


def joint_gradients(
    model, clean, features, tail, num_steps=1, step_size=EPSILON, kind=None, detach=False, **options
):
    """Gradients of ``clean + adv_weight * sum L_adv`` by name.

    Args:
        clean: The clean loss.
        features: Of each site in the clean pass, the first site first.
        tail: ``tail(feature, at)`` is the loss from the first site's feature on; it calls
            ``at(name, feature)`` where a later site is.
        options: ``adv_weight`` (0.7), and ``strengths``, numbers or one for each sample (RATIOS).
    """
    first = next(iter(features))

    def run(start, change):
        return tail(start, lambda name, f: change(name, f) if name in features else f)

    deltas = {name: torch.zeros_like(f) for name, f in features.items()}
    for step in range(num_steps):
        if step == 0:
            grads = torch.autograd.grad(clean, list(features.values()), retain_graph=True)
        else:
            leaves = {name: d.clone().requires_grad_() for name, d in deltas.items()}
            loss = run(
                features[first].detach() + leaves[first], lambda name, f, d=leaves: f + d[name]
            )
            grads = torch.autograd.grad(loss, list(leaves.values()))
        deltas = {
            name: (d + step_size * g.sign()).clamp(-EPSILON, EPSILON).detach()
            for (name, d), g in zip(deltas.items(), grads)
        }
    total = clean
    for strength in options.get('strengths', RATIOS):

        def change(name, f, strength=strength):
            value = (
                strength.reshape(-1, *[1] * (f.dim() - 1))
                if isinstance(strength, torch.Tensor)
                else strength
            )
            return naive_mix(f, value * deltas[name], kind)

        start = features[first].detach() if detach else features[first]
        loss = run(change(first, start), change)
        total = total + options.get('adv_weight', 0.7) * loss
    model.zero_grad()
    total.backward()
    return {
        name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()
    }
