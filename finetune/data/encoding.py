"""Bytes to lines of text: declared or detected encoding, any kind of line end, flat memory."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from pathlib import Path

from finetune.data.compressed import open_bytes
from finetune.data.findings import DataFile, Findings
from finetune.errors import did_you_mean

BLOCK = 1 << 20  # bytes read at once
SAMPLE = 1 << 22  # bytes looked at to tell GB18030 from latin-1
COMMON = ("utf-8", "utf-16", "gb18030", "big5", "latin-1", "cp1252", "shift_jis", "euc-kr")
DECLARE = "say it, for example `encoding: gb18030`, `cp1252` or `utf-16`"
MARKS = (
    (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip

# GB18030 as its standard lays it out: four bytes, two bytes, or a byte that belongs to neither.
_GB = re.compile(
    rb"(?P<level1>[\xa1-\xd7][\xa1-\xfe])|[\x81-\xfe][\x30-\x39][\x81-\xfe][\x30-\x39]"
    rb"|[\x81-\xfe][\x40-\x7e\x80-\xfe]|(?P<wrong>[\x80-\xff])"
)
_UTF8 = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")
_HIGH = re.compile(rb"[\x80-\xff]+")
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")  # bytes that no text has; escape is in coloured logs


def encoding_of(file: DataFile, declared: str, findings: Findings) -> str | None:
    """The encoding to read the file with; what was detected beyond UTF-8 becomes a note. None: a problem was noted.

    A byte order mark decides, then whether every byte is UTF-8, then whether the other bytes look like Chinese in
    GB18030, then like latin-1 (accented letters standing alone). Anything else must be declared.
    """
    with open_bytes(file.path) as stream:
        head = stream.read(4096)
    marked = next((name for mark, name in MARKS if head.startswith(mark)), None)
    if declared != "auto":
        return _declared(file, declared, marked, findings)
    if marked:
        if marked != "utf-8":
            findings.note(f"{file.label}: read as {marked.upper()} (byte order mark)")
        return marked
    if len(head) >= 8 and (wide := _wide(head)):
        findings.problem(f"{file.label}: looks like UTF-16 without a byte order mark; say `encoding: {wide}`")
        return None
    sample, highest = _not_utf8(file.path)
    if sample is None:
        return "utf-8"
    found = _guess(sample)
    # Chinese in GB18030 may pass for two-byte characters of UTF-8, not for those of three; nothing in latin-1 may.
    mixed = highest > ("\x7f" if found == "latin-1" else "\u07ff")
    if found is None or mixed:
        findings.problem(_no_encoding(file, head, mixed))
        return None
    findings.note(f"{file.label}: not UTF-8, read as {found}; `encoding:` says otherwise")
    return found


def lines(file: DataFile, encoding: str, findings: Findings) -> Iterator[tuple[int, str | None]]:
    """Line number and text with its line end; None in place of a line whose bytes can't be decoded (a problem).

    LF, CR LF, CR CR LF (bulletins of weather services) and a lone CR each end a line.
    """
    by_line = _lines_survive(encoding)
    codec = encoding if by_line else "utf-8"
    try:
        for number, raw in enumerate(_split(_blocks(file.path, encoding, by_line)), start=1):
            try:
                yield number, raw.decode(codec)
            except UnicodeDecodeError as error:
                at = f"{file.label}:{number}:{len(raw[: error.start].decode(codec)) + 1}"
                findings.problem(f"{at}: not {encoding.upper()} (byte 0x{raw[error.start]:02x})")
                yield number, None
    except UnicodeDecodeError as error:
        findings.problem(f"{file.label}: not {encoding.upper()}: {error.reason}")


def whole_text(file: DataFile, encoding: str, findings: Findings) -> str | None:
    """The text of the file as it is, line ends kept, the byte order mark taken off. None: a problem was noted."""
    before = findings.count
    text = "".join(line or "" for _, line in lines(file, encoding, findings))
    return text if findings.count == before else None


def _no_encoding(file: DataFile, head: bytes, mixed: bool) -> str:
    """Why the encoding of a file can't be told."""
    if len(_CONTROL.findall(head)) > len(head) / 100:
        return f"{file.label}: holds binary data, not text; `kind:` says how else to read it"
    line, column, byte = _first_wrong(file.path)
    lead = f"{file.label}:{line}:{column}: not UTF-8 (byte 0x{byte:02x})"
    if mixed:
        return f"{lead}, but the text before it is: damage, or two encodings in one file; or say `encoding:`"
    return f"{lead}, and no other encoding fits; {DECLARE}"


def _declared(file: DataFile, declared: str, marked: str | None, findings: Findings) -> str | None:
    try:
        " \r\n".encode(declared)
        name = codecs.lookup(declared).name
    except (LookupError, UnicodeError):
        findings.problem(f"{file.label}: encoding: {declared!r} is not known{did_you_mean(declared, COMMON)}")
        return None
    name = "utf-8" if name == "utf-8-sig" else name
    if marked and not name.startswith(marked):
        findings.problem(f"{file.label}: declared as {declared}, but begins with the byte order mark of {marked}")
        return None
    return name


def _wide(head: bytes) -> str | None:
    """UTF-16 without a mark shows as a zero in most odd (little-endian) or even (big-endian) bytes."""
    odd, even = head[1::2], head[::2]
    if odd.count(0) > 0.4 * len(odd) and even.count(0) < 0.1 * len(even):
        return "utf-16-le"
    return "utf-16-be" if even.count(0) > 0.4 * len(even) and odd.count(0) < 0.1 * len(odd) else None


def _not_utf8(path: Path) -> tuple[bytes | None, str]:
    """A sample from the first line that is not UTF-8 on, and the highest character in the lines before it.

    Over megabytes of UTF-8 the highest is counted as the last of Unicode.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    read, highest = 0, ""
    with open_bytes(path) as stream:
        while True:
            block = stream.read(BLOCK)
            pending = len(decoder.getstate()[0])
            try:
                if not decoder.decode(block, final=not block).isascii():
                    highest = chr(0x10FFFF)
            except UnicodeDecodeError as error:
                wrong = read - pending + error.start
                before = error.object[: error.object.rfind(b"\n", 0, error.start) + 1].decode("utf-8")
                highest = max(highest, max(before, default=""))
                break
            if not block:
                return None, highest
            read += len(block)
    start = max(0, wrong - (1 << 16))
    with open_bytes(path) as stream:
        left = start
        while left:
            left -= len(stream.read(min(left, BLOCK)))  # a Zstandard stream can't seek
        sample = stream.read(SAMPLE)
    return sample[sample.rfind(b"\n", 0, wrong - start) + 1 :], highest


def _guess(sample: bytes) -> str | None:
    """gb18030, latin-1 or neither, from the shares of the bytes above 0x7f that each explains."""
    high = sum(len(run) for run in _HIGH.findall(sample))
    if sum(len(run) for run in _UTF8.findall(sample)) >= 0.8 * high:
        return None  # UTF-8 with damage
    pairs = list(_GB.finditer(sample))
    if pairs[-1].end() == len(sample) == SAMPLE:
        pairs.pop()  # cut by the end of the sample
    if not any(pair["wrong"] for pair in pairs):
        # Everyday characters and punctuation are rows 0xA1 to 0xD7; accented letters of latin-1 lie above.
        usual = sum(pair["level1"] is not None for pair in pairs)
        if usual >= 0.8 * len(pairs):
            return "gb18030"
    runs = [len(run) for run in _HIGH.findall(sample)]
    controls = any(0x80 <= byte <= 0x9F for run in _HIGH.findall(sample) for byte in run)
    return "latin-1" if not controls and runs.count(1) >= 0.8 * len(runs) else None


def _first_wrong(path: Path) -> tuple[int, int, int]:
    """Line, column and value of the first byte that is not UTF-8."""
    for number, raw in enumerate(_split(_blocks(path, "utf-8", by_line=True)), start=1):
        try:
            raw.decode("utf-8")
        except UnicodeDecodeError as error:
            return number, len(raw[: error.start].decode("utf-8")) + 1, raw[error.start]
    raise AssertionError("called for a file with a wrong byte")


def _lines_survive(encoding: str) -> bool:
    """Whether CR and LF are single bytes that occur in nothing else, so that lines can be cut before decoding."""
    return "\r\n".encode(encoding) == b"\r\n" and encoding != "utf-7"


def _blocks(path: Path, encoding: str, by_line: bool) -> Iterator[bytes]:
    """The file in blocks without a byte order mark; turned into UTF-8 where lines can't be cut in its own bytes."""
    decoder = None if by_line else codecs.getincrementaldecoder(encoding)()
    with open_bytes(path) as stream:
        first = True
        while block := stream.read(BLOCK):
            if decoder:
                block = decoder.decode(block).encode("utf-8")
            yield block.removeprefix(codecs.BOM_UTF8) if first and encoding.startswith("utf") else block
            first = False
        if decoder:
            yield decoder.decode(b"", final=True).encode("utf-8")


def _split(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Lines with their ends. bytes.splitlines cuts at LF, CR LF and CR; CR CR LF is put together again."""
    rest: list[bytes] = []
    held = b""  # a line that ends in CR, until it is known what follows
    for block in blocks:
        rest.append(block)
        if b"\n" not in block and b"\r" not in block:
            continue
        pieces = b"".join(rest).splitlines(keepends=True)
        rest = [pieces.pop()] if pieces else []
        for piece in pieces:
            if held:
                yield held + piece if piece == b"\r\n" else held
                held = b""
                if piece == b"\r\n":
                    continue
            if piece.endswith(b"\r"):
                held = piece
            else:
                yield piece
    last = b"".join(rest)
    if held:
        yield held + last if last == b"\r\n" else held
        last = b"" if last == b"\r\n" else last
    if last:
        yield last
