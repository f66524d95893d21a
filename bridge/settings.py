"""Every setting of the bridge: its default, its form and its reason; read from the environment here and nowhere else.

(The sender reads its broker's URL itself: a sending service has no pydantic.) ``load_settings`` collects every mistake
into one error, and never shows a secret's value.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SecretBytes, SecretStr, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, DotEnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from bridge.domain.server_urls import broker_address, store_url
from bridge.errors import SettingsError
from bridge.setting_forms import (
    Form,
    address,
    choice,
    directory,
    duration,
    encryption_keys,
    existing_file,
    fraction,
    http_api,
    networks,
    ports,
    schedule,
    secret_text,
    secret_url,
    shown_path,
    size,
    text,
    whole,
    yes_no,
)

ENV_FILE = ".env"
_STORE_FORM = (
    "a redis://, rediss://, valkey:// or unix:// URL, or of a [cluster or Sentinels](#on-a-cluster-or-with-sentinel)"
)
_BROKER_FORM = "a redis://, rediss://, valkey://, unix:// or amqp:// URL, or of Sentinels"


def _setting(default: str | None, meaning: str) -> Any:
    """A field whose default is written as a user would write it, and parsed as such."""
    return Field(default=default, validate_default=True, description=meaning)


def _broker_url(url: str) -> str:
    """``url`` as given, once it is known to be one: ``broker_address`` is for whoever connects."""
    broker_address(url)
    return url


class Settings(BaseSettings):
    """The bridge's settings. A field ``name`` is BRIDGE_NAME; ``_ms`` (milliseconds) is not part of the variable.

    ``Settings(...)`` takes values or the text of a variable, and reads nothing by itself: ``load_settings`` does.
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    redis_url: Annotated[SecretStr | None, secret_url(store_url, _STORE_FORM)] = _setting(
        None, "The store, which holds the truth. Unset: an embedded server, for `demo` and `up` alone."
    )
    broker_url: Annotated[SecretStr | None, secret_url(_broker_url, _BROKER_FORM)] = _setting(
        None, "Celery's broker. Unset: the same server as the store, which then cannot be a cluster."
    )
    shards: Annotated[int, whole(1, 256)] = _setting(
        "8", "Parts of the store that work apart. Fixed at the store's first use: another value is refused later."
    )
    data_dir: Annotated[Path, directory()] = _setting(
        "~/.local/share/usms-bridge", "Where the embedded server keeps its data and its secret keys."
    )
    track_durable: Annotated[bool, yes_no()] = _setting(
        "no", "Whether a tracking is acknowledged only once it is on the store's disk (WAITAOF): up to a second later."
    )
    provider_url: Annotated[str, http_api()] = _setting(
        "https://api.scloudsg.com/", "The provider's API. Plain http is taken for its endpoint inside a VPC."
    )
    public_key: Annotated[SecretStr | None, secret_text()] = _setting(
        None, "The provider's public key of the account `default`."
    )
    private_key: Annotated[SecretStr | None, secret_text()] = _setting(
        None, "Its private key, which signs requests and never leaves this process."
    )
    project_id: Annotated[str | None, text()] = _setting(
        None, "The provider's project; a sub-account of theirs must name one."
    )
    region: Annotated[str | None, text()] = _setting(None, "The provider's region; sent only where set.")
    provider_rate: Annotated[float, fraction("0.01", "1000", "calls a second")] = _setting(
        "5",
        "Polls of an account without a rate of its own, by all workers; more is answered with RetCode 153.",
    )
    provider_timeout_ms: Annotated[int, duration("100ms", "50s")] = _setting(
        "30s", "The longest that one poll may take. Tasks end within 60s, so it stays below."
    )
    poll_schedule_ms: Annotated[tuple[int, ...], schedule("50ms", "15d", ascending=True)] = _setting(
        "10s,30s,1m,2m,5m,10m,20m,40m,80m,3h,6h,12h,24h,48h,72h",
        "The ages (time since sending) at which a session is polled, ±10 %. After the last, its last gap repeats.",
    )
    overdue_after_ms: Annotated[int, duration("1s", "15d")] = _setting(
        "12h",
        "The age at which a session without all final statuses is overdue: the provider says to ask its support.",
    )
    give_up_after_ms: Annotated[int, duration("1s", "15d")] = _setting(
        "72h", "The age at which a phone without a final word becomes no_receipt: carriers try for up to 72h."
    )
    keep_settled_ms: Annotated[int, duration("1s", "30d")] = _setting(
        "72h", "How long a settled session is kept: within it, tracking it again repeats nothing."
    )
    keep_events_ms: Annotated[int, duration("1m", "90d")] = _setting(
        "96h", "How long events stay in the log: longer than every retry of a callback takes (about 76h)."
    )
    log_bytes: Annotated[int, size("1MB", "100TB")] = _setting(
        "2GB", "How much memory all events' records may take: of more, the oldest leave the log before their time."
    )
    max_backlog: Annotated[int, whole(1_000, 100_000_000)] = _setting(
        "1000000", "Events that may wait for one subscription: of more, the newest become dead letters at once."
    )
    max_subscriptions: Annotated[int, whole(1, 1_000)] = _setting(
        "100",
        "Subscriptions of an account: each costs the store 15 µs an event, in one commit for all a session's phones.",
    )
    keep_dead_ms: Annotated[int, duration("1m", "365d")] = _setting("30d", "How long a dead letter can be seen.")
    callback_retry_ms: Annotated[tuple[int, ...], schedule("10ms", "7d")] = _setting(
        "5s,30s,2m,5m,30m,2h,5h,10h,14h,20h,24h",
        "Waits between the attempts of a callback, ±20 %: three days, for an outage over a weekend.",
    )
    callback_timeout_ms: Annotated[int, duration("10ms", "30s")] = _setting(
        "15s", "One attempt's wall clock, from the name's resolution to the answer's end. More would outlast a lease."
    )
    callback_concurrency: Annotated[int, whole(1, 1_000)] = _setting(
        "20", "Attempts at once for one subscription, so that a slow receiver is not flooded."
    )
    callback_rate: Annotated[float | None, fraction("0.01", "10000", "attempts a second")] = _setting(
        None, "Attempts a second for one subscription. Unset: as many as it answers."
    )
    disable_after_ms: Annotated[int, duration("1m", "90d")] = _setting(
        "5d", "How long a receiver may fail, with only an attempt now and then, before its subscription is disabled."
    )
    callback_ca_file: Annotated[Path | None, existing_file()] = _setting(
        None, "A PEM file of certificate authorities to trust instead of the public ones."
    )
    allow_networks: Annotated[tuple[IPv4Network | IPv6Network, ...], networks()] = _setting(
        "", "Networks that callbacks may reach although they are private: everything not public is refused otherwise."
    )
    allow_ports: Annotated[tuple[int, ...], ports()] = _setting(
        "", "The only ports that callbacks may use. Unset: 80, 443, and 1024 and up but for well-known databases'."
    )
    allow_http: Annotated[bool, yes_no()] = _setting(
        "no", "Whether a callback URL may be http://, where anybody on the way can read the phones."
    )
    secret_keys: Annotated[tuple[SecretBytes, ...], encryption_keys()] = _setting(
        "", "What encrypts stored secrets: the first writes, all read. Made under BRIDGE_DATA_DIR when embedded."
    )
    listen: Annotated[str, address()] = _setting(
        "127.0.0.1:8080", "Where `bridge web` listens: on this machine alone, unless told otherwise."
    )
    log_format: Annotated[Literal["console", "json"], choice("console", "json")] = _setting(
        "console", "Log lines for people, or one JSON object a line; on stderr, phones and secrets masked."
    )
    sentry_dsn: Annotated[SecretStr | None, secret_url(lambda dsn: dsn, "Sentry's DSN", "https", "http")] = _setting(
        None, "Where errors are reported, without phones and secrets. Unset: nowhere."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - pydantic-settings calls with these names
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - see above
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - see above
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - see above
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # Its own sources know no NAME_FILE and stop at the first mistake of a list; and a Settings that a test makes
        # must not depend on the machine's environment.
        return (init_settings,)

    @model_validator(mode="after")
    def _has_both_keys_or_none(self) -> Self:
        if (self.public_key is None) != (self.private_key is None):
            given, missing = ("PUBLIC", "PRIVATE") if self.public_key else ("PRIVATE", "PUBLIC")
            raise ValueError(f"BRIDGE_{missing}_KEY: not set, but BRIDGE_{given}_KEY is; set both or none")
        return self

    @model_validator(mode="after")
    def _store_can_be_the_broker(self) -> Self:
        if self.broker_url is None and self.redis_url is not None:
            try:
                broker_address(self.redis_url.get_secret_value())
            except ValueError as error:
                raise ValueError(
                    f"BRIDGE_BROKER_URL: not set, and BRIDGE_REDIS_URL cannot stand for it: {error}"
                ) from None
        return self

    @property
    def broker(self) -> SecretStr | None:
        """The broker's URL as given, the store's where none was; None: embedded."""
        return self.broker_url or self.redis_url

    @property
    def listen_address(self) -> tuple[str, int]:
        """Host (an IPv6 address without its brackets) and port of ``listen``."""
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)


@dataclass(frozen=True, kw_only=True)
class SettingRow:
    """One setting as documents show it. ``default`` is as a user writes it, "" where there is none."""

    name: str
    default: str
    form: str
    meaning: str
    file_name: str
    """The NAME_FILE that reads it from a file; "" where it is no secret."""


def describe() -> Iterator[SettingRow]:
    """Every setting, in the order of the documents."""
    for field_name, field in Settings.model_fields.items():
        name = _variable(field_name)
        yield SettingRow(
            name=name,
            default=field.default or "",
            form=_form(field).description,
            meaning=field.description or "",
            file_name=f"{name}_FILE" if _form(field).is_secret else "",
        )


def settings_table_markdown() -> str:
    """The table of settings as the README has it."""
    lines = ["| setting | default | form | meaning |", "|---|---|---|---|"]
    for row in describe():
        default = f"`{row.default}`".replace(",", ", ") if row.default else "–"
        file_form = f"; or `{row.file_name}`" if row.file_name else ""
        lines.append(f"| `{row.name}` | {default} | {row.form}{file_form} | {row.meaning} |")
    return "\n".join(lines) + "\n"


def read_environ(environ: Mapping[str, str] | None = None, env_file: str | Path | None = ENV_FILE) -> dict[str, str]:
    """The environment over the variables of ``env_file`` (absent: none). Raises SettingsError for a broken file."""
    source = os.environ if environ is None else environ
    try:
        kept = DotEnvSettingsSource(Settings, env_file=env_file, case_sensitive=True).env_vars if env_file else {}
    except (OSError, UnicodeError) as error:
        raise SettingsError(f"{env_file}: cannot be read ({type(error).__name__}); give a UTF-8 file") from None
    return {name: value for name, value in kept.items() if value is not None} | dict(source)


def load_settings(environ: Mapping[str, str] | None = None, env_file: str | Path | None = ENV_FILE) -> Settings:
    """The settings of ``environ`` (default: this process's) and, beneath it, of ``env_file`` in the working directory.

    A variable that is set to nothing counts as unset. Raises SettingsError with a line for each mistake.
    """
    variables = read_environ(environ, env_file)
    given: dict[str, str] = {}
    mistakes: list[str] = []
    for field_name, field in Settings.model_fields.items():
        try:
            value = _value(_variable(field_name), variables, is_secret=_form(field).is_secret)
        except SettingsError as error:
            mistakes.append(str(error))
            continue
        if value:
            given[field_name] = value
    try:
        settings = Settings.model_validate(given)
    except ValidationError as error:
        mistakes += [_line(found["loc"], found["msg"]) for found in error.errors()]
    if mistakes:
        raise SettingsError("\n".join(mistakes))
    return settings


def unknown_settings(environ: Mapping[str, str]) -> list[tuple[str, str | None]]:
    """The BRIDGE_* names that are no setting, each with the nearest that is, or None.

    Kubernetes sets BRIDGE_PORT, BRIDGE_PORT_* and BRIDGE_SERVICE_* for a Service named bridge: not a user's mistake.
    """
    known = {row.name for row in describe()} | {row.file_name for row in describe() if row.file_name}
    injected = ("BRIDGE_PORT_", "BRIDGE_SERVICE_")
    return [
        (name, next(iter(get_close_matches(name, sorted(known), n=1)), None))
        for name in sorted(environ)
        if name.startswith("BRIDGE_") and name not in known and name != "BRIDGE_PORT" and not name.startswith(injected)
    ]


def _variable(field_name: str) -> str:
    return "SENTRY_DSN" if field_name == "sentry_dsn" else f"BRIDGE_{field_name.removesuffix('_ms').upper()}"


def _form(field: FieldInfo) -> Form:
    return next(entry for entry in field.metadata if isinstance(entry, Form))


def _value(name: str, variables: Mapping[str, str], *, is_secret: bool) -> str:
    value = variables.get(name, "").strip()
    path = variables.get(f"{name}_FILE", "").strip() if is_secret else ""
    if not path:
        return value
    if value:
        raise SettingsError(f"{name}: given, and {name}_FILE too; give one of them")
    try:
        read = Path(path).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, ValueError, RuntimeError) as error:  # ValueError: no UTF-8, or a path with a NUL in it
        raise SettingsError(f"{name}_FILE: {shown_path(path)} cannot be read ({type(error).__name__})") from None
    if not read:
        raise SettingsError(f"{name}_FILE: {shown_path(path)} is empty; put the value in it")
    return read


def _line(location: tuple[int | str, ...], message: str) -> str:
    message = message.removeprefix("Value error, ")
    # Without a location it is a rule of several settings, which names them itself.
    return f"{_variable(str(location[0]))}: {message}" if location else message
