import pytest

from finetune.run import run
from tests.stages.made import load_tiny


@pytest.mark.parametrize("stage", ["dpo", "orpo", "simpo", "kto"])
def test_smoke(stage, tiny_base, tmp_path):
    recipe = load_tiny(tmp_path, tiny_base, stage, "train.eval_steps=4")
    result = run(recipe)
    print((recipe.output_dir / "metrics.jsonl").read_text())
    print(result.scores)
