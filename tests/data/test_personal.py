"""Personal data and secrets: each form with its near misses, and none in the project's own industry data."""

from __future__ import annotations

import json

import pytest

from finetune.data.personal import LABELS, PERSONAL, SECRETS, Match, find_private, mask, redact_sample, redact_text
from finetune.data.rows import Row, Sample
from finetune.data.template import load_template
from tests.conftest import ROOT

ALL = set(LABELS)
# Keys are put together here, so that scanners of secrets pass this file over.
KEY = {
    "aws": "AKIA" + "IOSFODNN7EXAMPLE",
    "github": "gh" + "p_" + "a1B2" * 9,
    "hf": "hf" + "_" + "aBcD" * 8 + "eF",
    "openai": "sk" + "-proj-" + "Ab1-" * 10 + "x",
    "deepseek": "sk" + "-" + "0f" * 16,
    "jwt": "eyJ" + "hbGciOiJIUzI1NiJ9.eyJ" + "zdWIiOiIxMjM0NTY3ODkwIn0." + "dozjgNryP4J3jVmN",
}

FOUND = [
    ("身份证11010519491231002X。", "身份证[ID]。"),
    ("id: 11010519491231002x", "id: [ID]"),
    ("身份证１１０１０５１９４９１２３１００２Ｘ", "身份证[ID]"),
    ("公司91110000600037341L成立", "公司[CREDIT_CODE]成立"),
    ("电话13800138000,备用 +86 139-1234-5678", "电话[PHONE],备用 [PHONE]"),
    ("张三,35,13800138000", "张三,35,[PHONE]"),
    ("tel. 138 0013 8000", "tel. [PHONE]"),
    ("卡号4111111111111111", "卡号[CARD]"),
    ("card 4111 1111 1111 1111 ok", "card [CARD] ok"),
    ("amex 378282246310005, 3782-822463-10005", "amex [CARD], [CARD]"),
    ("卡6222021234567890128尾号", "卡[CARD]尾号"),
    ("write to a.b+c@mail.example.com.", "write to [EMAIL]."),
    ("http://192.168.1.15:8080/x and 8.8.8.8", "http://[IP]:8080/x and 8.8.8.8"),
    ("DNS 8.8.8.8, subnet 10.0.0.0/8", "DNS [IP], subnet [IP]/8"),
    ("lat 37.8912, lon 112.5512", "lat [COORDINATES]"),
    ('{"lat": 37.89123, "lon": 112.55123}', '{"lat": [COORDINATES]}'),
    ("井口位于东经112.55123°，北纬37.89123°", "井口位于东经[COORDINATES]°"),
    ("(-33.86882, 151.20929)", "([COORDINATES])"),
    ("纬度: 37.8912\n经度: 112.5512", "纬度: [COORDINATES]"),
    ("身份证110105491231002", "身份证[ID]"),
    ("电话：010-68888888，传真(0755)2677 0000", "电话：[PHONE]，传真[PHONE]"),
    ("总机021-61234567-8001、0531-8612345转12", "总机[PHONE]、[PHONE]"),
    ("+86 10 6888 8888; +86-755-26770000; 0086 (021) 61234567", "[PHONE]; [PHONE]; [PHONE]"),
    ("（０１０）６８８８８８８８", "[PHONE]"),
    ("座机 01068888888 Tel: 0755 26770000", "座机 [PHONE] Tel: [PHONE]"),
    ('{"fax": "01068888888"}', '{"fax": "[PHONE]"}'),
    ("IBAN DE89 3704 0044 0532 0130 00 BIC COBADEFF", "IBAN [IBAN] BIC COBADEFF"),
    ("DE89370400440532013000, GB82 WEST 1234 5698 7654 32.", "[IBAN], [IBAN]."),
    ("GR1601101050000010547023795 NO9386011117947", "[IBAN] [IBAN]"),
    ("护照号码：E12345678，Passport No. EA1234567", "护照号码：[PASSPORT]，Passport No. [PASSPORT]"),
    ('{"passport": "G12345678"} 港澳通行证 C12345678', '{"passport": "[PASSPORT]"} 港澳通行证 [PASSPORT]'),
    ("passport number is 123456789", "passport number is [PASSPORT]"),
    ("from 2408:8756:2cff:e07b::13 and fe80::1ff:fe23:4567:890a", "from [IP] and [IP]"),
    ("2001:0db8:85a3:0000:0000:8a2e:0370:7334 [fd12:3456::1]:80", "[IP] [[IP]]:80"),
    (f"key {KEY['aws']} here", "key [API_KEY] here"),
    (f"{KEY['github']} {KEY['hf']}", "[API_KEY] [API_KEY]"),
    (f"{KEY['openai']}; {KEY['deepseek']}", "[API_KEY]; [API_KEY]"),
    (f"Bearer {KEY['jwt']}", "Bearer [TOKEN]"),
    ("password: Passw0rd!x", "password: [PASSWORD]"),
    ("密码为abc12345，请修改", "密码为[PASSWORD]，请修改"),
    ("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG", "aws_secret_access_key = [PASSWORD]"),
    ("postgres://admin:hunter22@db.example.com/x", "postgres://admin:[PASSWORD]@db.example.com/x"),
    ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----\nbye", "[PRIVATE_KEY]\nbye"),
]


@pytest.mark.parametrize(("text", "expected"), FOUND)
def test_what_is_found_is_replaced(text, expected):
    assert redact_text(text, ALL) == expected


@pytest.mark.parametrize(
    "text",
    [
        "110105194912310021",  # check digit
        "11010519491331002X 110105209912310020",  # month 13; not born yet
        "91110000600037341M 912345678901234567",  # check character
        "12345678901234567890",  # longer than anything known
        "KNRB 220252Z AUTO 02010G22KT 10SM BKN005 OVC050 M04/M06 A3012 RMK AO2 SLP200 T10391061 10006 21011 56024",
        "LAT...LON 1391 2345 6789 1234 5678 9012",
        "138 0013 8000 4111 1111",  # a list of numbers
        "营业收入13800138000元，净利润 13912345678 元，CNY 13912345678",
        "13800138000.55 and 0.13800138000 and 1,380,013,800",
        "4111111111111112",  # Luhn
        "1666000000000 1700000000000123 9501101530003",  # milliseconds, microseconds, a barcode
        "x4111111111111111 order_13800138000 a13800138000b",
        "5.2.1.3 and 1.2.3.4, version 10.200.3.4, Chrome/120.0.0.0, v2.0.0.1, 第 8.8.8.8 条",
        "127.0.0.1 255.255.255.0 0.0.0.0 300.1.1.1 1.3.6.1.4.1.311",
        "MolWt 392.51000, 3.95810, 102.44540, 23.00000",
        "0.12345, 0.54321 and 12.3456 45.6789",
        "19.1234 °C, 20.1234 °C",
        "sk-learn-compatible-estimators-and-more task-0123456789abcdef0123456789abcdef",
        "password: required; the password is forgotten; secret key: see below",
        "a@b user@host @channel 3@5.5",
        "https://example.com:8080/a@b",
        "110105491331002 999105491231002 110105003131002",  # month 13; no such county; 31 February's kin
        "010-12345678 001-68888888 026-68888888 010-6888888888 7-010-68888888-3",  # local part, area code, length
        "01068888888 0755 26770000 0100 2345 6789",  # digits alone may be anything
        "DE89370400440532013001 XX89370400440532013000 DE8937040044053201300",  # check digits, country, length
        "SN12 3456 7890 1234 KJFK 220251Z 2222 3333",
        "E12345678 G1234567 the passport office, passport holders 2024, 护照 3 本",
        "12:30:45 1:2:3:4:5:6:7 std::vector a::b face::cafe ::1 12::30 00:1A:2B:3C:4D:5E 10:20:30:40:50:60:70:80",
        "能量 1.5e5 J, 微震次数 12, 103 3 0 2000 15 0",
    ],
)
def test_measurements_amounts_and_words_are_left_alone(text):
    assert find_private(text) == ()


def test_places_and_notes():
    assert find_private("IP 10.1.2.3，公网 114.114.114.114") == (
        Match("ip_address", 3, 11, "private"),
        Match("ip_address", 15, 30, "public"),
    )
    assert mask("13800138000") == "138…00 (11 characters)"
    assert mask("a@b.cn") == "… (6 characters)"


def test_only_the_kinds_asked_for_are_replaced():
    text = f"13800138000 {KEY['aws']}"
    assert redact_text(text, PERSONAL) == f"[PHONE] {KEY['aws']}"
    assert redact_text(text, SECRETS) == "13800138000 [API_KEY]"


def test_redaction_reaches_every_part_and_json_stays_json():
    call = {"id": "c1", "type": "function", "function": {"name": "dial", "arguments": '{"to": 13800138000, "n": 1}'}}
    sample = Sample(
        {"phone": 13800138000, "n": 3, "ok": True, "nested": [{"mail": "a@example.com"}]},
        (
            {"role": "user", "content": "call 13800138000"},
            {"role": "assistant", "content": "", "reasoning_content": "to a@example.com", "tool_calls": [call]},
            {"role": "assistant", "content": '{"tel": "13800138000"}', "train": True},
        ),
        "x.jsonl:1",
    )
    redacted = redact_sample(sample, PERSONAL)
    assert redacted.record == {"phone": "[PHONE]", "n": 3, "ok": True, "nested": [{"mail": "[EMAIL]"}]}
    assert redacted.messages[0] == {"role": "user", "content": "call [PHONE]"}
    assert redacted.messages[1]["reasoning_content"] == "to [EMAIL]"
    arguments = redacted.messages[1]["tool_calls"][0]["function"]["arguments"]
    assert arguments == '{"to": "[PHONE]", "n": 1}'
    assert redacted.messages[2] == {"role": "assistant", "content": '{"tel": "[PHONE]"}', "train": True}
    assert sample.messages[0]["content"] == "call 13800138000"  # the original is not touched


MEANT = {"identifiers": "credit_code", "log_alert": "ip_address"}  # made-up ones that the task is about


@pytest.mark.slow
def test_the_samples_that_ship_hold_nothing_private():
    files = sorted((ROOT / "data_templates").glob("*/*.sample.jsonl"))
    assert len(files) >= 2
    found = []
    for file in files:
        beside = file.with_name(file.name.replace(".sample.jsonl", ".yaml"))
        template = load_template(beside) if beside.exists() else None  # ready pairs have none
        for line, text in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            row = Row(json.loads(text), file.name, line)
            samples = template.render_chunk([row]).samples if template else []
            contents = [message["content"] for sample in samples for message in sample.everything_said]
            found += [(row.where, match) for content in contents or [text] for match in find_private(content)]
    unmeant = [(where, match) for where, match in found if match.kind != MEANT.get(where.partition(".")[0])]
    assert unmeant == []
