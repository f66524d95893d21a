"""Several credential sets against one simulated provider: each account's calls are its own, and so is its trouble."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from bridge.accounts import Class, check
from bridge.domain.accounts import Account
from bridge.domain.events import unpack
from bridge.domain.tracking import parse_items
from bridge.errors import AccountError
from bridge.providers import Providers
from bridge.simulator.sender import send_usms
from bridge.wiring import Bridge
from tests.commands import track
from tests.parts import Parts
from tests.servers import SECRET_KEY, bridge_on
from tests.simulator import RunningSimulator, running_simulator

SHOP, BANK = ("shop-public-key", "shop-private-key"), ("bank-public-key", "bank-private-key")
PHONE = "(86)18500000001"


@pytest.fixture(name="simulator")
def _simulator() -> Iterator[RunningSimulator]:
    with running_simulator(other_accounts=dict([SHOP, BANK])) as simulator:
        yield simulator


@pytest.fixture(name="house")
def _house(store_url: str, simulator: RunningSimulator) -> Iterator[Bridge]:
    """A bridge whose provider is the simulator."""
    with bridge_on(store_url, provider_url=simulator.url, allow_http=True) as bridge:
        yield bridge


@pytest.fixture(name="parts")
def _parts(house: Bridge, store_url: str) -> Iterator[Parts]:
    made = Parts(store_url, house.settings.shards)
    yield made
    made.close()


def add(bridge: Bridge, name: str, keys: tuple[str, str], **more: object) -> None:
    public_key, private_key = keys
    sealed = bridge.providers.keys.seal(name, private_key)
    account = Account(name=name, public_key=public_key, private_key=sealed, created_ms=1, changed_ms=1)
    assert bridge.accounts.add(msgspec.structs.replace(account, **more))


def send(simulator: RunningSimulator, keys: tuple[str, str], phone: str = PHONE) -> str:
    return send_usms(simulator.url, *keys, [phone])


def phones(bridge: Bridge, account: str, session_no: str) -> list[str]:
    state = bridge.sessions.read(account, [session_no])[session_no].state
    assert state is not None
    return [one.phone for one in state.phones]


def test_each_account_is_asked_for_with_its_own_keys(house: Bridge, simulator: RunningSimulator, parts: Parts) -> None:
    add(house, "shop", SHOP)
    add(house, "bank", BANK)
    sent = {
        name: send(simulator, keys, f"(86)1850000000{place}")
        for place, (name, keys) in enumerate(
            {"shop": SHOP, "bank": BANK, "default": (simulator.public_key, simulator.private_key)}.items()
        )
    }
    for name in sent:
        # Each tracks all of them: the provider tells an account of its own alone.
        track(house, *sent.values(), account=name)
    parts.make_due()
    for name in sent:
        assert house.poller.step(name).failure is None
    for place, (name, own) in enumerate(sent.items()):
        assert phones(house, name, own) == [f"(86)1850000000{place}"]
        others = [other for other in sent.values() if other != own]
        assert [phones(house, name, other) for other in others] == [[], []]
        logged = [unpack(one.record).session_no for one in house.log.read(name)]
        assert logged == [own]


def test_wrong_keys_stop_their_account_and_no_other(house: Bridge, simulator: RunningSimulator, parts: Parts) -> None:
    add(house, "shop", (SHOP[0], "not-its-key"))
    own = send(simulator, (simulator.public_key, simulator.private_key))
    theirs = send(simulator, SHOP)
    track(house, own)
    track(house, theirs, account="shop")
    parts.make_due()
    step = house.poller.step("shop")
    assert isinstance(step.failure, AccountError)
    assert house.rate.paused("shop")[0] > 0
    assert house.rate.paused("default")[0] == 0
    assert house.poller.step("default").changed == 1
    # Nothing of it is settled or lost.
    assert house.sessions.unsettled("shop") == 1


def test_new_keys_count_without_a_new_process(house: Bridge, simulator: RunningSimulator) -> None:
    add(house, "shop", (SHOP[0], "an-old-key"))
    provider = house.providers.of("shop")
    with pytest.raises(AccountError, match="171"):
        provider.fetch_receipts(["s1"])
    sealed = house.providers.keys.seal("shop", SHOP[1])
    house.accounts.update("shop", lambda one: msgspec.structs.replace(one, private_key=sealed))
    session = send(simulator, SHOP)
    assert list(provider.fetch_receipts([session]).by_session) == [session]


def test_a_call_that_the_old_keys_lost_is_made_again_with_the_new_ones(
    house: Bridge, simulator: RunningSimulator
) -> None:
    """Else a rotation, done while a call is under way, would stop the account for another minute."""
    add(house, "shop", SHOP)
    providers = Providers(house.settings, house.accounts, lambda: house.secret_box, ticking=lambda: 0.0)
    session = send(simulator, SHOP)
    providers.of("shop").fetch_receipts([session])
    # By this clock no record is ever old: only a failure makes anybody look.
    simulator.steer("faults", {"script": [{"fault": "retcode", "ret_code": 171}]})
    house.accounts.update("shop", lambda one: msgspec.structs.replace(one, region="cn-bj2"))
    assert list(providers.of("shop").fetch_receipts([session]).by_session[session]) != []
    simulator.steer("faults", {"script": [{"fault": "retcode", "ret_code": 171}]})
    with pytest.raises(AccountError):
        providers.of("shop").fetch_receipts([session])
    providers.close()


def test_a_changed_rate_and_url_count_within_two_seconds(house: Bridge) -> None:
    add(house, "shop", SHOP)
    now = [0.0]
    providers = Providers(house.settings, house.accounts, lambda: house.secret_box, ticking=lambda: now[0])
    assert providers.rate("shop") == house.settings.provider_rate
    assert providers.url("shop") == house.settings.provider_url
    house.accounts.update(
        "shop", lambda one: msgspec.structs.replace(one, rate=0.5, provider_url="http://127.0.0.1:9/x")
    )
    now[0] = 1.9
    assert providers.rate("shop") == house.settings.provider_rate
    now[0] = 2.0
    assert (providers.rate("shop"), providers.url("shop")) == (0.5, "http://127.0.0.1:9/x")
    assert providers.rate("default") == house.settings.provider_rate
    providers.close()


def test_what_is_tracked_for_an_account_without_credentials_waits_for_them(
    house: Bridge, simulator: RunningSimulator, parts: Parts
) -> None:
    session = send(simulator, SHOP)
    track(house, session, account="shop")
    parts.make_due()
    step = house.poller.step("shop")
    assert isinstance(step.failure, AccountError)
    assert "bridge accounts add shop" in str(step.failure)
    assert step.failures == 1
    assert simulator.log().last == 0, "nothing was asked in its name"
    assert house.rate.paused("shop")[2] == str(step.failure)
    # It is added: polled at once, by the same process.
    add(house, "shop", SHOP)
    house.rate.resume("shop")
    assert house.poller.step("shop").changed == 1


def test_a_private_key_that_no_secret_key_opens_stops_its_account_alone(
    house: Bridge, simulator: RunningSimulator, parts: Parts, store_url: str
) -> None:
    add(house, "shop", SHOP)
    own = send(simulator, (simulator.public_key, simulator.private_key))
    track(house, own)
    track(house, "s1", account="shop")
    parts.make_due()
    other = SECRET_KEY[::-1].replace("=", "A")[:43] + "="
    with bridge_on(store_url, provider_url=simulator.url, secret_keys=other) as stranger:
        failure = stranger.poller.step("shop").failure
        assert isinstance(failure, AccountError)
        assert "BRIDGE_SECRET_KEYS" in str(failure)
        assert stranger.poller.step("default").changed == 1


def test_one_without_keys_of_default_polls_its_other_accounts(store_url: str, simulator: RunningSimulator) -> None:
    with bridge_on(store_url, provider_url=simulator.url, public_key=None, private_key=None) as bridge:
        add(bridge, "shop", SHOP)
        bridge.providers.require_some()
        assert check(bridge, "shop").result is Class.OK
        refused = check(bridge, "default")
        assert refused.result is Class.REFUSED
        assert "BRIDGE_PUBLIC_KEY" in refused.detail


def test_an_account_is_polled_at_a_rate_of_its_own(house: Bridge, parts: Parts) -> None:
    add(house, "shop", SHOP, rate=0.01)
    for name in ("shop", "default"):
        house.tracking.note_account(name)
        house.tracker.track(name, parse_items(["s1"]))
    parts.make_due()
    assert house.rate.take("shop", 0.01) == 0
    assert house.poller.step("shop").wait_ms > 60_000
    assert house.poller.step("default").polled == 1


@pytest.mark.parametrize(
    ("faults", "result", "says"),
    [
        ({"script": [{"fault": "retcode", "ret_code": 153}]}, Class.THROTTLED, "153"),
        ({"script": [{"fault": "http_status", "status": 502}]}, Class.UNREACHABLE, "HTTP 502"),
        ({"script": [{"fault": "retcode", "ret_code": 294}]}, Class.REFUSED, "allow-list"),
        ({"script": [{"fault": "retcode", "ret_code": 18003}]}, Class.OK, "takes the keys"),
    ],
)
def test_a_check_says_the_class_of_what_is_wrong(
    house: Bridge, simulator: RunningSimulator, faults: dict[str, object], result: Class, says: str
) -> None:
    add(house, "shop", SHOP)
    simulator.steer("faults", faults)
    checked = check(house, "shop")
    assert (checked.result, says in checked.detail) == (result, True), checked
    assert (checked.action != "") == (result in {Class.THROTTLED, Class.UNREACHABLE})
