from __future__ import annotations

import base64
import binascii
import hmac
import json
from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from openai import InvalidWebhookSignatureError, OpenAI
from standardwebhooks import Webhook, WebhookVerificationError

from bridge.domain.signing import Signer, decode_secret, encode_secret, signature
from tests.examples import examples

# Published by the Standard Webhooks libraries.
VECTORS = [
    (
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1614265330,
        b'{"test": 2432232314}',
        "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    ),
    (
        "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
        "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
        1649367553,
        b'{"email":"test@example.com","username":"test_user"}',
        "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
    ),
]
OLD, NEW = b"o" * 32, b"n" * 24
BODY = '{"id":"evt_1","type":"sms.status.changed","data":{"description":"成功"}}'.encode()


def headers(signed: str, seconds: int, message_id: str = "evt_1") -> dict[str, str]:
    return {"webhook-id": message_id, "webhook-timestamp": str(seconds), "webhook-signature": signed}


def now_s() -> int:
    return int(datetime.now(UTC).timestamp())


@pytest.mark.parametrize(("secret", "message_id", "seconds", "body", "expected"), VECTORS)
def test_the_published_vectors_are_met(secret: str, message_id: str, seconds: int, body: bytes, expected: str) -> None:
    assert signature([decode_secret(secret)], message_id, seconds, body) == expected


@examples(50)
@given(
    st.binary(min_size=24, max_size=64),
    st.from_regex(r"evt_[a-z2-7]{26}", fullmatch=True),
    st.dictionaries(st.text(), st.text(), max_size=3),
)
def test_the_standard_library_of_the_standard_accepts_any_callback(
    key: bytes, message_id: str, payload: dict[str, str]
) -> None:
    body = json.dumps(payload, ensure_ascii=False).encode()
    seconds = now_s()
    signed = signature([key], message_id, seconds, body)
    assert Webhook(encode_secret(key)).verify(body, headers(signed, seconds, message_id)) == payload


def test_each_of_several_keys_verifies_for_its_holder_with_both_libraries() -> None:
    seconds = now_s()
    signed = signature([NEW, OLD], "evt_1", seconds, BODY)
    for key in (NEW, OLD):
        assert Webhook(encode_secret(key)).verify(BODY, headers(signed, seconds))
        client = OpenAI(api_key="none", webhook_secret=encode_secret(key))
        client.webhooks.verify_signature(BODY.decode(), headers(signed, seconds))


@given(st.binary(max_size=200), st.lists(st.binary(max_size=300), min_size=1, max_size=3))
@example(bytes(65), [b"a key that is longer than a block of the hash"])
def test_a_signer_signs_one_message_after_another_as_the_standard_librarys_hmac_does(
    key: bytes, bodies: list[bytes]
) -> None:
    signer = Signer([key])
    for body in bodies:
        expected = base64.b64encode(hmac.digest(key, b"evt_1.7." + body, "sha256")).decode()
        assert signer.sign("evt_1", 7, body) == f"v1,{expected}"


def test_the_current_key_comes_first() -> None:
    both = signature([NEW, OLD], "evt_1", 1, BODY)
    assert both == signature([NEW], "evt_1", 1, BODY) + " " + signature([OLD], "evt_1", 1, BODY)


@pytest.mark.parametrize("what", ["key", "id", "time", "body"])
def test_a_change_to_anything_signed_is_refused_by_both_libraries(what: str) -> None:
    seconds = now_s()
    signed = signature([OLD if what == "key" else NEW], "evt_1", seconds, BODY)
    sent = headers(signed, seconds + (what == "time"), "evt_2" if what == "id" else "evt_1")
    body = BODY + b" " if what == "body" else BODY
    with pytest.raises(WebhookVerificationError):
        Webhook(encode_secret(NEW)).verify(body, sent)
    client = OpenAI(api_key="none", webhook_secret=encode_secret(NEW))
    with pytest.raises(InvalidWebhookSignatureError):
        client.webhooks.verify_signature(body.decode(), sent)


@given(st.binary(min_size=24, max_size=64))
def test_a_secret_shown_is_read_back(key: bytes) -> None:
    shown = encode_secret(key)
    assert shown.startswith("whsec_")
    assert decode_secret(shown) == key


def whsec(text: str) -> str:
    return "whsec_" + text


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "whsec",
        whsec(""),
        base64.b64encode(OLD).decode(),
        whsec(base64.b64encode(b"x" * 23).decode()),
        whsec(base64.b64encode(b"x" * 65).decode()),
        whsec(base64.b64encode(OLD).decode().rstrip("=")),
        whsec(base64.b64encode(OLD).decode() + "\n"),
        whsec(" " + base64.b64encode(OLD).decode()),
        whsec(base64.urlsafe_b64encode(b"\xff" * 24).decode()),
        whsec("é" * 32),
        whsec("*" * 32),
        whsec("=" * 32),
        whsec("\ud800" * 32),
        "WHSEC_" + base64.b64encode(OLD).decode(),
        "whsec_whsec_" + base64.b64encode(OLD).decode(),
    ],
)
def test_a_bad_secret_is_refused_and_not_shown(secret: str) -> None:
    with pytest.raises(ValueError, match="a secret") as caught:
        decode_secret(secret)
    given_part = secret.removeprefix("whsec_")
    assert len(given_part) < 8 or given_part[:8] not in str(caught.value)
    # A chained error would bring the bytes into a traceback.
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert not isinstance(caught.value, binascii.Error)


@given(st.text())
def test_no_text_raises_anything_but_a_clear_error(text: str) -> None:
    for secret in (text, whsec(text)):
        message = ""
        try:
            key = decode_secret(secret)
        except ValueError as error:
            message = str(error)
        assert message.startswith("a secret") or 24 <= len(key) <= 64
