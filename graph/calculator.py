"""Arithmetic without `eval`: the expression is parsed, and only the nodes named here are computed.

Every step is bounded, so that no input costs more than microseconds: length, nesting, the size of integers,
and the exponent before a power is taken.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from typing import TypeAlias

Number: TypeAlias = int | float

MAX_LENGTH = 500
MAX_DEPTH = 60
MAX_BITS = 4_096


class CalculationError(ValueError):
    """The expression is not arithmetic, or its result has no (reasonably small) value."""


_UNARY: Mapping[type[ast.unaryop], Callable[[Number], Number]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}


def calculate(expression: str) -> Number:
    """The value of an expression of numbers, + - * / // % **, unary signs and parentheses.

    Raises CalculationError for anything else.
    """
    if len(expression) > MAX_LENGTH:
        raise CalculationError(f"the expression is longer than {MAX_LENGTH} characters")
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise CalculationError("this is not an arithmetic expression") from error
    try:
        return _value(tree.body, MAX_DEPTH)
    except (ArithmeticError, ValueError) as error:
        raise CalculationError(str(error)) from error


def _value(node: ast.expr, depth: int) -> Number:
    if depth == 0:
        raise CalculationError("the expression is nested too deeply")
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return _bounded(number)
        case ast.UnaryOp(op=sign, operand=operand) if type(sign) in _UNARY:
            return _UNARY[type(sign)](_value(operand, depth - 1))
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _BINARY:
            return _bounded(_BINARY[type(sign)](_value(left, depth - 1), _value(right, depth - 1)))
        case ast.BinOp(op=ast.BitXor()):
            raise CalculationError("a power is written **, not ^")
    raise CalculationError("only numbers, + - * / // % ** and parentheses are allowed")


def _power(base: Number, exponent: Number) -> Number:
    if isinstance(base, int) and isinstance(exponent, int) and exponent > 0:
        # Checked before the work: 9**9**9 would keep a core busy for hours.
        if base.bit_length() * exponent > MAX_BITS and abs(base) > 1:
            raise CalculationError("the result is too large")
        return int(base**exponent)
    result = base**exponent
    if isinstance(result, complex):
        raise CalculationError("the result is not a real number")
    return float(result) if isinstance(result, float) else int(result)


_BINARY: Mapping[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _power,
}


def _bounded(number: Number) -> Number:
    if isinstance(number, int):
        if number.bit_length() > MAX_BITS:
            raise CalculationError("the number is too large")
    elif not math.isfinite(number):
        raise CalculationError("the result is not a finite number")
    return number
