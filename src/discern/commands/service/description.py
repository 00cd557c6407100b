"""What the service says of itself: a page for people, OpenAPI for programs."""

from __future__ import annotations

import base64
import functools
import hashlib

from discern.commands.service.limits import MB, Limits
from discern.commands.service.model import ServedModel
from discern.reports.page import asset, render
from discern.version import __version__

SCRIPT = "serve.js"


def page(model: ServedModel, limits: Limits) -> tuple[str, str]:
    """The HTML of /docs, which asks nothing of other hosts, and its Content-Security-Policy."""
    html = render(
        "serve.html.j2",
        name=model.name,
        card=model.card,
        rules=rules(limits),
        style=asset("style.css"),
        script=asset(SCRIPT),
        version=__version__,
    )
    return html, _policy()


@functools.cache
def _policy() -> str:
    digest = base64.b64encode(hashlib.sha256(asset(SCRIPT).encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "img-src data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )


def rules(limits: Limits) -> list[str]:
    """The limits as sentences."""
    return [
        f"A request may have {limits.body / MB:g} MB and {limits.files:,} files.",
        f"It must arrive within {limits.seconds:g} seconds.",
        f"{limits.requests:,} requests are taken at once; more are refused with status 503.",
    ]


def openapi(model: ServedModel, limits: Limits) -> dict[str, object]:
    """The service in OpenAPI 3.1."""
    label = {"type": "string", "enum": model.card.class_names}
    probability = {"type": "number", "minimum": 0, "maximum": 1}
    ranked = _object({"label": label, "probability": probability})
    entry = {
        "file": {"type": "string"},
        "label": label,
        "probability": probability,
        "top": {"type": "array", "items": ranked},
        "probabilities": {"type": "object", "additionalProperties": probability},
        "inverted": {"type": "boolean"},
        "error": {"type": "string"},
    }
    answer = _object({"predictions": {"type": "array", "items": _object(entry, ["file"])}})
    refusal = _json(_object({"error": {"type": "string"}}))
    files = {"type": "array", "items": {"type": "string", "format": "binary"}}
    refusals = {
        "400": "no picture, or no form", "408": "too slow", "413": "too large",
        "422": "no file is a picture", "503": "too many requests",
    }  # fmt: skip
    predict = {
        "summary": "Classify pictures",
        "description": " ".join(rules(limits)),
        "parameters": [
            {
                "name": "top",
                "in": "query",
                "description": "how many of the most probable classes are listed",
                "schema": {"type": "integer", "minimum": 1, "default": limits.top},
            }
        ],
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {"schema": _object({"file": files})},
                "image/*": {"schema": {"type": "string", "format": "binary"}},
            },
        },
        "responses": {
            "200": {"description": "an entry for each file", "content": _json(answer)},
            **{code: {"description": why, "content": refusal} for code, why in refusals.items()},
        },
    }
    health = {
        "summary": "Whether the service runs, and its model",
        "responses": {"200": {"description": "it runs", "content": _json({"type": "object"})}},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": f"discern serve: {model.name}", "version": __version__},
        "paths": {"/predict": {"post": predict}, "/health": {"get": health}},
    }


def _object(properties: dict[str, object], required: list[str] | None = None) -> dict[str, object]:
    names = [*properties] if required is None else required
    return {"type": "object", "properties": properties, "required": names}


def _json(schema: dict[str, object]) -> dict[str, object]:
    return {"application/json": {"schema": schema}}
