"""The losses of preference training, pure functions of log-probabilities: one value a pair (or answer), not yet summed.

Throughout, log-probabilities are those of a whole answer (the sum over its tokens), `mean` ones are divided by its
length, and a log-ratio is the policy's log-probability less the reference's.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

CERTAIN = -1e-6  # a mean log-probability above this has odds beyond float32


def sigmoid(margin: torch.Tensor, beta: float, label_smoothing: float = 0.0) -> torch.Tensor:
    """DPO: - log sigmoid(beta * margin), (B,). Rafailov et al. 2023 (arXiv 2305.18290), equation 7.

    With `label_smoothing` e, the chance that a pair is labelled the wrong way round: conservative DPO,
    -(1 - e) log sigmoid(beta * margin) - e log sigmoid(-beta * margin) (Mitchell 2023, "A note on DPO with noisy
    preferences & relationship to IPO").

    Args:
        margin: (B,) log-ratio of the chosen answer less that of the rejected one; of mean log-ratios, the loss is
            length-normalised DPO (TRL's `sigmoid_norm`).
    """
    scaled = beta * margin
    return -(1 - label_smoothing) * F.logsigmoid(scaled) - label_smoothing * F.logsigmoid(-scaled)


def hinge(margin: torch.Tensor, beta: float) -> torch.Tensor:
    """max(0, 1 - beta * margin), (B,): SLiC-HF's loss (Zhao et al. 2023, arXiv 2305.10425) with log-ratios as scores, the
    hinge-norm loss of RSO (Liu et al. 2023, arXiv 2309.06657).
    """
    return torch.relu(1 - beta * margin)


def ipo(mean_margin: torch.Tensor, beta: float) -> torch.Tensor:
    """(mean margin - 1 / (2 beta))^2, (B,). Azar et al. 2023 (arXiv 2310.12036), equation 17, beta being its tau.

    Args:
        mean_margin: (B,) of mean log-ratios: sums would grow with the answers' lengths while 1 / (2 beta) does not.
    """
    return (mean_margin - 1 / (2 * beta)).square()


def log_odds(mean_logps: torch.Tensor) -> torch.Tensor:
    """log(p / (1 - p)) of p = exp(mean log-probability), (B,). Hong et al. 2024 (ORPO, arXiv 2403.07691), equation 4.

    A mean log-probability above CERTAIN counts as CERTAIN, so that the odds stay finite.
    """
    x = mean_logps.clamp(max=CERTAIN)
    # log(1 - e^x), each way where it is exact: Maechler 2012, "Accurately computing log(1 - exp(-|a|))", equation 7
    return x - torch.where(x > -0.6931472, torch.log(-torch.expm1(x)), torch.log1p(-torch.exp(x)))


def odds_ratio(mean_chosen: torch.Tensor, mean_rejected: torch.Tensor) -> torch.Tensor:
    """- log sigmoid(log odds of chosen - log odds of rejected), (B,): L_OR of ORPO, equation 7."""
    return -F.logsigmoid(log_odds(mean_chosen) - log_odds(mean_rejected))


def simpo(mean_chosen: torch.Tensor, mean_rejected: torch.Tensor, beta: float, gamma: float) -> torch.Tensor:
    """- log sigmoid(beta * (mean chosen - mean rejected) - gamma), (B,). Meng et al. 2024 (arXiv 2405.14734), equation 6."""
    return -F.logsigmoid(beta * (mean_chosen - mean_rejected) - gamma)


def kto(
    log_ratio: torch.Tensor,
    desirable: torch.Tensor,
    kl: torch.Tensor,
    beta: float,
    desirable_weight: float,
    undesirable_weight: float,
) -> torch.Tensor:
    """w_D (1 - sigmoid(beta (r - kl))) of a desirable answer, w_U (1 - sigmoid(beta (kl - r))) of another, (B,).

    Ethayarajh et al. 2024 (arXiv 2402.01306), section 4.1: lambda_y - v(x, y), the weights being its lambdas.

    Args:
        log_ratio: (B,) r, of the answers.
        desirable: (B,) bool.
        kl: () z_0, how far the policy is from the reference; not below 0, no gradient.
    """
    sign = torch.where(desirable, 1.0, -1.0)
    weight = torch.where(desirable, desirable_weight, undesirable_weight)
    return weight * (1 - torch.sigmoid(beta * sign * (log_ratio - kl)))


def share_preferred(mean_chosen: torch.Tensor, mean_rejected: torch.Tensor) -> torch.Tensor:
    """1 where the chosen answer is the likelier one a token, 1/2 where both are alike, else 0; (B,)."""
    return (mean_chosen > mean_rejected).float() + 0.5 * (mean_chosen == mean_rejected).float()
