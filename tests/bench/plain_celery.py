"""What a team would write without the bridge: one Celery task per event, one per session. Nothing is tuned."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import time
from typing import Any

import redis
import requests
from celery import Celery

_URL = os.environ.get("BENCH_REDIS_URL", "redis://127.0.0.1:6379/0")
_KEY = b"k" * 32

app = Celery("plain", broker=_URL, set_as_current=False)
app.conf.update(task_ignore_result=True, broker_connection_retry_on_startup=True)
app.conf.beat_schedule = {"tick": {"task": "plain.tick", "schedule": 1.0}}
_store = redis.Redis.from_url(_URL)


@app.task(name="plain.tick")
def tick() -> None:
    """Look for what is due, as a poller by hand does each second."""
    _store.zrangebyscore("due", 0, time.time(), 0, 100)


@app.task(name="plain.post")
def post(url: str, event: dict[str, Any]) -> None:
    """Sign an event and POST it."""
    body = json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()
    seconds = int(time.time())
    signed = f"{event['id']}.{seconds}.".encode() + body
    signature = base64.b64encode(hmac.new(_KEY, signed, hashlib.sha256).digest()).decode()
    headers = {
        "Content-Type": "application/json",
        "webhook-id": event["id"],
        "webhook-timestamp": str(seconds),
        "webhook-signature": f"v1,{signature}",
    }
    requests.post(url, data=body, headers=headers, timeout=15).raise_for_status()


@app.task(name="plain.track")
def track(session_no: str) -> None:
    """Store one session and make it due."""
    now = time.time()
    pipeline = _store.pipeline(transaction=False)
    pipeline.set(f"session:{session_no}", json.dumps({"sent": now, "tracked": now, "phones": []}))
    pipeline.zadd("due", {session_no: now + 10})
    pipeline.execute()
