"""The flat optimiser against torch's own, member by member."""

from __future__ import annotations

import torch

from band.train.optimiser import AdamWSettings, adamw_step_, clip_gradient_


def test_clipped_adamw_equals_torch_for_members_of_different_settings():
    generator = torch.Generator().manual_seed(0)
    members, size = 3, 11
    lr, decay = [1e-2, 3e-3, 0.1], [0.0, 0.1, 0.01]
    beta1, bound = [0.9, 0.8, 0.95], [0.5, 3.0, 1e9]
    flat = torch.randn(members, size, generator=generator, dtype=torch.float64)
    leaves = [torch.nn.Parameter(row.clone()) for row in flat]
    optimisers = [
        torch.optim.AdamW([p], lr=lr[m], betas=(beta1[m], 0.999), eps=1e-8, weight_decay=decay[m])
        for m, p in enumerate(leaves)
    ]

    def tensor(values):
        return torch.tensor(values, dtype=torch.float64)

    settings = AdamWSettings(tensor(beta1), tensor([0.999] * 3), tensor([1e-8] * 3), tensor(decay), tensor(bound))
    moments = (torch.zeros_like(flat), torch.zeros_like(flat))
    for step in range(1, 30):
        gradient = torch.randn(members, size, generator=generator, dtype=torch.float64)
        for m, leaf in enumerate(leaves):
            leaf.grad = gradient[m].clone()
            norm = torch.nn.utils.clip_grad_norm_([leaf], bound[m])
            optimisers[m].step()
            assert norm > 0.5
        norms = clip_gradient_(gradient, bound=settings.grad_clip)
        assert norms.shape == (3,)
        adamw_step_(
            flat, gradient, moments, corrections=settings.corrections(step), lr=tensor(lr),
            decay_ramp=torch.ones(3, dtype=torch.float64), settings=settings,
        )  # fmt: skip
        torch.testing.assert_close(flat, torch.stack([p.detach() for p in leaves]), rtol=1e-12, atol=1e-12)
