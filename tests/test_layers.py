"""The structure: imports point down, heavy ones wait, and the device is named in one file."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys

from tests.conftest import ROOT

# A file may import from its own layer and those below it.
LAYERS = [
    {"finetune.cli"},
    {"finetune.commands"},
    {"finetune.arguments"},
    {"finetune.clihelp"},
    {
        "finetune.show",
        "finetune.audit",
        "finetune.raft",
        "finetune.reproduce",
        "finetune.smoke",
        "finetune.doctor",
        "finetune.plan",
        "finetune.parity",
        "finetune.carry",
        "finetune.newpack",
        "finetune.migrate",
        "finetune.newrecipe",
        "finetune.evaluation",
        "finetune.iterate",
        "finetune.feedback",
        "finetune.schema",
        "finetune.explain",
        "finetune.check",
        "finetune.completion",
        "finetune.chat",
    },
    {"finetune.run", "finetune.api"},
    {
        "finetune.data",
        "finetune.model",
        "finetune.train",
        "finetune.step",
        "finetune.reference_logps",
        "finetune.batch_size",
        "finetune.runfolder",
        "finetune.inputs",
        "finetune.basefit",
        "finetune.chain",
        "finetune.ready",
        "finetune.probes",
        "finetune.tune",
        "finetune.score",
        "finetune.suites",
        "finetune.asked",
        "finetune.evaluate",
        "finetune.export",
        "finetune.verify",
        "finetune.report",
        "finetune.checkpoint",
    },
    {"finetune.stages"},
    {
        "finetune.recipe",
        "finetune.recipe_methods",
        "finetune.recipe_data",
        "finetune.recipe_evaluate",
        "finetune.recipe_export",
        "finetune.pages",
        "finetune.recipepaths",
        "finetune.recipe_harness",
        "finetune.recipe_peft",
        "finetune.recipe_stages",
        "finetune.recipe_train",
        "finetune.recipefile",
        "finetune.recipechain",
        "finetune.recipelayers",
        "finetune.optimizer",
        "finetune.groups",
        "finetune.muon",
        "finetune.lora_fa",
        "finetune.lora_fields",
        "finetune.origin",
        "finetune.peft_fields",
        "finetune.peft_source",
        "finetune.tied_lora",
        "finetune.schedule",
        "finetune.shares",
        "finetune.stop",
        "finetune.device",
        "finetune.engine",
        "finetune.fullstate",
        "finetune.log",
        "finetune.progress",
        "finetune.shipped",
        "finetune.told",
        "finetune.tokenlist",
        "finetune.yamlfile",
        "finetune.errors",
    },
]
# A stage works on encoded conversations, asks the model for its reference, and (grpo) has answers made and scored.
ALLOWED = {("finetune.stages", f"finetune.{package}") for package in ("data", "model", "evaluate")}


def package_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


def rank(package: str) -> int:
    return next(index for index, layer in enumerate(LAYERS) if package in layer)


def test_imports_point_down():
    files = sorted((ROOT / "finetune").rglob("*.py"))
    assert len(files) > 20
    wrong = []
    for file in files:
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if module == "finetune":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("finetune."):
                here, there = package_of(module), package_of(node.module)
                if rank(here) > rank(there) and (here, there) not in ALLOWED:
                    wrong.append(f"{module} imports {node.module}")
    assert wrong == []


def test_what_scripts_import_is_there():
    """No test runs the benchmarks: a name that has moved would be missed by the next person who does."""
    files = [*(ROOT / "scripts").rglob("*.py")]
    assert len(files) > 50
    missing = []
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("finetune"):
                module = importlib.import_module(node.module)
                for name in (alias.name for alias in node.names):
                    if not hasattr(module, name) and importlib.util.find_spec(f"{node.module}.{name}") is None:
                        missing.append(f"{file.name}: {node.module}.{name}")
    assert missing == []


def test_the_command_line_imports_nothing_heavy():
    code = "import sys, finetune.cli, finetune.run; print(sorted({'torch', 'transformers', 'peft'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_devices_are_named_in_one_package():
    named = re.compile(r"torch\.(cuda|npu)\b|\btorch_npu\b|os\.environ|os\.getenv")
    files = [file for file in (ROOT / "finetune").rglob("*.py") if file.parent.name != "device"]
    assert [str(file) for file in files if named.search(file.read_text())] == []
