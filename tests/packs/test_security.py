"""CVSS v3.1 against the PyPI package `cvss`, words against their metrics, and log lines read a second time."""

from __future__ import annotations

import ipaddress
import itertools
import json
import re
from fractions import Fraction
from functools import partial

import pytest
from cvss import CVSS3

from finetune.data.source import read_source
from finetune.data.template import load_template
from finetune.recipe_data import SourceSection
from scripts.make.security import cvss_vector
from scripts.make.security.cvss_words import WORDS
from tests.conftest import ROOT
from tests.packs.reading import shipped

rows = partial(shipped, "security")


def test_every_base_vector_has_the_score_of_the_cvss_library():
    """All 4 x 2 x 3 x 2 x 2 x 27 = 2,592."""
    vectors = list(itertools.product(*cvss_vector.VALUES.values()))
    assert len(vectors) == 2592
    for values in vectors:
        metrics = dict(zip(cvss_vector.VALUES, values, strict=True))
        judged = CVSS3("CVSS:3.1/" + "/".join(f"{name}:{value}" for name, value in metrics.items()))
        assert cvss_vector.base_score(metrics) == judged.base_score * 10, metrics
        impact, exploitability = cvss_vector.subscores(metrics)
        assert abs(exploitability - Fraction(judged.esc)) < 1e-9
        assert abs(impact - max(Fraction(judged.isc), 0)) < 1e-9


def test_every_sample_row_has_the_scores_of_the_cvss_library():
    for row in rows("cvss_vector"):
        judged = CVSS3(row["vector"])
        assert (float(judged.base_score), judged.severities()[0]) == (row["score"], row["severity"])
        assert max(float(judged.isc), 0) == pytest.approx(row["impact"], abs=0.005001)
        assert float(judged.esc) == pytest.approx(row["exploitability"], abs=0.005001)


@pytest.mark.parametrize(
    ("vector", "score"),
    [
        ("AV:N/AC:L/PR:N/UI:R/S:C/C:L/I:L/A:N", 61),  # CVE-2013-1937, phpMyAdmin
        ("AV:N/AC:L/PR:L/UI:N/S:C/C:L/I:L/A:N", 64),  # CVE-2013-0375, MySQL
        ("AV:N/AC:H/PR:N/UI:R/S:U/C:L/I:N/A:N", 31),  # CVE-2014-3566, POODLE
        ("AV:N/AC:L/PR:L/UI:N/S:C/C:H/I:H/A:H", 99),  # CVE-2012-1516, VMware
        ("AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:N/A:N", 75),  # CVE-2014-0160, Heartbleed
        ("AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H", 98),  # CVE-2014-6271, Shellshock
        ("AV:L/AC:L/PR:N/UI:N/S:C/C:N/I:N/A:N", 0),
    ],
)
def test_scores_that_first_org_publishes(vector, score):
    """Of https://www.first.org/cvss/v3.1/examples; the last one has no impact, so none of it counts (section 7.1)."""
    assert cvss_vector.base_score(dict(part.split(":") for part in vector.split("/"))) == score


def test_rounding_up():
    """Appendix A: 4.02 is 4.1, 4.00 is 4.0, and what a float would leave a hair above 4.0 is 4.0."""
    assert [cvss_vector.tenths(Fraction(text)) for text in ("4.02", "4.00", "4.000001", "4.00001")] == [41, 40, 40, 41]


def test_texts_tell_their_vector_and_no_other():
    """Read back by looking every wording up; no wording stands for two values, nor within another of its metric."""
    told = [row for row in rows("cvss_vector") if row["text"] is not None]
    assert 550 <= len(told) <= 650
    for row in told:
        found = {
            name: {value for value, wordings in values.items() for words in wordings if words in row["text"]}
            for name, values in WORDS[row["language"]].items()
        }
        assert all(len(values) == 1 for name, values in found.items() if name not in "CIA")
        read = {name: next(iter(values), "N") for name, values in found.items()}
        assert "CVSS:3.1/" + "/".join(f"{name}:{value}" for name, value in read.items()) == row["vector"]


def test_nvd_records_become_rows_of_the_template(tmp_path):
    """The form of the NVD's API 2.0, made up: one kept; one rated by its vendor only, one rejected are not."""

    def record(number: int, kind: str = "Primary", score: float = 9.8, **also: str) -> dict:
        data = {"vectorString": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H", "baseScore": score}
        texts = [{"lang": "es", "value": "x"}, {"lang": "en", "value": "A hole."}]
        rated = {"cvssMetricV31": [{"type": kind, "cvssData": data}]}
        return {"cve": {"id": f"CVE-2099-{number}", "descriptions": texts, "metrics": rated, **also}}

    file = tmp_path / "nvd.json"
    kept = [record(1), record(2, kind="Secondary"), record(3, vulnStatus="Rejected")]
    file.write_text(json.dumps({"vulnerabilities": kept}))
    read = list(cvss_vector.read(file))
    assert [(row["case_id"], row["text"], row["score"]) for row in read] == [("CVE-2099-1", "A hole.", 9.8)]
    (tmp_path / "one.json").write_text(json.dumps(record(5)["cve"]))
    assert [row["case_id"] for row in cvss_vector.read(tmp_path)] == ["CVE-2099-1", "CVE-2099-5"]
    (tmp_path / "rows.jsonl").write_text(json.dumps(read[0]))
    template = load_template(ROOT / "data_templates/security/cvss_vector.yaml")
    assert len(template.render_all(read_source(SourceSection(path=str(tmp_path / "rows.jsonl"))))) == 1
    file.write_text(json.dumps({"vulnerabilities": [record(4, score=9.1)]}))
    with pytest.raises(SystemExit, match=r"CVE-2099-4: .* is 9.8, not 9.1"):
        list(cvss_vector.read(file))


FORMS = {
    "failed_login": r"sshd\[\d+\]: Failed password for (?:invalid user )?(?P<user>\S+) from (?P<source>\S+) port",
    "login_from_outside": r"sshd\[\d+\]: Accepted password for (?P<user>\S+) from (?P<source>\S+) port",
    "sudo_denied": r"sudo: (?P<user>\S+) : user NOT in sudoers",
    "account_created": r"useradd\[\d+\]: new user: name=(?P<user>[^,]+), UID=(?P<uid>\d+)",
    "connection_blocked": r"\[UFW BLOCK\] .* SRC=(?P<source>\S+)",
    "web_attack": r'nginx: (?P<source>\S+) .*(?:%27|\.\./|%3Cscript|;cat|jndi|UNION%20SELECT).*" (?P<status>\d{3}) ',
}
TECHNIQUES = {"failed_login": "T1110", "login_from_outside": "T1078", "sudo_denied": "T1548.003",
              "account_created": "T1136.001", "connection_blocked": "T1046", "web_attack": "T1190"}  # fmt: skip


def judged(line: str) -> dict | None:
    """The alert by regular expressions and Python's ipaddress."""
    event, match = next(
        ((name, found) for name, form in FORMS.items() if (found := re.search(form, line))), (None, None)
    )
    if event is None:
        return None
    found = match.groupdict()
    inside = "source" in found and ipaddress.ip_address(found["source"]) in ipaddress.ip_network("10.0.0.0/8")
    if event == "login_from_outside" and inside:
        return None
    severity = {
        "failed_login": "low" if inside else "medium",
        "login_from_outside": "high" if found.get("user") == "root" else "medium",
        "sudo_denied": "medium",
        "account_created": "high" if found.get("uid") == "0" else "medium",
        "connection_blocked": "low",
        "web_attack": "high" if found.get("status") == "200" else "medium",
    }[event]
    return {"event": event, "technique": TECHNIQUES[event], "severity": severity,
            "source": found.get("source"), "user": found.get("user")}  # fmt: skip


def test_every_log_line_gives_the_alert_that_a_second_reader_finds():
    alerts = 0
    for row in rows("log_alert"):
        assert judged(row["line"]) == row["alert"], row["line"]
        assert row["line"][16:].split(" ")[0] == row["host"]
        alerts += row["alert"] is not None
    assert 600 <= alerts <= 800


def test_addresses_belong_to_nobody():
    """RFC 5737 and RFC 1918 only. Version numbers of browsers have fewer parts."""
    kept = [ipaddress.ip_network(net) for net in ("198.51.100.0/24", "203.0.113.0/24", "10.0.0.0/8")]
    for row in rows("log_alert"):
        for text in re.findall(r"\b\d+\.\d+\.\d+\.\d+\b", row["line"]):
            assert any(ipaddress.ip_address(text) in net for net in kept), text
