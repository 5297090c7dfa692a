"""The OpenAPI document: what the framework finds, and the receiver, which it sees as bare ASGI."""

from typing import Any

from litestar import Litestar, Request
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import (
    OpenAPIMediaType,
    OpenAPIResponse,
    Operation,
    Parameter,
    PathItem,
    Reference,
    RequestBody,
    Schema,
)
from litestar.openapi.spec.enums import OpenAPIType

from app.server.forwarded import root_of
from app.tencent.request import ANSWER_FIELDS, QUERY_FIELDS


class _Document(JsonRenderPlugin):
    """The document, whose paths stand under the root that a proxy shows."""

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        return super().render(request, openapi_schema | {"servers": [{"url": root_of(request.scope) or "/"}]})


CONFIG = OpenAPIConfig(
    title="Roomlapse",
    version="1",
    description="A time machine for live rooms.",
    path="/schema",
    render_plugins=[_Document(path="/")],
)
_TYPES = {str: OpenAPIType.STRING, int: OpenAPIType.INTEGER}
_ANSWERS = {
    200: "It is on disk.",
    400: "The body breaks a rule; it is in quarantine.",
    401: "Sign is wrong, missing, or too old.",
    403: "SdkAppid is not ours.",
    405: "Callbacks come with POST.",
    413: "The body is larger than 64 KiB.",
    414: "The query is longer than 8 KiB.",
    429: "Too many refused callbacks came from this address.",
    503: "It could not be stored: send it again.",
}


def describe_callbacks(app: Litestar) -> None:
    """Add `POST /callbacks` to the document."""
    answer = Schema(
        type=OpenAPIType.OBJECT,
        required=list(ANSWER_FIELDS),
        properties={name: Schema(type=_TYPES[kind]) for name, kind in ANSWER_FIELDS.items()},
    )
    parameters: list[Parameter | Reference] = [
        Parameter(
            name=name,
            param_in="query",
            description=meaning,
            required=number == 0,
            schema=Schema(type=OpenAPIType.STRING),
        )
        for number, (name, meaning) in enumerate(QUERY_FIELDS.items())
    ]
    assert app.openapi_schema.paths is not None
    app.openapi_schema.paths["/callbacks"] = PathItem(
        post=Operation(
            summary="Take a callback from Tencent Cloud Live",
            operation_id="callbacks",
            parameters=parameters,
            request_body=RequestBody(
                content={"application/json": OpenAPIMediaType(schema=Schema(type=OpenAPIType.OBJECT))},
                required=True,
            ),
            responses={
                str(status_code): OpenAPIResponse(
                    description=meaning, content={"application/json": OpenAPIMediaType(schema=answer)}
                )
                for status_code, meaning in _ANSWERS.items()
            },
        )
    )
