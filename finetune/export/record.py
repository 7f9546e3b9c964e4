"""What the export needs of a finished run, on disk: a run is exported from here, at its end or on another day."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.checkpoint.disk import replace_file
from finetune.data.chat import Example
from finetune.errors import RecipeError
from finetune.model.load import Source
from finetune.model.quantization import describe

if TYPE_CHECKING:
    from finetune.evaluate.metrics import Scores

FILE = "export.json"
BASE = "base"


@dataclass(frozen=True)
class Record:
    """A finished run, or an adapter that was made elsewhere (then recipe, data, training and scores are None).

    Attributes:
        identity: what the manifest says of the base: name, commit or sha256 of its files.
        source: where the base is loaded from.
        dtype: what the base was trained in, as `bfloat16`.
        stops: ids that end a turn, the base's own included.
        quantization: how the base was quantised when the adapter was trained (see model/quantization.describe).
        ship_base: the base is a folder that only this run has (made of a GGUF file): it goes into the bundle.
        examples: conversations to prove the merge on.
        evaluated: log-probabilities of their trained tokens in the model that got the scores; see export/parity.py.
        intervals: of the scores, as evaluate/intervals.py writes them; None without answers, and of older runs.
        template: text of the data template, None without one.
        score_config: of a reward model, what its config.json says of the score head (see model/score.py); `examples` are
            then whole conversations of pairs, the better answer before the worse, and `evaluated` their rewards.
    """

    name: str
    identity: dict[str, Any]
    source: Source
    dtype: str
    stops: tuple[int, ...]
    examples: tuple[Example, ...]
    evaluated: Sequence[Sequence[float]] | None = None
    ship_base: bool = False
    quantization: dict[str, Any] | None = None
    template: str | None = None
    recipe: dict[str, Any] | None = None
    data: dict[str, Any] | None = None
    training: dict[str, Any] | None = None
    scores: dict[str, Scores] | None = None
    intervals: dict[str, Any] | None = None
    score_config: dict[str, Any] | None = None

    @property
    def rewards(self) -> tuple[str, ...]:
        """Names of a reward model's outputs."""
        return tuple(self.score_config["id2label"].values()) if self.score_config else ()


def write_record(folder: Path, record: Record) -> None:
    """Into `folder`, whole or not at all."""
    replace_file(folder / FILE, json.dumps(asdict(record), ensure_ascii=False) + "\n")


def read_record(folder: Path) -> Record:
    """The record of a run's folder.

    Raises:
        RecipeError: it is not there or can't be read.
    """
    file = folder / FILE
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        examples = tuple(Example(tuple(e["ids"]), tuple(e["labels"]), e["where"]) for e in told.pop("examples"))
        source, stops = Source(**told.pop("source")), tuple(told.pop("stops"))
        if told["ship_base"]:  # the run's folder may have been moved
            source = Source(str((folder / BASE).resolve()))
        told.pop("merge_into", None)  # of older versions, and nf4 too: such a run had no other quantisation
        if told.pop("nf4", False):
            told["quantization"] = describe("nf4")
        return Record(source=source, stops=stops, examples=examples, **told)
    except FileNotFoundError:
        raise RecipeError(
            f"{folder}: no {FILE}: the run is not at its end, or did not pass its gate; finish it first"
        ) from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise RecipeError(f"{file}: not the record of a run: {error}") from None
