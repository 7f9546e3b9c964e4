"""Markdown pages of Jinja templates that lie in the package: cards, release pages, reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def render(folder: str, template: str, facts: Mapping[str, Any], filters: Mapping[str, Callable[..., str]]) -> str:
    """The page; a fact that the template names and that is not there is an error, nothing is escaped.

    Args:
        folder: of the package finetune, as `export`.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("finetune", folder), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        autoescape=False, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= filters
    return environment.get_template(template).render(facts)


def cell(text: Any) -> str:
    """Text of others in a line of Markdown: no line break, no column, no tag."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;").replace("`", "'")
