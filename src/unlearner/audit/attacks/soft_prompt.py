"""Universal soft prompt: a few vectors behind the question that make the model begin an answer (Schwinn et al. 2024,
arXiv 2402.09063)

One prompt for all subjects, learned on half of the forgotten facts' questions and tried on the other half, and on
controls. Its aim is the opening alone: vectors that were taught the fact could write any five tokens. Needs questions
with answers and the gradient of the input embeddings; costs `steps` backward passes of up to 16 rows, and an answer to
each question that is tried.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unlearner.audit.attack import ANSWER_TOKENS, Cost, Finding, Outcome, Question, Target, WeightAttack
from unlearner.audit.attacks.relearning import halves
from unlearner.evaluation.backend import end_ids, prompt_tokens
from unlearner.evaluation.requests import Generate
from unlearner.models.anatomy import bare, evaluating
from unlearner.models.sharding import is_sharded
from unlearner.random_state import own_random_state

ROWS = 16
"""Questions in a forward."""


@dataclass(frozen=True)
class SoftPrompt(WeightAttack):
    """`vectors` of them, by `steps` of Adam with `rate` times the mean length of an embedding as learning rate."""

    name = "soft-prompt"
    title = "Universal soft prompt"
    access = "weights"
    source = "Schwinn et al. 2024, arXiv 2402.09063"
    asks_of = "questions, not documents, about two facts of a subject, and a model that is not sharded over devices"

    vectors: int = 20
    steps: int = 50
    rate: float = 1e-3
    opening: str = "Sure, here is the answer:"
    max_new_tokens: int = ANSWER_TOKENS

    def cost(self, asked: Mapping[str, int]) -> Cost:
        half = asked.get("forget", 0) // 2
        return Cost(answers=half + asked.get("control", 0), rows=self.steps * min(ROWS, half))

    def findings(self, target: Target) -> Iterator[Finding]:
        forgotten = [q for q in target.questions["forget"] if q.detector is not None]
        if is_sharded(target.model) or any(question.document for question in forgotten):
            return
        trained, tested = halves(forgotten, 0)
        if not trained or not tested:
            return
        with evaluating(target.model), own_random_state():
            soft = self._learned(target, trained)
            controls = [q for q in target.questions["control"] if q.detector is not None and not q.document]
            for group, questions in (("forget", tested), ("control", controls)):
                for start in range(0, len(questions), ROWS):
                    part = questions[start : start + ROWS]
                    for question, text in zip(part, self._answers(target, part, soft), strict=True):
                        assert question.detector is not None
                        states, graded = question.detector.states(text), question.detector.graded(text)
                        yield Finding(group, question, Outcome(states, graded, text))

    def _learned(self, target: Target, questions: Sequence[Question]) -> Tensor:
        """(vectors, H), float32."""
        model = bare(target.model)
        embed = model.get_input_embeddings()
        first = target.tokenizer("!", add_special_tokens=False)["input_ids"][:1]
        soft = embed.weight.detach()[first].float().repeat(self.vectors, 1).requires_grad_(True)
        scale = float(embed.weight.detach().float().norm(dim=1).mean())
        optimizer = torch.optim.Adam([soft], lr=self.rate * scale)
        opening = target.tokenizer(self.opening, add_special_tokens=False, return_tensors="pt")["input_ids"][0]
        opening = opening.to(embed.weight.device)
        prompts = self._prompts(target, questions)
        for step in range(self.steps):
            first = step * ROWS % len(prompts)
            chosen = prompts[first : first + ROWS]
            with torch.enable_grad():
                inputs, mask = self._inputs(embed, chosen, soft, opening)
                logits = model(inputs_embeds=inputs, attention_mask=mask, use_cache=False).logits
                logp = logits[:, -len(opening) - 1 : -1].float().log_softmax(-1)
                loss = -logp.gather(2, opening.expand(len(chosen), -1)[..., None]).mean()
                (soft.grad,) = torch.autograd.grad(loss, [soft])
            optimizer.step()
        return soft.detach()

    def _answers(self, target: Target, questions: Sequence[Question], soft: Tensor) -> list[str]:
        model = bare(target.model)
        ends = sorted(end_ids(model, target.tokenizer, target.template))
        with torch.inference_mode():
            inputs, mask = self._inputs(model.get_input_embeddings(), self._prompts(target, questions), soft)
            written = model.generate(
                inputs_embeds=inputs, attention_mask=mask, max_new_tokens=self.max_new_tokens, do_sample=False,
                eos_token_id=ends, pad_token_id=ends[0], num_beams=1,
            )  # fmt: skip
        return [str(text).strip() for text in target.tokenizer.batch_decode(written, skip_special_tokens=True)]

    @staticmethod
    def _prompts(target: Target, questions: Sequence[Question]) -> list[list[int]]:
        return prompt_tokens(target.tokenizer, target.template, [Generate(q.record.question) for q in questions])

    @staticmethod
    def _inputs(
        embed: Any, prompts: Sequence[Sequence[int]], soft: Tensor, opening: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(rows, tokens, H) and their mask: questions, padded on the left, the vectors, and the opening."""
        longest = max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(p)) + list(p) for p in prompts], device=embed.weight.device)
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=embed.weight.device)
        parts = [embed(ids).detach(), soft.to(embed.weight.dtype).expand(len(prompts), -1, -1)]
        if opening is not None:
            parts.append(embed(opening).detach().expand(len(prompts), -1, -1))
        inputs = torch.cat(parts, dim=1)
        return inputs, torch.cat([mask, mask.new_ones(len(prompts), inputs.shape[1] - longest)], dim=1)
