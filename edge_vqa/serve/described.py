"""What the server says of itself: its model, and its protocol as an OpenAPI document."""

from __future__ import annotations

from typing import Any

from edge_vqa import __version__
from edge_vqa.model import Model
from edge_vqa.trust.confidence import SelectorEarly


def model(loaded: Model) -> dict[str, Any]:
    """OpenAI's object of a model, with what there is to choose."""
    manifest, method = loaded.bundle.manifest, loaded.confidence.name
    points = [
        {
            "risk": point.risk,
            "delta": point.delta,
            "threshold": point.threshold,
            "coverage": point.coverage,
            "default": point.default,
        }
        for point in sorted(manifest.operating_points, key=lambda point: point.risk)
        if point.confidence == method
    ]
    said = {
        "description": manifest.description,
        "version": manifest.version,
        "confidence_method": method,
        "operating_points": points,
        "early": any(point.confidence == SelectorEarly.name for point in manifest.operating_points),
        "several_pictures": manifest.prompt.joint is not None,
        "warnings": list(loaded.warnings),
    }
    return {"id": manifest.name, "object": "model", "created": 0, "owned_by": "edge-vqa", "edge_vqa": said}


def _object(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": properties, **({"required": list(required)} if required else {})}


def _maybe(kind: str, **more: Any) -> dict[str, Any]:
    return {"type": [kind, "null"], **more}


_HOW = {
    "risk": _maybe("number", description="Share of wrong answers to accept; one of the model's operating points."),
    "threshold": _maybe("number", description="Answer when the confidence is at least this (uncalibrated)."),
    "gate": _maybe("boolean", description="false: always answer."),
    "detail": _maybe("string", description="low, high or auto."),
    "max_tokens": _maybe("integer", description="Of the longest answer."),
    "early": _maybe("boolean", description="Decide after the first token."),
    "show_candidate": _maybe("boolean", description="When abstaining, say what would have been said."),
}
_ERROR = _object({"error": _object({"message": {"type": "string"}, "type": {"type": "string"}}, "message", "type")}, "error")
_PART = _object(
    {"type": {"type": "string"}, "text": {"type": "string"}, "image_url": _object({"url": {"type": "string"}}, "url")}, "type"
)
_CONTENT = {"oneOf": [{"type": "string"}, {"type": "array", "items": _PART}]}
_CHAT = _object(
    {
        "model": _maybe("string"),
        "messages": {
            "type": "array",
            "minItems": 1,
            "items": _object({"role": {"type": "string"}, "content": _CONTENT}, "role", "content"),
        },
        "stream": _maybe("boolean"),
        "logprobs": _maybe("boolean"),
        "provisional": _maybe("boolean", description="In a stream: tokens before the gate has decided, in `edge_vqa`."),
        **_HOW,
    },
    "messages",
)
_FORM = _object({"image": {"type": "string", "format": "binary"}, "question": {"type": "string"}, **_HOW}, "image", "question")


def _answers(kind: str, what: str, *others: int) -> dict[str, Any]:
    """The responses of an operation."""
    said = {
        "200": {"description": what, "content": {kind: {"schema": {} if kind != "application/json" else {"type": "object"}}}}
    }
    codes = {400: "wrong", 401: "no token", 403: "another site's page", 404: "not here", 408: "too slow", 413: "too large"}
    codes |= {415: "no form", 421: "another host", 429: "too many wait", 503: "being loaded", 504: "took too long"}
    for code in (401, 403, 421, *others):
        said[str(code)] = {"description": codes[code], "content": {"application/json": {"schema": _ERROR}}}
    return said


def openapi() -> dict[str, Any]:
    """OpenAPI 3.1."""
    body = {"required": True, "content": {"application/json": {"schema": _CHAT}}}
    form = {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}}
    asked = (400, 408, 413, 429, 503, 504)
    json_, text = "application/json", "text/plain"
    named = [{"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}]
    chat = {"summary": "Ask, in OpenAI's format", "requestBody": body, "responses": _answers(json_, "an answer", *asked, 404)}
    ask = {"summary": "Ask, by a form", "requestBody": form, "responses": _answers(json_, "an answer", *asked, 415)}
    one = {"summary": "A model", "parameters": named, "responses": _answers(json_, "the model", 404, 503)}
    paths = {
        "/v1/chat/completions": {"post": chat},
        "/ask": {"post": ask},
        "/v1/models": {"get": {"summary": "The model", "responses": _answers(json_, "a list of one", 503)}},
        "/v1/models/{name}": {"get": one},
        "/health": {"get": {"summary": "Whether the server runs", "responses": _answers(json_, "it does")}},
        "/ready": {"get": {"summary": "Whether the model is loaded", "responses": _answers(json_, "it is", 503)}},
        "/metrics": {"get": {"summary": "Counts, for Prometheus", "responses": _answers(text, "counts")}},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "edge-vqa", "version": __version__},
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "security": [{}, {"token": []}],
        "paths": paths,
    }
