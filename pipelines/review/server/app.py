"""The web application of `ecor review`: the page, its data as JSON, pictures, and decisions."""

import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from ecor.config.checks import require
from ecor.data.name_parsing import normalise_name
from pipelines.reporting.embedded_image import MissingPictureError
from pipelines.review import group_pages
from pipelines.review.label_index import LabelIndex
from pipelines.review.server.label_view import describe_image
from pipelines.review.server.page import page_policy, render_page
from pipelines.review.server.requests import (
    MOST_ON_PAGE,
    DecisionRequest,
    ListQuery,
    read_json,
    read_reviewer,
    read_text,
)
from pipelines.review.server.security import Access, Guard
from pipelines.review.server.service import ReviewService

_PICTURES_KEPT = {"cache-control": "private, max-age=3600"}
_MOST_RANKED = 5


def make_app(service: ReviewService, *, access: Access) -> Starlette:
    """Build the application."""
    page = render_page(service, header=access.header)
    policy = {"content-security-policy": page_policy(page)}

    def show_page(request: Request) -> Response:
        return HTMLResponse(page, headers=policy)

    def answer(make: Callable[[ReviewService, Request], Any]) -> Callable[[Request], Response]:
        return lambda request: JSONResponse(make(service, request))

    def take(make: Callable[[ReviewService, bytes], Any]) -> Callable[[Request], Any]:
        async def answer_body(request: Request) -> Response:
            return JSONResponse(await run_in_threadpool(make, service, await request.body()))

        return answer_body

    routes = [
        Route("/", show_page),
        Route("/api/groups", answer(_groups)),
        Route("/api/group/{number:int}", answer(_group)),
        Route("/api/next/{number:int}", answer(_next)),
        Route("/api/sample", answer(_sample)),
        Route("/api/label/{number:int}", answer(_label)),
        Route("/api/evidence/{number:int}", answer(_evidence)),
        Route("/api/names", answer(_names)),
        Route("/api/decide", take(_decide), methods=["POST"]),
        Route("/api/undo", take(_undo), methods=["POST"]),
        Route("/api/table", take(_table), methods=["POST"]),
        Route("/picture/{number:int}", lambda request: _picture(service, request)),
        Route("/picture/{number:int}/large", lambda request: _picture(service, request, large=True)),
        Route("/map/{number:int}/{place:int}", lambda request: _map(service, request)),
        Route("/model-map/{number:int}/{place:int}", lambda request: _model_map(service, request)),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(Guard, access=access)],
        exception_handlers={ValueError: _refuse, OSError: _fail, MissingPictureError: _missing, Exception: _fail},
    )


def _refuse(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, status_code=400)


def _missing(request: Request, error: Exception) -> Response:
    return PlainTextResponse(str(error), status_code=404)


def _fail(request: Request, error: Exception) -> Response:
    if not isinstance(error, OSError):
        traceback.print_exception(error, file=sys.stderr)
    return JSONResponse({"error": f"not done: {error or type(error).__name__}"}, status_code=500)


def _groups(service: ReviewService, request: Request) -> Any:
    query = ListQuery.from_query(request.query_params)
    found = group_pages.list_groups(
        service.session,
        query.reviewer,
        chosen=query.chosen,
        seen=query.seen,
        order=query.order,
        start=query.start,
        limit=query.limit,
    )
    return {**asdict(found), "start": query.start, "progress": _progress(service, query.reviewer)}


def _group(service: ReviewService, request: Request) -> Any:
    query, number = ListQuery.from_query(request.query_params), request.path_params["number"]
    session = service.session
    members = group_pages.members(session, query.reviewer, number, chosen=query.chosen, seen=query.seen)
    num_open = group_pages.num_open(session, query.reviewer, members)
    group = session.groups.describe(number, size=len(members), num_done=len(members) - num_open)
    return {"group": asdict(group), **_images(service, members, query=query)}


def _next(service: ReviewService, request: Request) -> Any:
    query, number = ListQuery.from_query(request.query_params), request.path_params["number"]
    require(number < len(service.session.groups), f"there is no group {number}")
    found = group_pages.next_group(service.session, query.reviewer, number, chosen=query.chosen, order=query.order)
    return {"next": found}


def _sample(service: ReviewService, request: Request) -> Any:
    require(service.session.sample is not None, "there is no sample: labels are reviewed by groups")
    query = ListQuery.from_query(request.query_params)
    return {"group": None, **_images(service, service.session.sample, query=query)}


def _images(service: ReviewService, members: Any, *, query: ListQuery) -> dict[str, Any]:
    """A page of images, and the place of the first one that is not decided."""
    first = group_pages.first_open(service.session, query.reviewer, members)
    start = query.start if query.start < max(1, len(members)) else 0
    return {
        "start": start,
        "num": len(members),
        "num_open": group_pages.num_open(service.session, query.reviewer, members),
        "first_open": first,
        "images": [
            describe_image(service, int(number), reviewer=query.reviewer)
            for number in members[start : start + query.limit]
        ],
        "progress": _progress(service, query.reviewer),
    }


def _label(service: ReviewService, request: Request) -> Any:
    number = _number(service.session.index, request)
    ranked, evidence = service.details.ranked(number), service.details.evidence(number)
    words = [] if evidence is None else [each.rationale or evidence.category for each in evidence.maps]
    reviewer = read_reviewer(request.query_params.get("reviewer"))
    return {
        **describe_image(service, number, reviewer=reviewer),
        "source": service.session.index.place(number).source,
        "maps": words,
        "method": "" if evidence is None else evidence.method,
        **{kind: ranked[kind][:_MOST_RANKED] for kind in ("categories", "rationales")},
    }


def _evidence(service: ReviewService, request: Request) -> Any:
    """The maps of the given model, or how far it is; `start` in the query loads it."""
    number, maps = _number(service.session.index, request), service.model_maps
    require(maps is not None, "no model was given: start the review with --model")
    assert maps is not None
    if "start" in request.query_params:
        maps.start_loading()
    status, words, method = maps.status, list[str](), ""
    if status.state == "loaded":
        evidence = service.pictures.explain(number)
        words, method = [each.rationale or evidence.category for each in evidence.maps], evidence.method
    return {"state": status.state, "note": status.note, "maps": words, "method": method}


def _names(service: ReviewService, request: Request) -> Any:
    kind, text = request.query_params.get("kind", ""), request.query_params.get("q", "")
    require(kind in ("category", "rationale"), f"kind must be category or rationale, got {kind!r}")
    first: list[str] = []
    if request.query_params.get("label", "").isdigit():
        number = int(request.query_params["label"])
        require(number < len(service.session.index), f"there is no label {number}")
        ranked = service.details.ranked(number)["categories" if kind == "category" else "rationales"]
        first = [entry[kind] for entry in ranked]
    names = service.names.complete(text[:200], kind="category" if kind == "category" else "rationale", first=first)
    return {"names": names, "known": normalise_name(text) in service.names.all}


def _decide(service: ReviewService, body: bytes) -> Any:
    asked, session = DecisionRequest.from_json(body), service.session
    if asked.group is not None:
        num = session.accept_group(
            asked.reviewer,
            asked.group,
            chosen=asked.chosen,
            num_expected=asked.num_expected,
            action=asked.action,
        )
        return {"num": num, "progress": _progress(service, asked.reviewer)}
    after = session.mark_new_names(asked.category, asked.rationales) if asked.verdict == "correct" else None
    num = session.decide(
        asked.reviewer, asked.numbers, verdict=asked.verdict, after=after, note=asked.note, action=asked.action
    )
    images = [describe_image(service, number, reviewer=asked.reviewer) for number in asked.numbers]
    return {"num": num, "images": images, "progress": _progress(service, asked.reviewer)}


def _undo(service: ReviewService, body: bytes) -> Any:
    values = read_json(body)
    reviewer = read_reviewer(values.get("reviewer"))
    numbers = service.session.undo(reviewer, action=read_text(values, "action"))
    return {"numbers": numbers[:MOST_ON_PAGE].tolist(), "num": len(numbers), "progress": _progress(service, reviewer)}


def _table(service: ReviewService, body: bytes) -> Any:
    table = service.session.write_table()
    return {"path": table.path, "num_rows": table.num_rows, "num_disputed": table.num_disputed}


def _progress(service: ReviewService, reviewer: str) -> Mapping[str, int]:
    return asdict(group_pages.review_progress(service.session, reviewer))


def _picture(service: ReviewService, request: Request, *, large: bool = False) -> Response:
    number = _number(service.session.index, request)
    found = service.pictures.large(number) if large else service.pictures.thumbnail(number)
    return Response(found.data, media_type=found.kind, headers=_PICTURES_KEPT)


def _map(service: ReviewService, request: Request) -> Response:
    found = service.pictures.overlay(_number(service.session.index, request), request.path_params["place"])
    return Response(found.data, media_type=found.kind, headers=_PICTURES_KEPT)


def _model_map(service: ReviewService, request: Request) -> Response:
    # not kept by the browser: another run at the same port may have another model
    found = service.pictures.model_overlay(_number(service.session.index, request), request.path_params["place"])
    return Response(found.data, media_type=found.kind)


def _number(index: LabelIndex, request: Request) -> int:
    number: int = request.path_params["number"]
    require(number < len(index), f"there is no label {number}: there are {len(index):,}")
    return number
