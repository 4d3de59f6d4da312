"""The text of an expression, read into a tree of nodes: a white list within Python's own grammar.

Only `ast.parse` sees the text; nothing is ever evaluated by Python. Configs come over the network, so length,
depth and number of parts are bounded. Invariant: whatever is refused is refused with a reason at its
character.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Sequence

from mlaas4hep.errors import nearest
from mlaas4hep.spec import operations as op
from mlaas4hep.spec.nodes import Apply, Chain, Element, Literal, Name, Node, PlaceError, Reduce

MAX_LENGTH = 4000
MAX_DEPTH = 100
MAX_NODES = 1000
MAX_POWER = 1000
MAX_INDEX = 2**31

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

# Spellings of other languages and what to write instead, looked for before Python's parser sees the text.
_SPELLINGS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"&&"), "'&&' is written 'and' here"),
    (re.compile(r"\|\|"), "'||' is written 'or' here"),
    (re.compile(r"!(?!=)"), "'!' is written 'not' here"),
    (re.compile(r"\^"), "'^' is not known: a power is written '**', and either-or of two conditions '!='"),
    (re.compile(r"\?"), "a choice 'a ? b : c' is not part of expressions"),
    (re.compile(r"['\"]"), "text in quotes is not part of expressions, which are of numbers and conditions"),
    (re.compile(r"::"), "'::' is not part of expressions: functions are written plainly, as in 'abs(x)'"),
    (re.compile(r"(?<![=<>!:])=(?!=)"), "one '=' sets a value: equality is written '=='"),
    (re.compile(r"[^\w\s.+\-*/%()<>=!&|~\[\],:]"), "this character is not part of expressions"),
    (
        # Possessive, so that the exponent of '1e5' is not given back and taken for a name.
        re.compile(r"(?<![\w.])(?:\d[\d_]*+(?:\.\d*+)?+|\.\d++)(?:[eE][+-]?+\d++)?+(?=[^\W\d])"),
        "a number runs into a name: put '*' or a space between",
    ),
)

_REFUSED: dict[type[ast.AST], str] = {
    ast.IfExp: "a choice 'a if b else c' is not part of expressions",
    ast.Lambda: "functions cannot be defined in an expression",
    ast.NamedExpr: "':=' is not part of expressions",
    ast.Tuple: "a comma stands only between the arguments of a function",
    ast.List: "a list written out is not part of expressions",
    ast.Slice: "slices are not built yet: take single elements, as in 'Jet_pt[0]'",
    ast.ListComp: "loops are not part of expressions: functions and operators work on whole lists",
    ast.GeneratorExp: "loops are not part of expressions: functions and operators work on whole lists",
    ast.Starred: "'*' needs a value on both sides",
}


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
    for pattern, advice in _SPELLINGS:
        if found := pattern.search(text):
            raise PlaceError(advice, found.start())
    return _Reader(text).node(_parse(text).body, 0)


def _parse(text: str) -> ast.Expression:
    try:
        return ast.parse(text, mode="eval")
    except SyntaxError as problem:
        at = min(max((problem.offset or 1) - 1, 0), len(text))
        raise PlaceError(f"this cannot be read: {problem.msg}", at) from None
    except (RecursionError, MemoryError):
        raise PlaceError(_too_deep(), 0) from None


def _too_deep() -> str:
    return f"the expression is nested more than {MAX_DEPTH} levels deep: name a part of it in new_variables"


class _Reader:
    """Turns Python's tree into ours, counting its parts."""

    def __init__(self, text: str) -> None:
        self._bytes = text.encode()
        self._count = 0

    def node(self, tree: ast.expr, depth: int) -> Node:
        at = self._at(tree)
        self._count += 1
        if depth > MAX_DEPTH:
            raise PlaceError(_too_deep(), at)
        if self._count > MAX_NODES:
            raise PlaceError(f"the expression has more than {MAX_NODES} parts", at)
        match tree:
            case ast.Name():
                return Name(at, tree.id)
            case ast.Constant():
                return _literal(tree.value, at)
            case ast.UnaryOp():
                return self._unary(tree, depth)
            case ast.BinOp():
                return self._binary(tree, depth)
            case ast.BoolOp():
                operation = op.AND if isinstance(tree.op, ast.And) else op.OR
                return _infix(operation, at, [self.node(value, depth + 1) for value in tree.values])
            case ast.Compare():
                return self._compare(tree, depth)
            case ast.Call():
                return self._call(tree, depth)
            case ast.Subscript():
                return self._element(tree, depth)
            case ast.Attribute():
                raise PlaceError(
                    f"names with dots ('{ast.unparse(tree)[:60]}') cannot be read in an expression yet", at
                )
        reason = _REFUSED.get(type(tree), f"{type(tree).__name__} is not part of expressions")
        raise PlaceError(reason, at)

    def _at(self, tree: ast.expr) -> int:
        """Place in characters; `ast` counts bytes of UTF-8."""
        return len(self._bytes[: tree.col_offset].decode())

    def _unary(self, tree: ast.UnaryOp, depth: int) -> Node:
        at, operation = self._at(tree), _UNARY[type(tree.op)]
        inner = self.node(tree.operand, depth + 1)
        if operation is op.NEGATE and isinstance(inner, Literal) and not isinstance(inner.constant, bool):
            return _literal(-inner.constant, at)
        space = " " if operation is op.NOT else ""
        return Apply(at, f"{operation.name}{space}{_wrapped(inner)}", operation, (inner,))

    def _binary(self, tree: ast.BinOp, depth: int) -> Node:
        operation = _BINARY.get(type(tree.op))
        if operation is None:
            raise PlaceError(f"the operator {type(tree.op).__name__} is not part of expressions", self._at(tree))
        left, right = self.node(tree.left, depth + 1), self.node(tree.right, depth + 1)
        if operation is op.POWER and isinstance(right, Literal) and abs(right.constant) > MAX_POWER:
            raise PlaceError(f"the power {right.text} is too large, the most is {MAX_POWER}", right.at)
        return _infix(operation, self._at(tree), [left, right])

    def _compare(self, tree: ast.Compare, depth: int) -> Node:
        chosen = [_COMPARE.get(type(one)) for one in tree.ops]
        known = tuple(one for one in chosen if one is not None)
        if len(known) < len(chosen):
            raise PlaceError("'in' and 'is' are not part of expressions: write '=='", self._at(tree))
        nodes = tuple(self.node(one, depth + 1) for one in (tree.left, *tree.comparators))
        text = _wrapped(nodes[0])
        for operation, node in zip(known, nodes[1:], strict=True):
            text += f" {operation.name} {_wrapped(node)}"
        return Chain(self._at(tree), text, known, nodes)

    def _call(self, tree: ast.Call, depth: int) -> Node:
        at = self._at(tree)
        if not isinstance(tree.func, ast.Name):
            raise PlaceError("functions are written plainly, as in 'abs(x)'; known: " + _function_list(), at)
        name = tree.func.id
        if name not in op.FUNCTIONS and name not in op.REDUCTIONS:
            known = [*op.FUNCTIONS, *op.REDUCTIONS]
            raise PlaceError(f"there is no function '{name}'{nearest(name, known, count=1)}", at)
        if tree.keywords:
            raise PlaceError(f"'{name}' takes no named arguments", self._at(tree.keywords[0].value))
        arguments = [self.node(one, depth + 1) for one in tree.args]
        return _function(name, at, arguments)

    def _element(self, tree: ast.Subscript, depth: int) -> Node:
        if isinstance(tree.slice, ast.Slice):
            raise PlaceError(_REFUSED[ast.Slice], self._at(tree.slice))
        inner, index = self.node(tree.value, depth + 1), self.node(tree.slice, depth + 1)
        if not isinstance(index, Literal) or type(index.constant) is not int:
            raise PlaceError(
                "an element is taken by a whole number, as in 'Jet_pt[0]' or 'Jet_pt[-1]'; no masks yet",
                index.at,
            )
        if abs(index.constant) > MAX_INDEX:
            raise PlaceError(f"no list is as long as {index.text}", index.at)
        return Element(self._at(tree), f"{_wrapped(inner)}[{index.text}]", inner, index.constant)


def _literal(value: object, at: int) -> Literal:
    if not isinstance(value, bool | int | float):
        raise PlaceError(f"{value!r} is neither a number nor True or False", at)
    if isinstance(value, float) and not math.isfinite(value):
        raise PlaceError("the number is too large for 64 bits", at)
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        raise PlaceError("the whole number is too large for 64 bits: write it with a decimal point", at)
    return Literal(at, repr(value), value)


def _infix(operation: op.Elementwise, at: int, nodes: Sequence[Node]) -> Node:
    return Apply(at, f" {operation.name} ".join(_wrapped(node) for node in nodes), operation, tuple(nodes))


def _function(name: str, at: int, nodes: Sequence[Node]) -> Node:
    text = f"{name}({', '.join(node.text for node in nodes)})"
    if len(nodes) == 2 and name in op.PAIRWISE:
        return Apply(at, text, op.PAIRWISE[name], tuple(nodes))
    if len(nodes) != 1:
        takes = "one list, or two values" if name in op.PAIRWISE else "one argument"
        raise PlaceError(f"'{name}' takes {takes}, and {len(nodes)} are given", at)
    if name in op.FUNCTIONS:
        return Apply(at, text, op.FUNCTIONS[name], tuple(nodes))
    return Reduce(at, text, op.REDUCTIONS[name], nodes[0])


def _wrapped(node: Node) -> str:
    """Its text, in parentheses unless it is one word: the canonical form needs no rules of precedence."""
    if isinstance(node, Apply):
        one_word = node.operation.name in op.FUNCTIONS or node.operation.name in op.PAIRWISE
    elif isinstance(node, Literal):
        one_word = not node.text.startswith("-")
    else:
        one_word = not isinstance(node, Chain)
    return node.text if one_word else f"({node.text})"


def _function_list() -> str:
    return ", ".join([*op.FUNCTIONS, *op.REDUCTIONS])
