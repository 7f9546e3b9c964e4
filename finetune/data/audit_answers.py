"""What an audit says of answers that are compared: lengths of better and worse ones, good and bad labels."""

from __future__ import annotations

from collections.abc import Sequence

from finetune.data.chat import Example


def answers_note(examples: Sequence[Example], rows: str, weights: tuple[float, float] = (1.0, 1.0)) -> list[str]:
    """One line on the training examples of preferences (chosen, rejected, chosen, ..) or labelled answers, else none.

    Where better answers are mostly the longer ones, a model learns to be long. Good and bad answers should weigh about the
    same: Ethayarajh et al. 2024 (arXiv 2402.01306), equation 8, take 1 to 4/3 for the good ones against the bad ones.

    Args:
        rows: their kind, a value of ROWS_OF_STAGE.
        weights: of a good answer and of a bad one, in the loss.
    """
    if rows == "labelled":
        good = sum(example.marks[0] == 1 for example in examples)
        bad = len(examples) - good
        line = f"answers: {good:,} labelled good, {bad:,} bad"
        if not good or not bad:
            return [line]
        ratio = good * weights[0] / (bad * weights[1])
        return [f"{line}; by number and weight the good ones count {ratio:.2f} times as much (1 to 1.33 is advised)"]
    if rows != "preference" or not examples:
        return []
    chosen, rejected = ([example.trained for example in examples[side::2]] for side in (0, 1))
    longer = sum(a > b for a, b in zip(chosen, rejected, strict=True))
    means = [sum(part) / len(part) for part in (chosen, rejected)]
    return [
        f"pairs: {len(chosen):,}; trained tokens on average {means[0]:.1f} chosen, {means[1]:.1f} rejected; the chosen "
        f"answer is the longer one in {longer:,}"
    ]
