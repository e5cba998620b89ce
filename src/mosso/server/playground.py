"""The playground's files: built from `web/`, part of the package, served without any network.

A strict content-security policy stands on every one of them: no script, style, font, image or connection but
this server's own, no frame around the page, and nothing inline.
"""

from __future__ import annotations

from pathlib import Path

from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

FOLDER = Path(__file__).parent / "static"
PREFIX = "/playground"
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "font-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
}
_FOREVER = (
    "public, max-age=31536000, immutable"  # the built files carry a hash of their content in their names
)


class PlaygroundFiles(StaticFiles):
    """Scripts, styles and fonts. The page itself is `page`'s."""

    def __init__(self) -> None:
        super().__init__(directory=FOLDER)

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(HEADERS)
        if path.startswith("assets/"):
            response.headers["cache-control"] = _FOREVER
        return response


def page() -> Response:
    """The page at `/`."""
    html = (FOLDER / "index.html").read_bytes()
    return Response(html, media_type="text/html", headers=HEADERS | {"cache-control": "no-cache"})
