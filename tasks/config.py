"""Celery's settings, each with its reason. Read when the app is first used, from the bridge's own settings."""

from __future__ import annotations

from kombu import Exchange, Queue

from bridge.domain.server_urls import broker_address
from bridge.servers import broker_url as configured_broker
from bridge.settings import load_settings
from tasks import channel, compression
from tasks.beat import every

# Before any connection is made: of Celery's own Redis transport a killed worker loses messages.
channel.install()
compression.install()

_broker = broker_address(configured_broker(load_settings()))

broker_url = _broker.url

if _broker.ssl:
    # Of Sentinels, whose URLs have no scheme for it.
    broker_use_ssl = dict(_broker.ssl)

# One that runs waits for its broker for as long as it takes: giving up would only make somebody restart it.
broker_connection_max_retries = None
broker_connection_retry_on_startup = True

broker_transport_options: dict[str, object] = dict(_broker.transport_options)
if _broker.is_redis:
    broker_transport_options |= {
        # The lease of a message that a worker has, in seconds: renewed each few seconds for as long as the worker
        # lives, it brings back what a killed one had. No worker stands still for longer.
        "visibility_timeout": 60,
        # Delivery frees memory, and has to be woken for that.
        "goes_on_when_full": True,
        # Renew leases, and look for messages whose lease is over, every 5 s.
        "unacked_restore_interval": 5,
        # A dead connection is noticed in seconds, not by the system's own patience.
        "socket_connect_timeout": 5,
        "socket_timeout": 10,
        "socket_keepalive": True,
        "health_check_interval": 10,
    }
else:
    # Sent once RabbitMQ has it, not once the socket does.
    broker_transport_options["confirm_publish"] = True

# It sets aside what cannot be read, and outlives the broker.
worker_consumer = "tasks.consumer:Consumer"

# One queue for each kind of work, declared in full: a name alone would share one exchange with other projects.
task_queues = [
    Queue(name, Exchange(name), routing_key=name, queue_arguments=_broker.queue_arguments)
    for name in ("bridge.track", "bridge.control", "bridge.poll", "bridge.deliver")
]
task_default_queue = "bridge.control"
task_create_missing_queues = False
task_routes = {
    "bridge.track": {"queue": "bridge.track"},
    "bridge.set_aside": {"queue": "bridge.track"},
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

# Flower sees tasks come and go; what they carry is replaced by the worker (tasks/intake.py).
worker_send_task_events = True
task_send_sent_event = True

# The bridge sets up logging itself, for every process alike.
worker_hijack_root_logger = False
worker_redirect_stdouts = False

timezone = "UTC"
enable_utc = True

beat_schedule = {
    "tick": {"task": "bridge.tick", "schedule": every(1.0)},
    "trim": {"task": "bridge.trim", "schedule": every(60.0)},
}
# Both run often and repeat harmlessly: nothing need be remembered in a file.
beat_scheduler = "tasks.beat:Scheduler"
