"""The scoring pass: how likely every answer is, teacher-forced (arXiv 2410.08109).

A *group* is the rows of one question: a right answer, paraphrased and wrong ones, each after that question. The
question is encoded once; its keys and values then serve all of the group's rows.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache

from unlearner.data.prompts import TokenTable
from unlearner.models import generation
from unlearner.models.anatomy import Head, backbone, bare
from unlearner.models.batch_jobs import BatchJob
from unlearner.models.execution import shares
from unlearner.scoring.constants import STATISTICS
from unlearner.scoring.token_scores import token_scores

BATCH_TOKENS = {"cpu": 1_024, "cuda": 32_768}
"""Default budget of one forward of the scoring pass: rows x longest row."""
ROUND = 32
"""Groups whose questions are encoded in one forward, and whose rows are then sorted by length."""


def labelled_tokens(table: TokenTable) -> np.ndarray:
    """Labelled tokens of each row: its answer with the end token, less a very first token, which nothing predicts."""
    return table.lengths - np.maximum(table.start, 1)


def scoring_pass(
    model: nn.Module,
    table: TokenTable,
    sizes: Sequence[int],
    *,
    batch_tokens: int | None = None,
    share: bool = True,
    each: bool = False,
    is_argmax: np.ndarray | None = None,
    statistics: Sequence[Sequence[str]] | None = None,
) -> BatchJob[Any]:
    """NLL of each row of `table` summed over its labelled tokens, float64 of shape (rows,); with `each` the
    log-probabilities of these tokens, a list of lists.

    With `is_argmax`, bool of shape (rows,), a list of pairs: the row's score, and a list with 1 for each labelled token
    that is the likeliest at its place and 0 for the others, empty for a row that is false there. With `statistics`, for
    each row the names of some of `TOKEN_STATISTICS`, a list of triples: these two, and by name one number a token.

    Group i is the next `sizes[i]` rows. Without `share`, and for any model that keeps anything but keys and values of
    past tokens, the question is encoded again for each row.
    """
    stops = np.cumsum(sizes, dtype=np.int64).tolist()
    groups = [np.arange(stop - size, stop) for size, stop in zip(sizes, stops, strict=True)]
    share = share and generation.row_cache(model) is not None
    prefixes = np.array([common_prefix(table, rows) if share else 0 for rows in groups], dtype=np.int64)
    known = 0
    if share and len(groups) > 1 and generation.goes_by_position(model):
        beginning = common_prefix(table, np.arange(len(table)))
        computed = table.lengths.sum() - (prefixes * (np.array(sizes) - 1)).sum()
        known = beginning if shares(beginning, len(groups), int(computed)) else 0
        prefixes = np.maximum(prefixes, known)
    budget = batch_tokens or BATCH_TOKENS.get(bare(model).device.type, BATCH_TOKENS["cuda"])
    rounds = list(_rounds(table, groups, prefixes))
    rows = [np.concatenate([groups[i] for i in chosen]) for chosen in rounds]

    def compute(i: int) -> list[Any]:
        chosen = [groups[g] for g in rounds[i]]
        return _score_round(model, table, chosen, prefixes[rounds[i]], budget, known, each, is_argmax, statistics)

    def join(results: list[list[Any]]) -> Any:
        found: list[Any] = [None] * len(table)
        for part, result in zip(rows, results, strict=True):
            for row, value in zip(part.tolist(), result, strict=True):
                found[row] = value
        more = each or is_argmax is not None or statistics is not None
        return found if more else np.array(found, dtype=np.float64)

    name = "open answers" if each else "answers"
    return BatchJob(
        name,
        [_content(name, table, part, is_argmax, statistics) for part in rows],
        compute,
        [len(chosen) for chosen in rounds],
        [float(table.lengths[part].sum()) for part in rows],
        join,
    )


def _content(
    name: str,
    table: TokenTable,
    rows: np.ndarray,
    is_argmax: np.ndarray | None,
    statistics: Sequence[Sequence[str]] | None,
) -> list[Any]:
    """What a batch is known by in the store: its tokens, and what else is asked of them."""
    content = [name, [table.row(row).tolist() for row in rows], table.start[rows].tolist()]
    if is_argmax is not None:
        content.append(is_argmax[rows].tolist())
    if statistics is not None:
        content.append({"statistics": [list(statistics[row]) for row in rows]})
    return content


def common_prefix(table: TokenTable, rows: np.ndarray) -> int:
    """Tokens with which all `rows` begin, none of them needed to predict a labelled token; 0 for a single row."""
    if len(rows) == 1:
        return 0
    limit = int(np.maximum(table.start[rows], 1).min()) - 1
    heads = np.stack([table.row(row)[:limit] for row in rows])
    same = (heads == heads[0]).all(axis=0)
    return limit if same.all() else int(same.argmin())


def _rounds(table: TokenTable, groups: Sequence[np.ndarray], prefixes: np.ndarray) -> Iterator[np.ndarray]:
    """Groups to be scored together, the longest first; those that share a prefix apart from those that do not."""
    longest = np.array([table.lengths[rows].max() for rows in groups])
    for alike in (prefixes > 0, prefixes == 0):
        order = np.flatnonzero(alike)
        order = order[np.argsort(-longest[order], kind="stable")]
        for first in range(0, len(order), ROUND):
            yield order[first : first + ROUND]


@torch.inference_mode()
def _score_round(
    model: nn.Module,
    table: TokenTable,
    groups: Sequence[np.ndarray],
    prefixes: np.ndarray,
    batch_tokens: int,
    known: int = 0,
    each: bool = False,
    is_argmax: np.ndarray | None = None,
    statistics: Sequence[Sequence[str]] | None = None,
) -> list[Any]:
    """`scoring_pass` of all rows of `groups`: the prefixes in one forward, of which the first `known` tokens, the same
    in all, are encoded before that; then rows of like length together."""
    rows = np.concatenate(groups)
    group = np.repeat(np.arange(len(groups)), [len(members) for members in groups])
    prefix = prefixes[group]
    past = _encode_prefixes(model, table, [members[0] for members in groups], prefixes, known) if prefix[0] else None
    told = np.zeros(len(rows), dtype=bool) if is_argmax is None else is_argmax[rows]
    named = [() if statistics is None else statistics[row] for row in rows]
    wanted = {name for names in named for name in names} | ({"is_argmax"} if told.any() else set())
    kinds = ("logp", *(kind for kind in STATISTICS if kind in wanted))
    scores, owners = [], []
    for batch in generation.length_batches((table.lengths[rows] - prefix).tolist(), batch_tokens):
        found, row = _score_rows(model, table, rows[batch], prefix[batch], past, group[batch], kinds)
        scores.append(found)
        owners.append(np.array(batch)[row])
    copied = torch.cat(scores, dim=1).double().cpu().numpy()  # the round's one copy from the device
    columns, owner = dict(zip(kinds, copied, strict=True)), np.concatenate(owners)
    if each:
        values = [columns["logp"][owner == row].tolist() for row in range(len(rows))]
    else:
        values = np.bincount(owner, -columns["logp"], minlength=len(rows)).tolist()
    if is_argmax is None and statistics is None:
        return values
    hits = [columns["is_argmax"][owner == row].astype(int).tolist() if told[row] else [] for row in range(len(rows))]
    if statistics is None:
        return [list(pair) for pair in zip(values, hits, strict=True)]
    more = [{name: columns[name][owner == row].tolist() for name in names} for row, names in enumerate(named)]
    return [list(triple) for triple in zip(values, hits, more, strict=True)]


def _encode_prefixes(
    model: nn.Module, table: TokenTable, rows: Sequence[int], prefixes: np.ndarray, known: int
) -> tuple[DynamicCache, Tensor]:
    """Keys and values of the first `prefixes[i]` tokens of row `rows[i]`, and their mask (rows, tokens): the `known`
    ones that are the same in all rows, then the others, padded on the left."""
    own = prefixes - known
    width = int(own.max())
    ids = np.zeros((len(rows), width), dtype=np.int64)
    for i, (row, length) in enumerate(zip(rows, own, strict=True)):
        ids[i, width - length :] = table.row(row)[known : known + length]
    body, device = backbone(model), bare(model).device
    mask = torch.from_numpy(np.arange(width) >= width - own[:, None]).long().to(device)
    mask = torch.cat([mask.new_ones(len(rows), known), mask], dim=1)
    cache = generation.row_cache(model)
    if known:
        cache = generation.encoded_once(model, table.row(rows[0])[:known].tolist(), len(rows))
    assert cache is not None
    if width:
        body(
            input_ids=torch.from_numpy(ids).to(device),
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            **generation.position_ids(body, (mask.cumsum(1) - 1).clamp(min=0)[:, known:]),
        )
    return cache, mask


def _score_rows(
    model: nn.Module,
    table: TokenTable,
    rows: np.ndarray,
    prefix: np.ndarray,
    past: tuple[DynamicCache, Tensor] | None,
    group: np.ndarray,
    kinds: Sequence[str],
) -> tuple[Tensor, np.ndarray]:
    """Scores of the labelled tokens of `rows`, in one forward over what follows their prefixes.

    The first `prefix[i]` tokens of row i are row `group[i]` of `past`. Returns shape (kinds, N) on the device, and
    which of `rows` each of the N tokens belongs to.
    """
    body, device = backbone(model), bare(model).device
    lengths, first = table.lengths[rows], np.maximum(table.start[rows], 1)
    width = int((lengths - 1 - prefix).max())  # a row's last token predicts nothing
    ids = np.zeros((len(rows), width), dtype=np.int64)
    targets, index = [], []
    for i, row in enumerate(rows):
        tokens = table.row(row).astype(np.int64)
        ids[i, : lengths[i] - 1 - prefix[i]] = tokens[prefix[i] : -1]
        targets.append(tokens[first[i] :])
        # Token t is predicted at t − 1, which stands in column t − 1 − prefix.
        index.append(np.arange(first[i], lengths[i]) - 1 - prefix[i] + i * width)
    # Padding is on the right and needs no mask: causal attention never looks there.
    context: dict[str, Any] = {"use_cache": False}
    if past is not None:
        cache, mask = past
        chosen = torch.from_numpy(group).to(device)
        positions = torch.from_numpy(prefix[:, None] + np.arange(width)).to(device)
        context = {
            "past_key_values": generation.select_rows(cache, chosen),
            "attention_mask": torch.cat([mask[chosen], mask.new_ones(len(rows), width)], dim=1),
            "use_cache": True,
            **generation.position_ids(body, positions),
        }
    hidden = body(input_ids=torch.from_numpy(ids).to(device), **context).last_hidden_state.flatten(0, 1)
    hidden = hidden.index_select(0, torch.from_numpy(np.concatenate(index)).to(device))
    scores = token_scores(hidden, Head.of(model), torch.from_numpy(np.concatenate(targets)).to(device), kinds)
    return torch.stack([scores[kind] for kind in kinds]), np.repeat(np.arange(len(rows)), lengths - first)
