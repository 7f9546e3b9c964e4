"""Warnings of the US National Weather Service read by their VTEC line, and the same end read from their prose.

VTEC and UGC are described in NWS Instruction 10-1703 and 10-1702. A product may hold several segments, each closed by
`$$`; a segment with one VTEC line gives one row.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

VTEC = re.compile(
    r"^/(?P<status>[OTEX])\.(?P<action>[A-Z]{3})\.(?P<office>[A-Z]{4})\.(?P<event>[A-Z]{2}\.[A-Z])\.(?P<number>\d{4})"
    r"\.(?P<start>\d{6}T\d{4}Z)-(?P<end>\d{6}T\d{4}Z)/\s*$",
    re.MULTILINE,
)
HEADING = re.compile(r"^[A-Z]{4}\d\d [A-Z]{4} \d{6}\b", re.MULTILINE)  # WMO: type and area, office, day and time
ISSUED = re.compile(r"^\d{1,4} [AP]M \w{2,4} \w{3} \w{3} +\d{1,2} \d{4}\s*$", re.MULTILINE | re.IGNORECASE)
BODY_ENDS = re.compile(r"^(&&|PRECAUTIONARY/PREPAREDNESS|LAT\.\.\.LON)", re.MULTILINE | re.IGNORECASE)
UNTIL = re.compile(
    r"\b(?:until|to|expires? at|expired at)\s+(?:(?P<clock>\d{1,4})\s+(?P<half>[AP]M)|(?P<word>noon|midnight))\s+"
    r"(?P<zone>[A-Z]{2,3}ST|[A-Z]{2,3}DT|[ECMP][SD]T|HST|AST)\b",
    re.IGNORECASE,
)
HAIL_TAG = re.compile(r"^(?:MAX )?HAIL(?: SIZE)?\.\.\.[<>]?(\d*\.?\d+) ?IN", re.MULTILINE)
WIND_TAG = re.compile(r"^(?:MAX )?WIND(?: GUST)?\.\.\.[<>]?(\d+) ?MPH", re.MULTILINE)
MOST_TEXT = 600  # characters of prose shown

# Hours from UTC of the zones that products name.
ZONES = {"AST": -4, "EST": -5, "EDT": -4, "CST": -6, "CDT": -5, "MST": -7, "MDT": -6, "PST": -8, "PDT": -7,
         "AKST": -9, "AKDT": -8, "HST": -10, "CHST": 10}  # fmt: skip
ACTIONS = {"NEW": "new", "CON": "continued", "EXT": "extended", "CAN": "cancelled", "EXP": "expired"}
PHENOMENA = {
    "BZ": "Blizzard", "CF": "Coastal Flood", "FA": "Flood", "FF": "Flash Flood", "FG": "Dense Fog", "FL": "Flood",
    "FW": "Red Flag", "FZ": "Freeze", "GL": "Gale", "HT": "Heat", "HU": "Hurricane", "HW": "High Wind",
    "IS": "Ice Storm", "SC": "Small Craft", "SV": "Severe Thunderstorm",
    "TO": "Tornado", "TR": "Tropical Storm", "UP": "Freezing Spray", "WC": "Wind Chill", "WI": "Wind",
    "WS": "Winter Storm", "WW": "Winter Weather", "ZR": "Freezing Rain",
}  # fmt: skip
SIGNIFICANCE = {"W": "Warning", "Y": "Advisory", "A": "Watch", "S": "Statement"}
# Hail sizes as the National Weather Service words them, in inches.
HAIL_WORDS = {"pea": 0.25, "penny": 0.75, "nickel": 0.88, "quarter": 1.0, "half dollar": 1.25, "ping pong ball": 1.5,
              "golf ball": 1.75, "hen egg": 2.0, "tennis ball": 2.5, "baseball": 2.75, "softball": 4.0}  # fmt: skip


@dataclass(frozen=True)
class Segment:
    """One segment: the row, or why it gives none."""

    row: dict | None
    left_out: str = ""


def segments(product: str, name: str) -> Iterator[Segment]:
    """Each segment of a product that has a VTEC line.

    Args:
        product: its text as transmitted; carriage returns do not matter.
        name: of the file, for the row.
    """
    product = product.replace("\r", "")
    heading = HEADING.search(product)
    issued = ISSUED.search(product)
    for part in product.split("$$"):
        lines = list(VTEC.finditer(part))
        if lines:
            yield segment(part, lines, heading[0] if heading else "", issued[0].strip() if issued else "", name)


def segment(part: str, lines: list[re.Match[str]], heading: str, issued: str, name: str) -> Segment:
    """One segment as a row; what the row says must stand in the VTEC line and in the prose shown."""
    if len(lines) > 1:
        return Segment(None, "several VTEC lines")
    line = lines[0]
    phenomenon, significance = line["event"].split(".")
    if line["status"] != "O" or line["action"] not in ACTIONS or phenomenon not in PHENOMENA:
        return Segment(None, "test, or an action or event that the prose does not name")
    own = list(ISSUED.finditer(part))
    text = shown(part[max([line.end(), *(match.end() for match in own)]) :])
    issued = own[-1][0].strip() if own else issued
    if not (heading and issued and text):
        return Segment(None, "no heading, no issuing time or no prose")
    event = f"{PHENOMENA[phenomenon]} {SIGNIFICANCE[significance]}"
    if event.lower() not in text.lower():
        return Segment(None, "the prose does not name the event")
    end, why = agreed_end(line["action"], line["end"], text)
    if why:
        return Segment(None, why)
    hail, wind = agreed_tags(part, text)
    row = {
        "product": name,
        "office": line["office"],
        "vtec": line[0].strip(),
        "text": f"{heading}\n{issued}\n{text}",
        "event": event,
        "action": ACTIONS[line["action"]],
        **end,
        "hail_in": hail,
        "wind_mph": wind,
    }
    return Segment(row)


def shown(prose: str) -> str:
    """The paragraphs up to the precautions, as many as fit into MOST_TEXT, each on one line; codes are left out."""
    end = BODY_ENDS.search(prose)
    kept, length = [], 0
    for block in re.split(r"\n\s*\n", prose[: end.start()] if end else prose):
        paragraph = " ".join(line.strip() for line in block.splitlines() if not line.startswith("/")).strip()
        length += len(paragraph)
        if paragraph and (length <= MOST_TEXT or not kept):
            kept.append(paragraph)
    return "\n".join(kept)


def agreed_end(action: str, end: str, text: str) -> tuple[dict, str]:
    """`until`, `zone` and `until_utc` by VTEC, and why there are none: the prose is silent or says another time."""
    nothing = {"until": "none", "zone": None, "until_utc": None}
    if action == "CAN":
        return nothing, ""
    if end.startswith("000000"):
        open_end = re.search(r"until\s+further\s+notice", text, re.IGNORECASE)
        return nothing | {"until": "further notice"}, "" if open_end else "the prose names no end"
    said = UNTIL.search(text)
    if said is None or said["zone"].upper() not in ZONES:
        return nothing, "the prose names no end"
    zone = said["zone"].upper()
    utc = datetime.strptime(end, "%y%m%dT%H%MZ")
    local = utc + timedelta(hours=ZONES[zone])
    if (local.hour, local.minute) != clock(said):
        return nothing, "prose and VTEC name different ends"
    return {"until": local.strftime("%H:%M"), "zone": zone, "until_utc": utc.strftime("%Y-%m-%dT%H:%M:00Z")}, ""


def clock(said: re.Match[str]) -> tuple[int, int]:
    """Hour and minute, of 24, of `1215 AM`, `9 PM`, `noon` or `midnight`."""
    if said["word"]:
        return (12 if said["word"].lower() == "noon" else 0), 0
    digits = said["clock"]
    hour, minute = (int(digits[:-2]), int(digits[-2:])) if len(digits) > 2 else (int(digits), 0)
    return hour % 12 + (12 if said["half"].upper() == "PM" else 0), minute


def agreed_tags(part: str, text: str) -> tuple[float | None, int | None]:
    """Hail in inches and wind in mph of the tag lines, each only where the prose shown says the same."""
    hail, wind = HAIL_TAG.search(part), WIND_TAG.search(part)
    words = " ".join(text.lower().split())
    sizes = {size for word, size in HAIL_WORDS.items() if re.search(rf"\b{word}s?(?:.size)? hail", words)}
    gusts = {int(number) for number in re.findall(r"(\d+) mph wind", words)}
    return (
        float(hail[1]) if hail and sizes == {float(hail[1])} else None,
        int(wind[1]) if wind and gusts == {int(wind[1])} else None,
    )
