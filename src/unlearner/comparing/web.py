"""`unlearner compare --web`: a page for the user of this machine, and for nobody else.

It is served on the loopback address alone, under a path that holds a secret, so that other users of the machine do not
find it. The host's name is checked, so that no page from elsewhere can read it (DNS rebinding), and what is asked comes
as JSON, which browsers do not send across sites unasked. Nothing is loaded from anywhere else: style and script are
files of the package, fonts are the system's. Texts are written by `textContent`, so that they stay texts.
"""

import secrets
import socket
from contextlib import closing, suppress
from importlib.resources import files
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route

from unlearner.comparing.compare import Compared, Comparison
from unlearner.comparing.options import MOST_LETTERS, MOST_SAMPLES, CompareConfig
from unlearner.comparing.words import Text
from unlearner.console import note
from unlearner.data.rows import parse_json
from unlearner.errors import UserError
from unlearner.pages import template

HOST = "127.0.0.1"
MOST_BYTES = 100_000
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def application(comparison: Comparison, secret: str) -> Starlette:
    """The page at `/SECRET/`, with its style and script, and `ask`, which takes and gives JSON."""
    style, script = (
        "\n".join(files("unlearner").joinpath(name).read_text(encoding="utf-8") for name in names)
        for names in (("report/report.css", "comparing/page.css"), ("report/theme.js", "comparing/page.js"))
    )

    async def page(request: Request) -> Response:
        return HTMLResponse(rendered(comparison), headers=HEADERS)

    async def asked(request: Request) -> Response:
        try:
            found = await run_in_threadpool(comparison.ask, **await _wanted(request))
        except UserError as error:
            return JSONResponse({"error": str(error)}, 400, HEADERS)
        return JSONResponse(as_json(found), headers=HEADERS)

    def file(text: str, kind: str) -> Any:
        async def send(request: Request) -> Response:
            return Response(text, media_type=kind, headers=HEADERS)

        return send

    inside = [
        Route("/", page),
        Route("/page.css", file(style, "text/css")),
        Route("/page.js", file(script, "text/javascript")),
        Route("/ask", asked, methods=["POST"]),
    ]
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"], www_redirect=False)
    return Starlette(routes=[Mount(f"/{secret}", routes=inside)], middleware=[hosts])


async def _wanted(request: Request) -> dict[str, Any]:
    """Question, answer and number of samples of a request. Raises UserError for any other content."""
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        raise UserError("a question is sent as JSON.")
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MOST_BYTES:
            raise UserError(f"a question has at most {MOST_LETTERS} characters.")
    try:
        sent = parse_json(body)
    except ValueError:
        raise UserError("a question is sent as JSON.") from None
    if not isinstance(sent, dict) or sent.keys() - {"question", "answer", "samples"}:
        raise UserError("a question is sent as question, answer and samples.")
    return {"question": sent.get("question"), "answer": sent.get("answer"), "samples": sent.get("samples")}


def rendered(comparison: Comparison) -> str:
    """The page, without any question."""
    before, after = comparison.names
    return template("unlearner.comparing", "page.html.jinja").render(
        before=before, after=after, history=comparison.history, samples=comparison.config.samples,
        most_samples=MOST_SAMPLES, most_letters=MOST_LETTERS,
    )  # fmt: skip


def as_json(found: Compared) -> dict[str, Any]:
    """What the page shows of an answer."""

    def text(each: Text) -> dict[str, Any]:
        words = [{"text": word.text, "moved": round(word.moved, 4)} for word in each.words]
        before, after = each.probabilities
        return {"words": words, "before": before, "after": after}

    return {
        "question": found.question,
        "before": {"answer": text(found.before.answer), "samples": list(found.before.samples)},
        "after": {"answer": text(found.after.answer), "samples": list(found.after.samples)},
        "given": None if found.given is None else text(found.given),
    }


def bound(port: int) -> socket.socket:
    """A socket on the loopback address. Raises UserError for a port that is taken."""
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
    except OSError as error:
        listening.close()
        raise UserError(f"--port {port} cannot be used ({error.strerror}): give another one, or 0.") from error
    return listening


class _Server(uvicorn.Server):
    """Says where the page is once it is there."""

    def __init__(self, config: uvicorn.Config, address: str) -> None:
        super().__init__(config)
        self.address = address

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print(self.address, flush=True)
        note("Keep this address private: it gives access on this machine while the command runs. Ctrl-C ends it.")


def serve(config: CompareConfig) -> None:
    """Show the page until Ctrl-C. Raises UserError where it cannot be shown."""
    config.check()
    with closing(bound(config.port)) as listening:
        comparison = Comparison(config)
        secret = secrets.token_urlsafe(16)
        settings = uvicorn.Config(
            application(comparison, secret), log_level="warning", access_log=False, lifespan="off", ws="none",
            proxy_headers=False, server_header=False, timeout_graceful_shutdown=1,
        )  # fmt: skip
        with suppress(KeyboardInterrupt):
            _Server(settings, f"http://{HOST}:{listening.getsockname()[1]}/{secret}/").run(sockets=[listening])
