"""The query that the program itself sends, as demo and simulate make it."""

from conftest import APP_ID, UPDATE

from app.tencent.request import Query, decode_query
from app.tencent.sender import signed_query
from tencent.lib import REQUEST_TIME, SIGN, TOKEN


def test_signed_query_writes_what_the_published_vector_says() -> None:
    query = decode_query(signed_query(APP_ID, TOKEN, 1669872112.9, "10.0.0.1", "iOS").encode())
    assert query == Query(APP_ID, SIGN, REQUEST_TIME, "10.0.0.1", "iOS", UPDATE)


def test_signed_query_without_a_token_is_not_signed() -> None:
    query = decode_query(signed_query(APP_ID, None, 1669872112.9, "10.0.0.1", "a&b=c").encode())
    assert query == Query(APP_ID, None, None, "10.0.0.1", "a&b=c", UPDATE)
