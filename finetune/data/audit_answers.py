"""What an audit says of answers that are compared: lengths of better and worse ones, good and bad labels."""

from __future__ import annotations

from collections.abc import Sequence

from finetune.data.chat import Example


def answers_note(examples: Sequence[Example], rows: str) -> list[str]:
    """One line on the training examples of preferences (chosen, rejected, chosen, ..) or labelled answers, else none.

    Where better answers are mostly the longer ones, a model learns to be long.

    Args:
        rows: their kind, a value of ROWS_OF_STAGE.
    """
    if rows == "labelled":
        good = sum(example.marks[0] == 1 for example in examples)
        return [f"answers: {good:,} labelled good, {len(examples) - good:,} bad"]
    if rows != "preference" or not examples:
        return []
    chosen, rejected = ([example.trained for example in examples[side::2]] for side in (0, 1))
    longer = sum(a > b for a, b in zip(chosen, rejected, strict=True))
    means = [sum(part) / len(part) for part in (chosen, rejected)]
    return [
        f"pairs: {len(chosen):,}; trained tokens on average {means[0]:.1f} chosen, {means[1]:.1f} rejected; the chosen "
        f"answer is the longer one in {longer:,}"
    ]
