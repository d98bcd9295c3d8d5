"""The errors that training and export raise on purpose; their text says what is wrong, where, and what to do."""


class TrainError(Exception):
    """A model cannot be trained, or a run directory cannot be used."""


class OptionError(TrainError):
    """The hyper-parameters are wrong. `problems` holds one line each: `key: what is wrong, what to do`."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
