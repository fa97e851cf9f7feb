"""Puts the views on an aiohttp application: Faust's web server in a worker, a test server in tests."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import quote

from aiohttp import web
from multidict import CIMultiDict

from openmsi_streams.config.settings import Settings
from openmsi_streams.web import api, collect, pages, security
from openmsi_streams.web.index import Index
from openmsi_streams.web.lag import Lag
from openmsi_streams.web.peers import Peers
from openmsi_streams.web.problem import Problem, from_http, json_response, wants_html
from openmsi_streams.web.reader import Opener, Reader
from openmsi_streams.web.routes import ROUTES
from openmsi_streams.web.site import SITE, Site
from openmsi_streams.web.source import NoResults, Results, Source
from openmsi_streams.worker import metrics

log = logging.getLogger(__name__)


def mount(
    app: Any,
    source: Source,
    index: Index,
    settings: Settings,
    *,
    worker: str = "",
    results: Results | None = None,
    processors: Callable[[], list[dict[str, Any]]] = list,
    open_: Opener | None = None,
) -> Site:
    """Put the views on a Faust app's web server, in place of Faust's own pages. Call before the worker starts.

    Args:
        app: the `faust.App`.
        worker: this worker's name in heartbeats and views; empty: made from the app's id and host.
        results: where PDV results and GEMD records are found.
        processors: gives the lab's own processors for `/processors/`.
        open_: opens encrypted heartbeats; None: they are passed over.

    Raises:
        ConfigurationError: if the address is open to others without a token and without a declared proxy.
    """
    from faust.web.base import BlueprintManager

    security.check_bind(settings.web)
    # Faust's pages show table data and routes to anyone; none of them is served.
    app.web.blueprints = BlueprintManager([])
    site = build(
        app.web.web_app, source, index, settings, worker=worker or app.conf.id, results=results, processors=processors
    )
    lag = Lag(settings, app.conf.id, source.partitions)
    reader = Reader(settings, source.topics(), site.peers.take, site.notices.take, lag, open_)

    async def read_topics(_: web.Application) -> AsyncIterator[None]:
        reader.start()
        yield
        await asyncio.to_thread(reader.stop)

    app.web.web_app.cleanup_ctx.append(read_topics)
    return site


def build(
    application: web.Application,
    source: Source,
    index: Index,
    settings: Settings,
    *,
    worker: str = "worker",
    results: Results | None = None,
    processors: Callable[[], list[dict[str, Any]]] = list,
) -> Site:
    """Add routes, access rules and background tasks to an aiohttp application that has not started."""
    guard = security.Guard(settings.web)
    peers = Peers(worker, guard)
    peers.mine = source.partitions
    peers.heard = lambda role: metrics.HEARTBEATS.labels(role).inc()
    site = Site(
        source=source,
        index=index,
        settings=settings,
        worker=worker,
        guard=guard,
        peers=peers,
        results=results or NoResults(),
        processors=processors,
    )
    application[SITE] = site
    application[pages.TEMPLATES] = pages.environment()
    application[api.REGISTRY] = collect.registry(site)
    application.middlewares.append(answer)
    application.on_response_prepare.append(_headers)
    for route in ROUTES:
        if route.method == "GET":
            application.router.add_get(route.path, route.handler)
        else:
            application.router.add_route(route.method, route.path, route.handler)
    application.router.add_static("/static/", pages.STATIC, append_version=False)
    application.cleanup_ctx.append(_background)
    return site


async def _headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(CIMultiDict(security.HEADERS))
    if request.path.startswith("/static/"):
        response.headers["Cache-Control"] = "no-cache"
    else:
        response.headers.setdefault("Cache-Control", "no-store")


Next = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def answer(request: web.Request, handler: Next) -> web.StreamResponse:
    """Check who asks, answer, and give every error the one shape."""
    site = request.app[SITE]
    started = time.perf_counter()
    try:
        if not request.path.startswith(security.PUBLIC):
            site.guard.check(request)
        if request.method not in ("GET", "HEAD", "OPTIONS") and request.path != "/login":
            await site.guard.check_post(request)
        return await handler(request)
    except Problem as problem:
        return await _problem(request, problem)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return await _problem(request, from_http(error))
    except asyncio.CancelledError:
        raise
    except Exception:
        log.exception("The view %s failed.", request.path[:200])
        return await _problem(
            request, Problem(500, "The view failed: a fault of this program.", "The worker's log says more; report it.")
        )
    finally:
        resource = request.match_info.route.resource
        metrics.VIEW_SECONDS.labels(resource.canonical if resource else "unknown").observe(
            time.perf_counter() - started
        )


async def _problem(request: web.Request, problem: Problem) -> web.StreamResponse:
    if not wants_html(request):
        return json_response(problem.body(), problem.status, problem.headers)
    if problem.status == 401 and request.method == "GET":
        return web.Response(status=303, headers={"Location": "/login?next=" + quote(request.path_qs, safe="/")})
    return await pages.render_problem(request, problem)


async def _background(application: web.Application) -> AsyncIterator[None]:
    site = application[SITE]
    task = asyncio.create_task(_sample(site))
    yield
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await site.peers.close()


async def _sample(site: Site) -> None:
    """Sample the topics' counters, for their rates."""
    while True:
        site.rates.sample_topics(site.clock(), collect.topic_bytes())
        await asyncio.sleep(1)
