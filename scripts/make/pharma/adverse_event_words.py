"""Sentences of the made-up reports; {drug} and the like are filled in by adverse_events.py."""

from __future__ import annotations

from typing import Any

ZH_ENDS = ("坦", "平", "司他", "洛芬", "替尼", "酮", "沙星", "地平")
WORDS: dict[str, dict[str, Any]] = {
    "en": {
        "between": " ",
        "and": " and ",
        "who": ("woman", "man", "patient"),
        "uses": ("high blood pressure", "arthritis", "a lung infection", "epilepsy", "depression", "asthma", "gout",
                 "atrial fibrillation"),
        "reactions": ("rash", "nausea", "dizziness", "headache", "itching", "diarrhoea", "palpitations", "jaundice",
                      "hearing loss", "facial swelling", "low blood pressure", "neutropenia", "muscle pain", "confusion",
                      "vomiting", "kidney failure", "seizures", "liver injury", "dry cough", "nosebleed"),
        "starts": ("A {age}-year-old {who} was given {drug} {dose} mg daily for {use}.",
                   "Treatment with {drug} {dose} mg daily was begun in a {age}-year-old {who} with {use}.",
                   "This report concerns a {age}-year-old {who} who took {drug} ({dose} mg) for {use}."),
        "others": ("Treatment with {other} went on.", "Concomitant medication: {other}.", "The patient had taken {other} for years."),
        "earlier": "Years before, {other} had caused {earlier}.",
        "onsets": {
            "days": "[days] days after the first dose {effects} occurred.",
            "weeks": "After [weeks] weeks of treatment {effects} occurred.",
            "dates": "Treatment began on [first] [month]; {effects} occurred on [then] [month].",
            "same day": "On the day of the first dose {effects} occurred.",
            "unknown": "Then {effects} occurred; the date is not known.",
        },
        "months": ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
                   "November", "December"),
        "criteria": {
            None: ("No treatment was needed.", "The patient was seen in the emergency room and sent home.",
                   "The patient was in hospital for an operation at the time; the stay was not prolonged.",
                   "An antihistamine was taken at home."),
            "hospitalisation": ("The patient was admitted to hospital for {stay} days.",
                                "The hospital stay was prolonged by {stay} days."),
            "life-threatening": ("The doctor called the event life-threatening.",),
            "disability": ("A lasting disability remained.",),
            "death": ("The patient died {stay} days later.",),
        },
        "outcomes": {
            "fatal": "Outcome: fatal.",
            "recovered": "After withdrawal the patient recovered.",
            "recovering": "The patient is recovering.",
            "not recovered": "At the last visit the patient had not recovered.",
            "unknown": "The outcome is unknown.",
        },
        "tolerated": ("It was tolerated well, and no adverse reaction occurred.", "No adverse event was seen."),
    },
    "zh": {
        "between": "",
        "and": "、",
        "who": ("女性患者", "男性患者", "患者"),
        "uses": ("高血压", "关节炎", "肺部感染", "癫痫", "抑郁症", "哮喘", "痛风", "心房颤动"),
        "reactions": ("皮疹", "恶心", "头晕", "头痛", "瘙痒", "腹泻", "心悸", "黄疸", "听力下降", "面部肿胀", "低血压",
                      "粒细胞减少", "肌痛", "意识模糊", "呕吐", "肾衰竭", "惊厥", "肝损伤", "干咳", "鼻出血"),
        "starts": ("{who}，{age}岁，因{use}每日服用{drug}{dose}mg。", "{age}岁{who}因{use}使用{drug}，每日{dose}mg。"),
        "others": ("同时继续使用{other}。", "合并用药：{other}。", "长期服用{other}。"),
        "earlier": "数年前使用{other}曾引起{earlier}。",
        "onsets": {
            "days": "首次用药[days]天后出现{effects}。",
            "weeks": "用药[weeks]周后出现{effects}。",
            "dates": "[month][first]日开始用药，[month][then]日出现{effects}。",
            "same day": "首次用药当天出现{effects}。",
            "unknown": "此后出现{effects}，日期不详。",
        },
        "months": ("1月", "2月", "3月", "4月", "5月", "6月", "7月", "8月", "9月", "10月", "11月", "12月"),
        "criteria": {
            None: ("未予处理。", "急诊就诊后回家。", "当时因手术住院，住院时间未延长。", "在家口服抗组胺药。"),
            "hospitalisation": ("因此住院{stay}天。", "住院时间因此延长{stay}天。"),
            "life-threatening": ("医生判断危及生命。",),
            "disability": ("遗留永久性残疾。",),
            "death": ("{stay}天后死亡。",),
        },
        "outcomes": {
            "fatal": "转归：死亡。",
            "recovered": "停药后痊愈。",
            "recovering": "正在好转。",
            "not recovered": "末次随访时未好转。",
            "unknown": "转归不详。",
        },
        "tolerated": ("耐受良好，未发生不良反应。", "未见不良事件。"),
    },
}  # fmt: skip
