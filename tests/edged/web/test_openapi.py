"""The API against its own description: whatever is asked, sense or nonsense, is answered as the document says."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from PIL import Image
from prometheus_client import CollectorRegistry
from schemathesis import Case, GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection
from starlette.applications import Starlette

from edged.journal import labels
from edged.journal.journal import Entry, Journal
from edged.models import registry
from edged.results import Event
from edged.web.app import make_app
from edged.web.openapi import document
from edged.web.site import Site
from tests import tiny_kinds
from tests.edged.making import TIMES, encode, quarantined, record
from tests.edged.web.asking import ask
from tests.edged.web.making import status_of

OPERATIONS = [f"{method.upper()} {path}" for path, about in document()["paths"].items() for method in about]
ID = "0123456789abcdef0123456789"


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starlette]:
    """A site with results, a label and a model."""
    folder: Path = tmp_path_factory.mktemp("api")
    journal = Journal(folder)
    rows = [record(is_anomaly=number % 3 == 0, path=os.fsdecode(b"/in/\xff<b>.png")) for number in range(60)]
    event = Event(state="closed", started_at=1.5, peak_at=2.5, ended_at=3.5, frames=3, offset_s=None)
    journal.commit([Entry(one) for one in (*rows, quarantined(), record(is_anomaly=True, event=event), record(id=ID))])
    labels.put(journal, ID, "real", "a note")
    scorers = {"vae": registry.load_one(tiny_kinds.vae(folder / "vae"), "cpu")}
    picture = encode(Image.new("RGB", (8, 4)))
    site = Site(
        folder,
        lambda: status_of(scorers),
        lambda _: picture,
        lambda *given: labels.put(journal, *given) is not None,
        scorers=lambda: scorers,
    )
    yield make_app(CollectorRegistry(), list, site=site)
    journal.close()


@pytest.mark.parametrize("mode", GenerationMode)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_answers_are_as_the_document_says(app: Starlette, operation: str, mode: GenerationMode) -> None:
    method, _, path = operation.partition(" ")
    about = schemathesis.openapi.from_dict(document())[path][method]
    asked = document()["paths"][path][method.lower()]["parameters"]
    if mode is GenerationMode.NEGATIVE and all(one["schema"] == {"type": "string"} for one in asked):
        pytest.skip("there is nothing to get wrong")
    profile = settings(
        max_examples=15 * TIMES, deadline=None, derandomize=TIMES == 1, suppress_health_check=list(HealthCheck)
    )

    @profile
    @given(about.as_strategy(generation_mode=mode))
    def check(case: Case) -> None:
        sent = case.as_transport_kwargs(base_url="http://127.0.0.1")
        body = {"content": sent["data"]} if isinstance(sent.get("data"), bytes) else {"json": sent.get("json")}
        answer = ask(app, sent["url"], method=sent["method"], params=sent["params"], **body)
        case.validate_response(
            answer, excluded_checks=[negative_data_rejection]
        )  # of a form, what is empty is not there

    check()


def test_what_is_there_is_found(app: Starlette) -> None:
    for path in ("/results/" + ID, f"/results/{ID}/overlay.png", "/models/vae/threshold", "/models/vae/samples.png"):
        assert ask(app, "/api/v1" + path).status_code == 200
