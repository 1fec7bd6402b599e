"""What a model can do: held-out text, recall over a distance, and where its attention looks."""

import itertools
import math

import numpy as np
import torch
import torch.nn.functional as F

from .model import PlainModel, attend, causal_probabilities
from .cases import chain_case, recall_case
from .tasks import Tasks
from .tokenizer import BOS
from .wordings import SETS

FAR = 256  # Tokens; attention further back than this counts as long-range.
BATCH_TOKENS = 4096


def bits_per_byte(model, tokenizer, ids, window):
    """Mean NLL of the ids, cut in windows with BOS in front of each."""
    count = len(ids) // window
    windows = np.asarray(ids[: count * window], np.int64).reshape(count, window)
    rows = np.concatenate([np.full((count, 1), BOS), windows], 1)
    total, step = 0.0, max(1, BATCH_TOKENS // window)
    for i in range(0, count, step):
        total += float(model.run(rows[i : i + step])[1].double().sum())
    size = int(tokenizer.byte_count[windows].sum())
    return {"window": window, "tokens": windows.size, "bytes": size,
            "nll_per_token": total / windows.size, "bits_per_byte": total / math.log(2) / size}


def exact_answers(model, cases):
    """How many of the cases (all of one length) are answered, every token of the answer right.

    The likeliest token at each place after a right beginning: the same as greedy decoding.
    """
    length, right = len(cases[0].ids), 0
    step = max(1, BATCH_TOKENS // length)
    for i in range(0, len(cases), step):
        some = cases[i : i + step]
        hits = model.run(np.stack([case.ids for case in some]))[2]
        for case, row in zip(some, hits):
            right += bool(row[case.answer_at - 1 :].all())
    return right


def recall(model, tasks, length, count, wording, keys=3):
    """Right answers among `count` cases of `length` tokens with `keys` pass keys each."""
    return exact_answers(model, [recall_case(tasks, length, keys, wording) for _ in range(count)])


def chains(model, tasks, length, count, hops):
    """Right answers where the key is given as the same as another's, `hops` times."""
    return exact_answers(model, [chain_case(tasks, length, hops) for _ in range(count)])


def probabilities_of_rows(q, k, rows):
    """Attention probabilities [H, rows, T] of some query rows of one sequence."""
    length = q.shape[2]
    found = [causal_probabilities(q, k, row, row + 1)[0, :, 0] for row in rows]
    return torch.stack([F.pad(p, (0, length - p.shape[-1])) for p in found], 1)


def regions(length, rows, stated):
    """Name -> mask [rows, T] of the keys that a figure of attention_by_layer counts."""
    keys, queries = torch.arange(length)[None], torch.as_tensor(rows)[:, None]
    masks = {"far": (queries - keys > FAR) & (keys > 0), "bos": (keys == 0).expand(len(rows), -1)}
    if stated:
        masks["stated"] = ((keys >= stated[0]) & (keys < stated[1])).expand(len(rows), -1)
    return masks


@torch.no_grad()
def attention_by_layer(model, ids, rows, stated=None):
    """Where the attention of some query rows lies, per layer: means over rows, for each head.

    far: on keys more than FAR back, BOS left out; bos: on BOS; top: on the strongest tenth of the
    keys; stated: on the keys from stated[0] to stated[1], the sentence that is asked for.
    Returns {name: array [L, H]}.
    """
    plain = PlainModel(model.shape, {name: value.detach().cpu().float()
                                     for name, value in model.parameters.items()})
    ids = torch.as_tensor(np.asarray(ids, np.int64))[None]
    positions = torch.arange(ids.shape[1])[None]
    masks = regions(ids.shape[1], rows, stated)
    x, found = F.embedding(ids, plain.parameters["embedding"]), {}
    for layer in range(model.shape.layers):
        q, k, v = plain.layer_inputs(x, layer, positions)
        p = probabilities_of_rows(q, k, rows)
        for name, mask in masks.items():
            found.setdefault(name, []).append((p * mask).sum(-1).mean(-1).numpy())
        top = [p[:, i, : row + 1].topk((row + 10) // 10, -1)[0].sum(-1)
               for i, row in enumerate(rows)]
        found.setdefault("top", []).append(torch.stack(top).mean(0).numpy())
        x = plain.finish_layer(x, attend(q, k, v), layer)
    return {name: np.stack(values) for name, values in found.items()}


def attention_report(model, tokenizer, book, words, length=2048, cases=8):
    """attention_by_layer on book text, in the questions of pass-key cases and at their answers.

    As lists of layers. A question's rows end before the one that predicts the answer.
    """
    ids = np.concatenate([[BOS], book[: length - 1]])
    on_book = attention_by_layer(model, ids, list(range(length // 2, length, 32)))
    tasks, in_questions, at_answers = Tasks(tokenizer, book, words, seed=2048), [], []
    for case in [recall_case(tasks, length) for _ in range(cases)]:
        for found, begin, end in ((in_questions, case.question_at, case.answer_at - 1),
                                  (at_answers, case.answer_at - 1, length - 1)):
            found.append(attention_by_layer(model, case.ids, list(range(begin, end)), case.stated))

    def summary(cases):
        means = {name: np.mean([case[name] for case in cases], 0) for name in cases[0]}
        return {name: {"mean": [round(float(v), 4) for v in layers.mean(1)],
                       "largest_head": [round(float(v), 4) for v in layers.max(1)]}
                for name, layers in means.items()}

    return {"length": length, "far_means_tokens": FAR, "book": summary([on_book]),
            "questions": summary(in_questions), "answers": summary(at_answers)}


def report(model, tokenizer, books, words, options):
    """Everything, as a dictionary for evaluation.json.

    books: {name: ids}. options: windows, book_tokens, recall_lengths, recall_keys (in each case),
    recall_cases, chain_length, chain_hops.
    """
    first = next(iter(books.values()))
    result = {"text": {}, "recall": {}, "chains": {}}
    for name, ids in books.items():
        ids = ids[: options["book_tokens"]]
        ids = ids[: len(ids) // max(options["windows"]) * max(options["windows"])]
        result["text"][name] = [bits_per_byte(model, tokenizer, ids, window)
                                for window in options["windows"]]
        print(name, result["text"][name], flush=True)
    count = options["recall_cases"]
    for wording, keys in itertools.product(SETS, options["recall_keys"]):
        row = result["recall"][f"{wording}_{keys}"] = {}
        for length in options["recall_lengths"]:
            tasks = Tasks(tokenizer, first, words, seed=5000 + length)
            right = recall(model, tasks, length, count, wording, keys)
            row[str(length)] = {"right": right, "of": count}
            print(wording, keys, length, right, "of", count, flush=True)
    for hops in options["chain_hops"]:
        tasks = Tasks(tokenizer, first, words, seed=6000 + hops)
        right = chains(model, tasks, options["chain_length"], count, hops)
        result["chains"][str(hops)] = {"right": right, "of": count}
        print("hops", hops, right, "of", count, flush=True)
    result["attention"] = attention_report(model, tokenizer, first, words)
    return result
