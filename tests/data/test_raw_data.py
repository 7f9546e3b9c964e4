"""Industry data as it was published, read without any cleaning. Skipped where the folder is not present."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from finetune.data.source import read_source
from finetune.recipe_data import SourceSection

# Beside the project, or beside the folder that holds a checkout of it.
FOUND = [folder for folder in (parent / "shared/data" for parent in Path(__file__).resolve().parents[2:5])
         if folder.is_dir()]  # fmt: skip
pytestmark = pytest.mark.skipif(not FOUND, reason="the raw data lie outside the project")

FILES = {
    "education/gsm8k/test.jsonl": (1319, "question answer"),
    "finance/disc_finllm/computing_eval.json": (100, "instruction input output"),
    "finance/disc_finllm/computing_part.json": (100, "instruction input output history"),
    "finance/disc_finllm/consulting_part.json": (100, "instruction input output history"),
    "finance/disc_finllm/retrieval_part.json": (100, "instruction input output history"),
    "finance/disc_finllm/retriever_eval.json": (61, "question reference"),
    "finance/disc_finllm/task_part.json": (100, "instruction input output history"),
    "finance/fineval_rigor/index_extraction.csv": (340, "序号 类型 端到端query 基座大模型query 参考答案"),
    "finance/fineval_rigor/numerical_calculation.csv": (
        42,
        "序号 类型 端到端query 基座query 标准答案 题目答案计算逻辑",
    ),
    "finance/tatqa/tatqa_dataset_dev.json": (278, "table paragraphs questions"),
    "meteorology/cma_warning_signals/criteria.jsonl": (44, "hazard level criterion"),
    "mining/maintie/gold_release.json": (1076, "text tokens entities relations"),
    "mining/maintie/scheme.json": (1, "entity relation"),
    "pharma/chemprot/dev.txt": (2427, "text label metadata"),
    "pharma/chemprot/train.txt": (4169, "text label metadata"),
}


def read(path: str, **keys):
    notes: list[str] = []
    return read_source(SourceSection(path=str(FOUND[0] / path), **keys), notes), notes


@pytest.mark.parametrize("path", FILES)
def test_file(path):
    """Rows and columns as counted by hand."""
    count, columns = FILES[path]
    rows, _ = read(path)
    assert len(rows) == count
    assert list(rows[0].values) == columns.split()


def test_finqa():
    rows, _ = read("finance/finqa_dev200_train100/*.json")
    assert Counter(Path(row.file).name for row in rows) == {"dev_200.json": 200, "train_100.json": 100}
    assert all(isinstance(cell, str) for row in rows for line in row.values["table"] for cell in line)


def test_tatqa_questions():
    rows, _ = read("finance/tatqa/tatqa_dataset_dev.json")
    assert sum(len(row.values["questions"]) for row in rows) == 1668


def test_seismic_bumps():
    rows, _ = read("mining/seismic_bumps/seismic-bumps.csv")
    assert Counter(row.values["class"] for row in rows) == {"0": 2408, "1": 170}


def test_molecules():
    """Names with commas in quotes; an index column without a name; CR LF."""
    rows, _ = read("pharma/aqsoldb/data_curated.csv")
    assert len(rows) == 9982
    assert rows[0].values["Name"] == "N,N,N-trimethyloctadecan-1-aminium bromide"
    rows, _ = read("pharma/esol/delaney.csv")
    assert len(rows) == 1144
    assert rows[0].values["Compound ID"] == "1,1,1,2-Tetrachloroethane"
    assert {len(row.values) for row in rows} == {4}
    assert rows[-1].values["SMILES"].isprintable()
    rows, notes = read("pharma/esol/dls_100_unique.csv")
    assert (len(rows), rows[0].values["column_1"], rows[-1].line) == (56, "1", 57)
    assert notes[0].endswith("'' in column 1 is column_1")


def test_metar_table():
    """44 columns, of which sky_cover and cloud_base_ft_agl come four times each."""
    for keys in ({}, {"header": "raw_text"}):
        rows, notes = read("meteorology/metar_awc/*.csv", **keys)
        assert len(rows) == 4685
        assert {len(row.values) for row in rows} == {44}
        assert [name for name in rows[0].values if name.startswith("sky_cover")] == [
            "sky_cover", "sky_cover_2", "sky_cover_3", "sky_cover_4",
        ]  # fmt: skip
        assert rows[0].values["raw_text"].startswith("KBCT 220253Z 35007KT 10SM VCTS BKN050")
        assert len(notes) == 2


def test_laws():
    rows, _ = read("*/laws/*.md")
    assert len(rows) == 37
    assert sum(row.values["name"].startswith("mining/laws/") for row in rows) == 11
    assert all("第一条" in row.values["text"] for row in rows)


def test_bulletins():
    """583 products and the folder's README; CR CR LF and control characters kept byte for byte."""
    rows, notes = read("meteorology/nws_products")
    assert len(rows) == 584
    assert len({row.values["name"] for row in rows}) == 584
    assert "CF6/CF6ANC.txt" in {row.values["name"] for row in rows}
    assert sum("\r\r\n" in row.values["text"] for row in rows) == 32
    assert all(Path(row.file).read_bytes() == row.values["text"].encode() for row in rows)
    assert notes == [f"{FOUND[0]}/meteorology/nws_products: 584 files; left out: 1 .LICENSE"]


def test_no_data_file_is_left_out():
    """Every file of the folder is one of those above, or a README or licence."""
    covered = [
        *FILES, "finance/finqa_dev200_train100/*.json", "mining/seismic_bumps/*.csv", "pharma/aqsoldb/*.csv",
        "pharma/esol/*.csv", "meteorology/metar_awc/*.csv", "*/laws/*.md", "meteorology/nws_products/**/*.txt",
    ]  # fmt: skip
    read_here = {file for pattern in covered for file in FOUND[0].glob(pattern)}
    others = {file.name for file in FOUND[0].rglob("*") if file.is_file() and file not in read_here}
    assert {name for name in others if not name.startswith(("README", "LICENSE"))} == set()
