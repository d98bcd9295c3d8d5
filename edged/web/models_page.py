"""The pages of models: what there is to say of each, and what another threshold would have flagged."""

import json
from functools import partial
from typing import Any

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edged.journal.labels import LABELS
from edged.web import api, asking, models
from edged.web.access import Access, Handler
from edged.web.asking import Worker
from edged.web.models import ModelDetail
from edged.web.page import answering
from edged.web.rendering import Renderer
from edged.web.site import Site
from edged.web.texts import Texts
from edged.web.thresholds import STEPS, Week, Weeks, WhatIf


def routes(site: Site, access: Access, worker: Worker, renderer: Renderer, weeks: Weeks) -> list[Route]:
    """The routes.

    Args:
        site: what is shown.
        access: who may see it.
        worker: runs what takes time.
        renderer: makes pages.
        weeks: the results of models of late.
    """

    def cards(details: list[ModelDetail]) -> dict[str, Markup]:
        scorers, found = site.scorers(), {}
        for one in details:
            text = models.card(scorers[one.name]) if one.name in scorers else None
            if text is not None:
                found[one.name] = models.card_html(
                    text, one.pictures, partial(models.picture_url, api.PREFIX, one.name)
                )
        return found

    async def all_models(request: Request) -> Response:
        details = await worker.run(site.details)
        seed = asking.seed(request.query_params, models.SEEDS)
        return renderer.page(
            request,
            "models_page.html",
            details=details,
            cards=await worker.run(partial(cards, details)),
            url=partial(models.picture_url, api.PREFIX),
            prefix=api.PREFIX,
            seed=seed,
            next_seed=(seed + 1) % models.SEEDS,
        )

    async def threshold(request: Request) -> Response:
        asked = asking.threshold(request.query_params)
        week = await worker.run(partial(weeks.of, request.path_params["name"], site.scorers()))
        if week is None:
            return renderer.page(request, "message.html", 404, heading="not_found", text=None, detail="")
        value = week.scorer.threshold.value if asked is None else asked
        seen = await worker.run(partial(_seen, renderer.texts(request), week, value))
        return renderer.page(request, "threshold.html", **seen)

    def shown(handle: Handler) -> Handler:
        return access.guarded(answering(renderer, handle), page=True)

    return [
        Route("/models", shown(all_models), methods=["GET"]),
        Route("/models/{name}/threshold", shown(threshold), methods=["GET"]),
    ]


def _seen(t: Texts, week: Week, value: float) -> dict[str, Any]:
    """What the page of a threshold is given."""
    found, steps = week.what_if(value), week.steps()
    nearest = min(range(len(steps)), key=lambda step: abs(steps[step] - value))
    told = [{"value": f"{step:.4g}", "cells": _cells(t, week.what_if(step))} for step in steps]
    bars = "".join(f"M{place} 1v{-height:.3f}h1v{height:.3f}z" for place, height in enumerate(week.heights()) if height)
    return {
        "found": found,
        "cells": _cells(t, found),
        "words": LABELS,
        "steps": json.dumps(told),
        "position": nearest,
        "last": len(steps) - 1,
        "middle": STEPS,
        "ends": (steps[0], steps[-1]),
        "bars": bars,
    }


def _cells(t: Texts, found: WhatIf) -> dict[str, str]:
    """What changes with the threshold, as it is written on the page."""
    rows = {"all": found.all, **found.labelled}
    share = found.calibration_above / found.calibration_pictures
    return {
        **{name: str(row.then) for name, row in rows.items()},
        "share": t("percent", n=t.significant(100 * found.all.then / found.all.results)) if found.all.results else "",
        "good": t("good_above", n=found.calibration_above, count=found.calibration_pictures),
        "good_share": t("percent", n=t.significant(100 * share)),
        "line": found.line,
    }
