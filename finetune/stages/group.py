"""The arithmetic of group relative policy optimisation (GRPO, arXiv 2402.03300): advantages, clipped ratio, KL."""

from __future__ import annotations

from typing import NamedTuple

import torch

STD_FLOOR = 1e-4  # added to a standard deviation before dividing by it, as TRL does


class Advantages(NamedTuple):
    """Of P groups of G answers: `values` (P, G); `std` (P,) of each group's rewards."""

    values: torch.Tensor
    std: torch.Tensor


class PolicyLoss(NamedTuple):
    """Of N tokens, each (N,): `loss` and `ratio` carry gradients; `low` and `high` are true where it was clipped."""

    loss: torch.Tensor
    ratio: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor


def advantages(rewards: torch.Tensor, scale_rewards: str) -> Advantages:
    """Each reward less its group's mean: section 4.1.2 of GRPO.

    Args:
        rewards: (P, G), G answers to each of P prompts, G at least 2.
        scale_rewards: what they are then divided by: `group`, the group's standard deviation; `batch`, that of all
            rewards; `none`, nothing (Dr. GRPO, arXiv 2503.20783: a group's spread says how hard its prompt is).
    """
    std = rewards.std(1)  # of a sample: divided by G - 1
    centred = rewards - rewards.mean(1, keepdim=True)
    if scale_rewards == "none":
        return Advantages(centred, std)
    divisor = std[:, None] if scale_rewards == "group" else rewards.std()
    return Advantages(centred / (divisor + STD_FLOOR), std)


def policy_loss(
    logps: torch.Tensor, old_logps: torch.Tensor, advantages: torch.Tensor, epsilon: float, epsilon_high: float
) -> PolicyLoss:
    """- min(ratio A, clip(ratio, 1 - epsilon, 1 + epsilon_high) A) of each token: equation 3 of GRPO without its KL.

    A higher `epsilon_high` lets rare tokens grow: "clip-higher" of DAPO (arXiv 2503.14476).

    Args:
        logps: (N,) of the sampled tokens under the policy. old_logps: the same of the policy that sampled them.
        advantages: (N,), of each token's answer.
    """
    ratio = (logps - old_logps).exp()
    clipped = ratio.clamp(1 - epsilon, 1 + epsilon_high)
    loss = -torch.min(ratio * advantages, clipped * advantages)
    low = (ratio < 1 - epsilon) & (advantages < 0)
    high = (ratio > 1 + epsilon_high) & (advantages > 0)
    return PolicyLoss(loss, ratio, low, high)


def kl_to_reference(logps: torch.Tensor, reference_logps: torch.Tensor) -> torch.Tensor:
    """(N,): r - log r - 1 with r the reference's probability over the policy's: equation 4 of GRPO.

    Unbiased and never negative: the estimator k3 of Schulman, "Approximating KL divergence" (2020). Its gradient is not
    that of the KL; times the ratio, whose gradient counts, it is (DeepSeek-V3.2, arXiv 2512.02556).
    """
    log_ratio = reference_logps - logps
    return log_ratio.exp() - log_ratio - 1
