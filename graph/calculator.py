"""Arithmetic without `eval`: simpleeval walks the expression, and knows no names, calls or attributes here.

Every step is bounded, so that no input costs more than microseconds: length, the size of every number on the way, and
the exponent before a power is taken.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from typing import Any, NoReturn, TypeAlias, cast

from simpleeval import DEFAULT_OPERATORS, InvalidExpression, SimpleEval  # type: ignore[import-untyped]

Number: TypeAlias = int | float

MAX_LENGTH = 500
MAX_BITS = 4_096


class CalculationError(ValueError):
    """The expression is not arithmetic, or its result has no (reasonably small) value."""


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
        return cast("Number", _arithmetic().eval(expression, previously_parsed=tree.body))
    except InvalidExpression as error:
        raise CalculationError("only numbers, + - * / // % ** and parentheses are allowed") from error
    except RecursionError as error:
        raise CalculationError("the expression is nested too deeply") from error
    except ArithmeticError as error:
        raise CalculationError(str(error)) from error


def _arithmetic() -> Any:
    evaluator = SimpleEval(operators=_OPERATORS, functions={}, names={})
    evaluator.nodes = {kind: _bounding(evaluator.nodes[kind]) for kind in (ast.BinOp, ast.UnaryOp, ast.Constant)}
    return evaluator


def _bounding(evaluate: Callable[[ast.expr], object]) -> Callable[[ast.expr], Number]:
    return lambda node: _bounded(evaluate(node))


def _bounded(number: object) -> Number:
    # By exact type: True is an int too.
    if type(number) is int:
        if number.bit_length() > MAX_BITS:
            raise CalculationError("the number is too large")
        return number
    if type(number) is not float:
        raise CalculationError("only real numbers are allowed")
    if not math.isfinite(number):
        raise CalculationError("the result is not a finite number")
    return number


def _power(base: Number, exponent: Number) -> Any:
    # Checked before the work: 9**9**9 would keep a core busy for hours.
    whole = isinstance(base, int) and isinstance(exponent, int)
    if whole and abs(base) > 1 and int(base).bit_length() * exponent > MAX_BITS:
        raise CalculationError("the result is too large")
    return base**exponent


def _no_power(*_: Number) -> NoReturn:
    raise CalculationError("a power is written **, not ^")


_ORDINARY = (ast.UAdd, ast.USub, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod)
_OPERATORS = {kind: DEFAULT_OPERATORS[kind] for kind in _ORDINARY} | {ast.Pow: _power, ast.BitXor: _no_power}
