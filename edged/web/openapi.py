"""The OpenAPI document of the API."""

from functools import cache
from typing import Any, Final

from pydantic.json_schema import models_json_schema

from edged import __version__
from edged.errors import REASONS
from edged.journal.browsing import OUTCOME_WORDS
from edged.web.asking import DEFAULT_RESULTS, MOST_RESULTS
from edged.web.status import Status

_TIME: Final = {"type": "string", "format": "date-time"}
_TEXT: Final = {"type": "string"}


@cache
def document() -> dict[str, Any]:
    """The document, in OpenAPI 3.1."""
    _, defined = models_json_schema([(Status, "serialization")], ref_template="#/components/schemas/{model}")
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "edged",
            "version": __version__,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}, {}],
        "paths": {
            "/api/v1/status": _get("How the daemon is.", {"$ref": "#/components/schemas/Status"}),
            "/api/v1/results": _get(
                "Results, the newest first. A page may hold fewer than `limit`, even none: go on while there is a "
                "`next`.",
                {
                    "type": "object",
                    "required": ["results", "next"],
                    "properties": {
                        "results": {"type": "array", "items": {"$ref": "#/components/schemas/Result"}},
                        "next": {"type": ["string", "null"], "description": "`before` of the following page."},
                    },
                },
                [
                    _asked("source", _TEXT, "Of this source."),
                    _asked("outcome", {"enum": list(OUTCOME_WORDS)}, "What became of the picture."),
                    _asked("since", _TIME, "Scored at or after it."),
                    _asked("until", _TIME, "Scored before it."),
                    _asked("before", {"type": "string", "pattern": "^[0-9]{1,18}$"}, "`next` of the page before."),
                    _asked(
                        "limit",
                        {"type": "integer", "minimum": 1, "maximum": MOST_RESULTS, "default": DEFAULT_RESULTS},
                        "How many at most.",
                    ),
                ],
            ),
            "/api/v1/results/{id}": _get("One result.", {"$ref": "#/components/schemas/Result"}, [_ID], "404"),
            "/api/v1/results/{id}/overlay.png": {
                "get": {
                    "summary": "The picture beside its heat map, where a sink of the type images drew it.",
                    "parameters": [_ID],
                    "responses": {
                        "200": {"description": "PNG.", "content": {"image/png": {}}},
                        **_refusals("404"),
                    },
                }
            },
            "/api/v1/sources/{name}/pictures": {"post": _POST},
            "/api/v1/openapi.json": _get("This document.", {"type": "object"}),
        },
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {
                **defined["$defs"],
                "Result": _result(),
                "Promise": {
                    "type": "object",
                    "required": ["id", "source"],
                    "properties": {"id": _TEXT, "source": _TEXT},
                },
                "Error": {"type": "object", "required": ["error"], "properties": {"error": _TEXT}},
            },
        },
    }


_ID: Final = {
    "name": "id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "pattern": "^[0-9a-f]{26}$"},
    "description": "Of the result.",
}

_ANSWERS: Final = {
    "200": ("The result.", "Result"),
    "202": ("Taken; the result will have this id.", "Promise"),
    "400": ("The name cannot be used.", "Error"),
    "403": ("A web page posts without the token.", "Error"),
    "404": ("There is no source of this name that takes pictures.", "Error"),
    "413": ("Too many bytes.", "Error"),
    "503": ("It takes no more just now; send it again.", "Error"),
}
_POST: Final = {
    "summary": "A picture for a source of the type http.",
    "parameters": [
        {"name": "name", "in": "path", "required": True, "schema": _TEXT, "description": "Of the source."},
        {"name": "name", "in": "query", "schema": _TEXT, "description": "What results call the picture."},
    ],
    "requestBody": {"required": True, "content": {"application/octet-stream": {}}},
    "responses": {
        **{
            code: {
                "description": text,
                "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}},
            }
            for code, (text, schema) in _ANSWERS.items()
        },
        "401": {"description": "A bearer token is required."},
        "421": {"description": "Without a token, under an IP address or localhost only."},
    },
}


def _result() -> dict[str, Any]:
    number, text = {"type": ["number", "null"]}, {"type": ["string", "null"]}
    properties: dict[str, Any] = {
        "id": _TEXT,
        "source": _TEXT,
        "path": _TEXT,
        "sha256": text,
        "captured_at": _TIME,
        "scored_at": _TIME,
        "model": _TEXT,
        "model_sha256": _TEXT,
        "device": _TEXT,
        "score": number,
        "threshold": number,
        "p_value": number,
        "is_anomaly": {"type": ["boolean", "null"]},
        "status": {"enum": ["ok", "quarantined"]},
        "reason": {"enum": [*REASONS, None]},
        "error": text,
        "timings_ms": {"type": "object", "additionalProperties": {"type": "number"}},
        "calibration_sha256": text,
        "score_ratio": number,
    }
    return {"type": "object", "required": list(properties), "properties": properties}


def _get(
    summary: str, schema: dict[str, Any], parameters: list[dict[str, Any]] | None = None, *refusals: str
) -> dict[str, Any]:
    answer = {"description": summary, "content": {"application/json": {"schema": schema}}}
    get = {"summary": summary, "parameters": parameters or [], "responses": {"200": answer, **_refusals(*refusals)}}
    return {"get": get}


def _refusals(*more: str) -> dict[str, Any]:
    texts = {
        "400": "The request makes no sense.",
        "404": "There is no such thing.",
        "503": "The journal cannot be read just now.",
    }
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    found: dict[str, Any] = {code: {"description": texts[code], "content": content} for code in ("400", *more, "503")}
    return found | {
        "401": {"description": "A bearer token is required."},
        "421": {"description": "Without a token, under an IP address or localhost only."},
    }


def _asked(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": schema, "description": description}
