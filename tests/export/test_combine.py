"""Adapters combined by weight: what comes out is worked out by hand from the factors, and peft loads it back."""

from __future__ import annotations

import hashlib
import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune.cli import main
from finetune.errors import RecipeError
from finetune.export.combine import combine
from tests.conftest import byte_tokenizer, tiny_llama

VOCABULARY = len(byte_tokenizer())
PLAIN = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"], "init_lora_weights": False}
# rsLoRA, two ranks, an alpha of its own, and the embedding: what peft's own combined configuration gets wrong
PATTERNED = PLAIN | {
    "r": 6, "lora_alpha": 3, "use_rslora": True, "rank_pattern": {"down_proj": 2}, "alpha_pattern": {"q_proj": 5},
    "target_modules": ["q_proj", "down_proj", "embed_tokens"],
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_base):
    """A folder of adapters a, b (alike) and c, d (patterned) of one tiny base; a, b and c carry its tokenizer."""
    from peft import LoraConfig, get_peft_model

    folder = tmp_path_factory.mktemp("adapters")
    for seed, (name, config) in enumerate((("a", PLAIN), ("b", PLAIN), ("c", PATTERNED), ("d", PATTERNED)), 1):
        base = tiny_llama(VOCABULARY)
        base.config.tie_word_embeddings = False  # peft warns of an adapted embedding that the head shares
        torch.manual_seed(seed)
        model = get_peft_model(base, LoraConfig(**config))
        model.peft_config["default"].base_model_name_or_path = str(tiny_base)
        model.save_pretrained(folder / name, save_embedding_layers=False)
        if name != "d":
            byte_tokenizer().save_pretrained(folder / name)
    return folder


def scale(name: str, module: str) -> float:
    """alpha / r, with rsLoRA alpha / sqrt(r), from the two configurations above."""
    if name in "ab":
        return 8 / 4
    alpha, rank = (5 if "q_proj" in module else 3), (2 if "down_proj" in module else 6)
    return alpha / math.sqrt(rank)


def factors(folder):
    """Module name to (A, B) in float64."""
    tensors = load_file(folder / "adapter_model.safetensors")
    found = {}
    for key, value in tensors.items():
        if "lora_A" in key or "lora_embedding_A" in key:
            other = key.replace("lora_A", "lora_B").replace("lora_embedding_A", "lora_embedding_B")
            name = key.removeprefix("base_model.model.").rpartition(".lora_")[0]
            found[name] = (value.double(), tensors[other].double())
    return found


def weighted_sum(made, weights):
    """sum_i w_i s_i B_i A_i of each module, by hand."""
    total = {}
    for name, weight in weights.items():
        for module, (a, b) in factors(made / name).items():
            total[module] = total.get(module, 0) + weight * scale(name, module) * (b @ a)
    return total


def logits_by_hand(deltas):
    """The base with the deltas added to its weights; an embedding's is transposed (rows are tokens)."""
    model = tiny_llama(VOCABULARY)
    weights = dict(model.named_parameters())
    head = weights["model.embed_tokens.weight"].detach().clone()
    model.lm_head.weight = torch.nn.Parameter(head)  # an adapter of the embedding leaves the head alone
    with torch.no_grad():
        for module, delta in deltas.items():
            weight = weights[f"{module}.weight"]
            weight += (delta.T if "embed" in module else delta).float()
        return model(input_ids=torch.arange(40)[None]).logits


def logits_of(folder):
    from peft import PeftModel

    base = tiny_llama(VOCABULARY)
    base.lm_head.weight = torch.nn.Parameter(base.lm_head.weight.detach().clone())
    base.config.tie_word_embeddings = False
    with torch.no_grad():
        return PeftModel.from_pretrained(base, folder)(input_ids=torch.arange(40)[None]).logits


def run(made, output, method, density=None, seed=0, **weights):
    return combine([f"{made / name}={weight}" for name, weight in weights.items()], method, density, output, seed)


@pytest.mark.parametrize(
    "weights", [{"a": 0.7, "b": 0.3}, {"a": 0.5, "c": -1.5}, {"c": 0.25, "d": 2.0, "b": 1.0}], ids=["ab", "ac", "cdb"]
)
def test_cat_is_the_weighted_sum(made, tmp_path, weights):
    """B A = sum_i w_i s_i B_i A_i in every module, and peft's model of the file answers like base + that sum."""
    done = run(made, tmp_path / "new", "cat", **weights)
    wanted = weighted_sum(made, weights)
    combined = factors(tmp_path / "new")
    assert combined.keys() == wanted.keys()
    for module, (a, b) in combined.items():
        assert float((b @ a - wanted[module]).norm() / wanted[module].norm()) < 1e-6
    assert done.record["difference_from_weighted_sum"] < 1e-6
    assert done.record["rank"] == sum(4 if name in "ab" else 6 for name in weights)
    by_hand = logits_by_hand(wanted)
    assert float((by_hand - logits_by_hand({})).abs().max()) > 0.1
    assert float((logits_of(tmp_path / "new") - by_hand).abs().max()) < 1e-4


def test_linear_is_the_product_of_weighted_factors(made, tmp_path):
    """peft's formula: A = sum sqrt(w s) A_i, B = sum sqrt(w s) B_i, with the sign of w in A; cross terms included."""
    done = run(made, tmp_path / "new", "linear", a=0.7, b=-0.3)
    first, second, combined = factors(made / "a"), factors(made / "b"), factors(tmp_path / "new")
    p, q = math.sqrt(0.7 * 2), math.sqrt(0.3 * 2)
    off = whole = 0.0
    for module, (a, b) in combined.items():
        (a1, b1), (a2, b2) = first[module], second[module]
        assert float((a - (p * a1 - q * a2)).abs().max()) < 1e-6
        assert float((b - (p * b1 + q * b2)).abs().max()) < 1e-6
        wanted = 0.7 * 2 * b1 @ a1 - 0.3 * 2 * b2 @ a2
        off, whole = off + float((b @ a - wanted).norm() ** 2), whole + float(wanted.norm() ** 2)
    assert done.record["difference_from_weighted_sum"] == pytest.approx(math.sqrt(off / whole), rel=1e-4)
    assert done.record["difference_from_weighted_sum"] > 0.1
    assert "cat gives it exactly, at rank 8" in done.lines[1]


def test_linear_of_patterned_adapters_loads_as_what_was_computed(made, tmp_path):
    """rsLoRA and rank_pattern: the file's own scale is 1 at every rank, so peft's model is base + B A."""
    run(made, tmp_path / "new", "linear", c=0.5, d=0.5)
    config = json.loads((tmp_path / "new/adapter_config.json").read_text())
    two = {f"model.layers.{layer}.mlp.down_proj": 2 for layer in (0, 1)}
    assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (6, 6, False)
    assert config["rank_pattern"] == config["alpha_pattern"] == two
    deltas = {module: b @ a for module, (a, b) in factors(tmp_path / "new").items()}
    assert float((logits_of(tmp_path / "new") - logits_by_hand(deltas)).abs().max()) < 1e-4


@pytest.mark.parametrize("method", ["ties", "magnitude_prune"])
def test_pruning_methods_are_pefts_functions(made, tmp_path, method):
    """The tensors are bit for bit peft.utils.merge_utils' of the factors with weights sqrt(w s)."""
    from peft.utils import merge_utils

    run(made, tmp_path / "new", method, 0.5, a=0.7, b=0.3)
    combined = load_file(tmp_path / "new/adapter_model.safetensors")
    sources = [load_file(made / name / "adapter_model.safetensors") for name in "ab"]
    weights = torch.tensor([math.sqrt(0.7 * 2), math.sqrt(0.3 * 2)])
    for key, value in combined.items():
        wanted = getattr(merge_utils, method)([source[key] for source in sources], weights, 0.5)
        assert torch.equal(value, wanted)


def test_svd_keeps_the_largest_singular_values(made, tmp_path):
    """Eckart-Young: what rank 6 leaves out of the weighted sum is its singular values from the seventh on."""
    done = run(made, tmp_path / "new", "svd", a=1.0, c=1.0)
    left = whole = 0.0
    for module, delta in weighted_sum(made, {"a": 1.0, "c": 1.0}).items():
        values = torch.linalg.svdvals(delta)
        left, whole = left + float((values[6:] ** 2).sum()), whole + float((values**2).sum())
        assert factors(tmp_path / "new")[module][0].shape[0] == 6
    assert done.record["difference_from_weighted_sum"] == pytest.approx(math.sqrt(left / whole), rel=1e-3)


@pytest.mark.parametrize("method", ["linear", "cat", "svd"])
def test_weights_one_and_zero_are_the_first_adapter(made, tmp_path, method):
    run(made, tmp_path / "new", method, a=1, b=0)
    assert float((logits_of(tmp_path / "new") - logits_of(made / "a")).abs().max()) < 1e-5
    assert float((logits_of(made / "b") - logits_of(made / "a")).abs().max()) > 0.1


def test_dare_draws_by_its_seed_and_leaves_the_generator_alone(made, tmp_path):
    state = torch.random.get_rng_state()
    for name, seed in (("one", 5), ("two", 5), ("other", 6)):
        done = run(made, tmp_path / name, "dare_linear", 0.5, seed, a=0.7, b=0.3)
        assert done.record["seed"] == seed
    one, two, other = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("one", "two", "other"))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not any(torch.equal(one[key], other[key]) for key in one)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert run(made, tmp_path / "linear", "linear", a=1, b=1).record["seed"] is None


def test_the_folder_says_where_it_comes_from_and_brings_the_tokenizer(made, tmp_path):
    run(made, tmp_path / "new", "ties", 0.5, a=0.7, b=0.3)
    record = json.loads((tmp_path / "new/combined.json").read_text())
    assert (record["method"], record["density"], record["seed"]) == ("ties", 0.5, None)
    for source, (name, weight) in zip(record["sources"], (("a", 0.7), ("b", 0.3)), strict=True):
        assert (source["name"], source["weight"]) == (name, weight)
        for file, digest in source["sha256"].items():
            assert digest == hashlib.sha256((made / name / file).read_bytes()).hexdigest()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tmp_path / "new" / name).read_bytes() == (made / "a" / name).read_bytes()
    without = run(made, tmp_path / "without", "cat", a=1, d=1)
    assert not (tmp_path / "without/tokenizer.json").exists()
    assert any("no tokenizer written" in line and "tokenizer.json" in line for line in without.lines)


def changed(made, folder, source="b", tensors=None, **config):
    """A copy of an adapter with changed configuration."""
    folder.mkdir()
    text = json.loads((made / source / "adapter_config.json").read_text()) | config
    (folder / "adapter_config.json").write_text(json.dumps(text))
    save_file(load_file(made / source / "adapter_model.safetensors") | (tensors or {}),
              folder / "adapter_model.safetensors")  # fmt: skip
    return folder


def test_all_that_is_wrong_is_said_at_once(made, tmp_path, capsys):
    """Unknown method, weights, bases, DoRA, PiSSA, whole modules, an output that is there: exit code 2, one line each."""
    dora = changed(made, tmp_path / "dora", use_dora=True)
    other = changed(made, tmp_path / "other", base_model_name_or_path="org/another", revision="main")
    whole = changed(made, tmp_path / "whole", modules_to_save=["lm_head"])
    pissa = changed(made, tmp_path / "pissa", init_lora_weights="pissa_niter_4")
    extra = changed(made, tmp_path / "extra", tensors={"base_model.model.lm_head.weight": torch.ones(2, 2)})
    given = [f"{made / 'a'}=half", str(dora), str(other), str(whole), str(pissa), str(extra), str(tmp_path / "none")]
    code = main(["merge", *given, "--method", "tie", "--output", str(tmp_path)])
    lines = capsys.readouterr().err.splitlines()
    assert (code, lines[0]) == (2, "several things are wrong:")
    for expected in (
        "the weight has to be a number", f"{tmp_path / 'none'}: not a PEFT adapter", "did you mean 'ties'?",
        f"--output: {tmp_path} already exists", "use_dora: DoRA rescales rows", "org/another@main",
        "modules_to_save: peft does not carry", "'pissa_niter_4' belongs to a changed base",
        "base_model.model.lm_head.weight is no LoRA pair",
    ):  # fmt: skip
        assert sum(expected in line for line in lines) == 1, (expected, lines)
    assert len(lines) == 10


@pytest.mark.parametrize(
    ("method", "density", "names", "said"),
    [
        ("ties", None, "ab", "--density: ties needs the share of values to keep"),
        ("cat", 0.5, "ab", "--density: cat drops nothing"),
        ("dare_ties", 1.5, "ab", "above 0 and up to 1 is needed, got 1.5"),
        ("ties", 0.0, "ab", "above 0 and up to 1 is needed, got 0"),
        ("linear", None, "ac", "ranks differ (model.layers.0.mlp.down_proj has 4 and 2); --method cat or svd"),
        ("linear", None, "a", "one adapter alone"),
    ],
)
def test_methods_say_what_they_need(made, tmp_path, method, density, names, said):
    with pytest.raises(RecipeError) as error:
        combine([str(made / name) for name in names], method, density, tmp_path / "new")
    assert len(error.value.problems) == 1
    assert said in error.value.problems[0]
    assert list(tmp_path.iterdir()) == []


def test_the_command_prints_what_it_did(made, tmp_path, capsys):
    arguments = ["merge", f"{made / 'a'}=0.7", f"{made / 'b'}=0.3", "--method", "cat", "--output", str(tmp_path / "n")]
    assert main(arguments) == 0
    assert capsys.readouterr().out.splitlines() == [
        "cat: 0.7 x a + 0.3 x b; rank 8", "the same as the weighted sum of what the adapters do",
        f"adapter: {tmp_path / 'n'}",
    ]  # fmt: skip
