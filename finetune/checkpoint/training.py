"""The checkpoints of one training: what goes into them, when a resumed run may use one, and the best of them.

A checkpoint is a complete PEFT adapter with tokenizer and chat template, the optimizer's state, and `state.json`. No
random generator's state: a step seeds itself (see finetune/schedule.py), so there is none to lose.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from finetune.checkpoint.progress import Progress
from finetune.checkpoint.store import Checkpoint, Store
from finetune.checkpoint.tensors import load_tensors, save_tensors
from finetune.checkpoint.writer import BackgroundWriter
from finetune.errors import CheckpointError
from finetune.fullstate import full_optimizer, full_tensors, load_full_optimizer
from finetune.optimizer import evaluation_weights

OPTIMIZER = "optimizer.safetensors"


class TrainingCheckpoints:
    """Saves in the background on the main process, restores on all.

    Args:
        store: None for a run without checkpoints.
        found: the checkpoint to go on from; its adapter is in the model already (see `load_adapter`).
        save_adapter: (folder=, tensors=, trained=): writes the adapter's files from weights by parameter name.
        facts: what must be the same in a run that resumes; see finetune/checkpoint/facts.py.
        main: whether this process is the one that writes.
    """

    def __init__(
        self,
        store: Store | None,
        found: Checkpoint | None,
        save_adapter: Callable[..., None],
        facts: Mapping[str, Any],
        main: bool,
    ) -> None:
        self.store = store
        self.found = found
        self._save_adapter = save_adapter
        self._facts = dict(facts)
        self._main = main
        self._writer = BackgroundWriter()
        self._saved = found.step if found else -1

    def __enter__(self) -> TrainingCheckpoints:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        self._writer.__exit__(kind, error, trace)  # whatever ended training, a checkpoint under way is finished

    @property
    def failed(self) -> bool:
        """Whether this process could not write a checkpoint; `wait` says why."""
        return self._writer.failed is not None

    def restore(self, model: Any, optimizer: Any) -> Progress:
        """The progress of the checkpoint, its optimizer state put into `optimizer`; a fresh one without a checkpoint.

        Raises:
            RecipeError: the state is not that of these parameters; nothing is changed.
        """
        if self.found is None:
            return Progress()
        load_full_optimizer(model, optimizer, load_tensors(self.found.folder / OPTIMIZER))
        return Progress(**self.found.state["progress"])

    def save(self, model: Any, optimizer: Any, progress: Progress) -> None:
        """Starts writing a checkpoint of `progress.step`; the training may go on, what is written is a copy.

        Called on all processes. The step of the best held-out loss is never rotated away.
        """
        if self.store is None or progress.step == self._saved:
            return
        self._saved = progress.step
        with evaluation_weights(optimizer):
            weights = full_tensors(model)
            moments = full_optimizer(model, optimizer)
        if not self._main:
            return
        state = {"progress": progress.state(), "facts": self._facts}
        step, best, moved, store = progress.step, progress.best_step, progress.moved, self.store

        def fill(folder: Path) -> None:
            self._save_adapter(folder=folder, tensors=weights, trained=moved)
            save_tensors(folder / OPTIMIZER, moments)

        needs = sum(tensor.numel() * tensor.element_size() for tensor in (*weights.values(), *moments.values()))
        self._writer.submit(lambda: store.write(step, state, fill, protect={best}, needs=needs))
        if hasattr(model, "reshard") and any(".modules_to_save." in name for name in weights):
            # peft asks such a module for its state dict, upon which FSDP2 lets go of what a forward pass has gathered.
            self._writer.join()

    def advice(self) -> str:
        """For an error message: where the run can be taken up again."""
        return f"; the last checkpoint is that of step {self._saved}" if self._saved >= 0 else ""

    def wait(self) -> None:
        """Until the last checkpoint is on disk.

        Raises:
            OSError: it could not be written.
        """
        self._writer.wait()


def load_adapter(model: Any, checkpoint: Checkpoint) -> None:
    """The checkpoint's adapter into a peft model that is not yet wrapped for training; raises as `load_weights`."""
    load_weights(model, checkpoint.folder)


def load_weights(model: Any, folder: Path, may_lack: Collection[str] = ()) -> None:
    """The adapter in `folder` into a peft model that is not yet wrapped for training.

    Args:
        may_lack: names in the file that, where they are not there, stay as they are in the model.

    Raises:
        CheckpointError: a weight is missing or left over, or the file can't be read.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    weights = load_tensors(folder / "adapter_model.safetensors")
    expected = get_peft_model_state_dict(model, save_embedding_layers=False)
    weights |= {name: expected[name] for name in may_lack if name not in weights}
    wrong = sorted(weights.keys() ^ expected.keys())
    shapes = [name for name in weights.keys() & expected.keys() if weights[name].shape != expected[name].shape]
    if wrong or shapes:
        raise CheckpointError(f"{folder}: not this adapter's weights: {', '.join([*wrong, *shapes][:5])}")
    set_peft_model_state_dict(model, weights)
