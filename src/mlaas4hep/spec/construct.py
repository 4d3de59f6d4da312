"""Nodes with their canonical text: how an expression is written once white space and parentheses no longer matter.

Invariant: the text of a node, read again, gives the same node. Parentheses stand around everything that is not one
word, so that needs no rules of precedence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from mlaas4hep.spec import operations as op
from mlaas4hep.spec.functions import FUNCTIONS, PAIRWISE
from mlaas4hep.spec.nodes import Apply, Chain, Flatten, Literal, Node, Reduce
from mlaas4hep.spec.picks import Alternative, Ordered, Pick, whole_number
from mlaas4hep.spec.reductions import REDUCTIONS
from mlaas4hep.spec.spelling import PlaceError

MAX_POWER = 1000
MAX_INDEX = 2**31
OWN_FUNCTIONS = ("sort", "get", "flatten", "pow", "p4")


def whole_index(node: Node, asked: str) -> int:
    """A whole number that is written out, as an index; else what was asked for is told."""
    index = whole_number(node)
    if index is None:
        raise PlaceError(asked, node.at)
    if abs(index) > MAX_INDEX:
        raise PlaceError(f"no list is as long as {node.text}", node.at)
    return index


def literal(value: object, at: int) -> Literal:
    """A number or a truth value that fits 64 bits."""
    if not isinstance(value, bool | int | float):
        raise PlaceError(f"{value!r} is neither a number nor True or False", at)
    if isinstance(value, float) and not math.isfinite(value):
        raise PlaceError("the number is too large for 64 bits", at)
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        raise PlaceError("the whole number is too large for 64 bits: write it with a decimal point", at)
    return Literal(at, repr(value), value)


def infix(operation: op.Elementwise, at: int, nodes: Sequence[Node]) -> Node:
    """An operator between values."""
    return Apply(at, f" {operation.name} ".join(wrapped(node) for node in nodes), operation, tuple(nodes))


def binary(operation: op.Elementwise, at: int, left: Node, right: Node) -> Node:
    """An operator between two; powers are bounded."""
    if operation is op.POWER and isinstance(right, Literal) and abs(right.constant) > MAX_POWER:
        raise PlaceError(f"the power {right.text} is too large, the most is {MAX_POWER}", right.at)
    return infix(operation, at, [left, right])


def function(name: str, at: int, nodes: Sequence[Node]) -> Node:
    """A function of numbers by our name for it."""
    text = f"{name}({', '.join(node.text for node in nodes)})"
    if name in FUNCTIONS:
        arity, operation = FUNCTIONS[name]
        check_arity(name, at, nodes, arity)
        return Apply(at, text, operation, tuple(nodes))
    if len(nodes) == 2 and name in PAIRWISE:
        return Apply(at, text, PAIRWISE[name], tuple(nodes))
    if name in REDUCTIONS:
        if len(nodes) != 1:
            takes = "one list, or two values" if name in PAIRWISE else "one argument"
            raise PlaceError(f"'{name}' takes {takes}, and {len(nodes)} are given", at)
        return Reduce(at, text, REDUCTIONS[name], nodes[0])
    return _own_function(name, at, nodes, text)


def _own_function(name: str, at: int, nodes: Sequence[Node], text: str) -> Node:
    if name == "pow":
        check_arity(name, at, nodes, 2)
        return binary(op.POWER, at, nodes[0], nodes[1])
    if name == "flatten":
        check_arity(name, at, nodes, 1)
        return Flatten(at, text, nodes[0])
    if name == "sort":
        if len(nodes) not in (1, 2):
            raise PlaceError(f"'sort' takes a list, or a list and a key, and {len(nodes)} are given", at)
        return Pick(at, text, nodes[0], Ordered(nodes[-1]))
    if name == "get":
        check_arity(name, at, nodes, 3)
        index = whole_index(nodes[1], "'get' takes a whole number second, as in get(Jet_pt, 1, -1)")
        return get_or(at, nodes[0], index, nodes[2])
    raise PlaceError(f"'{name}' gives a four-vector: take a number of it, as in pt({text})", at)


def get_or(at: int, operand: Node, index: int, otherwise: Node) -> Node:
    """An element, or another value where there is none."""
    return Alternative(at, f"get({operand.text}, {index}, {otherwise.text})", operand, index, otherwise)


def check_arity(name: str, at: int, nodes: Sequence[object], arity: int) -> None:
    """Refuse another number of arguments, by name."""
    if len(nodes) != arity:
        takes = "one argument" if arity == 1 else f"{arity or 'no'} arguments"
        raise PlaceError(f"'{name}' takes {takes}, and {len(nodes)} are given", at)


def wrapped(node: Node) -> str:
    """Its text, in parentheses unless it is one word: the canonical form needs no rules of precedence."""
    if isinstance(node, Apply):
        one_word = node.operation.name in FUNCTIONS or node.operation.name in PAIRWISE
    elif isinstance(node, Literal):
        one_word = not node.text.startswith("-")
    else:
        one_word = not isinstance(node, Chain)
    return node.text if one_word else f"({node.text})"
