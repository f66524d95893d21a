"""Sends SMS to a simulator (or to the provider) as an application would: for the demo and the tests.

The bridge itself never sends. The signature comes from this package's own hand, not from the client's.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence

import msgspec
import requests

from bridge.errors import RequestError, Unreachable
from bridge.simulator.signature import signature_of

_ANY_TEMPLATE = "UTA00000000000"


class BatchTarget(msgspec.Struct, frozen=True, kw_only=True):
    """One SMS of a batch. ``params`` fill the template."""

    phone: str
    user_id: str = ""
    params: tuple[str, ...] = ()


class _Answer(msgspec.Struct, frozen=True):
    RetCode: int
    Message: str = ""
    SessionNo: str = ""


_answers = msgspec.json.Decoder(_Answer)
"""Made once: senders may be threads, and a type that two decode for the first time at once can crash the process."""


def send_usms(
    url: str,
    public_key: str,
    private_key: str,
    phones: Sequence[str],
    *,
    user_id: str = "",
    params: Sequence[str] = (),
    template_id: str = _ANY_TEMPLATE,
    signature: str = "",
    project_id: str = "",
    timeout_s: float = 10.0,
    session: requests.Session | None = None,
) -> str:
    """One content to 1 to 1,000 phones (SendUSMSMessage); its SessionNo.

    ``signature`` is the sender's name in front of the text (SigContent). Raises RequestError if it is refused,
    Unreachable if nothing answers.
    """
    fields = {"TemplateId": template_id, "SigContent": signature, "UserId": user_id, "ProjectId": project_id}
    fields.update({f"PhoneNumbers.{index}": phone for index, phone in enumerate(phones)})
    fields.update({f"TemplateParams.{index}": text for index, text in enumerate(params)})
    return _call(url, (public_key, private_key), "SendUSMSMessage", fields, timeout_s=timeout_s, session=session)


def send_usms_batch(
    url: str,
    public_key: str,
    private_key: str,
    targets: Sequence[BatchTarget],
    *,
    template_id: str = _ANY_TEMPLATE,
    signature: str = "",
    project_id: str = "",
    timeout_s: float = 10.0,
    session: requests.Session | None = None,
) -> str:
    """A content each to 1 to 200 targets (SendBatchUSMSMessage); the SessionNo they share. Raises as ``send_usms``."""
    listed = [{"Phone": t.phone, "UserId": t.user_id, "TemplateParams": t.params} for t in targets]
    tasks = [{"TemplateId": template_id, "SigContent": signature, "Target": listed}]
    content = base64.b64encode(msgspec.json.encode(tasks)).decode()
    fields = {"TaskContent": content, "ProjectId": project_id}
    return _call(url, (public_key, private_key), "SendBatchUSMSMessage", fields, timeout_s=timeout_s, session=session)


def _call(
    url: str,
    keys: tuple[str, str],
    action: str,
    fields: Mapping[str, str],
    *,
    timeout_s: float,
    session: requests.Session | None,
) -> str:
    public_key, private_key = keys
    form = {name: value for name, value in fields.items() if value}
    form |= {"Action": action, "PublicKey": public_key}
    form["Signature"] = signature_of(form.items(), private_key)
    try:
        post = requests.post if session is None else session.post
        body = post(url, data=form, timeout=timeout_s).content
        answer = _answers.decode(body)
    except (requests.RequestException, msgspec.DecodeError) as error:
        raise Unreachable(f"{action}: no answer, or none of the provider's ({type(error).__name__})") from None
    if answer.RetCode or not answer.SessionNo:
        raise RequestError(f"{action}: RetCode {answer.RetCode} ({answer.Message})", answer.RetCode)
    return answer.SessionNo
