"""Prefer another answer that the model itself would give (AltPO, Mekala et al. 2024, arXiv 2409.13474)."""

from dataclasses import dataclass

from torch import Tensor

from unlearner.errors import UserError
from unlearner.methods.base import Alternates, Loss, Views, check_positive
from unlearner.methods.dpo import preference

INSTRUCTION = (
    "Below are a question and an answer to it. Write another answer to the same question: a plausible one, of the same "
    "form and about as long, in which the facts are different. Write the new answer only.\n"
    "Question: {question}\nAnswer: {answer}"
)


@dataclass(frozen=True)
class AltPO(Loss):
    """L = −(2/β) E log σ(β [(NLL_θ(forget) − NLL_θ(alternate)) − (same under ref)]): DPO, where the preferred answer is
    another one that the model wrote, in place of a refusal.

    Alternates stand in the forget set's column `alternate_answer`, several a row if there are. For rows without any the
    model that the run starts from writes `samples` of them, at `temperature`, each at most `max_new_tokens` long: it is
    shown question and answer by `instruction` and its reply is begun with `prefix`. A row where every reply repeats the
    answer is asked twice more, for four times as many, the last time at 1.5 times the temperature. Epoch e trains
    alternate e modulo their number. The official code has instructions of its own, and makes a row of every alternate:
    its 2 epochs of 5 samples are 10 here.
    """

    name = "ALTPO"
    formula = "−(2/β) E log σ(β [(NLL_θ(forget) − NLL_θ(forget_alternate)) − (same under ref)])"
    source = "Mekala et al. 2024, arXiv 2409.13474"
    needs = {"forget": ["logp"], "forget_alternate": ["logp"]}
    reference = {"forget": ["nll"], "forget_alternate": ["nll"]}
    needs_questions = True
    defaults_from = "the paper's code; the instruction is ours"
    presets = {
        "paper": {"learning_rate": 5e-5, "forget_coeff": 1.0, "retain_coeff": 1.0, "beta": 0.1, "epochs": 10.0},
        "openunlearning": {
            "learning_rate": 1e-5,
            "forget_coeff": 1.0,
            "retain_coeff": 1.0,
            "beta": 0.1,
            "epochs": 10.0,
        },
    }
    grid = {"beta": (0.05, 0.1, 0.5)}

    beta: float = 0.1
    samples: int = 5
    temperature: float = 1.0
    max_new_tokens: int = 200
    instruction: str = INSTRUCTION
    prefix: str = "New answer:"

    def __post_init__(self) -> None:
        check_positive("beta", self.beta)
        check_positive("temperature", self.temperature)
        if not 0 <= self.samples <= 100:
            raise UserError(f"samples must be a whole number from 0 to 100, not {self.samples}.")
        check_positive("max_new_tokens", self.max_new_tokens)
        for name in ("question", "answer"):
            if "{" + name + "}" not in self.instruction:
                raise UserError(f"instruction must have {{{name}}} in it, where the row's {name} is to stand.")

    @property
    def alternates(self) -> Alternates:
        return Alternates(self.samples, self.temperature, self.max_new_tokens, self.instruction, self.prefix)

    def __call__(self, views: Views) -> Tensor:
        return preference(views, "forget_alternate", self.beta)
