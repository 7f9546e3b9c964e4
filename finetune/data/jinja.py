"""Jinja as data templates may use it: plain data only, nothing that would not end or would fill the memory.

jinja2's sandbox keeps templates away from Python's internals but does not bound their cost. Here every operator,
filter, call, loop and literal passes through `finetune.data.limits`. What a template may touch is listed, not what it
may not.
"""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.parser import Parser
from jinja2.runtime import LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from finetune.data import filters
from finetune.data.limits import MAX_BITS, MAX_COUNT, LimitError, Limits, allow, limited, made, size_of, tick

_REFUSED = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends, nodes.Block)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ATTRIBUTES: dict[type, frozenset[str]] = {
    str: _words(
        "capitalize casefold center count endswith find index isalnum isalpha isdecimal isdigit islower isnumeric "
        "isspace istitle isupper ljust lower lstrip partition removeprefix removesuffix replace rfind rjust rpartition "
        "rsplit rstrip split splitlines startswith strip swapcase title upper zfill"
    ),
    dict: _words("get items keys values"),
    list: _words("count index"),
    tuple: _words("count index grouper list"),  # the last two are groupby's
    float: _words("is_integer"),
    dt.date: _words(
        "astimezone date day hour isocalendar isoformat isoweekday microsecond minute month second strftime time "
        "toordinal utcoffset weekday year"
    ),
    dt.time: _words("hour isoformat microsecond minute second strftime"),
    dt.timedelta: _words("days seconds total_seconds"),
    LoopContext: _words(
        "changed cycle depth depth0 first index index0 last length nextitem previtem revindex revindex0"
    ),
}
# Of Jinja's own filters, those for plain text and data. Left out: `random` (not stable), `attr`, what is for HTML.
BUILT_IN = _words(
    "abs batch capitalize center count d default dictsort first float groupby int items last length list lower map "
    "max min reject rejectattr reverse round select selectattr slice sort string title trim truncate unique upper "
    "wordcount"
)
_SIZED = {"batch", "center", "indent", "ljust", "rjust", "round", "slice", "tojson", "truncate", "zfill"}


class Sandbox(ImmutableSandboxedEnvironment):
    """An environment whose templates see plain data, the filters listed here, `range` and `namespace`."""

    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)

    def __init__(self) -> None:
        super().__init__(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_printable)
        offered: dict[str, Any] = {name: self.filters[name] for name in sorted(BUILT_IN)} | filters.FILTERS
        self.filters = {name: _bounded(name, function) for name, function in offered.items()}
        tests: dict[str, Any] = dict(self.tests)
        self.tests = {name: _bounded(name, function) for name, function in tests.items()}
        self.globals = {"range": filters.numbers, "namespace": Namespace}
        self.tick, self.made, self.join_text = tick, made, _join_text

    def compile(self, source: Any, *args: Any, **kwargs: Any) -> Any:
        """As jinja2's, with loops, macros, literals and `~` counted."""
        tree = self.parse(source) if isinstance(source, str) else source
        return super().compile(_Counted().visit(tree), *args, **kwargs)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, Namespace):
            return not attr.startswith("_")
        return any(isinstance(obj, kind) and attr in allowed for kind, allowed in ATTRIBUTES.items())

    def wrap_str_format(self, value: Any) -> None:
        """`str.format` is not offered at all (the filter `format` is)."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Keys of an object win over the methods of a dict: `row.items` is the column `items` where there is one."""
        if isinstance(obj, dict) and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        whole = isinstance(left, int) and isinstance(right, int)
        if operator == "**" and whole and right > 0 and left.bit_length() * right > MAX_BITS:
            raise LimitError(f"makes a whole number of more than {MAX_BITS} bits")
        if operator == "*" and not whole:
            sequence, times = (right, left) if isinstance(left, int) else (left, right)
            if isinstance(times, int):
                allow(size_of(sequence) * times)
        if operator == "%" and isinstance(left, str):
            return made(filters.percent(left, right))
        return made(super().call_binop(context, operator, left, right))

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        if __obj in (__self.tick, __self.made, __self.join_text):
            return __obj(*args)
        if isinstance(__obj, Macro) or __obj is Namespace:
            return super().call(__context, __obj, *args, **kwargs)
        name, owner = getattr(__obj, "__name__", ""), getattr(__obj, "__self__", None)
        if isinstance(owner, str) and name == "replace":
            return made(filters.replace(owner, *args))
        _check_counts(name, args, kwargs)
        if name == "strftime" and len(str(args)) > 200:
            raise LimitError("the format of strftime is too long")
        return made(super().call(__context, __obj, *args, **kwargs))


class _Counted(NodeTransformer):
    """Puts a tick into every loop and macro, and counts what literals and `~` make."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_ticks(node), lineno=node.lineno))
        if node.test is not None:
            node.test = nodes.And(_ticks(node), node.test, lineno=node.lineno)
        return node

    def visit_Macro(self, node: nodes.Macro | nodes.CallBlock) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_ticks(node), lineno=node.lineno))
        return node

    visit_CallBlock = visit_Macro  # noqa: N815

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _own("join_text", list(node.nodes), node)

    def visit_List(self, node: nodes.List | nodes.Tuple | nodes.Dict) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return node if getattr(node, "ctx", "load") != "load" else _own("made", [node], node)

    visit_Tuple = visit_Dict = visit_List  # noqa: N815


def _own(name: str, arguments: list[nodes.Expr], node: nodes.Node) -> nodes.Call:
    """A call of the environment's own function."""
    function = nodes.EnvironmentAttribute(name, lineno=node.lineno)
    return nodes.Call(function, arguments, [], None, None, lineno=node.lineno)


def _ticks(node: nodes.Node) -> nodes.Call:
    """Costs 10, and the length of the plain text in the loop."""
    text = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
    return _own("tick", [nodes.Const(10 + text, lineno=node.lineno)], node)


def _bounded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter or test that checks what it is given and counts what it gives."""
    skip = hasattr(function, "jinja_pass_arg")  # the first argument is Jinja's own

    @functools.wraps(function)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        given = args[1:] if skip else args
        tick(10 + sum(size_of(value) for value in (*given, *kwargs.values())))
        _check_counts(name, given[1:], kwargs)
        return made(function(*args, **kwargs))

    return bounded


def _check_counts(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    for value in (*args, *kwargs.values()) if name in _SIZED else ():
        if isinstance(value, int) and abs(value) > MAX_COUNT:
            raise LimitError(f"{name}: {value} is more than {MAX_COUNT:,}")


def _printable(value: Any) -> Any:
    """What `{{ }}` may write: plain data, no half-used generator."""
    if isinstance(value, Iterator):
        raise LimitError("a generator is not text; add `| list` or `| join(...)`")
    return made(value)


def _join_text(*parts: Any) -> str:
    allow(sum(size_of(part) for part in parts))
    return made("".join(str(_printable(part)) for part in parts))


ENVIRONMENT = Sandbox()


def parse(source: str, is_expression: bool = False) -> nodes.Template:
    """The syntax tree of a template, or of one expression.

    Raises:
        jinja2.TemplateSyntaxError: also for an unknown filter, and for include, import, extends and block, which a
            data template has no use for.
    """
    try:
        if is_expression:
            parser = Parser(ENVIRONMENT, source, state="variable")
            tree = nodes.Template([nodes.Output([parser.parse_expression()], lineno=1)], lineno=1)
            if not parser.stream.eos:
                raise jinja2.TemplateSyntaxError("something follows the expression", 1)
            tree.set_environment(ENVIRONMENT)
            ENVIRONMENT.compile_expression(source)
        else:
            tree = ENVIRONMENT.parse(source)
            ENVIRONMENT.from_string(source)
    except RecursionError:
        raise jinja2.TemplateSyntaxError("nested too deeply", 1) from None
    for node in tree.find_all(_REFUSED):
        raise jinja2.TemplateSyntaxError(f"{type(node).__name__.lower()} is not allowed", node.lineno)
    return tree


def render(template: jinja2.Template, values: dict[str, Any], limits: Limits) -> str:
    """The template's text, white space around it cut off.

    Raises:
        LimitError: it costs more than `limits`.
        Exception: whatever the expressions of the template raise.
    """
    with limited(limits):
        pieces = []
        length = 0
        for piece in template.generate(values):
            pieces.append(piece)
            length += len(piece)
            allow(length)
        return "".join(pieces).strip()


def evaluate(expression: Callable[..., Any], values: dict[str, Any], limits: Limits) -> Any:
    """The value of a compiled expression (`ENVIRONMENT.compile_expression`), within the same limits."""
    with limited(limits):
        return expression(values)
