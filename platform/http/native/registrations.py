"""What a request wants registered or changed: parameters from the query, a JSON body or a form, and uploads."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import msgspec
from litestar import Request
from litestar.datastructures import State

from flowyard.platform.archives.names import infer_model_name, is_archive_url
from flowyard.platform.http.bodies import (
    MAX_PARAMETERS_BYTES,
    MULTIPART,
    Upload,
    content_type,
    is_form,
    read_form,
    read_parameters,
)
from flowyard.platform.http.native.parameters import Nothing, RegisterModel, RegisterWorkflow, check_replace, read
from flowyard.platform.registry.registry import Registry
from flowyard.platform.registry.request import Request as Registration
from flowyard.schemas.errors import InvalidRequestError
from flowyard.schemas.values import NOT_JSON

HttpRequest = Request[Any, Any, State]
P = TypeVar("P", bound=msgspec.Struct)

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
# curl calls every body a form: only what can be nothing else is taken for one.
_FORM = re.compile(rb"[a-z_0-9]+=[!-%'-~]*(&[a-z_0-9]+=[!-%'-~]*)*")


class Given(msgspec.Struct, frozen=True, kw_only=True):
    """What a request says.

    Attributes:
        values: Its parameters.
        text: Whether they are text, as in a query, or JSON values.
        upload: What came as the body, where it is no parameters.
        filename: What the uploaded file is called, where that is said.
    """

    values: dict[str, Any]
    text: bool = True
    upload: Path | None = None
    filename: str = ""


def query_values(request: HttpRequest) -> dict[str, Any]:
    """The parameters of the query; of a repeated one the first counts (DJL §1.1)."""
    return _first_of_each(request.query_params.multi_items())


async def change(request: HttpRequest, registry: Registry, kind: type[P]) -> P:
    """Reads the parameters of a change: those of a JSON object, or of query and form.

    Raises:
        InvalidRequestError: A body that is neither, or parameters that are not allowed.
    """
    body = (await read_parameters(request.receive, registry.held)).strip()
    media_type, options = content_type(request.headers.get("content-type", ""))
    if body and media_type == JSON:
        return read(kind, _json_object(body), text=False)
    fields: dict[str, Any] | None = {}
    if media_type == MULTIPART and is_form(media_type, options, body):
        fields = _first_of_each(read_form(media_type, options, body, text=True))
    elif body:
        fields = _form_fields(body)
    if fields is None:
        raise InvalidRequestError(
            "The body is no form of parameters; this call takes them from the query, a form or a JSON object."
        )
    return read(kind, fields | query_values(request), text=True)


async def document(request: HttpRequest, registry: Registry, kind: type[P]) -> P:
    """Reads a JSON document, the only way to say what the call takes.

    Raises:
        InvalidRequestError: There is none, or one that is not allowed; the message names the place. Parameters of the query.
    """
    read(Nothing, query_values(request), text=True)
    body = await read_parameters(request.receive, registry.held)
    try:
        return msgspec.json.decode(body, type=kind)
    except NOT_JSON as error:
        raise InvalidRequestError(f"The body is not the JSON document that is expected here: {error}") from None


@contextlib.asynccontextmanager
async def model_registration(request: HttpRequest, registry: Registry) -> AsyncIterator[Registration]:
    """What `POST /models` is to register. The upload, if there is one, is there until the end of the block.

    Raises:
        InvalidRequestError: Parameters that are not allowed, or nothing to register.
    """
    with registry.temporary_file() as path:
        given = await _given(request, registry, path)
        parameters = read(RegisterModel, given.values, text=given.text)
        check_replace(replace=parameters.replace, synchronous=parameters.synchronous)
        if not parameters.url and given.upload is None:
            raise InvalidRequestError("Parameter url is required.")
        yield Registration(
            url=parameters.url,
            upload=given.upload,
            filename=given.filename,
            name=parameters.model_name or _inferred(parameters, given),
            version=parameters.model_version,
            spec=parameters.spec(),
            wait=parameters.synchronous,
            sha256=parameters.sha256 or "",
            replace=parameters.replace,
        )


def _inferred(parameters: RegisterModel, given: Given) -> str:
    """The name that DJL takes from the URL of a query, also for a workflow (DJL §1.3); an archive may have one in it."""
    if given.upload is not None or not given.text or is_archive_url(parameters.url):
        return ""
    return infer_model_name(parameters.url)


@contextlib.asynccontextmanager
async def workflow_registration(request: HttpRequest, registry: Registry) -> AsyncIterator[Registration]:
    """What `POST /workflows` is to register. The upload, if there is one, is there until the end of the block.

    Raises:
        InvalidRequestError: Parameters that are not allowed, or nothing to register.
    """
    with registry.temporary_file() as path:
        given = await _given(request, registry, path)
        if given.values.get("template"):
            given = _from_template(given, registry, path)
        parameters = read(RegisterWorkflow, given.values, text=given.text)
        check_replace(replace=parameters.replace, synchronous=parameters.synchronous)
        if not parameters.url and given.upload is None:
            raise InvalidRequestError("Either parameter url or template is required.")
        yield Registration(
            url=parameters.url,
            upload=given.upload,
            filename=given.filename,
            spec=parameters.spec(),
            kind="workflow",
            wait=parameters.synchronous,
            sha256=parameters.sha256 or "",
            replace=parameters.replace,
        )


def _from_template(given: Given, registry: Registry, path: Path) -> Given:
    """A filled template as if it had been uploaded; what has no place in it is a parameter of the call (DJL §1.4)."""
    template = registry.templates.find(str(given.values["template"]))
    own = set(RegisterWorkflow.__struct_fields__) - {"url"} - template.places
    values = {name: value for name, value in given.values.items() if name not in own and value not in ("", None)}
    wrong = next((name for name, value in values.items() if not isinstance(value, str)), None)
    if wrong is not None:
        raise InvalidRequestError(f"Parameter {wrong}: {str(values[wrong])[:100]!r} is not allowed; allowed is text.")
    path.write_bytes(template.fill(values))
    rest = {name: value for name, value in given.values.items() if name in own}
    return Given(values=rest, text=given.text, upload=path, filename=template.filename)


async def _given(request: HttpRequest, registry: Registry, path: Path) -> Given:
    """What a registration says: a JSON body alone (DJL §1.3), or the query with what the body adds."""
    values = query_values(request)
    if _media_type(request) == JSON:
        body = (await read_parameters(request.receive, registry.held)).strip()
        if not body:
            return Given(values=values)
        document = _json_object(body)
        # A workflow has this key, and no call has a parameter of that name.
        if "workflow" not in document:
            return Given(values=document, text=False)
        await asyncio.to_thread(path.write_bytes, body)
        return Given(values=values, upload=path, filename="workflow.json")
    if values.get("url") or values.get("template"):
        return Given(values=values)
    upload = Upload(path, registry.settings.max_archive_size_bytes)
    await upload.receive(request.receive, request.headers.get("content-type", ""))
    values = upload.fields | values
    if not upload.length:
        return Given(values=values)
    if _media_type(request) == FORM and upload.length <= MAX_PARAMETERS_BYTES:
        fields = _form_fields((await asyncio.to_thread(path.read_bytes)).strip())
        if fields is not None:
            return Given(values=fields | values)
    return Given(values=values, upload=path, filename=upload.filename)


def _media_type(request: HttpRequest) -> str:
    return content_type(request.headers.get("content-type", ""))[0]


def _form_fields(body: bytes) -> dict[str, Any] | None:
    """The fields of a form, the first of each name; `None` when it is none."""
    if not _FORM.fullmatch(body):
        return None
    return _first_of_each(parse_qsl(body.decode("ascii"), keep_blank_values=True))


def _first_of_each(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    return dict(reversed(list(pairs)))


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except NOT_JSON as error:
        raise InvalidRequestError(f"The body is not a JSON object of parameters: {error}") from None
