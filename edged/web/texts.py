"""The words of the page, one file a language below `languages/`, and which language a browser wants."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

from starlette.requests import Request

DEFAULT: Final = "en"
COOKIE: Final = "edged_language"


@dataclass(frozen=True, slots=True)
class Texts:
    """The words of one language.

    Attributes:
        code: of the language, as in its file's name.
        words: by their keys.
    """

    code: str
    words: Mapping[str, str]

    def __call__(self, key: str, **values: object) -> str:
        """The words of a key, with values put in."""
        return self.words[key].format(**values)

    def number(self, value: float, digits: int = 0) -> str:
        """A number, with the language's decimal sign."""
        return f"{value:.{digits}f}".replace(".", self.words["decimal"])

    def significant(self, value: float) -> str:
        """A number with three significant digits."""
        return f"{value:.3g}".replace(".", self.words["decimal"])

    def share(self, value: float) -> dict[str, str]:
        """A share as whole pictures of as many as it takes for one: 0.0049 is 5 of 1000; for `{n}` and `{count}`."""
        count = 100
        while 0 < value * count < 0.95:
            count *= 10
        return {"n": self.number(value * count), "count": str(count)}

    def clock(self, seconds: float) -> str:
        """A place in a film, as 1:02:03."""
        whole = int(seconds)
        return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"

    def age(self, seconds: float) -> str:
        """A time span in its largest unit, whole."""
        for unit, length_s in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
            if seconds >= 2 * length_s:
                return self(unit, n=int(seconds // length_s))
        return self("seconds", n=max(0, int(seconds)))


def load() -> dict[str, Texts]:
    """Every language, by its code."""
    found = {}
    for file in (files("edged.web") / "languages").iterdir():
        code, _, suffix = file.name.partition(".")
        if suffix == "toml":
            found[code] = Texts(code, tomllib.loads(file.read_text(encoding="utf-8")))
    return dict(sorted(found.items()))


def choose(request: Request, languages: Mapping[str, Texts]) -> Texts:
    """The language that a person chose (`?lang=`, which is kept in a cookie), or that the browser asks for."""
    for asked in (request.query_params.get("lang"), request.cookies.get(COOKIE)):
        if asked is not None and asked in languages:
            return languages[asked]
    for part in request.headers.get("accept-language", "").split(","):
        code = part.partition(";")[0].strip().lower().partition("-")[0]
        if code in languages:
            return languages[code]
    return languages[DEFAULT]
