"""Arithmetic over named metrics, such as `average_performance - 2 * forgetting_max`. Parsed, never executed as code."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from clray.errors import SpecError

LONGEST = 500
OPERATORS: dict[type[ast.AST], Callable[..., float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
FUNCTIONS: dict[str, Callable[..., float]] = {"abs": abs, "min": min, "max": max}
BOUNDS: dict[type[ast.AST], int] = {ast.LtE: 1, ast.Lt: 1, ast.GtE: -1, ast.Gt: -1}
GRAMMAR = "numbers, names of metrics, + - * / ** and brackets, abs, min and max"


class NoValue(ValueError):
    """An expression that has no finite value here: a name is not defined, or it divides by zero."""


@dataclass(frozen=True)
class Expression:
    """An arithmetic expression. `names` are those of the metrics in it, `unit.metric` where the unit is said."""

    text: str
    tree: ast.expr

    @property
    def names(self) -> tuple[str, ...]:
        """The names in it, each once."""
        inner = {id(node.value) for node in ast.walk(self.tree) if isinstance(node, ast.Attribute)}
        inner |= {id(node.func) for node in ast.walk(self.tree) if isinstance(node, ast.Call)}
        found = (n for n in ast.walk(self.tree) if isinstance(n, ast.Name | ast.Attribute) and id(n) not in inner)
        return tuple(dict.fromkeys(ast.unparse(node) for node in found))

    def value(self, values: Mapping[str, float]) -> float:
        """Its value where the names have these `values`; NoValue where it has none."""
        missing = [name for name in self.names if name not in values]
        if missing:
            raise NoValue(f"'{missing[0]}' of '{self.text}' is not defined here; there are {', '.join(sorted(values))}")
        try:
            found = float(_value(self.tree, values))
        except (ArithmeticError, TypeError) as error:
            raise NoValue(f"'{self.text}' has no value: {error}") from None
        if not math.isfinite(found):
            raise NoValue(f"'{self.text}' has no finite value")
        return found


@dataclass(frozen=True)
class Constraint:
    """A comparison of two expressions."""

    text: str
    excess_of: Expression

    def excess(self, values: Mapping[str, float]) -> float:
        """By how much it is broken: 0 or less where it holds. NoValue where it has none."""
        return self.excess_of.value(values)


def expression(text: str) -> Expression:
    """The expression of the text; SpecError naming what does not belong into one."""
    tree = _parsed(text)
    _check(tree, text)
    return Expression(text, tree)


def constraint(text: str) -> Constraint:
    """The constraint of a text such as `forgetting_max <= 0.03`; SpecError where it is none."""
    tree = _parsed(text)
    if not isinstance(tree, ast.Compare) or len(tree.ops) != 1 or type(tree.ops[0]) not in BOUNDS:
        raise SpecError(f"constraint '{text}': write a comparison by <= or >=, say forgetting_max <= 0.03")
    left, right = tree.left, tree.comparators[0]
    for side in (left, right):
        _check(side, text)
    high, low = (left, right) if BOUNDS[type(tree.ops[0])] > 0 else (right, left)
    return Constraint(text, Expression(text, ast.BinOp(high, ast.Sub(), low)))


def _parsed(text: str) -> ast.expr:
    if len(text) > LONGEST:
        raise SpecError(f"an expression of {len(text)} characters is more than {LONGEST}; write a shorter one")
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise SpecError(f"'{text}' is no expression: {getattr(error, 'msg', error)}. Write {GRAMMAR}") from None


def _check(node: ast.expr, text: str) -> None:
    match node:
        case ast.Constant(value=bool()):
            pass
        case ast.Constant(value=int() | float()) | ast.Name() | ast.Attribute(value=ast.Name()):
            return
        case ast.UnaryOp(op=op, operand=inner) if type(op) in OPERATORS:
            return _check(inner, text)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            _check(left, text)
            return _check(right, text)
        case ast.Call(func=ast.Name(id=name), args=[_, *_] as args, keywords=[]) if name in FUNCTIONS:
            for inner in args:
                _check(inner, text)
            return None
    raise SpecError(f"'{ast.unparse(node)}' may not stand in '{text}'; write {GRAMMAR}")


def _value(node: ast.expr, values: Mapping[str, float]) -> float:
    match node:
        case ast.Constant(value=int() | float() as number):
            return float(number)
        case ast.UnaryOp(op=op, operand=inner):
            return OPERATORS[type(op)](_value(inner, values))
        case ast.BinOp(left=left, op=op, right=right):
            return OPERATORS[type(op)](_value(left, values), _value(right, values))
        case ast.Call(func=ast.Name(id=name), args=args):
            found = [_value(inner, values) for inner in args]
            return FUNCTIONS[name](found) if name != "abs" and len(found) > 1 else FUNCTIONS[name](*found)
    return values[ast.unparse(node)]
