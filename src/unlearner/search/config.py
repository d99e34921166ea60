"""The options of `unlearner forget`: those of one run, and those that begin at a name."""

from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from unlearner.config import ForgetConfig
from unlearner.errors import UserError
from unlearner.options import DocumentOptions, EndpointOptions, check_positive, flag_of
from unlearner.search.halving import Budget

MADE = (
    "forget", "retain", "forget_eval", "retain_eval", "real_authors", "world_facts", "task", "continual", "columns",
    "eval_columns",
)  # fmt: skip
"""Options that go without a name: what is forgotten, kept and measured."""
NAMED = ("subject", "subjects", "prepared")
PREPARING = (
    "language", "questions", *(each.name for each in (*fields(EndpointOptions), *fields(DocumentOptions))),
)  # fmt: skip
"""Options of `unlearner prepare` that are its own and ours."""
ONLY_NAMED = (
    "alias", "kind", "neighbours", *PREPARING, "search", "search_methods", "leak_below", "keep", "leak_samples",
)  # fmt: skip
BESIDE = (
    "search", "search_methods", "leak_below", "keep", "llm_requests", "llm_retries", "llm_timeout", "llm_price",
)  # fmt: skip
"""Options that do not make it another search: how long it may take, which methods it tries, what is aimed at, how an
endpoint is asked."""
MATERIAL = ("model", *NAMED, "alias", "kind", "neighbours", *PREPARING)
"""Options with which other rows are prepared."""


@dataclass(kw_only=True)
class ForgetCommand(EndpointOptions, DocumentOptions, ForgetConfig):
    """Make a model forget a forget set and keep a retain set, and measure both, before and after; or start from a name:
    --subject prepares all sets, --search finds the setting."""

    forget: str = ""
    """What to forget: FILE (.jsonl .json .csv .parquet .txt .md), a folder of documents, - for standard input,
    FOLDER:NAME, hub:OWNER/NAME:CONFIG:SPLIT, builtin:NAME; all may end in a slice of rows, [0:40]. Or --subject."""
    subject: list[str] = field(default_factory=list, metadata={"repeat": True})
    """Who or what to forget, by name, instead of --forget and --retain: questions are prepared as `unlearner
    prepare` does. Several names, or the option several times: all of them."""
    subjects: str | None = None
    """The same from a text file, one name per line, followed by its other names: Charles Darwin | Darwin."""
    prepared: list[str] = field(default_factory=list)
    """The same from folders that `unlearner prepare` made, whose rows you have read."""
    alias: list[str] = field(default_factory=list)
    """Other names of the one --subject."""
    kind: str = "person"
    """What the subjects are: person, author, place, organisation, work or product."""
    language: str = "en"
    """Language of the questions, as for `unlearner prepare`."""
    questions: str | None = None
    """Your own questions in addition to those of the kind, as for `unlearner prepare`; for several subjects, with
    {name} in place of the name."""
    neighbours: str | None = None
    """Names close to the subjects that are to be kept, a text file with one per line; by default as `unlearner prepare`
    finds them, or for several subjects well-known ones."""
    search: str | None = None
    """With --subject: search this long (20m, 2h) for a setting that reaches the aim: methods, learning rate,
    coefficients, epochs, LoRA or full, by successive halving. Preparing, and the run with the setting found, take extra
    time. Exit code 3 if nothing reaches it."""
    search_methods: list[str] = field(default_factory=list)
    """What --search tries; by default NPO+GD, IDK+AP, ME+GD and SIMNPO+GD, or only --method if you give another one."""
    leak_below: float = 0.25
    """The aim: at most this share of the facts stated before may still be stated in sampled answers to unseen
    wordings."""
    keep: list[float] = field(default_factory=lambda: [0.9, 0.95])
    """The aim: sampled answers to held-out questions about neighbours, and about general knowledge, must still state
    these shares of the facts that they stated before; one number is for both."""
    leak_samples: int = 8
    """Answers sampled for each question, at temperature 1; more where few questions count, so that every set has at
    least 64."""

    @property
    def named(self) -> bool:
        """Whether it begins at a name."""
        return any(getattr(self, name) for name in NAMED)

    @property
    def plain(self) -> ForgetConfig:
        """The options of one run."""
        return ForgetConfig(**{each.name: getattr(self, each.name) for each in fields(ForgetConfig)})

    def check(self) -> None:
        """Raises UserError for the first option that cannot be."""
        if not self.named:
            if not self.forget:
                raise UserError("--forget must be given, or --subject: see --help.")
            self._refuse(ONLY_NAMED, "{} needs --subject, who or what to forget: give it, or leave {} out.")
            super().check()
            return
        self._refuse(MADE, "--subject prepares what is forgotten, kept and measured: leave out {}.")
        if (given := [flag_of(name) for name in NAMED if getattr(self, name)])[1:]:
            raise UserError(f"{' and '.join(given)} both say who to forget: leave one out.")
        if self.alias and len(self.subject) != 1:
            raise UserError("--alias is for a single --subject: write the names of several to a file, for --subjects.")
        if self.evaluate != "end":
            raise UserError("--evaluate must be end with --subject: leave it out.")
        if self.redact:
            raise UserError(
                "--redact does not work with --subject, which keeps the questions that it makes: leave it out, and "
                "remove the texts afterwards with unlearner purge."
            )
        if self.prepared:
            self._refuse(
                ("kind", "neighbours", *PREPARING),
                "--prepared is already prepared: leave out {}, or give it to unlearner prepare.",
            )
        super().check()
        self.check_documents()
        self.check_endpoint()
        check_positive(self, "leak_samples")
        if not self.keep or len(self.keep) > 2:
            raise UserError("--keep needs one number, or two: for neighbours and for general knowledge.")
        for flag, value in (("--leak-below", self.leak_below), *(("--keep", share) for share in self.keep)):
            if not 0 < value <= 1:
                raise UserError(f"{flag} must lie between 0 and 1, not {value}.")
        if self.search is not None and Budget.read("--search", self.search).seconds is None:
            raise UserError(f"--search must be a time, such as 20m, not {self.search!r}.")
        if self.search is not None and self.stop_when is not None:
            raise UserError("--stop-when does not work with --search, which chooses the epochs itself: leave one out.")
        if self.search_methods and self.search is None:
            raise UserError("--search-methods needs --search: give --method for one run.")
        if self.search_methods:
            from unlearner.methods import Method  # which takes a second to import

            for method in self.search_methods:
                Method.parse(method)

    def _refuse(self, names: tuple[str, ...], sentence: str) -> None:
        for each in fields(self):
            usual = each.default_factory() if each.default_factory is not MISSING else each.default
            if each.name in names and getattr(self, each.name) != usual:
                raise UserError(sentence.replace("{}", flag_of(each.name)))

    @property
    def shares(self) -> tuple[float, float]:
        """What is to be kept of neighbours, and of general knowledge."""
        return self.keep[0], self.keep[-1]


def identity(options: dict[str, Any]) -> dict[str, Any]:
    """What makes two searches the same one."""
    return {name: value for name, value in options.items() if name not in BESIDE}
