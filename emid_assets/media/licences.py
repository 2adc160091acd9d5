"""Licences as SPDX expressions, by which they are compared.

Belongs here: one text in, its normal form out. What a user has written stays in the tables.
"""

from functools import cache


@cache
def spdx_of(licence: str) -> str:
    """The SPDX expression that a text is, in its normal form: `cc-by-4.0` is `CC-BY-4.0`.

    Texts that are no SPDX expression are returned as they are.
    """
    from license_expression import ExpressionError, ExpressionParseError, get_spdx_licensing

    try:
        expression = get_spdx_licensing().parse(licence, validate=True)
    except (ExpressionError, ExpressionParseError):
        return licence
    return licence if expression is None else str(expression.simplify())
