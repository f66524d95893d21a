"""What a team writes that has no bridge: each minute ask for all that is unsettled, and post each change.

The provider's own SDK, 100 SessionNos a call; a dict of what is known; a kept ``requests.Session`` in each of eight
threads; Standard Webhooks signatures. Nothing is stored: what is known is lost when it ends, a callback that fails is
not tried again, and phones have no order.

``python -m tests.bench.by_hand PROVIDER RECEIVER PUBLIC_KEY PRIVATE_KEY EVERY_S`` reads SessionNos, one a line, from
its standard input, and prints its calls so far after each round.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import sys
import threading
import time
import uuid
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import requests

from tests.bench.sdk import official_sdk

_A_CALL = 100
_THREADS = 8
_KEY = b"k" * 32
_FINAL = {"发送成功": "delivered", "发送失败": "undelivered"}


class Poller:
    """One process's poller."""

    def __init__(self, sdk: Any, receiver: str) -> None:  # the SDK carries no types
        self._sdk = sdk
        self._receiver = receiver
        self._unsettled: dict[str, None] = {}
        self._known: dict[tuple[str, str], str] = {}
        self._here = threading.local()
        self._pool = ThreadPoolExecutor(_THREADS)
        self.calls = 0

    def follow(self, session_nos: Iterable[str]) -> None:
        """Ask for these, too, from when each is given."""
        for session_no in session_nos:
            self._unsettled[session_no.strip()] = None

    def look(self) -> None:
        """Ask for everything, and tell what has changed."""
        wanted = iter(list(self._unsettled))
        while batch := list(islice(wanted, _A_CALL)):
            self.calls += 1
            changes = self._changes(self._sdk.get_usms_send_receipt({"SessionNoSet": batch})["Data"])
            list(self._pool.map(self._tell, changes))

    def _changes(self, sessions: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        changes = []
        for session in sessions:
            session_no = session["SessionNo"]
            for receipt in session["ReceiptSet"]:
                phone, status = receipt["Phone"], receipt["ReceiptResult"]
                if self._known.get((session_no, phone)) != status:
                    self._known[session_no, phone] = status
                    changes.append({"session_no": session_no, "phone": phone, "sequence": 1, "status": status})
                if status in _FINAL:
                    self._unsettled.pop(session_no, None)  # one phone a session here
        return changes

    def _tell(self, change: dict[str, Any]) -> None:
        session = getattr(self._here, "session", None)
        if session is None:
            session = self._here.session = requests.Session()
            session.trust_env = False
        message_id, seconds = f"evt_{uuid.uuid4().hex}", int(time.time())
        body = json.dumps({"id": message_id, "type": "sms.status.changed", "data": change}).encode()
        signed = hmac.new(_KEY, f"{message_id}.{seconds}.".encode() + body, hashlib.sha256).digest()
        headers = {
            "Content-Type": "application/json",
            "webhook-id": message_id,
            "webhook-timestamp": str(seconds),
            "webhook-signature": f"v1,{base64.b64encode(signed).decode()}",
        }
        session.post(self._receiver, data=body, headers=headers, timeout=15).raise_for_status()


def main(provider: str, receiver: str, public_key: str, private_key: str, every_s: str) -> None:
    """Poll until standard input ends."""
    poller = Poller(official_sdk(provider, public_key, private_key), receiver)
    reader = threading.Thread(target=poller.follow, args=[sys.stdin], daemon=True)
    reader.start()
    next_s = time.monotonic()
    while reader.is_alive():
        next_s += float(every_s)
        time.sleep(max(0.0, next_s - time.monotonic()))
        poller.look()
        sys.stdout.write(f"{poller.calls}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
