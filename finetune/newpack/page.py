"""The page of a new pack in two languages. What only a person can say is asked for, in lines that begin with EDIT ME."""

from __future__ import annotations

from finetune.data.scaffold import plain_name
from finetune.newpack.facts import Facts
from finetune.newpack.recipes import EDIT

ENGLISH = """\
# {title}

[中文]({industry}.zh-CN.md)

{edit}: in two lines, who has which records, and what the model makes of them.

`finetune new pack` wrote this page. Lines with "{edit}" are yours to write, here and under `card:` of the recipes (which
goes into every bundle); `grep -rn "{edit}"` finds them. A pack that still holds one is not finished.

| task | language | data shipped | real data, licence | judge of the answers | metric | recipe |
|---|---|---|---|---|---|---|
{row}

## Run it

```bash
finetune check recipes/{industry}/{task}.yaml
finetune show recipes/{industry}/{task}.yaml --rows 3
finetune train recipes/{industry}/{task}.yaml  # SmolLM2-135M on a CPU
finetune train recipes/{industry}/pack_gpu.yaml  # Qwen2.5-7B on one GPU of 40 GB or more
torchrun --nproc_per_node 8 -m finetune.cli train recipes/{industry}/pack_npu.yaml  # eight Ascend 910B
```

## On real data

{edit}: where the rows come from, under which licence, how many there are, and what was run on them. The same columns in
another file: `--set data.train=FILE`.

## Must not be used for

{edit}: answer these in plain words, one task after the other, and delete the questions.

- Which decisions must never rest on an answer alone? Who is harmed by a wrong one, and how badly?
- Which law, rule or contract asks for a person here, and who is that?
- Which records lie outside the sample: other places, seasons, makers, languages, units, values beyond its ranges?
- What should the answer be when the record can't tell? The model has learnt to say so only if rows of the sample do.
- Who may send it records, and do these hold what must not leave the house?
- Who sees that it has become worse, and who switches it off?

## Known limits

- Scores are of {eval_rows} held-out rows or so: one answer more or less is {points} points; `data.split.eval_rows` takes more.
- The answers of the sample are taken for right. {edit}: who or what judged them, independently of who wrote them.
- SmolLM2-135M shows that everything runs. Nobody has measured yet what it learns here, nor what the 7B model does.
"""

CHINESE = """\
# {title}

[English]({industry}.md)

{edit}：用两行说明：谁有哪些记录，模型用它们做什么。

本页由 `finetune new pack` 写出。带“{edit}”的行须由你填写，各配方的 `card:` 也一样（它会进入每个成品包）；
`grep -rn "{edit}"` 可以全部找出。还留有此标记的行业包不算完成。

| 任务 | 语言 | 附带数据 | 真实数据与许可 | 答案的评判 | 指标 | 配方 |
|---|---|---|---|---|---|---|
{row}

## 运行

```bash
finetune check recipes/{industry}/{task}.yaml
finetune show recipes/{industry}/{task}.yaml --rows 3
finetune train recipes/{industry}/{task}.yaml  # CPU 上的 SmolLM2-135M
finetune train recipes/{industry}/pack_gpu.yaml  # 一块 40 GB 以上的 GPU 上的 Qwen2.5-7B
torchrun --nproc_per_node 8 -m finetune.cli train recipes/{industry}/pack_npu.yaml  # 八块昇腾 910B
```

## 用于真实数据

{edit}：数据从哪里来、什么许可、有多少行、在上面跑过什么。列相同的另一个文件：`--set data.train=FILE`。

## 不得用于

{edit}：逐个任务用平实的话回答下列问题，然后删去问题。

- 哪些决定绝不能只凭模型的答案？答错会伤害谁，有多严重？
- 哪条法律、规章或合同要求此处由人负责？由谁负责？
- 哪些记录在样本之外：别的地点、季节、厂家、语言、单位、超出范围的数值？
- 记录本身不足以判断时应当怎样回答？只有样本里有这样的行，模型才学得到。
- 谁可以把记录交给它？其中有没有不得外传的内容？
- 谁来发现它变差了？谁来停用它？

## 已知局限

- 分数来自大约 {eval_rows} 行留出数据：多对或少对一个答案就是 {points} 个百分点。请加大 `data.split.eval_rows`。
- 样本中的答案被当作正确。{edit}：由谁或用什么独立于编写者作出评判。
- SmolLM2-135M 只说明流程能跑通。它在这里学到什么、7B 模型表现如何，都还没有人测过。
"""


def pages(industry: str, task: str, sample: str, facts: Facts) -> dict[str, str]:
    """Both pages by their names in docs/packs/."""
    return {
        name: text.format(
            title=industry.replace("_", " ").replace("-", " ").capitalize(),
            industry=industry,
            task=task,
            edit=EDIT,
            row=page_row(industry, task, sample, facts, chinese=name.endswith(".zh-CN.md")),
            eval_rows=facts.eval_rows,
            points=round(100 / facts.eval_rows, 1),
        )
        for name, text in ((f"{industry}.md", ENGLISH), (f"{industry}.zh-CN.md", CHINESE))
    }


def page_row(industry: str, task: str, sample: str, facts: Facts, chinese: bool = False) -> str:
    """The task's row in the page's table."""
    answer = plain_name(facts.answer).replace("|", "\\|")
    what = f"`{task}`：给出 {answer}" if chinese else f"`{task}`: gives {answer}"
    rows = f"{facts.rows} 行" if chinese else f"{facts.rows} rows"
    data = f"[{rows}](../../data_templates/{industry}/{sample})"
    recipe = f"[{task}](../../recipes/{industry}/{task}.yaml)"
    languages = ", ".join(facts.languages) or EDIT
    return f"| {what} | {languages} | {data} | {EDIT} | {EDIT} | `{facts.metric}` | {recipe} |"
