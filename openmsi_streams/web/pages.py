"""The pages for people: the same data as the API, as HTML that works without scripts and offline."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import jinja2
from aiohttp import web
from markupsafe import Markup

from openmsi_streams import __version__
from openmsi_streams.chunks.reasons import CURES
from openmsi_streams.tables.rows import State
from openmsi_streams.web import api, lists, names, overview, records, shape, shots
from openmsi_streams.web.numbers import measured
from openmsi_streams.web.problem import Problem, json_response, wants_html
from openmsi_streams.web.security import COOKIE, local_path
from openmsi_streams.web.site import Site, site_of

HERE = Path(__file__).parent
STATIC = HERE / "static"


def environment() -> jinja2.Environment:
    """Return the templates: everything is escaped, a missing value is an error."""
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    found.filters |= {
        "bytes": shape.bytes_text,
        "seconds": shape.seconds_text,
        "iso": shape.iso,
        "time": shape.time_text,
        "shown": names.visible,
        "short": names.short,
        "measured": measured,
        "href": safe_href,
    }
    found.globals |= {
        "version": __version__,
        "states": [str(state) for state in State],
        "state_words": api.words(),
        "cures": {str(reason): text for reason, text in CURES.items()},
    }
    return found


def safe_href(url: str) -> str:
    """Return an address that may stand in a link: http(s) only, since others run code or mean nothing here."""
    try:
        return url if urlsplit(url).scheme in ("http", "https") else ""
    except ValueError:
        return ""


TEMPLATES: web.AppKey[jinja2.Environment] = web.AppKey("openmsi_streams_templates", jinja2.Environment)


# The overview's page is made once for all viewers in so many seconds; each asks again every second.
_KEEP_SECONDS = 1.0
# One at a time: a page takes 10 to 30 ms of pure Python, in which the thread gives way to the event loop again and
# again, while pages made on the loop itself would hold up the chunks.
_RENDERER = ThreadPoolExecutor(1, thread_name_prefix="pages")


async def make(request: web.Request, template: str, **values: Any) -> str:
    """Return a filled template, made beside the event loop."""
    found = request.app[TEMPLATES].get_template(template)
    return await asyncio.get_running_loop().run_in_executor(_RENDERER, lambda: found.render(**values))


async def render(request: web.Request, template: str, status: int = 200, **values: Any) -> web.Response:
    """Return a page. Gives a cookie for the CSRF guard where none is needed to get in."""
    site = site_of(request)
    session = site.guard.session(request)
    fresh = ""
    if not session and not site.guard.token:
        session = fresh = site.guard.new_session()
    text = await make(
        request,
        template,
        site=site,
        here=request.path,
        csrf=site.guard.csrf(session),
        has_login=bool(site.guard.token),
        **values,
    )
    response = web.Response(text=text, content_type="text/html", status=status, headers={"Cache-Control": "no-store"})
    if fresh:
        site.guard.set_cookie(request, response, fresh)
    return response


async def render_problem(request: web.Request, problem: Problem) -> web.Response:
    """Return the error page."""
    response = await render(request, "problem.html", problem.status, problem=problem)
    response.headers.update(problem.headers)
    return response


async def get_overview(request: web.Request) -> web.Response:
    """The overview page."""
    site = site_of(request)
    now = site.clock()
    known = site.kept.get("overview.html")
    if known is None or not 0 <= now - known[0] < _KEEP_SECONDS:
        # The same for all viewers, so it is made once for all of them.
        view = await overview.whole(site)
        text = await make(request, "_overview.html", view=view)
        known = site.kept["overview.html"] = (now, Markup(text))
    return await render(request, "overview.html", body=known[1])


async def get_files(request: web.Request) -> web.Response:
    """The list of file versions: a page for people, JSON for scripts."""
    if not wants_html(request):
        return await api.get_files(request)
    query = lists.parse({name: value for name, value in request.query.items() if value})
    found = await lists.files(site_of(request), query)
    after = found["next"]
    following = "?" + urlencode(query.parameters() | {"cursor": after}) if after else ""
    for item in found["items"]:
        item |= {"fraction": shape.fraction(item), "bar": shape.bar(item)}
    return await render(
        request,
        "files.html",
        found=found,
        query=_filled(query.parameters(), lists.KNOWN),
        following=following,
        topics=sorted({*site_of(request).source.topics(), *site_of(request).index.topics()}),
    )


def _filled(given: dict[str, str], known: frozenset[str]) -> dict[str, str]:
    return dict.fromkeys(known, "") | given


async def get_file(request: web.Request) -> web.Response:
    """Everything about one file version."""
    site, file_id = site_of(request), request.match_info["file_id"]
    if not wants_html(request):
        return await api.get_file(request)
    found = await lists.one(site, file_id)
    item = found["item"]
    doc, record = await asyncio.gather(api.result_of(site, file_id), api.record_of(site, file_id))
    return await render(
        request,
        "file.html",
        item=item | {"fraction": shape.fraction(item), "bar": shape.bar(item), "gaps": shape.gaps(item)},
        versions=found["versions"],
        way=shape.way(item),
        shot=shots.shot(file_id, doc) if doc is not None else None,
        graph=_graph(record),
        done=request.query.get("replayed", ""),
    )


def _graph(record: bytes | None) -> dict[str, Any] | None:
    if record is None:
        return None
    try:
        return records.parse(record)
    except Problem:
        return None


async def post_replay(request: web.Request) -> web.Response:
    """The replay button."""
    file_id = lists.check_id(request.match_info["file_id"])
    await api.replay(site_of(request), file_id)
    if not wants_html(request):
        return json_response({"ok": True, "file_id": file_id, "replayed": True}, 202)
    raise web.HTTPSeeOther(f"/files/{file_id}?replayed=1")


async def get_quarantine(request: web.Request) -> web.Response:
    """What is quarantined, with reasons, cures and replay buttons."""
    given = {name: value for name, value in request.query.items() if value}
    query = lists.parse(given | {"state": str(State.QUARANTINED)})
    found = await lists.files(site_of(request), query)
    following = "?" + urlencode({"cursor": found["next"]}) if found["next"] else ""
    return await render(
        request, "quarantine.html", found=found, following=following, messages=site_of(request).notices.newest()
    )


async def get_pdv(request: web.Request) -> web.Response:
    """The gallery of PDV sheets."""
    query = shots.ShotQuery({name: value for name, value in request.query.items() if value})
    found = await shots.shots(site_of(request), query)
    wide = shots.ShotQuery(query.parameters() | {"limit": "2000"})
    plot = shots.plot((await shots.shots(site_of(request), wide))["items"])
    parameters = query.parameters()
    following = "?" + urlencode(parameters | {"cursor": found["next"]}) if found["next"] else ""
    return await render(
        request,
        "pdv.html",
        found=found,
        plot=plot,
        query=_filled(parameters, shots.KNOWN),
        classes=shots.CLASSES,
        following=following,
        csv_query="?" + urlencode(parameters) if parameters else "",
        width=shots.WIDTH,
        height=shots.HEIGHT,
    )


async def get_gemd(request: web.Request) -> web.Response:
    """Records by sample."""
    found = await records.listing(site_of(request), request.query.get("sample", ""), False)
    samples: dict[str, list[dict[str, Any]]] = {}
    for entry in found["items"]:
        samples.setdefault(entry["sample"], []).append(entry)
    return await render(request, "gemd.html", found=found, samples=samples, sample=request.query.get("sample", ""))


async def get_record(request: web.Request) -> web.Response:
    """One record as a graph of its links."""
    file_id = lists.check_id(request.match_info["file_id"])
    document = await api.record_of(site_of(request), file_id)
    if document is None:
        raise Problem(404, "This file version has no GEMD record.", "Records are written after delivery.")
    graph = records.parse(document)
    return await render(request, "record.html", file_id=file_id, graph=graph, drawing=records.drawing(graph))


async def get_processors(request: web.Request) -> web.Response:
    """The lab's own processors."""
    return await render(request, "processors.html", items=api.processors(site_of(request)))


async def get_login(request: web.Request) -> web.Response:
    """The form for the token."""
    if not site_of(request).guard.token:
        raise web.HTTPSeeOther("/")
    return await render(request, "login.html", to=local_path(request.query.get("next", "/")), wrong=False)


async def post_login(request: web.Request) -> web.StreamResponse:
    """Take the token, give the cookie."""
    site: Site = site_of(request)
    form = await request.post()
    given, to = form.get("token", ""), form.get("next", "/")
    target = local_path(to if isinstance(to, str) else "/")
    address = site.guard.address(request)
    site.guard.limiter.check(address)
    if not isinstance(given, str) or not site.guard.is_token(given.strip()):
        site.guard.limiter.wrong(address)
        return await render(request, "login.html", 401, to=target, wrong=True)
    response = web.HTTPSeeOther(target)
    site.guard.set_cookie(request, response, site.guard.new_session())
    return response


async def post_logout(request: web.Request) -> web.StreamResponse:
    """Forget the cookie."""
    response = web.HTTPSeeOther("/login")
    response.del_cookie(COOKIE, path="/")
    return response
