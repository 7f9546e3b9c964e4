"""docs/evaluation_harness.md: its recipes load, its task has lm-eval's own prompts, its ids are lm-eval's."""

from __future__ import annotations

import re

import pytest
import yaml

from finetune.recipe_harness import LmEvalSection, VllmSection
from tests.conftest import ROOT, byte_tokenizer

DOCUMENTS = ["docs/evaluation_harness.md", "docs/evaluation_harness.zh-CN.md"]
ROWS = "id,question,A,B,C,D,answer,explanation\n" + "".join(
    f"{n}, 第{n}题,甲{n},乙{n},丙{n},丁{n},{'ABCD'[n % 4]},\n" for n in range(6)
)


def blocks(name: str) -> list[dict]:
    text = (ROOT / name).read_text(encoding="utf-8")
    return [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.S)]


def test_both_languages_show_the_same():
    english, chinese = map(blocks, DOCUMENTS)
    assert english == chinese and len(english) == 4


def test_the_recipes_load():
    """Each block that is a recipe's holds keys that its section has, with values that fit."""
    first, own, task, vllm = blocks(DOCUMENTS[0])
    assert LmEvalSection(**first["evaluate"]["lm_eval"]).num_fewshot == 5
    assert LmEvalSection(**own["evaluate"]["lm_eval"]).tasks == (task["task"],)
    assert vllm["evaluate"]["engine"] == "vllm"
    assert VllmSection(**vllm["evaluate"]["vllm"]).gpu_memory_utilization == 0.8


def test_the_task_has_the_prompts_of_lm_evals_own(tmp_path):
    """Everything but the data and the name is as in ceval-valid_law; and it is asked of rows in C-Eval's columns."""
    lm_eval = pytest.importorskip("lm_eval")
    from pathlib import Path

    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._yaml_loader import load_yaml

    task = blocks(DOCUMENTS[0])[2]
    theirs = load_yaml(Path(lm_eval.__file__).parent / "tasks" / "ceval" / "ceval-valid_law.yaml")
    of_data = {"task", "dataset_path", "dataset_name", "dataset_kwargs", "metadata"}
    assert {k: v for k, v in task.items() if k not in of_data} == {k: v for k, v in theirs.items() if k not in of_data}
    for split in ("val", "dev"):
        (tmp_path / f"law_{split}.csv").write_text(ROWS, encoding="utf-8")
    files = {split: str(tmp_path / f"law_{split}.csv") for split in ("val", "dev")}
    task["dataset_kwargs"] = {"data_files": files, "cache_dir": str(tmp_path / "cache")}
    (tmp_path / "ceval_law.yaml").write_text(yaml.safe_dump(task, allow_unicode=True), encoding="utf-8")
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    loaded = manager.load(["own_ceval_law"])["tasks"]["own_ceval_law"]
    loaded.set_config(key="num_fewshot", value=1)
    loaded.build_all_requests(limit=2, rank=0, world_size=1)
    prompt, choice = loaded.instances[4].args
    assert prompt == (
        "以下是中国关于法学的单项选择题，请选出其中的正确答案。\n\n"
        "第0题\nA. 甲0\nB. 乙0\nC. 丙0\nD. 丁0\n答案： A\n\n第1题\nA. 甲1\nB. 乙1\nC. 丙1\nD. 丁1\n答案："
    )
    assert choice == " A" and byte_tokenizer()(choice)["input_ids"]


@pytest.mark.slow
def test_its_ids_are_lm_evals():
    """All of lm-eval's tasks are read, which takes some ten seconds."""
    pytest.importorskip("lm_eval")
    from lm_eval.tasks import TaskManager

    first = blocks(DOCUMENTS[0])[0]
    assert {*first["evaluate"]["lm_eval"]["tasks"], "mmlu", "cmmlu", "ceval-valid", "gsm8k"} <= {
        *TaskManager().all_tasks
    }
