"""Whether a chat template only passes the text of messages through: read off its syntax tree.

Such a template writes `content` (or `content | trim`) out, joined to other text, and asks nothing about it: no `in`, no
comparison, no slice, no call. Then two conversations with the same roles, whose contents are not empty and have no
outer white space, are rendered alike but for the contents themselves. What is not known to be so counts as not so.
"""

from __future__ import annotations

from enum import IntEnum

import jinja2
from jinja2 import nodes

_LOOP = {"first", "last", "index", "index0", "revindex", "revindex0", "length"}
_ABOUT_TYPE = {"defined", "undefined", "none", "string", "mapping", "sequence", "iterable"}


class _Kind(IntEnum):
    """What an expression holds: nothing of a message's text, such text, a message, or a list of messages."""

    PLAIN, TEXT, MESSAGE, LIST = range(4)


class _UnsureError(Exception):
    """The text is looked at, or goes where it can't be followed."""


def passes_text_through(source: str) -> bool:
    """Whether the template's output is fixed but for the contents of the messages, which stand in it as they are.

    Holds for messages of `role` and `content` alone, contents being text that is not empty and not white space at
    either end.
    """
    try:
        tree = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"]).parse(source)
        reader = _Reader()
        while reader.changed:  # a name may be read above the line that makes it a text
            reader.changed = False
            reader.statements(tree.body)
    except (_UnsureError, jinja2.TemplateSyntaxError):
        return False
    return True


class _Reader:
    """Follows texts and messages through the names of one template, without regard to order or scope."""

    def __init__(self) -> None:
        self.names = {"messages": _Kind.LIST}
        self.changed = True

    def statements(self, body: list[nodes.Node]) -> None:
        for node in body:
            if isinstance(node, nodes.Output):
                for part in node.nodes:
                    if not isinstance(part, nodes.TemplateData):
                        self._text(part)
            elif isinstance(node, nodes.If):
                self._kind(node.test)
                self.statements([*node.body, *node.elif_, *node.else_])
            elif isinstance(node, nodes.For) and not node.recursive:
                kind = self._kind(node.iter)
                if kind in (_Kind.TEXT, _Kind.MESSAGE):
                    raise _UnsureError
                self._bind(node.target, _Kind.MESSAGE if kind is _Kind.LIST else kind)
                if node.test is not None:
                    self._kind(node.test)
                self.statements([*node.body, *node.else_])
            elif isinstance(node, nodes.Assign):
                self._bind(node.target, self._kind(node.node))
            elif isinstance(node, nodes.ExprStmt):
                self._plain(node.node)
            elif not isinstance(node, nodes.Break | nodes.Continue):
                raise _UnsureError

    def _bind(self, target: nodes.Node, kind: _Kind) -> None:
        if not isinstance(target, nodes.Name):  # an attribute of a namespace, or several names
            if kind is not _Kind.PLAIN or any(name.name in self.names for name in target.find_all(nodes.Name)):
                raise _UnsureError
            return
        known = self.names.get(target.name, kind)
        if target.name == "loop" or (known is not kind and _Kind.PLAIN not in (known, kind)):
            raise _UnsureError
        self.changed |= self.names.get(target.name) is not max(known, kind)
        self.names[target.name] = max(known, kind)

    def _plain(self, *expressions: nodes.Node | None) -> _Kind:
        if any(each is not None and self._kind(each) is not _Kind.PLAIN for each in expressions):
            raise _UnsureError
        return _Kind.PLAIN

    def _text(self, *expressions: nodes.Node) -> _Kind:
        """Plain or text, whatever each of the expressions is; neither a message nor a list of them."""
        kind = max((self._kind(each) for each in expressions), default=_Kind.PLAIN)
        if kind > _Kind.TEXT:
            raise _UnsureError
        return kind

    def _kind(self, node: nodes.Node) -> _Kind:
        match node:
            case nodes.Name():
                if node.name == "loop":
                    raise _UnsureError
                return self.names.get(node.name, _Kind.PLAIN)
            case nodes.Getattr(node=nodes.Name(name="loop"), attr=attribute) if attribute in _LOOP:
                return _Kind.PLAIN
            case nodes.Getattr():
                return self._item(self._kind(node.node), nodes.Const(node.attr))
            case nodes.Getitem():
                return self._item(self._kind(node.node), node.arg)
            case nodes.Add() | nodes.Concat():
                return self._text(*node.iter_child_nodes())
            case nodes.And() | nodes.Or() | nodes.CondExpr():
                return self._text(*node.iter_child_nodes())
            case nodes.Not():
                self._kind(node.node)  # that a text is not empty is given
                return _Kind.PLAIN
            case nodes.Filter(
                name="trim" | "string", node=nodes.Node() as inner, args=[], kwargs=[], dyn_args=None, dyn_kwargs=None
            ):
                return self._text(inner)
            case nodes.Filter(name="length" | "count", node=nodes.Node() as inner) if self._kind(inner) is _Kind.LIST:
                return _Kind.PLAIN
            case nodes.Test() if node.name in _ABOUT_TYPE:
                self._kind(node.node)
                return _Kind.PLAIN
            case nodes.Compare(expr=nodes.Const(), ops=[nodes.Operand(op="in" | "notin", expr=inner)]):
                if self._kind(inner) is _Kind.TEXT:
                    raise _UnsureError
                return _Kind.PLAIN  # a key of a message: all have the same
            case _:
                return self._plain(*node.iter_child_nodes())

    def _item(self, kind: _Kind, key: nodes.Node) -> _Kind:
        """What `value[key]` holds, by what `value` holds."""
        if kind is _Kind.LIST and isinstance(key, nodes.Slice):
            self._plain(*key.iter_child_nodes())
            return _Kind.LIST
        if kind is _Kind.LIST and not (isinstance(key, nodes.Const) and isinstance(key.value, str)):
            self._plain(key)
            return _Kind.MESSAGE
        if kind is _Kind.MESSAGE and isinstance(key, nodes.Const) and isinstance(key.value, str):
            if hasattr(dict, key.value):
                raise _UnsureError  # a method
            return _Kind.TEXT if key.value == "content" else _Kind.PLAIN
        if kind is _Kind.PLAIN:
            return self._plain(key)
        raise _UnsureError
