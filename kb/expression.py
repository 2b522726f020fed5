"""Count expressions: small arithmetic formulas in records, read without ``eval``.

A formula uses the variables of an architecture (``d_in``, ``d_out``, ``L``, ``d``, ``N`` …), the symbols of a method's
hyperparameters (``r``, ``m`` …), the operators ``+ - * / // % **`` and the functions ``min max ceil floor sqrt round``.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from functools import lru_cache

Number = int | float
Compiled = Callable[[Mapping[str, Number]], Number]

FUNCTIONS: dict[str, Callable[..., Number]] = {
    "min": min,
    "max": max,
    "ceil": math.ceil,
    "floor": math.floor,
    "sqrt": math.sqrt,
    "log2": math.log2,
    "round": round,
}

_BINARY: dict[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_LONGEST = 500  # characters; the longest real formula has about 300


class ExpressionError(ValueError):
    """Raised when a formula cannot be read, or asks for a variable that is not there."""


@lru_cache(maxsize=4096)
def _compiled(expression: str) -> tuple[Compiled, frozenset[str]]:
    if len(expression) > _LONGEST:
        raise ExpressionError(f"the formula has {len(expression)} characters; at most {_LONGEST} are read")
    try:
        tree = ast.parse(expression, mode="eval").body
    except SyntaxError as error:
        raise ExpressionError(f"{expression!r} is not a formula: {error.msg}") from None
    names: set[str] = set()
    return _build(tree, names, expression), frozenset(names)


def _build(node: ast.expr, names: set[str], text: str) -> Compiled:
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return lambda _: value
        case ast.Name(id=name):
            names.add(name)
            return operator.itemgetter(name)
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            negated = _build(inner, names, text)
            return lambda env: -negated(env)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            apply, a, b = _BINARY[type(op)], _build(left, names, text), _build(right, names, text)
            return lambda env: apply(a(env), b(env))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in FUNCTIONS:
            function, parts = FUNCTIONS[name], [_build(arg, names, text) for arg in args]
            return lambda env: function(*(part(env) for part in parts))
    allowed = ", ".join(FUNCTIONS)
    raise ExpressionError(
        f"{ast.unparse(node)!r} in {text!r} is not allowed; use numbers, names, + - * / // % ** and {allowed}"
    )


def variables(expression: str) -> frozenset[str]:
    """The names that a formula needs; ``ExpressionError`` when it cannot be read."""
    return _compiled(expression)[1]


def evaluate(expression: str, environment: Mapping[str, Number]) -> Number:
    """The value of a formula; ``ExpressionError`` names what is missing from ``environment``."""
    function, names = _compiled(expression)
    if not names <= environment.keys():
        missing = sorted(names - environment.keys())
        raise ExpressionError(f"{expression!r} needs {', '.join(missing)}; known are {', '.join(sorted(environment))}")
    try:
        return function(environment)
    except (ArithmeticError, ValueError, TypeError) as error:
        raise ExpressionError(f"{expression!r} has no value here: {error}") from None


def compiled(expression: str) -> tuple[Compiled, frozenset[str]]:
    """A formula as a function of an environment, for callers that evaluate it many times, and the names it needs."""
    return _compiled(expression)
