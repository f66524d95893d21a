"""The provider's API on the wire: parameters out of whatever request carried them, and answers as JSON.

GET or POST, a form or JSON, lists as ``Name.0``, ``Name.1`` or as a JSON array: the provider takes all of them
(UCloud's public API documents), so this does.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import parse_qsl

import msgspec

from bridge.simulator.phonebook import Part
from bridge.simulator.signature import signature_of

Parameters = Mapping[str, str]


class Refusal(Exception):
    """A request that is answered with a RetCode. ``message`` goes on the wire."""

    def __init__(self, ret_code: int, message: str) -> None:
        super().__init__(f"RetCode {ret_code}: {message}")
        self.ret_code = ret_code
        self.message = message


def read_parameters(query: bytes, content_type: str, body: bytes) -> Parameters:
    """Every parameter of a request, from its query and its body. Raises Refusal (18002) for what cannot be read."""
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    if "json" in content_type or (not content_type and body.lstrip()[:1] == b"{"):
        pairs += _json_pairs(body)
    elif body:
        try:
            pairs += parse_qsl(body.decode("utf-8"), keep_blank_values=True)
        except ValueError as error:
            raise Refusal(18002, "the body is no form") from error
    return dict(pairs)


def listed(parameters: Parameters, name: str) -> list[str]:
    """The values of ``name.0``, ``name.1``, …, in the order of their numbers."""
    prefix = name + "."
    numbered = [
        (int(number), value)
        for key, value in parameters.items()
        if key.startswith(prefix) and (number := key[len(prefix) :]).isdecimal()
    ]
    return [value for _, value in sorted(numbered)]


def authenticate(parameters: Parameters, accounts: Mapping[str, str], projects: Sequence[str]) -> str:
    """The public key that signed the request. ``accounts`` are private keys by public keys.

    Raises Refusal: 170 unsigned, 171 wrongly signed, 172 nobody's key, 299 a project that is not theirs.
    """
    if not parameters.get("Signature"):
        raise Refusal(170, "Missing Signature")
    public_key = parameters.get("PublicKey", "")
    private_key = accounts.get(public_key)
    if private_key is None:
        raise Refusal(172, "User Not Exist")
    expected = signature_of(parameters.items(), private_key)
    if not hmac.compare_digest(expected.encode(), parameters["Signature"].encode()):
        raise Refusal(171, "Signature VerifyAC Error")
    project = parameters.get("ProjectId", "")
    if project and projects and project not in projects:
        raise Refusal(299, "IAM permission denied: no such project for this user")
    return public_key


def success(action: str, message: str, **fields: object) -> bytes:
    """The answer to a request that did what it should."""
    return msgspec.json.encode({"RetCode": 0, "Action": f"{action}Response", "Message": message, **fields})


def receipts_answer(parts: Iterable[Part]) -> bytes:
    """The answer to GetUSMSSendReceipt."""
    data = b",".join(part.encoded for part in parts)
    return b'{"Action":"GetUSMSSendReceiptResponse","Data":[' + data + b'],"Message":"","RetCode":0}'


def refused(action: str, refusal: Refusal) -> bytes:
    """The answer to a request that is refused. Its HTTP status is 200 all the same."""
    return msgspec.json.encode(
        {"RetCode": refusal.ret_code, "Action": f"{action}Response" if action else "", "Message": refusal.message}
    )


def _json_pairs(body: bytes) -> list[tuple[str, str]]:
    try:
        given: object = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refusal(18002, "the body is no JSON") from error
    if not isinstance(given, dict):
        raise Refusal(18002, "the body is JSON but no object")
    return list(_flat("", given))


def _flat(name: str, value: object) -> Iterable[tuple[str, str]]:
    """A JSON value as parameters: members and elements joined to the name by dots, nulls left out."""
    if isinstance(value, dict | list):
        members = value.items() if isinstance(value, dict) else enumerate(value)
        for key, member in members:
            yield from _flat(f"{name}.{key}" if name else str(key), member)
    elif value is not None:
        yield name, _signed_text(value)


def _signed_text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value % 1 == 0:
        return str(int(value))
    return str(value)
