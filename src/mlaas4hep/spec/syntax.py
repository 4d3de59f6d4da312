"""The text of an expression, read into a tree of nodes: a white list within Python's own grammar.

Only `ast.parse` sees the text (after `spelling` has put ROOT's words into ours); nothing is ever evaluated by Python.
Configs come over the network, so length, depth and number of parts are bounded. Invariant: whatever is refused is
refused with a reason at its character.
"""

from __future__ import annotations

import ast
import math
import re

from mlaas4hep.errors import nearest
from mlaas4hep.spec import operations as op
from mlaas4hep.spec.construct import (
    OWN_FUNCTIONS,
    binary,
    check_arity,
    function,
    get_or,
    infix,
    literal,
    whole_index,
    wrapped,
)
from mlaas4hep.spec.functions import ALIASES, FUNCTIONS
from mlaas4hep.spec.members import Need
from mlaas4hep.spec.nodes import Apply, Chain, Literal, Name, Node
from mlaas4hep.spec.picks import At, By, Ordered, Pick, Selector, Span
from mlaas4hep.spec.reductions import REDUCTIONS
from mlaas4hep.spec.spelling import ALTERNATIVE, PI, PlaceError, Spelled, respell, spell_name
from mlaas4hep.spec.vectors import (
    MEASUREMENTS,
    VIEWS,
    Added,
    Either,
    FromColumns,
    FromValues,
    Measure,
    Picked,
    Total,
    VectorNode,
    Viewed,
)

MAX_LENGTH = 4000
MAX_DEPTH = 100
MAX_NODES = 1000

_BINARY: dict[type[ast.operator], op.Elementwise] = {
    ast.Add: op.ADD,
    ast.Sub: op.SUBTRACT,
    ast.Mult: op.MULTIPLY,
    ast.Div: op.DIVIDE,
    ast.FloorDiv: op.FLOOR_DIVIDE,
    ast.Mod: op.MODULO,
    ast.Pow: op.POWER,
    ast.BitAnd: op.AND,
    ast.BitOr: op.OR,
}
_UNARY: dict[type[ast.unaryop], op.Elementwise] = {
    ast.USub: op.NEGATE,
    ast.UAdd: op.PLUS,
    ast.Not: op.NOT,
    ast.Invert: op.NOT,
}
_COMPARE: dict[type[ast.cmpop], op.Elementwise] = {
    ast.Lt: op.LESS,
    ast.LtE: op.LESS_EQUAL,
    ast.Gt: op.GREATER,
    ast.GtE: op.GREATER_EQUAL,
    ast.Eq: op.EQUAL,
    ast.NotEq: op.NOT_EQUAL,
}

_REFUSED: dict[type[ast.AST], str] = {
    ast.IfExp: "a choice 'a if b else c' is written where(b, a, c)",
    ast.Lambda: "functions cannot be defined in an expression",
    ast.NamedExpr: "':=' is not part of expressions",
    ast.Tuple: "a comma stands only between the arguments of a function",
    ast.List: "a list written out is not part of expressions",
    ast.Slice: "a slice stands in brackets behind a list, as in 'Jet_pt[1:3]'",
    ast.ListComp: "loops are not part of expressions: functions and operators work on whole lists",
    ast.GeneratorExp: "loops are not part of expressions: functions and operators work on whole lists",
    ast.Starred: "'*' needs a value on both sides",
}
_NO_VECTOR = (
    "this is no four-vector: those are collections such as Jet, what is picked of them, as in Jet[0], Jet[Jet_pt > 30] "
    "or sort(Jet, -Jet_pt), and their sums, as in Jet[0] + Jet[1] or sum(Jet)"
)
_KNOWN = tuple(dict.fromkeys([*FUNCTIONS, *REDUCTIONS, *OWN_FUNCTIONS, *MEASUREMENTS, *VIEWS]))


def tidy(text: str) -> str:
    """The text on one line without white space at its ends; places in messages count in it."""
    return re.sub(r"\s", " ", text.strip())


def read(text: str) -> Node:
    """Read a tidied text into a tree.

    Raises
    ------
    PlaceError
        The text is empty, too long, deep or large, is not an expression, or holds what is not accepted.
    """
    if not text:
        raise PlaceError("the expression is empty", 0)
    if len(text) > MAX_LENGTH:
        raise PlaceError(f"the expression has {len(text)} characters, the most is {MAX_LENGTH}", MAX_LENGTH)
    spelled = respell(text)
    return _Reader(spelled).node(_parse(spelled).body, 0)


def _parse(spelled: Spelled) -> ast.Expression:
    try:
        return ast.parse(spelled.source, mode="eval")
    except SyntaxError as problem:
        if not problem.offset:  # so Python says that it ran out of text
            end = spelled.place(len(spelled.source))
            raise PlaceError("this cannot be read: it ends where a value is expected", end) from None
        raise PlaceError(f"this cannot be read: {problem.msg}", spelled.place(problem.offset - 1)) from None
    except (RecursionError, MemoryError):
        raise PlaceError(_too_deep(), 0) from None


def _too_deep() -> str:
    return f"the expression is nested more than {MAX_DEPTH} levels deep: name a part of it in new_variables"


class _Reader:
    """Turns Python's tree into ours, counting its parts."""

    def __init__(self, spelled: Spelled) -> None:
        self._spelled = spelled
        self._bytes = spelled.source.encode()
        self._count = 0

    def node(self, tree: ast.expr, depth: int) -> Node:
        at = self._enter(tree, depth)
        match tree:
            case ast.Name() | ast.Attribute():
                column = self._column(tree)
                return Name(at, spell_name(column), column)
            case ast.Constant():
                return literal(tree.value, at)
            case ast.UnaryOp():
                return self._unary(tree, depth)
            case ast.BinOp():
                return self._binary(tree, depth)
            case ast.BoolOp():
                operation = op.AND if isinstance(tree.op, ast.And) else op.OR
                return infix(operation, at, [self.node(value, depth + 1) for value in tree.values])
            case ast.Compare():
                return self._compare(tree, depth)
            case ast.Call():
                return self._call(tree, depth)
            case ast.Subscript():
                inner = self.node(tree.value, depth + 1)
                selector = self._selector(tree.slice, depth)
                return Pick(at, f"{wrapped(inner)}{selector.text}", inner, selector)
        reason = _REFUSED.get(type(tree), f"{type(tree).__name__} is not part of expressions")
        raise PlaceError(reason, at)

    def _enter(self, tree: ast.expr, depth: int) -> int:
        """Place of a part, counted; deep and large trees are refused."""
        at = self._at(tree)
        self._count += 1
        if depth > MAX_DEPTH:
            raise PlaceError(_too_deep(), at)
        if self._count > MAX_NODES:
            raise PlaceError(f"the expression has more than {MAX_NODES} parts", at)
        return at

    def _at(self, tree: ast.expr) -> int:
        """Place in characters as written; `ast` counts bytes of UTF-8 in the respelled text."""
        return self._spelled.place(len(self._bytes[: tree.col_offset].decode()))

    def _column(self, tree: ast.expr) -> str:
        """Name of a column: plain, in back-ticks, or with dots."""
        if isinstance(tree, ast.Name):
            return self._spelled.quoted.get(tree.id, tree.id)
        if isinstance(tree, ast.Attribute):
            return f"{self._column(tree.value)}.{tree.attr}"
        raise PlaceError("a dot stands only inside a name, as in 'Jet.PT'", self._at(tree))

    def _unary(self, tree: ast.UnaryOp, depth: int) -> Node:
        at, operation = self._at(tree), _UNARY[type(tree.op)]
        inner = self.node(tree.operand, depth + 1)
        if operation is op.NEGATE and isinstance(inner, Literal) and not isinstance(inner.constant, bool):
            return literal(-inner.constant, at)
        space = " " if operation is op.NOT else ""
        return Apply(at, f"{operation.name}{space}{wrapped(inner)}", operation, (inner,))

    def _binary(self, tree: ast.BinOp, depth: int) -> Node:
        operation = _BINARY.get(type(tree.op))
        if operation is None:
            raise PlaceError(f"the operator {type(tree.op).__name__} is not part of expressions", self._at(tree))
        return binary(operation, self._at(tree), self.node(tree.left, depth + 1), self.node(tree.right, depth + 1))

    def _compare(self, tree: ast.Compare, depth: int) -> Node:
        chosen = [_COMPARE.get(type(one)) for one in tree.ops]
        known = tuple(one for one in chosen if one is not None)
        if len(known) < len(chosen):
            raise PlaceError("'in' and 'is' are not part of expressions: write '=='", self._at(tree))
        nodes = tuple(self.node(one, depth + 1) for one in (tree.left, *tree.comparators))
        text = wrapped(nodes[0])
        for operation, node in zip(known, nodes[1:], strict=True):
            text += f" {operation.name} {wrapped(node)}"
        return Chain(self._at(tree), text, known, nodes)

    def _selector(self, tree: ast.expr, depth: int) -> Selector:
        if isinstance(tree, ast.Slice):
            return Span(*(self._bound(one, depth) for one in (tree.lower, tree.upper, tree.step)))
        node = self.node(tree, depth + 1)
        if not isinstance(node, Literal):
            return By(node)
        return At(whole_index(node, "an element is taken by a whole number, as in 'Jet_pt[0]' or 'Jet_pt[-1]'"))

    def _bound(self, tree: ast.expr | None, depth: int) -> int | None:
        if tree is None:
            return None
        return whole_index(self.node(tree, depth + 1), "the ends of a slice are whole numbers, as in 'Jet_pt[1:3]'")

    def _call(self, tree: ast.Call, depth: int) -> Node:
        name = self._function(tree)
        at, count = self._at(tree), len(tree.args)
        if name == PI:
            check_arity("TMath::Pi", at, tree.args, 0)
            return literal(math.pi, at)
        if name == ALTERNATIVE:
            return self._alternative(tree, depth)
        if name == "deltaphi" and count == 2:
            return self._either(tree, depth)
        if name in MEASUREMENTS and not (name in FUNCTIONS and count == FUNCTIONS[name][0]):
            return self._measure(name, tree, depth)
        return function(name, at, [self.node(one, depth + 1) for one in tree.args])

    def _function(self, tree: ast.Call) -> str:
        """Our name of the function that is called."""
        if not isinstance(tree.func, ast.Name):
            message = "functions are written plainly, as in 'abs(x)'; known: "
            raise PlaceError(message + ", ".join(_KNOWN), self._at(tree))
        written = tree.func.id
        name = self._spelled.words.get(written) or ALIASES.get(written, written)
        if name not in _KNOWN and written not in self._spelled.words:
            known = [*_KNOWN, *ALIASES]
            shown = self._spelled.quoted.get(written, written)
            raise PlaceError(f"there is no function '{shown}'{nearest(shown, known, count=1)}", self._at(tree))
        if tree.keywords:
            raise PlaceError(f"'{name}' takes no named arguments", self._at(tree.keywords[0].value))
        return name

    def _alternative(self, tree: ast.Call, depth: int) -> Node:
        """ROOT's Alt$(x[1], -1)."""
        nodes = [self.node(one, depth + 1) for one in tree.args]
        if len(nodes) != 2 or not (isinstance(nodes[0], Pick) and isinstance(nodes[0].selector, At)):
            message = "'Alt$' takes an element and what stands for it where there is none, as in Alt$(Jet_pt[1], -1)"
            raise PlaceError(message, self._at(tree))
        return get_or(self._at(tree), nodes[0].operand, nodes[0].selector.index, nodes[1])

    def _either(self, tree: ast.Call, depth: int) -> Node:
        """Two angles or two four-vectors: what the names are is known when columns are."""
        vectors: Node | None = None
        try:
            vectors = self._measure("deltaphi", tree, depth)
            numbers = function("deltaphi", self._at(tree), [self.node(one, depth + 1) for one in tree.args])
        except PlaceError:
            if vectors is not None:
                return vectors
            return function("deltaphi", self._at(tree), [self.node(one, depth + 1) for one in tree.args])
        assert isinstance(vectors, Measure)
        return Either(numbers.at, numbers.text, vectors, numbers)

    def _measure(self, name: str, tree: ast.Call, depth: int) -> Node:
        at, measurement = self._at(tree), MEASUREMENTS[name]
        if len(tree.args) != measurement.arity:
            takes = "one four-vector" if measurement.arity == 1 else "two four-vectors"
            more = f" or {FUNCTIONS[name][0]} numbers" if name in FUNCTIONS else ""
            raise PlaceError(f"'{name}' takes {takes}{more}, and {len(tree.args)} are given", at)
        operands = tuple(self._vector(one, depth + 1, measurement.need) for one in tree.args)
        return Measure(at, f"{name}({', '.join(one.text for one in operands)})", measurement, operands)

    def _vector(self, tree: ast.expr, depth: int, need: Need) -> VectorNode:
        """A part that gives four-vectors, of which so much is needed."""
        at = self._enter(tree, depth)
        match tree:
            case ast.Name() | ast.Attribute():
                name = self._column(tree)
                return FromColumns(at, spell_name(name), name, need)
            case ast.BinOp(op=ast.Add() | ast.Sub()):
                left, right = self._vector(tree.left, depth + 1, need), self._vector(tree.right, depth + 1, need)
                plus = isinstance(tree.op, ast.Add)
                text = f"{_bracketed(left)} {'+' if plus else '-'} {_bracketed(right)}"
                return Added(at, text, left, right, 1.0 if plus else -1.0)
            case ast.Subscript():
                inner = self._vector(tree.value, depth + 1, need)
                selector = self._selector(tree.slice, depth)
                return Picked(at, f"{_bracketed(inner)}{selector.text}", inner, selector)
            case ast.Call():
                return self._vector_call(tree, depth, need)
        raise PlaceError(_NO_VECTOR, at)

    def _vector_call(self, tree: ast.Call, depth: int, need: Need) -> VectorNode:
        name, at, count = self._function(tree), self._at(tree), len(tree.args)
        if name in VIEWS and count == 1:
            least, view = VIEWS[name]
            inner = self._vector(tree.args[0], depth + 1, "transverse" if need == "transverse" else least)
            return Viewed(at, f"{name}({inner.text})", inner, view)
        if name == "sum" and count == 1:
            inner = self._vector(tree.args[0], depth + 1, need)
            return Total(at, f"sum({inner.text})", inner)
        if name == "sort" and count == 2:
            inner, key = self._vector(tree.args[0], depth + 1, need), self.node(tree.args[1], depth + 1)
            return Picked(at, f"sort({inner.text}, {key.text})", inner, Ordered(key))
        if name == "p4" and count == 4:
            pt, eta, phi, mass = (self.node(one, depth + 1) for one in tree.args)
            text = f"p4({pt.text}, {eta.text}, {phi.text}, {mass.text})"
            return FromValues(at, text, (pt, eta, phi, mass))
        raise PlaceError(_NO_VECTOR, at)


def _bracketed(node: VectorNode) -> str:
    return f"({node.text})" if isinstance(node, Added) else node.text
