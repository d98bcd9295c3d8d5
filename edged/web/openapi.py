"""The OpenAPI document of the API."""

from functools import cache
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from edged import __version__
from edged.errors import REASONS
from edged.journal.browsing import OUTCOME_WORDS
from edged.journal.labels import LABELS
from edged.web.asking import DEFAULT_RESULTS, MOST_RESULTS, SOURCE, LabelGiven
from edged.web.models import SEEDS, ModelDetail
from edged.web.status import Status
from edged.web.thresholds import WhatIf

_TIME: Final = {"type": "string", "format": "date-time"}
_TEXT: Final = {"type": "string"}


@cache
def document() -> dict[str, Any]:
    """The document, in OpenAPI 3.1."""
    shown: list[tuple[type[BaseModel], JsonSchemaMode]] = [
        (one, "serialization") for one in (Status, ModelDetail, WhatIf)
    ]
    shown.append((LabelGiven, "validation"))
    _, defined = models_json_schema(shown, ref_template="#/components/schemas/{model}")
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
                        "results": {"type": "array", "items": {"$ref": "#/components/schemas/LabelledResult"}},
                        "next": {"type": ["string", "null"], "description": "`before` of the following page."},
                    },
                },
                [
                    _asked("source", {"type": "string", "pattern": f"^{SOURCE.pattern}$"}, "Of this source."),
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
            "/api/v1/results/{id}": _get("One result.", {"$ref": "#/components/schemas/LabelledResult"}, [_ID], "404"),
            "/api/v1/results/{id}/overlay.png": _get_file(
                "The picture beside its heat map, where a sink of the type images drew it.", "image/png", [_ID]
            ),
            "/api/v1/results/{id}/label": {
                "put": _labelling(
                    "Say of a result whether it was a false alarm, real, or unsure, in place of what was said before.",
                    {"required": True, "content": {"application/json": {"schema": _LABEL_GIVEN}}},
                ),
                "delete": _labelling("Take the label of a result away."),
            },
            "/api/v1/models": _get(
                "What runs, in full: how it was calibrated, thresholds to choose from, what there is to see of it.",
                {
                    "type": "object",
                    "required": ["models"],
                    "properties": {"models": {"type": "array", "items": {"$ref": "#/components/schemas/ModelDetail"}}},
                },
            ),
            "/api/v1/models/{name}/threshold": _get(
                "What another threshold would have flagged of the last week's results; it changes nothing.",
                {"$ref": "#/components/schemas/WhatIf"},
                [
                    _NAME,
                    _asked(
                        "value",
                        {"type": "number", "exclusiveMinimum": 0},
                        "The threshold; the one in force where it is missing.",
                    ),
                ],
                "404",
            ),
            "/api/v1/models/{name}/card.md": _get_file("The model's card, in Markdown.", "text/markdown", [_NAME]),
            "/api/v1/models/{name}/pictures/{file}": _get_file(
                "A plot or picture of the bundle.", "image/png", [_NAME, _FILE]
            ),
            "/api/v1/models/{name}/samples.png": _get_file(
                "Sixteen pictures that a VAE draws.",
                "image/png",
                [
                    _NAME,
                    _asked(
                        "seed", {"type": "integer", "minimum": 0, "maximum": SEEDS - 1, "default": 0}, "Which sixteen."
                    ),
                ],
            ),
            "/api/v1/sources/{name}/pictures": {"post": _POST},
            "/api/v1/openapi.json": _get("This document.", {"type": "object"}),
        },
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {
                **defined["$defs"],
                "Result": _result(),
                "Label": {
                    "type": "object",
                    "required": ["label", "note", "labelled_at"],
                    "properties": {"label": {"enum": list(LABELS)}, "note": _TEXT, "labelled_at": _TIME},
                },
                "LabelledResult": {
                    "description": "`label` is what a person said of it; absent where nobody did.",
                    "allOf": [
                        {"$ref": "#/components/schemas/Result"},
                        {"type": "object", "properties": {"label": {"$ref": "#/components/schemas/Label"}}},
                    ],
                },
                "Promise": {
                    "type": "object",
                    "required": ["id", "source"],
                    "properties": {"id": _TEXT, "source": _TEXT},
                },
                "Error": {"type": "object", "required": ["error"], "properties": {"error": _TEXT}},
            },
        },
    }


def _placed(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": schema, "description": description}


_ID: Final = _placed("id", {"type": "string", "pattern": "^[0-9a-f]{26}$"}, "Of the result.")
_NAME: Final = _placed("name", _TEXT, "Of the model, in the configuration.")
_FILE: Final = _placed("file", _TEXT, "One of the model's `pictures`.")

_LABEL_GIVEN: Final = {"$ref": "#/components/schemas/LabelGiven"}

_ANSWERS: Final = {
    "200": ("The result.", "Result"),
    "202": ("Taken; the result will have this id.", "Promise"),
    "400": ("The name cannot be used.", "Error"),
    "403": ("A web page posts without the token.", "Error"),
    "404": ("There is no source of this name that takes pictures.", "Error"),
    "413": ("Too many bytes.", "Error"),
    "503": ("It takes no more just now; send it again.", "Error"),
}
_ERROR: Final = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
_TURNED_AWAY: Final = {
    "401": {"description": "A bearer token is required.", "content": _ERROR},
    "421": {"description": "Without a token, under an IP address or localhost only.", "content": _ERROR},
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
        **_TURNED_AWAY,
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
    of_events: dict[str, Any] = {
        "kind": {"enum": ["event"]},
        "state": {"enum": ["open", "closed"]},
        "started_at": _TIME,
        "peak_at": _TIME,
        "ended_at": _TIME,
        "peak_score": {"type": "number"},
        "frames": {"type": "integer"},
        "offset_s": number,
    }
    return {
        "description": "Those of events of streams have `kind` and what comes after it; others have not.",
        "type": "object",
        "required": list(properties),
        "properties": properties | of_events,
    }


def _get(
    summary: str, schema: dict[str, Any], parameters: list[dict[str, Any]] | None = None, *refusals: str
) -> dict[str, Any]:
    answer = {"description": summary, "content": {"application/json": {"schema": schema}}}
    get = {"summary": summary, "parameters": parameters or [], "responses": {"200": answer, **_refusals(*refusals)}}
    return {"get": get}


def _get_file(summary: str, media_type: str, parameters: list[dict[str, Any]]) -> dict[str, Any]:
    answer = {"description": summary, "content": {media_type: {}}}
    return {"get": {"summary": summary, "parameters": parameters, "responses": {"200": answer, **_refusals("404")}}}


def _labelling(summary: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    answers = {"204": {"description": "Done; it is durable."}, **_refusals("403", "404", "413")}
    return {"summary": summary, "parameters": [_ID], "responses": answers} | (
        {} if body is None else {"requestBody": body}
    )


def _refusals(*more: str) -> dict[str, Any]:
    texts = {
        "400": "The request makes no sense.",
        "403": "A web page asks without the token.",
        "404": "There is no such thing.",
        "413": "Too many bytes.",
        "503": "The journal cannot be read just now.",
    }
    found: dict[str, Any] = {code: {"description": texts[code], "content": _ERROR} for code in ("400", *more, "503")}
    return found | _TURNED_AWAY


def _asked(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": schema, "description": description}
