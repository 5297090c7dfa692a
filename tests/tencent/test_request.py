"""The request and its answer: signature, query, whose app it is; contract §2 and protocol.md."""

import hashlib
import json
from typing import Any
from urllib.parse import parse_qsl

import pytest
from conftest import APP_ID
from hypothesis import given
from hypothesis import strategies as st

from app.tencent.request import Query, Refused, answer_fail, answer_ok, check_app, check_signature, decode_query, sign
from tencent.lib import REQUEST_TIME, SIGN, TOKEN


def signed(sign_: str | None = SIGN, request_time: str | None = REQUEST_TIME) -> Query:
    return Query(APP_ID, sign_, request_time, None, None)


def signature_of(token: str, request_time: str) -> str:
    """Sign, by the vendor's words: sha256 of the concatenation, lower-case hex."""
    return hashlib.sha256(token.encode() + request_time.encode()).hexdigest()


def test_sign_gives_the_published_vector() -> None:
    assert sign(TOKEN, REQUEST_TIME) == SIGN


def test_the_published_vector_is_accepted() -> None:
    check_signature(signed(), [TOKEN], 1669872112.0)


@pytest.mark.parametrize("tokens", [[TOKEN, "new"], ["new", TOKEN], ["a", "b", TOKEN]])
def test_any_configured_token_may_sign_while_they_are_rotated(tokens: list[str]) -> None:
    check_signature(signed(), tokens, 1669872112.0)
    check_signature(signed(signature_of(tokens[0], REQUEST_TIME)), tokens, 1669872112.0)


@pytest.mark.parametrize("off_s", [-60.0, -59.0, 0.0, 0.9, 59.0, 60.0])
def test_request_time_may_be_60_s_off(off_s: float) -> None:
    check_signature(signed(), [TOKEN], 1669872112 + off_s)


@pytest.mark.parametrize("off_s", [-1e9, -3600.0, -61.0, -60.5, 60.5, 61.0, 3600.0, 1e9])
def test_request_time_may_not_be_more_than_60_s_off(off_s: float) -> None:
    with pytest.raises(Refused, match="60 s off") as refused:
        check_signature(signed(), [TOKEN], 1669872112 + off_s)
    assert refused.value.status_code == 401


@pytest.mark.parametrize(
    "wrong",
    [
        "0" * 64,
        SIGN[:-1] + "0",
        SIGN[:-1],
        SIGN + "0",
        SIGN.upper(),
        f" {SIGN}",
        f"{SIGN}\n",
        "",
        "ü" * 64,
        "\0" * 64,
        signature_of("other", REQUEST_TIME),
        signature_of(TOKEN, "1669872113"),
        signature_of("", REQUEST_TIME),
        signature_of(REQUEST_TIME, TOKEN),
        hashlib.md5(b"xxxxyyyy1669872112").hexdigest(),
    ],
)
def test_a_wrong_sign_is_refused(wrong: str) -> None:
    with pytest.raises(Refused, match="does not match") as refused:
        check_signature(signed(wrong), [TOKEN, "another"], 1669872112.0)
    assert refused.value.status_code == 401


@pytest.mark.parametrize(
    "query", [signed(None), signed(SIGN, None), signed(None, None)], ids=["no Sign", "no RequestTime", "neither"]
)
def test_a_missing_sign_or_request_time_is_refused(query: Query) -> None:
    with pytest.raises(Refused, match="needed") as refused:
        check_signature(query, [TOKEN], 1669872112.0)
    assert refused.value.status_code == 401


@pytest.mark.parametrize(
    "query_string",
    [
        f"Sign={SIGN}&Sign={SIGN}&RequestTime={REQUEST_TIME}",
        f"Sign={SIGN}&sign={SIGN}&RequestTime={REQUEST_TIME}",
        f"Sign={SIGN}&RequestTime={REQUEST_TIME}&RequestTime={REQUEST_TIME}",
        f"Sign=&Sign={SIGN}&RequestTime={REQUEST_TIME}",
    ],
)
def test_sign_or_request_time_given_twice_is_refused(query_string: str) -> None:
    with pytest.raises(Refused, match="once each") as refused:
        check_signature(decode_query(query_string.encode()), [TOKEN], 1669872112.0)
    assert refused.value.status_code == 401


@pytest.mark.parametrize(
    "request_time",
    [
        "",
        "01669872112",
        "16698721120",
        "166987211",
        "1669872112\n",
        "\n1669872112",
        " 1669872112",
        "+1669872112",
        "-1669872112",
        "1669872112.0",
        "1_669872112",
        "１６６９８７２１１２",
        "١٦٦٩٨٧٢١١٢",
        "1669872112\x80\x00\x00\x00\x00\x00\x00\x901669872112",  # what a length extension would have to send
        "xxxxxxxxxx",
        "0x63889330",
    ],
)
def test_request_time_is_ten_ascii_digits_even_when_the_sign_is_right(request_time: str) -> None:
    with pytest.raises(Refused, match="ten digits") as refused:
        check_signature(signed(signature_of(TOKEN, request_time), request_time), [TOKEN], 1669872112.0)
    assert refused.value.status_code == 401


def test_moving_digits_from_request_time_into_the_token_is_no_way_in() -> None:
    # sha256("xxxxyyyy" + "1669872112") is also that of "xxxxyyyy1" + "669872112": only ten digits will do.
    with pytest.raises(Refused):
        check_signature(signed(SIGN, "669872112"), ["xxxxyyyy1"], 669872112.0)


def test_without_a_token_nothing_passes_the_check() -> None:
    with pytest.raises(Refused):
        check_signature(signed(), [], 1669872112.0)


def test_a_refusal_does_not_tell_the_sign_or_the_token() -> None:
    with pytest.raises(Refused) as refused:
        check_signature(signed("0" * 64), [TOKEN], 1669872112.0)
    assert SIGN not in refused.value.reason
    assert TOKEN not in refused.value.reason


@pytest.mark.parametrize("spell", [str, str.lower, str.upper, str.swapcase, str.title])
def test_names_are_read_without_regard_to_case(spell: Any) -> None:
    fields = {
        "SdkAppid": APP_ID,
        "Sign": SIGN,
        "RequestTime": REQUEST_TIME,
        "ClientIP": "1.2.3.4",
        "OptPlatform": "iOS",
    }
    query_string = "&".join(f"{spell(name)}={value}" for name, value in fields.items())
    assert decode_query(query_string.encode()) == Query(APP_ID, SIGN, REQUEST_TIME, "1.2.3.4", "iOS")


@pytest.mark.parametrize("name", ["SdkAppid", "SdkAppId", "sdkappid", "SDKAPPID"])
def test_both_of_the_vendors_spellings_of_the_app_are_read(name: str) -> None:
    assert decode_query(f"{name}=14".encode()).sdk_app_id == "14"


def test_everything_may_be_absent() -> None:
    nothing = Query(None, None, None, None, None)
    assert decode_query(b"") == nothing
    assert decode_query(b"contenttype=json&CallbackCommand=&other=1&&=&x") == nothing


def test_an_empty_client_ip_or_platform_is_none() -> None:
    assert decode_query(b"SdkAppid=1&ClientIP=&OptPlatform=") == Query("1", None, None, None, None)


def test_values_keep_their_case_and_are_unescaped() -> None:
    query = decode_query(b"SdkAppid=%31%34&OptPlatform=Web%20%2B+x&ClientIP=%3A%3A1")
    assert (query.sdk_app_id, query.platform, query.client_ip) == ("14", "Web + x", "::1")


@pytest.mark.parametrize(
    "query_string",
    [b"SdkAppid=1&SdkAppid=1", b"SdkAppid=1&SdkAppid=2", b"SdkAppid=1&sdkappID=2", b"SdkAppid=&SdkAppid=1"],
)
def test_an_app_given_twice_is_no_app(query_string: bytes) -> None:
    assert decode_query(query_string).sdk_app_id is None


def test_client_ip_and_platform_are_bounded() -> None:
    query = decode_query(b"ClientIP=" + b"1" * 1000 + b"&OptPlatform=" + b"a" * 65)
    assert (query.client_ip, query.platform) == ("1" * 64, "a" * 64)


def test_64_parameters_are_read_and_65_refused() -> None:
    assert decode_query(b"SdkAppid=1" + b"&a=1" * 63).sdk_app_id == "1"
    with pytest.raises(Refused, match="too many") as refused:
        decode_query(b"SdkAppid=1" + b"&a=1" * 64)
    assert refused.value.status_code == 403


@pytest.mark.parametrize(
    "query_string", [b"\xff\xfe=\x80", b"%ff=%00&SdkAppid=%ff", b"SdkAppid=%", b"a;b&%ed%a0%80=1", b"&" * 60]
)
def test_odd_bytes_in_the_query_are_read_without_complaint(query_string: bytes) -> None:
    with pytest.raises(Refused, match="SdkAppid"):
        check_app(decode_query(query_string), APP_ID)


@given(
    st.lists(
        st.sampled_from(
            ["SdkAppid", "sdk%41ppid", "SIGN", "Si+gn", "RequestTime", "ClientIP", "optPlatform", "CallbackCommand", ""]
        )
        | st.sampled_from(
            ["=", "==", "&", ";", "+", "%", "%2", "%26", "%3D", "%ff", "%C3%A9", "\xff", "\xe9", " ", "1"]
        ),
        max_size=20,
    )
)
def test_the_query_is_read_as_the_standard_library_reads_it(parts: list[str]) -> None:
    text = "".join(parts)
    pairs = [(name.lower(), value) for name, value in parse_qsl(text, keep_blank_values=True)]

    def values(name: str) -> list[str]:
        return [value for found, value in pairs if found == name]

    checked = [found[0] if len(found) == 1 else None for found in map(values, ("sdkappid", "sign", "requesttime"))]
    told = [(values(name) or [""])[0][:64] or None for name in ("clientip", "optplatform", "callbackcommand")]
    assert decode_query(text.encode("latin-1")) == Query(*checked, *told)


def test_our_own_app_passes() -> None:
    check_app(decode_query(f"SdkAppId={APP_ID}".encode()), APP_ID)


@pytest.mark.parametrize(
    "given_id",
    [None, "", "1400000002", "140000000", "14000000011", f"{APP_ID} ", f"0{APP_ID}", "１４００００００01", "é"],
)
def test_another_app_is_refused(given_id: str | None) -> None:
    with pytest.raises(Refused, match="SdkAppid") as refused:
        check_app(Query(given_id, None, None, None, None), APP_ID)
    assert refused.value.status_code == 403


def test_answer_ok_is_what_the_sender_waits_for() -> None:
    assert answer_ok() == b'{"ActionStatus":"OK","ErrorInfo":"","ErrorCode":0}'


@pytest.mark.parametrize("reason", ["EventTime is not an integer", 'a "quoted" \\ é\n\0 reason', ""])
@pytest.mark.parametrize("status_code", [400, 401, 403, 413, 503])
def test_answer_fail_says_what_and_why_with_a_code_that_is_not_zero(status_code: int, reason: str) -> None:
    answer = json.loads(answer_fail(status_code, reason))
    assert answer == {"ActionStatus": "FAIL", "ErrorInfo": reason, "ErrorCode": status_code}
