"""The simulated provider as a raw ASGI application: authenticates, does what is asked, errs as the scenario says.

Everything below ``/_sim/`` is for whoever runs it (``control``); any other path is the provider's API.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping

from bridge.errors import UsageError
from bridge.simulator.actions import ASK, SEND, Sending, action_of, ask
from bridge.simulator.control import Control, NotThere
from bridge.simulator.distortion import distort
from bridge.simulator.faults import NO_FAULT, Fault, FaultKind, FaultPlan, Faults
from bridge.simulator.http import ClientGone, Conversation, Message, Receive, Request, Send, TooLarge, read_request
from bridge.simulator.log import AnswerLog
from bridge.simulator.phonebook import Part, Phonebook, Target
from bridge.simulator.scenario import Cast, Scenario
from bridge.simulator.wire import Parameters, Refusal, authenticate, read_parameters, receipts_answer, refused

_FAULT_MESSAGE = "Simulated fault"


def create_app(
    scenario: Scenario,
    public_key: str,
    private_key: str,
    *,
    other_accounts: Mapping[str, str] | None = None,
    clock: Callable[[], float] = time.time,
) -> Simulator:
    """The simulator, as an ASGI application for one server.

    ``other_accounts`` are further private keys by their public keys: each sees only its own sessions. ``clock`` gives
    Unix seconds.
    """
    accounts = {**(other_accounts or {}), public_key: private_key}
    return Simulator(scenario, accounts, clock)


class Simulator:
    """One simulated provider. Only its server's event loop may call it, but for reading."""

    def __init__(self, scenario: Scenario, accounts: Mapping[str, str], clock: Callable[[], float]) -> None:
        self._accounts = accounts
        self._clock = clock
        self._stopping = asyncio.Event()
        self._seed = random.SystemRandom().getrandbits(63) if scenario.seed is None else scenario.seed
        # S311 does not apply: chance here must be repeatable, not secret.
        self._rng = random.Random(self._seed)  # noqa: S311
        self.scenario = scenario
        self.phonebook = Phonebook(limit=scenario.session_limit, echo=scenario.echo, rng=self._rng)
        self.log = AnswerLog(scenario.log_limit)
        self.play(scenario)
        self._control = Control(self)

    def play(self, scenario: Scenario) -> None:
        """Follow another scenario from now on; what was sent keeps the timeline it began with."""
        self.scenario = scenario
        self.phonebook.set_echo(scenario.echo)
        self.phonebook.set_limit(scenario.session_limit)
        self.log.set_limit(scenario.log_limit)
        seed = self._seed if scenario.seed is None else scenario.seed
        self._sending = Sending(self.phonebook, scenario, Cast(scenario, seed), self._rng)
        self.set_faults(scenario.faults)

    def set_faults(self, faults: Faults) -> None:
        self._faults = FaultPlan(faults, self._rng)

    def send(self, owner: str, phone: str) -> str:
        """An SMS of ``owner`` (a public key) to one phone, as if it had come as a request; its SessionNo."""
        return self._sending.begin(owner, [Target(phone, "", 1)], self.now())

    def now(self) -> float:
        return self._clock()

    def stop(self) -> None:
        """End the waits of hanging answers, so that a server can stop. Called in the server's event loop."""
        self._stopping.set()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise ValueError(f"the simulator speaks HTTP, not {scope['type']}")
        conversation = Conversation(receive, send, self._stopping)
        try:
            request = await read_request(scope, receive)
        except ClientGone:
            return
        except TooLarge:
            await conversation.answer(b'{"error":"the request is too large"}', status=413)
            return
        if request.path.startswith("/_sim/"):
            await self._steer(request, conversation)
        elif request.method in {"GET", "POST"}:
            await self._provide(request, conversation)
        else:
            await conversation.answer(b"", status=405)

    async def _steer(self, request: Request, conversation: Conversation) -> None:
        try:
            await conversation.answer(self._control.answer(request))
        except UsageError as error:
            await conversation.answer(self._control.problem(str(error)), status=400)
        except NotThere as error:
            await conversation.answer(self._control.problem(str(error)), status=404)

    async def _provide(self, request: Request, conversation: Conversation) -> None:
        action = ""
        try:
            parameters = read_parameters(request.query, request.content_type, request.body)
            action = action_of(parameters)
            owner = authenticate(parameters, self._accounts, self.scenario.projects)
            if action != ASK:
                send = self._sending.send if action == SEND else self._sending.send_batch
                await conversation.answer(send(owner, parameters, self.now()))
                return
            await self._receipts(owner, parameters, conversation)
        except Refusal as refusal:
            if action == ASK:
                self._note(NO_FAULT, ret_code=refusal.ret_code)
            await conversation.answer(refused(action, refusal))

    async def _receipts(self, owner: str, parameters: Parameters, conversation: Conversation) -> None:
        parts = ask(self.phonebook, self.scenario, owner, parameters, self.now())
        fault = self._faults.next()
        match fault.fault:
            case FaultKind.RETCODE:
                self._note(fault, ret_code=fault.ret_code)
                await conversation.answer(refused(ASK, Refusal(fault.ret_code, _FAULT_MESSAGE)))
            case FaultKind.HTTP_STATUS:
                self._note(fault)
                await conversation.answer(_FAULT_MESSAGE.encode(), status=fault.status, content_type="text/plain")
            case FaultKind.HANG:
                self._note(fault, complete=False)
                await conversation.pause(fault.wait_s)
                await conversation.answer(_FAULT_MESSAGE.encode(), status=504, content_type="text/plain")
            case FaultKind.TRUNCATED:
                self._note(fault, complete=False)
                body = receipts_answer(parts)
                await conversation.answer(body[: len(body) // 2])
            case FaultKind.DRIP:
                whole = await conversation.drip(receipts_answer(parts), fault.wait_s)
                self._note(fault, ret_code=0 if whole else None, complete=whole, parts=parts if whole else [])
            case FaultKind.LATE if not await conversation.pause(fault.wait_s):
                self._note(fault, complete=False)
            case _:
                parts = distort(fault.fault, parts, self._rng)
                self._note(fault, ret_code=0, parts=parts)
                await conversation.answer(receipts_answer(parts))

    def _note(
        self, fault: Fault, *, ret_code: int | None = None, complete: bool = True, parts: list[Part] | None = None
    ) -> None:
        """Log an answer. Before it is sent, where it is sent at once: who has it can look it up right away."""
        self.log.add(at=self.now(), fault=fault.fault, ret_code=ret_code, complete=complete, parts=parts or [])
        for part in parts or []:
            self.phonebook.note_told(part.session_no, part.receipts)
