"""The FastAPI application: every verb of the table as POST /v1/VERB, circuit files, and who asks."""

# no `from __future__ import annotations`: FastAPI reads the annotations of functions made in a loop

import hmac
import logging
from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException

from atlas import circuit_file, people
from atlas.api import Atlas
from atlas.errors import AccessDenied, AtlasError, NotFound, UsageError
from atlas.group_records import PersonRow
from atlas.http import docs
from atlas.http.faults import ErrorDocument, NotSignedIn, WrongContentType, document, status_of
from atlas.http.guard import Guard
from atlas.http.verbs import VERBS, Verb
from atlas.plain import plain
from atlas.records import Added, Annotations, Record

log = logging.getLogger(__name__)
SignedIn = Callable[[Request], Atlas | None]
FAULTS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorDocument, "description": what}
    for status, what in {
        401: "No token, or one that does not work",
        403: "The role does not allow it",
        404: "No such circuit, feature, collection ...",
        409: "The name fits several, or the data is of another version",
        413: "The body is too large",
        415: "The body is neither JSON nor a circuit file",
        422: "A wrong argument, a refused query",
        503: "A store of the server does not answer",
    }.items()
}


class About(Record):
    """What this server is, and who asks."""

    version: str
    verbs: list[str]
    person: PersonRow


def make_app(atlas: Atlas, signed_in: SignedIn | None = None) -> FastAPI:
    """The verbs of `atlas` over HTTP, for people with accounts.

    signed_in: gives the atlas of whoever the cookie of a request names, None without one; used by the pages' server, whose
    pages may then call the verbs. Without it tokens alone count.
    """
    app = FastAPI(
        title="Circuit Atlas",
        version=version("circuit-atlas"),
        description="The verbs of an atlas. Sign in with `Authorization: Bearer TOKEN`; `atlas people token` makes one.",
        openapi_url="/openapi.json",
        docs_url=None,
        redoc_url=None,
        responses=FAULTS,
        separate_input_output_schemas=False,
        servers=[{"url": "/api"}],
        root_path_in_servers=False,
    )
    app.state.atlas, app.state.signed_in = atlas, signed_in
    _answer_faults(app, atlas)
    for verb in VERBS.values():
        _add_verb(app, verb)
    _add_files(app)
    _add_about(app)
    _add_docs(app)
    settings = atlas.settings
    app.add_middleware(Guard, json_bytes=settings.http_max_body_bytes, file_bytes=settings.import_max_bytes)
    return app


# -- who asks

_bearer = HTTPBearer(auto_error=False, description="An access token: `atlas people token`, or the page People")


def caller(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)] = None
) -> Atlas:
    """The atlas as the person who asks. Raises NotSignedIn."""
    try:
        if "authorization" in request.headers:
            if credentials is None:
                raise NotSignedIn("The header Authorization has no token.", "Send `Authorization: Bearer TOKEN`.")
            return people.with_token(request.app.state.atlas, credentials.credentials)
        signed_in = request.app.state.signed_in
        atlas = signed_in(request) if signed_in is not None else None
    except AccessDenied as error:
        raise NotSignedIn(error.message, error.hint) from error
    if atlas is None:
        raise NotSignedIn("This needs an access token.", "Send `Authorization: Bearer TOKEN`.")
    _refuse_other_origins(request)
    return atlas


def _refuse_other_origins(request: Request) -> None:
    """A cookie is sent by the browser whoever asks, so that the page that asks must be one of this server's."""
    own = f"{request.url.scheme}://{request.url.netloc}"
    if not hmac.compare_digest(request.headers.get("origin", "").encode(), own.encode()):
        raise AccessDenied("This request comes from another site.", "Use an access token instead.")


Caller = Annotated[Atlas, Depends(caller)]

# -- routes


def _add_verb(app: FastAPI, verb: Verb) -> None:
    summary, _, rest = verb.about.partition("\n")

    def ask(atlas, arguments) -> Response:
        return JSONResponse(plain(_told(verb.ask(atlas, arguments))))

    optional = not verb.arguments.model_json_schema().get("required")
    ask.__annotations__ = {"atlas": Caller, "arguments": verb.arguments, "return": Response}
    if optional:
        ask.__defaults__ = (verb.arguments(),)
    needed = "" if verb.row.role == "reader" else f"\n\nNeeds the role {verb.row.role}."
    app.post(
        f"/v1/{verb.name}",
        operation_id=verb.name,
        summary=summary,
        description=rest.strip() + needed,
        tags=[verb.row.kind],
        response_model=verb.result,
    )(ask)


def _told(value: Any) -> Any:
    return list(value) if isinstance(value, list) else value


OCTETS = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


def _add_files(app: FastAPI) -> None:
    @app.get(
        "/v1/circuits/{circuit}/file",
        operation_id="circuit_file",
        summary="The circuit as a file.",
        description="The same bytes as `atlas export --format circuit` writes.",
        tags=["file"],
        response_class=Response,
        responses={200: {"content": OCTETS}},
    )
    def download(circuit: str, atlas: Caller) -> Response:
        loaded = atlas.load(circuit)
        name = {"Content-Disposition": f'attachment; filename="{loaded.id}.safetensors"'}
        return Response(circuit_file.to_bytes(loaded), media_type="application/octet-stream", headers=name)

    @app.post(
        "/v1/circuits/file",
        operation_id="add_circuit",
        summary="Keep a circuit; the body is a circuit file.",
        description="A circuit that is there already gains the collection. Needs the role editor.",
        tags=["file"],
        response_model=Added,
        openapi_extra={"requestBody": {"required": True, "content": OCTETS}},
    )
    def upload(body: Annotated[bytes, Depends(_octets)], atlas: Caller, collection: str | None = None) -> Response:
        circuit = circuit_file.from_bytes(body, "the file sent")
        return JSONResponse(plain(atlas.add(circuit, collection=collection)))

    @app.post(
        "/v1/circuits/{circuit}/brought",
        operation_id="add_brought",
        summary="Keep the annotations that a graph file brought beside its circuit.",
        description="The circuit gains those that it does not have yet. Needs the role editor.",
        tags=["file"],
        response_model=Added,
    )
    def brought(circuit: str, annotations: Annotations, atlas: Caller) -> Response:
        return JSONResponse(plain(atlas.add(atlas.load(circuit), annotations=annotations)))


async def _octets(request: Request, atlas: Caller) -> bytes:
    """The body, read only after it is known who sends it."""
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/octet-stream":
        raise WrongContentType(
            "The body is not a circuit file.", "Send one as `Content-Type: application/octet-stream`."
        )
    return await request.body()


def _add_about(app: FastAPI) -> None:
    @app.get("/v1/about", operation_id="about", summary="What this server is, and who asks.", tags=["question"])
    def about(atlas: Caller) -> About:
        return About(version=version("circuit-atlas"), verbs=sorted(VERBS), person=atlas.whoami())

    @app.get(
        "/v1/meaning",
        operation_id="meaning",
        summary="Whether search compares meanings, or full text only because no encoder is installed.",
        tags=["question"],
    )
    def meaning(atlas: Caller) -> bool:
        return atlas.searches_by_meaning


def _add_docs(app: FastAPI) -> None:
    html = docs.page(app.openapi())  # made once: the page is the same for everybody

    @app.get("/docs", include_in_schema=False)
    def page() -> Response:
        return Response(html, media_type="text/html")

    @app.get("/docs.css", include_in_schema=False)
    def style() -> Response:
        return Response(docs.STYLE, media_type="text/css")


# -- faults


def _answer_faults(app: FastAPI, atlas: Atlas) -> None:
    def answer(error: AtlasError, status: int | None = None) -> JSONResponse:
        return JSONResponse(document(error, atlas), status or status_of(error))

    @app.exception_handler(AtlasError)
    def told(request: Request, error: AtlasError) -> Response:
        return answer(error)

    @app.exception_handler(RequestValidationError)
    def wrong_arguments(request: Request, error: RequestValidationError) -> Response:
        return answer(_first(error))

    @app.exception_handler(HTTPException)
    def wrong_address(request: Request, error: HTTPException) -> Response:
        if error.status_code == 405:
            told = UsageError("The address is not for this method.", "See /api/docs.")
        elif error.status_code == 404:
            told = NotFound("There is nothing at this address.", "See /api/docs.")  # type: ignore[assignment]
        else:
            told = UsageError("The request cannot be read.", "See /api/docs.")
        response = answer(told, error.status_code)
        response.headers.update(error.headers or {})
        return response


def _first(error: RequestValidationError) -> UsageError:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:]) or "the body"
    what = first["msg"].removeprefix("Value error, ").rstrip(".")
    return UsageError(f"{where[:200]}: {what[:300]}.", "See /api/docs for the arguments of this verb.")
