"""The three actions: two that send, one that asks. Values in, values out; ``app`` does the talking."""

from __future__ import annotations

import base64
import random
import uuid
from collections.abc import Sequence
from typing import Annotated

import msgspec

from bridge.simulator.phonebook import Part, Phonebook, Target
from bridge.simulator.scenario import Cast, Scenario
from bridge.simulator.wire import Parameters, Refusal, listed, success

SEND = "SendUSMSMessage"
SEND_BATCH = "SendBatchUSMSMessage"
ASK = "GetUSMSSendReceipt"
ACTIONS = frozenset((SEND, SEND_BATCH, ASK))

_MAX_PHONES = 1000
_MAX_TARGETS = 200
_MAX_SESSIONS = 100
_ONE_SMS = 70
_PART_OF_A_LONG_SMS = 67

_Filled = Annotated[str, msgspec.Meta(min_length=1)]


class _BatchTarget(msgspec.Struct, frozen=True):
    Phone: _Filled
    TemplateParams: list[str] | None = None
    UserId: str | None = None
    ExtendCode: str | None = None


class _BatchItem(msgspec.Struct, frozen=True):
    TemplateId: _Filled
    SigContent: str
    Target: list[_BatchTarget]


_batch = msgspec.json.Decoder(list[_BatchItem])


def action_of(parameters: Parameters) -> str:
    """Which action is called. Raises Refusal: 160 none, 161 one that is not simulated."""
    action = parameters.get("Action", "")
    if not action:
        raise Refusal(160, "Missing Action")
    if action not in ACTIONS:
        raise Refusal(161, "Action Not Exist")
    return action


class Sending:
    """What an accepted send needs: where it is kept, and what will become of it."""

    def __init__(self, phonebook: Phonebook, scenario: Scenario, cast: Cast, rng: random.Random) -> None:
        self._phonebook = phonebook
        self._scenario = scenario
        self._cast = cast
        self._rng = rng

    def send(self, owner: str, parameters: Parameters, now: float) -> bytes:
        """SendUSMSMessage: one content to up to 1,000 phones. The answer's body; Refusal for a bad request."""
        phones = listed(parameters, "PhoneNumbers")
        if not phones or not parameters.get("TemplateId"):
            raise Refusal(18001, "Missing params [PhoneNumbers or TemplateId]")
        _check_phones(phones, _MAX_PHONES)
        user_id = parameters.get("UserId", "")
        count = segments(parameters.get("SigContent", ""), listed(parameters, "TemplateParams"))
        session_no = self.begin(owner, [Target(phone, user_id, count) for phone in phones], now)
        echoed = {"UserId": user_id} if user_id else {}
        return success(SEND, "Send success", SessionNo=session_no, **echoed)

    def send_batch(self, owner: str, parameters: Parameters, now: float) -> bytes:
        """SendBatchUSMSMessage: a content each for up to 200 targets, as base64 of JSON in TaskContent."""
        content = parameters.get("TaskContent", "")
        if not content:
            raise Refusal(18001, "Missing params [TaskContent]")
        try:
            items = _batch.decode(base64.b64decode(content))
        except (ValueError, msgspec.DecodeError) as error:
            raise Refusal(18002, "TaskContent is no base64 of the JSON that the document describes") from error
        targets = [
            Target(target.Phone, target.UserId or "", segments(item.SigContent, target.TemplateParams or ()))
            for item in items
            for target in item.Target
        ]
        if not targets:
            raise Refusal(18001, "Missing params [Target]")
        _check_phones([target.phone for target in targets], _MAX_TARGETS)
        return success(
            SEND_BATCH,
            "submit success",
            SessionNo=self.begin(owner, targets, now),
            ReqUuid=str(uuid.UUID(int=self._rng.getrandbits(128), version=4)),
            SuccessCount=len(targets),
            FailContent=[],
        )

    def begin(self, owner: str, targets: Sequence[Target], now: float) -> str:
        """Accept an SMS to these; its SessionNo."""
        played = [(target, self._cast.timeline_of(target.phone)) for target in targets]
        return self._phonebook.send(owner, played, now=now, time_scale=self._scenario.time_scale)


def ask(phonebook: Phonebook, scenario: Scenario, owner: str, parameters: Parameters, now: float) -> list[Part]:
    """GetUSMSSendReceipt: the sessions of the answer, in the order they were asked for.

    More than 100 are refused: what the provider does then is unstated, so nobody should find out here that it works.
    """
    session_nos = listed(parameters, "SessionNoSet")
    if not session_nos:
        raise Refusal(18001, "Missing params [SessionNoSet]")
    if len(session_nos) > _MAX_SESSIONS:
        raise Refusal(18003, f"SessionNoSet has {len(session_nos)} members, at most {_MAX_SESSIONS} are allowed")
    parts = []
    for session_no in session_nos:
        part = phonebook.look_up(owner, session_no, now=now)
        if part is not None:
            parts.append(part)
        elif scenario.unknown_sessions == "empty":
            parts.append(Part.of(session_no, ()))
    return parts


def segments(signature: str, parameters: Sequence[str]) -> int:
    """How many SMS a content is billed as: one up to 70 characters, beyond that one for each 67.

    The template's own text is not known here; the signature in its brackets and the parameters stand for the content.
    """
    length = sum(map(len, parameters)) + (len(signature) + 2 if signature else 0)
    return 1 if length <= _ONE_SMS else -(-length // _PART_OF_A_LONG_SMS)


def _check_phones(phones: Sequence[str], most: int) -> None:
    if len(phones) > most:
        raise Refusal(18019, f"{len(phones)} phones in one call, at most {most} are allowed")
    if not all(0 < len(phone) <= 64 for phone in phones):
        raise Refusal(18014, "Invalid phone number")
