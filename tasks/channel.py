"""Celery's Redis transport, made to lose no message: what a worker takes is written down in the step that takes it.

kombu's own pops a message with BRPOP and then writes it down as unacknowledged: killed in between, or refused the
second write by a server that is out of memory, it has lost the message. Here a script does both. What senders write,
fanout, priorities and remote control are kombu's, unchanged.

In the broker, beside kombu's keys: ``bridge.taken``, a hash of the messages that workers have, by tag, and
``bridge.leases``, a sorted set of the tags by the end of their lease, in the server's time. A worker renews the leases
of what it has; what a dead one had goes back to its queue when its lease ends. A tag is ``<unique>:<queue's key>``.

A script cannot wait. So before it waits a channel asks the server to tell when one of its queues changes (CLIENT
TRACKING, redirected to a connection that listens): a wait that takes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from queue import Empty
from time import monotonic
from typing import Any, cast
from uuid import uuid4

import kombu.transport
from kombu.transport import redis as kombu_redis
from kombu.utils.json import dumps, loads
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, OutOfMemoryError, ResponseError

from bridge.observe.logs import get_logger
from bridge.store.scripts import read_scripts
from tasks.envelopes import KEPT_BYTES, MOST_ENVELOPE_BYTES, Message, unreadable
from tasks.leases import LEASES, TAKEN, QoS

_log = get_logger(__name__)

_SCRIPTS = read_scripts("tasks")

_PUSHES = "__redis__:invalidate"
_LOOK_AGAIN_S = 5.0
"""The longest a channel waits without a look, should the listening connection be dead and not known to be."""


class Poller(kombu_redis.MultiChannelPoller):
    """kombu's poller, with a second connection for each channel that consumes: the one that listens."""

    _channels: set[Any]
    _fd_to_chan: dict[int, tuple[Any, str]]

    def on_readable(self, fileno: int) -> Any:
        channel, kind = self._fd_to_chan.get(fileno, (None, ""))
        if channel is not None and kind == "WAKE":
            # Read whether or not more may be taken: a socket that stays readable would spin the loop.
            channel.hear()
            return None
        return cast("Any", super()).on_readable(fileno)

    def maybe_restore_messages(self) -> None:
        for channel in list(self._channels):
            if channel.active_queues:
                # A channel's leases are its own, so each has to be asked.
                with suppress(*channel.connection_errors):
                    channel.qos.restore_visible(num=channel.unacked_restore_limit)

    def _register_BRPOP(self, channel: Any) -> None:  # noqa: N802 - kombu's name
        kombu_poller = cast("Any", super())
        connected = [
            kombu_poller._client_registered(channel, client, kind)
            for client, kind in ((channel.client, "BRPOP"), (channel.listener, "WAKE"))
        ]
        if not connected[0]:
            channel._in_poll = None
            kombu_poller._register(channel, channel.client, "BRPOP")
        if channel._in_poll:  # what is under way is read first
            return
        if not connected[1]:
            kombu_poller._register(channel, channel.listener, "WAKE")
            channel.subscribe()
        if not all(connected):
            channel.listen()
        if channel.awake:
            channel._brpop_start()


class Channel(kombu_redis.Channel):
    """kombu's channel, whose consumers take messages by a script. The names of its hooks (BRPOP) are kombu's."""

    QoS = QoS
    Message = Message

    client: Any
    connection: Any
    connection_errors: tuple[type[Exception], ...]
    _queue_cycle: Any
    _in_poll: Any
    unacked_restore_interval: float

    goes_on_when_full = False
    """Whether what this channel publishes is put into its queue with memory short too: the bridge's own messages."""

    from_transport_options = (*kombu_redis.Channel.from_transport_options, "goes_on_when_full")

    def __init__(self, *args: Any, **options: Any) -> None:
        self._unacknowledged: set[str] = set()
        self._shared: Any = None
        self._asleep_until = 0.0
        self._listener_number = 0
        self._was_told = False
        super().__init__(*args, **options)
        self.handlers["WAKE"] = self.hear

    @cached_property
    def listener(self) -> Any:
        """The client whose connection is told of changes, and sends nothing."""
        return cast("Any", self)._create_client(asynchronous=True)

    @property
    def awake(self) -> bool:
        """Whether it is time to look for a message."""
        return monotonic() >= self._asleep_until

    def subscribe(self) -> None:
        """Make the second connection one that listens: from then on it can be asked nothing, not even its number."""
        connection = self.listener.connection
        self._listener_number = _ask(connection, "CLIENT", "ID")
        _ask(connection, "SUBSCRIBE", _PUSHES)

    def listen(self) -> None:
        """Have the server tell that connection when a queue that the first one looked at changes."""
        try:
            _ask(self.client.connection, "CLIENT", "TRACKING", "ON", "REDIRECT", self._listener_number, "NOLOOP")
        except ResponseError as error:
            raise RedisConnectionError(f"the broker refuses CLIENT TRACKING, which workers need: {error}") from error
        self._asleep_until = 0.0

    def hear(self) -> None:
        """Read what the server told; whatever it was, it is time to look."""
        connection = self.listener.connection
        self._asleep_until = 0.0
        self._was_told = True
        try:
            connection.read_response()
            while connection.can_read(timeout=0):
                connection.read_response()
        except self.connection_errors:
            connection.disconnect()  # the poller opens another one

    def basic_consume(self, queue: str, no_ack: bool = False, *args: Any, **options: Any) -> Any:
        if no_ack:
            self._unacknowledged.add(queue)
        return super().basic_consume(queue, no_ack, *args, **options)

    def basic_get(self, queue: str, no_ack: bool = False, **options: Any) -> Any:
        message: Any = super().basic_get(queue, no_ack=False, **options)
        if message is not None and no_ack:
            self.basic_ack(message.delivery_tag)
        return message

    # Taking: one command under way at a time, its reply read when the socket is readable.

    def _brpop_start(self, timeout: float | None = None) -> None:  # noqa: ARG002 - kombu's
        queues = self._queue_cycle.consume(len(self.active_queues))
        if not queues:
            return
        keys = self._keys(queues)
        connection = self.client.connection
        connection.send_packed_command(
            connection.pack_commands([("EVALSHA", _SCRIPTS["take_message"].sha, *self._take(keys)), ("EXISTS", *keys)])
        )
        self._in_poll = connection
        self._was_told = False
        self._brpop_sent_at = monotonic()

    def _brpop_read(self, **_options: Any) -> bool:
        connection = self.client.connection
        try:
            # EXISTS second: what comes after its look is told, what came before is counted.
            taken, waiting = _reply(connection), _reply(connection)
        except self.connection_errors:
            connection.disconnect()
            raise
        finally:
            self._in_poll = None
        if isinstance(taken, NoScriptError):
            self._load()
            raise Empty
        for reply in (taken, waiting):
            if isinstance(reply, ResponseError):
                # Read-only, loading, no permission: what a new connection may mend, and the log must tell.
                raise RedisConnectionError(f"the broker refused a worker: {reply}") from reply
        # What was told since the command was sent may be of what came after its look: of two sockets that are readable
        # at once either may be read first.
        if not waiting and not self._was_told:
            self._asleep_until = monotonic() + _LOOK_AGAIN_S
        if taken is None:
            raise Empty
        payload, queue = self._read(taken)
        self._queue_cycle.rotate(queue)
        self.connection._deliver(payload, queue)
        return True

    def _get(self, queue: str, timeout: float | None = None) -> Any:  # noqa: ARG002 - kombu's
        keys = self._keys([queue])
        taken = self.run("take_message", [TAKEN, LEASES, *keys], self._take_arguments())
        if taken is None:
            raise Empty
        return self._read(taken)[0]

    def _keys(self, queues: Sequence[str]) -> list[str]:
        kombu_channel = cast("Any", self)
        return [kombu_channel._q_for_pri(queue, step) for step in self.priority_steps for queue in queues]

    def _take(self, keys: Sequence[str]) -> list[object]:
        return [len(keys) + 2, TAKEN, LEASES, *keys, *self._take_arguments()]

    def _take_arguments(self) -> list[object]:
        return [uuid4().hex, int(self.visibility_timeout * 1000), MOST_ENVELOPE_BYTES, KEPT_BYTES]

    def _read(self, taken: Sequence[Any]) -> tuple[dict[str, Any], str]:
        """A taken message as kombu passes it on, and its queue. Its tag is our own: two copies may have one id."""
        tag = taken[0].decode()
        queue = tag.partition(":")[2].rsplit(self.sep, 1)[0]
        if queue in self._unacknowledged:
            self.forget(tag)
        if len(taken) > 2:
            return unreadable(tag, taken[1], f"a message of {taken[2]:,} bytes: too large"), queue
        try:
            payload = loads(taken[1].decode())
            payload["properties"]["delivery_tag"] = tag
        except Exception as error:  # noqa: BLE001 - it may be anything
            reason = "not JSON" if isinstance(error, ValueError) else "not a Celery message"
            return unreadable(tag, taken[1], f"{reason}: {type(error).__name__}"), queue
        return payload, queue

    # What was taken

    def run(self, name: str, keys: Sequence[str], args: Sequence[object], client: Any = None) -> Any:
        """Run a script of ``tasks/lua`` and return its reply."""
        with self.conn_or_acquire(client) as connected:
            try:
                return connected.evalsha(_SCRIPTS[name].sha, len(keys), *keys, *args)
            except NoScriptError:
                connected.script_load(_SCRIPTS[name].source)
                return connected.evalsha(_SCRIPTS[name].sha, len(keys), *keys, *args)

    def _load(self) -> None:
        with self.conn_or_acquire() as client:
            client.script_load(_SCRIPTS["take_message"].source)

    def forget(self, tag: str) -> None:
        """A message is done with."""
        # The message first: a lease without one is let go of when it ends, one without a lease would stay.
        with self.conn_or_acquire() as client, client.pipeline(transaction=False) as pipe:
            pipe.hdel(TAKEN, tag).zrem(LEASES, tag).execute()

    def put_back(self, tag: str, where: str, only_if: str, client: Any = None) -> int:
        """Put a message back into its queue, as ``return_message.lua`` says. Returns how many went there."""
        queue = tag.partition(":")[2]
        return int(self.run("return_message", [TAKEN, LEASES, queue], [tag, where, only_if], client))

    # Publishing, as far as it must go on with memory short

    def _put(self, queue: str, message: Any, **options: Any) -> None:
        try:
            cast("Any", super())._put(queue, message, **options)
        except OutOfMemoryError:
            if not self.goes_on_when_full:
                raise
            kombu_channel = cast("Any", self)
            priority = kombu_channel._get_message_priority(message, reverse=False)
            self.run("put_message", [kombu_channel._q_for_pri(queue, priority)], [dumps(message)])

    def _queue_bind(self, *args: Any) -> None:
        try:
            cast("Any", super())._queue_bind(*args)
        except OutOfMemoryError:
            # Only what is published through an exchange needs it. A worker must start with memory short.
            _log.warning("the broker is out of memory and did not note a queue's binding")

    # Ends

    def close(self) -> None:
        """Put back what is held, and close; a broker that is gone makes no error of it."""
        self.undo_take()
        super().close()

    def undo_take(self) -> None:
        """Put back what a command that is under way may take: nobody would work on it."""
        connection, self._in_poll = self._in_poll, None
        if connection:
            with suppress(*self.connection_errors, ResponseError):
                taken, _ = _reply(connection), _reply(connection)
                if isinstance(taken, list):
                    self.put_back(taken[0].decode(), "next", "any")

    def _create_client(self, asynchronous: bool = False) -> Any:
        """A client of the pool: the one there is already, for each takes 50 µs to make, and one a command was made."""
        if asynchronous:
            return cast("Any", super())._create_client(asynchronous=True)
        if self._shared is None or self._shared.connection_pool is not cast("Any", self).pool:
            self._shared = cast("Any", super())._create_client()
        return self._shared

    def _close_clients(self) -> None:
        listener = self.__dict__.get("listener")
        if listener is not None and listener.connection is not None:
            connection, listener.connection = listener.connection, None
            connection.disconnect()
        cast("Any", super())._close_clients()

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        # RESP2: what a server pushes comes as a plain message there, on a connection of its own.
        return {**cast("Any", super())._connparams(asynchronous), "protocol": 2}


class SentinelChannel(Channel, kombu_redis.SentinelChannel):
    """The same on whichever server Sentinel says is the master."""

    from_transport_options = (*kombu_redis.SentinelChannel.from_transport_options, "goes_on_when_full")


class Transport(kombu_redis.Transport):
    """kombu's Redis transport with this channel."""

    Channel = Channel
    # What a server refuses is met as a lost connection is: said, and tried again. A worker that ends instead only has
    # to be started again, by somebody who first has to notice.
    connection_errors = (*kombu_redis.Transport.connection_errors, ResponseError)

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.cycle = Poller()


class SentinelTransport(Transport):
    """The same through Sentinel."""

    default_port = kombu_redis.SentinelTransport.default_port
    Channel = SentinelChannel


def install() -> None:
    """Have every Redis URL of this process mean this transport.

    By kombu's table of schemes, because a setting of Celery's is forgotten where kombu goes on to another URL of a
    list of Sentinels.
    """
    kombu.transport.TRANSPORT_ALIASES.update(
        redis="tasks.channel:Transport", rediss="tasks.channel:Transport", sentinel="tasks.channel:SentinelTransport"
    )
    cast("Any", kombu.transport)._transport_cache.clear()  # somebody may have looked before


def _ask(connection: Any, *command: object) -> Any:
    connection.send_command(*command)
    return connection.read_response()


def _reply(connection: Any) -> Any:
    """A reply, a refusal among them."""
    try:
        return connection.read_response()
    except ResponseError as refusal:
        return refusal
