"""What mkdocs is told about documents that are written to be read in the repository too: their language line, links that
leave docs/, nested lists."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

LANGUAGE_LINE = re.compile(r"\[(?:中文|English)\]\([\w./-]+\.md\)\n+")  # the page's switch does it
CODE = re.compile(r"(^```.*?^```|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s:#]+)(#[^)\s]*)?\)")
NESTED = re.compile(r"^ {2,3}(?=(?:[-*]|\d+\.) )", re.MULTILINE)


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """The text as Python-Markdown and the site need it.

    A link to a file outside docs/ leads to `extra.repository` where mkdocs.yml names one, else only its text stays. A link
    to a page in the other language's spelling (x.zh-CN.md) is one to x.md, which the site has in both; one whose text is
    the file's name has the page's title.
    """
    folder = posixpath.dirname(page.file.src_uri)
    repository = config.extra.get("repository", "")

    def link(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        place = posixpath.normpath(posixpath.join("docs", folder, target))
        if not place.startswith("docs/"):
            return f"[{text}]({repository.rstrip('/')}/{place}{anchor})" if repository else text
        if posixpath.basename(text) == posixpath.basename(target):
            text = _title(Path(config.docs_dir, folder, target)) or text
        return f"[{text}]({target.replace('.zh-CN.md', '.md')}{anchor})"

    text = LANGUAGE_LINE.sub("", markdown, count=1)
    parts = CODE.split(text)  # code and what is not, in turn
    for at in range(0, len(parts), 2):
        parts[at] = NESTED.sub("    ", parts[at])
    # A link's text may be code (`x.yaml`), so links are looked for in everything but blocks.
    blocks = re.split(r"(^```.*?^```)", "".join(parts), flags=re.MULTILINE | re.DOTALL)
    return "".join(block if block.startswith("```") else LINK.sub(link, block) for block in blocks)


def _title(page: Path) -> str | None:
    """The heading that a page begins with."""
    first = page.read_text(encoding="utf-8").split("\n", 1)[0] if page.is_file() else ""
    return first.removeprefix("# ") if first.startswith("# ") else None
