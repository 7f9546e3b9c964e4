"""What a smoke test asks of a bundle and of a base beside the run's own proofs."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from finetune.errors import GateError, RecipeError

LIMIT = 1e-3  # largest logit difference in float32, as of export.parity
FIRST = "step-00000001"
ADAPTER = "adapter/adapter_model.safetensors"
LEFT_BY_THE_END = ("adapter", "bundle", "export.json", "stage.json")


def back_to_first_step(run: Path, whole: Path) -> None:
    """`run` becomes what a run killed after its first step left, in every stage; all of it goes on to `whole`.

    The paths stay those of the run, for they are part of what a checkpoint belongs to.
    """
    run.rename(whole)
    shutil.copytree(whole, run)
    for folder in (run, *sorted((run / "stages").glob("*"))):
        for name in LEFT_BY_THE_END:
            shutil.rmtree(folder / name, ignore_errors=True)
            if (folder / name).is_file():
                (folder / name).unlink()
        for checkpoint in (folder / "checkpoints").glob("step-*"):
            if checkpoint.name != FIRST:
                shutil.rmtree(checkpoint)


def same_adapters(run: Path, whole: Path, exact: bool) -> str:
    """Every stage's adapter of the resumed run is that of the other.

    Args:
        exact: to the bit, as on a CPU; else up to rounding.

    Raises:
        GateError: it is not.
    """
    from safetensors.torch import load_file

    files = sorted(file.relative_to(whole) for file in whole.rglob(ADAPTER) if "bundle" not in file.parts)
    for file in files:
        if (run / file).read_bytes() == (whole / file).read_bytes():
            continue
        left, right = load_file(run / file), load_file(whole / file)
        apart = max(float((left[name].float() - right[name].float()).abs().max()) for name in right)
        if exact or not apart <= 1e-4:
            where = file.parent.parent
            raise GateError(
                f"resumed after step 1, the adapter {where} differs by up to {apart:.2e} from the whole run's"
            )
    stages = f" of {len(files)} stages" if len(files) > 1 else ""
    return f"from step 1 on: the same adapter{stages}{', to the bit' if exact else ''}"


def reload(bundle: Path, trust_remote_code: bool) -> float | None:
    """transformers alone loads the bundle: every weight in its place, logits those of the adapter on its base, and a copy
    that it saves and loads again is the same.

    Returns:
        The largest difference of a logit; None for a reward model, whose rewards the export has proved.

    Raises:
        GateError: it is not so.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    from finetune.export.facts import read_json
    from finetune.export.parity import load_with_adapter
    from finetune.model.load import Source

    rewards = read_json(bundle / "MANIFEST.json").get("rewards")
    kind = AutoModelForSequenceClassification if rewards else AutoModelForCausalLM
    options: dict[str, Any] = {
        "dtype": torch.float32,
        "attn_implementation": "eager",
        "trust_remote_code": trust_remote_code,
    }
    model, told = kind.from_pretrained(bundle, output_loading_info=True, **options)
    wrong = [f"{key.removesuffix('_keys')}: {', '.join(sorted(map(str, told[key]))[:3])}" for key in
             ("missing_keys", "unexpected_keys", "mismatched_keys") if told.get(key)]  # fmt: skip
    if wrong:
        raise GateError(f"the bundle does not load whole: {'; '.join(wrong)}")
    size = len(AutoTokenizer.from_pretrained(bundle, trust_remote_code=trust_remote_code))
    ids = torch.randint(0, size, (1, 24), generator=torch.Generator().manual_seed(0))  # (1, T)
    with torch.inference_mode():
        logits = model.eval()(input_ids=ids, use_cache=False).logits
        again = bundle.parent / "saved_again"
        model.save_pretrained(again)
        copy = kind.from_pretrained(again, **options).eval()(input_ids=ids, use_cache=False).logits
    shutil.rmtree(again)
    if not torch.equal(copy, logits):
        raise GateError(
            f"saved and loaded again it gives other logits, by up to {float((copy - logits).abs().max()):.2e}"
        )
    if rewards:
        return None
    base = json.loads((bundle / "adapter/adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
    with_adapter = load_with_adapter(Source(base, trust_remote_code=trust_remote_code), bundle / "adapter")
    with torch.inference_mode():
        apart = float((with_adapter(input_ids=ids, use_cache=False).logits - logits).abs().max())
    if not apart <= LIMIT:
        raise GateError(
            f"logits of the adapter on its base and of the bundle differ by up to {apart:.2e}, limit {LIMIT:g}"
        )
    return apart


def verify_bundle(bundle: Path, trust_remote_code: bool) -> str | None:
    """`finetune verify` of the folder; None where it has no golden samples.

    Raises:
        GateError: a check failed; its report.
    """
    from finetune.verify.command import verify_command
    from finetune.verify.golden import FACTS, SAMPLES

    if not (bundle / FACTS).is_file():
        return None
    options = argparse.Namespace(
        server=str(bundle), bundle=None, model=None, json=None, api_key_file=None, samples=None, timeout=120.0,
        tolerance=None, divergence=0.02, exact=None, first_token=None, tokens_per_second=None, concurrency=1,
        trust_remote_code=trust_remote_code,
    )  # fmt: skip
    verify_command(options)
    count = len((bundle / SAMPLES).read_text(encoding="utf-8").splitlines())
    return f"{count} golden samples answered as they were"


def packing(base: Path, device: str, attention: str, trust_remote_code: bool) -> str | None:
    """Why packed documents are not to this architecture what they are alone; None where they are."""
    import torch

    from finetune.model.attention import load_with_attention
    from finetune.model.isolation import check_isolation
    from finetune.model.load import Source

    source = Source(str(base), trust_remote_code=trust_remote_code)
    model = load_with_attention(source.load, attention, free=True, dtype=torch.float32)
    try:
        check_isolation(model, torch.float32, device)
    except RecipeError as error:
        reason = error.problems[0].removeprefix("data.packing: ")
        return reason.partition("; set data.packing")[0]
    return None
