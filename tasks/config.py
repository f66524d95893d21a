"""Celery's settings, each with its reason. Read when the app is first used, from the bridge's own settings."""

from __future__ import annotations

from kombu import Exchange, Queue

from bridge.domain.server_urls import broker_address
from bridge.settings import load_settings
from bridge.wiring import broker_url as configured_broker

_broker = broker_address(configured_broker(load_settings()))

broker_url = _broker.url

if _broker.ssl:
    # Of Sentinels, whose URLs have no scheme for it.
    broker_use_ssl = dict(_broker.ssl)

# A worker waits for its broker for as long as it takes: giving up would only make somebody restart it.
broker_connection_max_retries = None
broker_connection_retry_on_startup = True

broker_transport_options: dict[str, object] = dict(_broker.transport_options)
if _broker.is_redis:
    broker_transport_options |= {
        # A message that a killed worker had is delivered again after this many seconds: no task runs for longer than
        # 60 s, so one that is still at work is never given to a second worker.
        "visibility_timeout": 120,
        # Look for such messages every 5 s, in one worker at a time.
        "unacked_restore_interval": 5,
        "unacked_restore_throttle": 1,
        # A dead connection is noticed in seconds, not by the system's own patience.
        "socket_connect_timeout": 5,
        "socket_timeout": 10,
        "socket_keepalive": True,
        "health_check_interval": 10,
    }

# One queue for each kind of work, declared in full: a name alone would share one exchange with other projects.
task_queues = [
    Queue(name, Exchange(name), routing_key=name)
    for name in ("bridge.track", "bridge.control", "bridge.poll", "bridge.deliver")
]
task_default_queue = "bridge.control"
task_create_missing_queues = False
task_routes = {
    "bridge.track": {"queue": "bridge.track"},
    "bridge.tick": {"queue": "bridge.control"},
    "bridge.trim": {"queue": "bridge.control"},
    "bridge.poll": {"queue": "bridge.poll"},
    "bridge.deliver": {"queue": "bridge.deliver"},
}

# Acknowledged when done: what a killed worker had under way comes back.
task_acks_late = True
task_reject_on_worker_lost = True
# A task that failed is not run again by the broker: Redis knows what is still due, and `bridge.track` puts its
# message back itself.
task_acks_on_failure = True
# One that outlived its time limit may not have done its work.
task_acks_on_timeout = False
# Take one message at a time, so that a busy worker keeps none from an idle one.
worker_prefetch_multiplier = 1

# Nobody reads results: the truth is in the store.
task_ignore_result = True
task_store_errors_even_if_ignored = False

# Never unpickle what a broker says.
accept_content = ["json"]
task_serializer = "json"
result_serializer = "json"

# Flower sees tasks come and go; what they carry is replaced by the worker (tasks/redaction.py).
worker_send_task_events = True
task_send_sent_event = True

# The bridge sets up logging itself, for every process alike.
worker_hijack_root_logger = False
worker_redirect_stdouts = False

timezone = "UTC"
enable_utc = True

beat_schedule = {
    # One that waited for longer than its successor is of no use.
    "tick": {"task": "bridge.tick", "schedule": 1.0, "options": {"expires": 10}},
    "trim": {"task": "bridge.trim", "schedule": 60.0, "options": {"expires": 120}},
}
# Both run often and repeat harmlessly: nothing need be remembered in a file.
beat_scheduler = "celery.beat:Scheduler"
