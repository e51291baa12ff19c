"""The bodies of check-in, assignment and report, the events of the trace, and what every error carries."""

import json
from dataclasses import replace
from typing import Any

import pytest

from protocol import cbor, errors, messages
from protocol.errors import DecodeError, OtaError
from protocol.messages import Assignment, Checkin, Outcome, StatusReport, Via
from protocol.trace import Event

CHECKIN = Checkin(
    device_id="dev-1",
    model="board-a",
    image_digest=bytes(32),
    sequence_number=7,
    slot=1,
    trial=False,
    decoders=("delta/1",),
)
ASSIGNMENT = Assignment(manifest_uri="/d/dev-1/m", manifest_digest=b"e" * 32, size=882, poll_s=60)
REPORT = StatusReport(
    device_id="dev-1",
    manifest_digest=b"e" * 32,
    outcome=Outcome.CONFIRMED,
    reason=0,
    detail="",
    image_digest=b"i" * 32,
    sequence_number=8,
    slot=0,
    bytes_up=1_000,
    bytes_down=20_000,
    blocks=17,
    blocks_resent=3,
    via=Via.DELTA,
    duration_s=12,
    power_cuts=0,
)


@pytest.mark.parametrize(
    "message",
    [
        CHECKIN,
        ASSIGNMENT,
        Assignment(poll_s=60),
        REPORT,
        replace(REPORT, via=None),
        replace(REPORT, detail="x" * 200, outcome=Outcome.FAILED),
    ],
)
def test_messages_come_back_as_they_were(message: Any) -> None:
    assert messages.decode(type(message), messages.encode(message)) == message


def test_a_checkin_stays_below_one_block_of_128_bytes() -> None:
    assert len(messages.encode(CHECKIN)) <= 128


@pytest.mark.parametrize("name", ["", "a" * 65, "-a", ".a", "_a", "a b", "a/b", "ä", "a\n", "..", "a\x00"])
def test_names_that_cannot_be_a_path_segment_are_refused(name: str) -> None:
    with pytest.raises(DecodeError, match=r"^checkin\.device-id: .* is not a name"):
        messages.decode(Checkin, messages.encode(replace(CHECKIN, device_id=name)))


@pytest.mark.parametrize("name", ["a", "A.b_c-9", "9" * 64])
def test_plain_names_are_taken(name: str) -> None:
    assert messages.decode(Checkin, messages.encode(replace(CHECKIN, model=name))).model == name


@pytest.mark.parametrize(
    ("label", "value", "words"),
    [
        (3, bytes(31), "image-digest"),
        (4, -1, "sequence-number"),
        (4, True, "sequence-number"),
        (5, 2, "slot"),
        (6, 1, "trial"),
        (7, ("",), "decoders"),
        (7, (b"delta/1",), "decoders"),
        (1, b"dev-1", "device-id"),
        (8, 1, "unknown key 8"),
    ],
)
def test_a_checkin_with_a_wrong_field_is_refused_by_name(label: int, value: cbor.Value, words: str) -> None:
    mapping = cbor.decode(messages.encode(CHECKIN))
    with pytest.raises(DecodeError, match=words):
        messages.decode(Checkin, cbor.encode({**mapping, label: value}))


def test_an_outcome_without_a_name_is_refused() -> None:
    mapping = cbor.decode(messages.encode(REPORT))
    for label, value in ((3, 0), (3, 5), (13, 3), (4, 256), (5, "x" * 201), (15, 2**32)):
        with pytest.raises(DecodeError):
            messages.decode(StatusReport, cbor.encode({**mapping, label: value}))


def test_a_body_of_more_than_a_kilobyte_is_refused_before_it_is_read() -> None:
    with pytest.raises(DecodeError, match="the limit is 1024"):
        messages.decode(Checkin, bytes(1_025))


def test_the_root_of_a_message_must_be_its_own_map() -> None:
    with pytest.raises(DecodeError, match=r"^assignment: "):
        messages.decode(Assignment, messages.encode(REPORT))


@pytest.mark.parametrize("field", ["manifest_uri", "manifest_digest", "size"])
def test_an_assignment_names_a_manifest_in_full_or_not_at_all(field: str) -> None:
    partial: Any = replace(ASSIGNMENT, **{field: None})  # type: ignore[arg-type]  # all three take None
    with pytest.raises(DecodeError, match="go together"):
        messages.decode(Assignment, messages.encode(partial))


def test_an_event_is_one_line_of_json() -> None:
    event = Event(time_s=1.23456, name="block-received", data={"num": 3, "text": 'a\n"b', "more": None})
    line = event.to_json()
    assert "\n" not in line
    assert json.loads(line) == {"time_s": 1.235, "event": "block-received", "num": 3, "text": 'a\n"b', "more": None}


def test_every_error_says_what_a_peer_is_told_and_whether_trying_again_helps() -> None:
    classes: list[type[OtaError]] = [OtaError]
    for found in classes:
        classes += found.__subclasses__()
    assert len(classes) > 10
    for found in classes:
        assert found.coap_code >> 5 in (4, 5)
        assert 1 <= found.reason <= 11
    assert [found.__name__ for found in classes if found.__module__ == "protocol.errors" and found.retryable] == [
        "TransferTimeout",
        "RepresentationChanged",
    ]
    assert errors.DecodeError("wrong", path="a.b").path == "a.b"
    assert errors.UnsupportedError("new", reason=errors.REASON_SEVERING_UNSUPPORTED).reason == 9
    assert errors.UnsupportedError.reason == errors.REASON_COMMAND_UNSUPPORTED
