"""Will the export be served right? Asked of a recipe before training, and of the folders at export."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune.errors import RecipeError, did_you_mean
from finetune.export.facts import AdapterFacts, ModelFacts, adapter_facts, model_facts, read_json, recipe_facts
from finetune.export.rules import ADAPTER_RULES, MODEL_RULES, Severity
from finetune.export.targets import TARGETS
from finetune.model.load import locate
from finetune.recipe import ModelSection
from finetune.recipe_export import TargetSection


@dataclass(frozen=True)
class Finding:
    """One rule that one target breaks.

    Attributes:
        severity: `wrong`: other answers without an error; `refused`: the engine does not start or take it;
            `warning`: something for the operator to know.
    """

    rule: str
    engine: str
    severity: Severity
    message: str
    fix: str

    def line(self) -> str:
        """`engine: message: fix (rule, severity)`."""
        return f"export.targets: {self.engine}: {self.message}; {self.fix} ({self.rule}, {self.severity})"


def check_targets(
    lora: Mapping[str, Any],
    base_config: Mapping[str, Any] | None,
    targets: Sequence[TargetSection],
    dtype: str | None = None,
    initial: bool = False,
    quantised: str | None = None,
) -> list[Finding]:
    """What is wrong with a recipe's targets, known before anything is trained; no torch needed.

    Args:
        lora: the recipe's `lora:` section with its defaults.
        base_config: the base's config.json; rules that need it are left out where it is None.
        dtype: of the merged model, where it is known.
        initial: whether A and B of the beginning are kept (see `recipe_facts`).
        quantised: how the base is quantised as it is loaded; None: not at all, or as it lies.
    """
    facts = replace(recipe_facts(lora, base_config, initial), quantised=quantised)
    found = _target_findings(targets)
    for target in targets:
        found += findings(facts, target.engine, target.form)
        if target.form == "merged":
            found += _dtype_findings(target.engine, dtype, (base_config or {}).get("model_type"))
    return _once(found)


def check_folder(
    targets: Sequence[TargetSection],
    adapter: Path | None = None,
    model: Path | None = None,
    base_config: Mapping[str, Any] | None = None,
    stops: Iterable[int] = (),
    base_stops: Iterable[int] | None = None,
    base_template: str | None = None,
    merge_dtype: str = "float32",
    quantised: str | None = None,
) -> list[Finding]:
    """What is wrong with an export as it lies on disk.

    Args:
        adapter: folder of the adapter that is served; asked for targets of that form.
        model: folder of the merged model; asked for the others.
        stops: ids that training ended its answers with; base_stops: those that the base stops at by itself.
        base_template: the base's chat template, where it is known.
        quantised: as in `check_targets`.

    Raises:
        RecipeError: a folder lacks its configuration or weights.
    """
    found = _target_findings(targets)
    if adapter is not None and any(target.form == "adapter" for target in targets):
        template = adapter / "chat_template.jinja"
        own = template.read_text(encoding="utf-8") if template.is_file() else None
        facts = replace(
            adapter_facts(adapter, base_config),
            stops=frozenset(stops),
            base_stops=None if base_stops is None else frozenset(base_stops),
            quantised=quantised,
            other_template=own is not None and base_template is not None and own != base_template,
        )
        found += [item for target in targets if target.form == "adapter"
                  for item in findings(facts, target.engine, "adapter")]  # fmt: skip
    if model is not None and any(target.form == "merged" for target in targets):
        merged = model_facts(model, base_config, stops, merge_dtype)
        found += [item for target in targets if target.form == "merged"
                  for item in model_findings(merged, target.engine)]  # fmt: skip
    return _once(found)


def config_of_base(section: ModelSection) -> dict[str, Any] | None:
    """The base's config.json from its folder or the hub's cache; None where it is not there yet (or the base is GGUF)."""
    name = locate(section)
    if Path(name).is_dir():
        file = Path(name) / "config.json"
        return read_json(file) if file.is_file() else None
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(name, "config.json", revision=section.revision)
    return read_json(Path(cached)) if isinstance(cached, str) else None


def findings(facts: AdapterFacts, engine: str, form: str) -> list[Finding]:
    """What the adapter's rules say of one target."""
    return [
        Finding(rule.id, f"{engine} ({form})", rule.engines[engine], message, rule.fix)
        for rule in ADAPTER_RULES
        if rule.form == form and engine in rule.engines and (message := rule.test(facts))
    ]


def model_findings(facts: ModelFacts, engine: str) -> list[Finding]:
    """What the merged model's rules say of one engine."""
    return [
        Finding(rule.id, f"{engine} (merged)", rule.engines[engine], message, rule.fix)
        for rule in MODEL_RULES
        if engine in rule.engines and (message := rule.test(facts))
    ]


def stop_or_warn(found: Sequence[Finding]) -> list[str]:
    """The warnings, as lines to print.

    Raises:
        RecipeError: something would be served wrong or not at all: every such finding with its fix.
    """
    serious = [finding.line() for finding in found if finding.severity != "warning"]
    if serious:
        raise RecipeError(serious)
    return [finding.line() for finding in found]


def _target_findings(targets: Sequence[TargetSection]) -> list[Finding]:
    """Types that an engine has not, and one target named twice."""
    found = []
    for target in targets:
        row = TARGETS[target.engine]
        for kind in target.types:
            if kind not in row.types[target.form]:
                allowed = did_you_mean(kind, row.types[target.form]) or "; it takes none"
                name = f"{target.engine} ({target.form})"
                found.append(Finding("E4", name, "refused", f"types: {kind!r} is not one{allowed}", row.types_are))
    named = [(target.engine, target.form) for target in targets]
    found += [
        Finding("E5", f"{engine} ({form})", "refused", "is named twice", "give all its types in one")
        for engine, form in dict.fromkeys(named)
        if named.count((engine, form)) > 1
    ]
    return found


def _dtype_findings(engine: str, dtype: str | None, kind: str | None) -> list[Finding]:
    """The rules on the merged dtype, when nothing but that and the base's model_type is known."""
    if dtype is None:
        return []
    blank = ModelFacts(
        {"torch_dtype": dtype, "model_type": kind}, {}, {}, frozenset(), {}, None, {}, (), None, None, None, frozenset(), None,
        frozenset(), False, False,
    )  # fmt: skip
    return [finding for finding in model_findings(blank, engine) if finding.rule == "M4"]


def _once(found: Sequence[Finding]) -> list[Finding]:
    return list(dict.fromkeys(found))
