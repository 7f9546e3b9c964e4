"""Facts of weather warnings in the form of the US National Weather Service; `--from` takes a folder of real products.

The sample's products are made up, in the published form (heading, UGC, VTEC, prose, tags), and go through the same
reader as real ones: scripts/make/meteorology/vtec.py.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

from scripts.make.meteorology.vtec import HAIL_WORDS, PHENOMENA, SIGNIFICANCE, ZONES, segments

ROWS, SEED = 1100, 41
# Office, the seat that its products name, zone without S or D.
OFFICES = (
    ("KDMX", "Des Moines IA", "C"), ("KOUN", "Norman OK", "C"), ("KMEG", "Memphis TN", "C"), ("KBOX", "Norton MA", "E"),
    ("KGRR", "Grand Rapids MI", "E"), ("KIND", "Indianapolis IN", "E"), ("KLWX", "Sterling VA", "E"),
    ("KBOU", "Denver CO", "M"), ("KRIW", "Riverton WY", "M"), ("KMTR", "San Francisco CA", "P"),
    ("KSEW", "Seattle WA", "P"), ("KTFX", "Great Falls MT", "M"), ("KHGX", "Houston TX", "C"), ("KFFC", "Peachtree City GA", "E"),
    ("KLOT", "Chicago IL", "C"), ("KCAR", "Caribou ME", "E"), ("KABQ", "Albuquerque NM", "M"), ("KMFR", "Medford OR", "P"),
    ("KBUF", "Buffalo NY", "E"), ("KMOB", "Mobile AL", "C"), ("KPIH", "Pocatello ID", "M"), ("KEKA", "Eureka CA", "P"),
    ("KILM", "Wilmington NC", "E"), ("KTOP", "Topeka KS", "C"),
)  # fmt: skip
PLACES = ("Harlow County", "Upper Benning County", "the Teller Hills", "Marrow County", "the lower Wick Valley", "Quill County",
          "the Saddler Range", "northern Orrin County", "Fenwick and Dale Counties", "the Copper Plain", "East Tarrant Lake",
          "southern Lowry County")  # fmt: skip
QUICK = ("SV.W", "TO.W", "FF.W")  # hours at most, with a clock time to the quarter
COLD, WARM = ("WW.Y", "WS.W", "ZR.Y", "WC.Y"), ("HT.Y", "TO.W", "SV.W")  # no month in which the clocks change
# What a longer one says of its event, our own words.
DETAILS = {
    "WW.Y": ("Snow of {a} to {b} inches, mixed with sleet.", "Roads turn slick after dark; {a} inches of snow are likely."),
    "WS.W": ("Heavy snow, {b} inches in most places and drifts in the wind.", "Snowfall reaches {b} inches on the high ground."),
    "WI.Y": ("West winds of {k} mph and gusts near {g} mph.", "Gusts up to {g} mph bring down small branches."),
    "HW.W": ("Gusts of {g} mph on the ridges, stronger in the passes.", "Expect {k} mph winds and gusts of {g} mph."),
    "ZR.Y": ("A glaze of ice on bridges and steps.", "Freezing rain leaves a tenth of an inch of ice."),
    "WC.Y": ("Wind chill falls to {c} below zero.", "Bare skin freezes within the half hour; wind chill of {c} below."),
    "HT.Y": ("Heat index values near {h}.", "Hot and humid, it will feel like {h} in the afternoon."),
    "FG.Y": ("Visibility of a quarter mile or less.", "Fog lies thick in the valleys."),
    "GL.W": ("Southwest winds of {k} knots and seas of {b} feet.", "Gusts of {g} knots over the open water."),
    "SC.Y": ("Waves of {a} to {b} feet off the points.", "Winds of {k} knots and choppy water."),
    "FL.W": ("The river stands at {s} feet, flood stage is {f} feet.", "A crest of {s} feet is forecast; low fields flood."),
    "FA.Y": ("Streams run high after {a} inches of rain.", "Low roads and underpasses fill with water."),
}  # fmt: skip


def make(rows: int, seed: int) -> list[dict]:
    """Rows of made-up products, no two texts alike."""
    rng = random.Random(f"warning_facts {seed}")
    made: list[dict] = []
    seen: set[str] = set()
    while len(made) < rows:
        name = f"made-up-{len(made) + 1:04d}.txt"
        (found,) = segments(product(rng), name)
        if found.row is None:
            raise SystemExit(f"{name}: {found.left_out}")
        if found.row["text"] not in seen:
            seen.add(found.row["text"])
            made.append(found.row)
    return made


def read(folder: Path) -> Iterator[dict]:
    """Segments with one VTEC line whose prose names the same end; products are read as latin-1."""
    for file in sorted(folder.rglob("*.txt")):
        for found in segments(file.read_bytes().decode("latin-1"), str(file.relative_to(folder))):
            if found.row is not None:
                yield found.row


def product(rng: random.Random) -> str:
    """One product of one segment, as transmitted: lines end in CR CR LF."""
    office, seat, zone = rng.choice(OFFICES)
    event = rng.choice((*QUICK, *QUICK, *DETAILS))
    month = rng.choice((1, 2, 12) if event in COLD else (5, 6, 7, 8, 9) if event in WARM else (1, 2, 4, 6, 8, 10, 12))
    zone += "DT" if 4 <= month <= 10 else "ST"
    issued = datetime(rng.randint(2015, 2025), month, rng.randint(1, 28), rng.randint(0, 23), rng.randint(1, 59))
    action = rng.choice(("NEW", "NEW", "NEW", "CON", "CON", "CON", "EXT", "EXT", "CAN", "EXP"))
    if event in QUICK:
        end = quarter(issued + timedelta(minutes=rng.randrange(25, 240)))
    else:
        end = quarter(issued + timedelta(hours=rng.randint(5, 40))).replace(minute=0)
    if action == "EXP":
        end = quarter(issued + timedelta(minutes=rng.randrange(5, 20)))
    open_ended = event in ("FL.W", "FA.Y") and action in ("NEW", "CON", "EXT") and rng.random() < 0.5
    utc, utc_end = issued - timedelta(hours=ZONES[zone]), end - timedelta(hours=ZONES[zone])
    start = utc if action == "NEW" else None
    lines = [
        f"{rng.randint(1, 999):03d}",
        f"WWUS{rng.randint(41, 86)} {office} {utc:%d%H%M}",
        f"{event[:2]}{event[-1]}{office[1:]}",
        f"{seat[-2:]}C{rng.randrange(1, 199, 2):03d}-{utc_end:%d%H%M}-",
        f"/O.{action}.{office}.{event}.{rng.randint(1, 300):04d}.{stamp(start)}-{stamp(None if open_ended else utc_end)}/",
        "",
        f"{clock(issued)} {zone} {issued:%a %b} {issued.day} {issued:%Y}",
        "",
        *prose(rng, event, action, seat, issued, end, zone, open_ended),
        "&&",
        "",
        "LAT...LON 3352 9916 3377 9920 3395 9886 3382 9871",
    ]
    text = "\n".join([*lines, *tags(rng, event, lines), "", "$$", ""])
    return (text.upper() if issued.year < 2019 else text).replace("\n", "\r\r\n")


def prose(
    rng: random.Random, event: str, action: str, seat: str, issued: datetime, end: datetime, zone: str, open_ended: bool
) -> list[str]:
    """Paragraphs, parted by empty lines; the end is told in the headline, in a bullet, or in both."""
    phenomenon, significance = event.split(".")
    name = f"{PHENOMENA[phenomenon]} {SIGNIFICANCE[significance]}"
    place = rng.choice(PLACES)
    when = "until further notice" if open_ended else f"until {clock(end)} {zone} {day(issued, end)}"
    headline = {
        "NEW": f"...{name} in effect {when}...",
        "CON": f"...{name} remains in effect {when} for {place}...",
        "EXT": f"...{name} now in effect {when}...",
        "CAN": f"...The {name} for {place} is cancelled...",
        "EXP": f"...The {name} for {place} will expire at {clock(end)} {zone}...",
    }[action]
    if action == "CAN":
        reasons = ("The weather that led to it has moved out.", "Conditions have eased and no longer call for it.")
        return [headline, "", rng.choice(reasons), ""]
    if action == "EXP":
        return [headline, "", rng.choice(("What remains is weak.", "No further trouble is expected after that.")), ""]
    if action == "NEW":
        told = f"The National Weather Service in {seat[:-3]} has issued a {name} for {place}"
        opening = [f"{told}.", "", f"* {when[0].upper()}{when[1:]}."] if event in QUICK else [headline, "", f"{told}."]
    else:
        opening = [headline]
    return [*opening, "", f"* {detail(rng, event, place, issued, zone)}", ""]


def detail(rng: random.Random, event: str, place: str, issued: datetime, zone: str) -> str:
    """The sentence that says what to expect."""
    at = f"At {clock(issued)} {zone}"
    if event == "FF.W":
        return f"{at}, gauges showed {rng.randint(1, 4)} to {rng.randint(5, 8)} inches of rain over {place}."
    if event in QUICK:
        word = rng.choice([word for word in HAIL_WORDS if word != "pea"])
        what = "a rotating storm" if event == "TO.W" else "a severe thunderstorm"
        heading = rng.choice(("north", "east", "northeast"))
        moving = f"{at}, {what} was over {place}, moving {heading} at {rng.randint(15, 50)} mph."
        wind = f" and {rng.choice((60, 70, 80))} mph wind gusts" if event == "SV.W" and rng.random() < 0.7 else ""
        return f"{moving} Hazard: {word} size hail{wind}." if rng.random() < 0.7 else moving
    low = rng.randint(1, 4)
    return rng.choice(DETAILS[event]).format(
        a=low, b=low + rng.randint(2, 5), k=rng.randrange(20, 40, 5), g=rng.randrange(45, 80, 5),
        c=rng.randrange(15, 35, 5), h=rng.randint(98, 110), s=rng.randint(12, 24), f=rng.randint(9, 12),
    )  # fmt: skip


def tags(rng: random.Random, event: str, lines: list[str]) -> list[str]:
    """HAIL and WIND lines of a storm's warning, of what its prose says."""
    words = " ".join(lines)
    hail = [f"HAIL...{size:.2f}IN" for word, size in HAIL_WORDS.items() if f"Hazard: {word} size" in words]
    wind = [f"WIND...{speed}MPH" for speed in (60, 70, 80) if f"{speed} mph wind gusts" in words and event == "SV.W"]
    return [*hail, *wind]


def quarter(moment: datetime) -> datetime:
    """The next quarter of an hour."""
    return moment.replace(second=0) + timedelta(minutes=15 - moment.minute % 15)


def stamp(moment: datetime | None) -> str:
    return "000000T0000Z" if moment is None else moment.strftime("%y%m%dT%H%MZ")


def clock(moment: datetime) -> str:
    """As products write it: 1215 AM, 9 PM, noon, midnight."""
    if (moment.hour, moment.minute) in ((0, 0), (12, 0)):
        return "midnight" if moment.hour == 0 else "noon"
    hour = moment.hour % 12 or 12
    return f"{hour}{moment.minute:02d} {moment:%p}" if moment.minute else f"{hour} {moment:%p}"


def day(issued: datetime, end: datetime) -> str:
    if issued.date() != end.date():
        return end.strftime("%A")
    return "this " + ("morning" if end.hour < 12 else "afternoon" if end.hour < 18 else "evening")
