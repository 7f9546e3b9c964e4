"""Citations, refusals and the answer beside them, by hand."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from finetune.data.template import Metric
from finetune.evaluate.citations import bare, bears_out, citation_support, citations, cited, holds
from finetune.evaluate.metrics import score_names

METRIC = Metric(name="citations", refusals=("条文中没有规定", "Not in the passages"))
ANSWERED = (
    "all_right", "answer_exact", "answer_contained", "citation_precision", "citation_recall", "citation_f1",
    "answerable", "answers_when_it_should",
)  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("5日[2]", "5日[2]", (1, 1, 1, 1, 1, 1, 1, 1)),
        ("５ 日。【2】", "5日[2]", (1, 1, 1, 1, 1, 1, 1, 1)),
        ("应当在5日内报告[2]", "5日[2]", (0, 0, 1, 1, 1, 1, 1, 1)),
        ("15日[2]", "5日[2]", (0, 0, 0, 1, 1, 1, 1, 1)),
        ("5日", "5日[2]", (0, 1, 1, 0, 0, 0, 1, 1)),
        ("5日[1][2]", "5日[2]", (0, 1, 1, 1 / 2, 1, 2 / 3, 1, 1)),
        ("5日[1, 4]", "5日[1][2][3]", (0, 1, 1, 1 / 2, 1 / 3, 2 / 5, 1, 1)),
        ("给出的条文中没有规定。", "5日[2]", (0, 0, 0, 0, 0, 0, 0, 0)),
        ("", "5日[2]", (0, 0, 0, 0, 0, 0, 1, 1)),
    ],
)
def test_references_that_answer(answer, reference, expected):
    """F1 of {1, 4} and {1, 2, 3} is 2 * 1 / (2 + 3)."""
    assert citations(answer, reference, METRIC) == pytest.approx(dict(zip(ANSWERED, expected, strict=True)))


@pytest.mark.parametrize(
    ("answer", "right"), [("not in the passages!", 1), ("条文中没有规定", 1), ("5日[2]", 0), ("I don't know.", 0)]
)
def test_references_that_refuse(answer, right):
    scores = citations(answer, "Not in the passages.", METRIC)
    assert scores == {"all_right": right, "answerable": right, "refuses_when_it_should": right}


def test_an_answer_from_memory_cites_nothing():
    """Nothing to cite, so no precision or recall; a citation is wrong all the same."""
    assert citations("5日", "5日", METRIC)["all_right"] == 1
    scores = citations("5日[1]", "5日", METRIC)
    assert scores["all_right"] == 0 and scores["answer_exact"] == 1 and "citation_f1" not in scores


@pytest.mark.parametrize(
    ("text", "style", "names"),
    [
        ("见[1, 3]，【5】和［7-9］", "numbers", "1 3 5 7 8 9"),
        ("[12] [a] (3) 4", "numbers", "12"),
        ("《中华人民共和国矿山安全法》第三十二条、第105条之一", "articles", "矿山安全法 32|矿山安全法 105.1"),
        ("第一百一十四条；《煤炭法》第二十条", "articles", " 114|煤炭法 20"),
        ("第一百零五条，第一〇六条", "articles", " 105| 106"),
    ],
)  # fmt: skip
def test_cited(text, style, names):
    assert cited(text, style) == frozenset(names.split("|" if style == "articles" else " "))


def test_articles_as_citations():
    metric = Metric(name="citations", cites="articles")
    scores = citations("五年，依据《矿山安全法》第三条。", "五年，依据《矿山安全法》第三条、第四条。", metric)
    assert scores["citation_precision"] == 1 and scores["citation_recall"] == 0.5 and scores["all_right"] == 0


def test_bare():
    assert bare(" Within 3.5  days, at −2 °C: 1,000 人以上 5 %！") == "within 3.5 days at -2°c 1000人以上5%"


@pytest.mark.parametrize(
    ("text", "part", "held"),
    [
        ("处十五万元", "五万元", False), ("处五万元", "五万元", True), ("13.5", "3.5", False), ("3.55", "3.5", False),
        ("a cat sat", "cat", True), ("concatenate", "cat", False), ("在5日内", "5日", True), ("5%", "5", False),
        ("x", "", False), ("", "", True),
    ],
)  # fmt: skip
def test_holds(text, part, held):
    assert holds(text, part) == held


def test_settings():
    with pytest.raises(
        ValidationError, match="`refusals` is for metric citations and unanswerable and refusal, this is fields"
    ):
        Metric(name="fields", refusals=("no",))
    with pytest.raises(ValidationError, match="a text without a word"):
        Metric(name="citations", refusals=("。",))
    assert score_names("5日[2]", METRIC) == list(ANSWERED)


SHOWN = (
    "矿山安全法第十条\n每个矿井必须有两个以上能行人的安全出口。",
    "矿山安全法第十一条\n矿山必须有运输和通讯设施，并在15日内检查。",
    "Within 5 days the operator must not restart the fan.",
)


@pytest.mark.parametrize(
    ("answer", "share"),
    [
        ("两个以上[1]", 1), ("两个以上[2]", 0), ("两个以上[1][2]", 1 / 2), ("两个以上[7]", 0), ("两个以上", 0), ("[1]", 0),
        ("三个以上[1]", 0), ("条文中没有规定[1]", 0), ("15日[2]", 1), ("5日[2]", 0), ("within 5 days[3]", 1), ("", 0),
    ],
)  # fmt: skip
def test_citation_support(answer, share):
    """Of the passages cited, those that hold what is said, whichever the reference cites; 7 was not shown."""
    assert citation_support(answer, "两个以上[1]", SHOWN, METRIC) == {"citation_support": share}


def test_citation_support_where_nothing_is_to_be_cited():
    assert citation_support("两个以上[1]", "条文中没有规定", SHOWN, METRIC) == {}


@pytest.mark.parametrize(
    ("said", "held"),
    [
        ("每个矿井都必须有两个以上能行人的安全出口", True),  # 都必 and 井都 are new: 17 of 19 pairs
        ("每个矿井必须有两个以上能行车的安全出口", True),  # 2 of 18 pairs are new: a changed word is not seen
        ("每个矿井不必有两个以上能行人的安全出口", False),  # 不 in a new pair
        ("每个矿井必须有12个以上能行人的安全出口", False),  # 12
        ("矿井的负责人应当组织培训并且检查设备", False),
        ("the operator must not restart the fan within 5 days", True),
        ("the operator must restart the fan within 5 days", True),  # a left out "not" is not seen either
        ("the operator must never restart the fan within 5 days", False),
        ("the operator must not restart the fan within 50 days", False),
    ],
)
def test_longer_answers_need_enough_of_their_pieces_and_every_number_and_negation(said, held):
    passage = SHOWN[2] if said.isascii() else SHOWN[0]
    assert bears_out(bare(passage), bare(said)) == held


def test_citation_support_of_articles():
    metric = Metric(name="citations", cites="articles", passages="passages")
    reference = "两个以上，依据《矿山安全法》第十条。"
    for answer, share in (
        (reference, 1),
        ("两个以上，依据《矿山安全法》第十一条。", 0),
        ("两个以上，依据《煤炭法》第十条。", 0),
    ):
        said = answer.replace("，依据", "")
        assert citation_support(said, reference, SHOWN, metric) == {"citation_support": share}
    assert score_names("5日[2]", METRIC.model_copy(update={"passages": "passages"})) == [*ANSWERED, "citation_support"]
