"""Documents that end with one question, to test what a model recalls; see evaluation.py."""

import typing

import numpy as np

from . import wordings
from .tokenizer import BOS


class Case(typing.NamedTuple):
    """A document that ends with the answer to a question.

    ids: the tokens; question_at, answer_at: index of the first token of each; stated: range of the
    tokens of the sentence that states what is asked.
    """

    ids: np.ndarray
    question_at: int
    answer_at: int
    stated: tuple


def assemble_case(tasks, length, sentences, question, answer, chosen):
    """Exactly `length` ids: sentences in book text, question, answer.

    chosen: index of the sentence whose place is wanted.
    """
    paragraph, question = tasks.paragraph, tasks.paragraph + question
    used = sum(len(s) + 2 * len(paragraph) for s in sentences) + len(question) + len(answer)
    pieces = tasks.pieces(length - 1 - used, len(sentences))
    parts, stated = [[BOS], pieces[0]], None
    for i, sentence in enumerate(sentences):
        begin = sum(len(part) for part in parts) + len(paragraph)
        stated = (begin, begin + len(sentence)) if i == chosen else stated
        parts += [paragraph, sentence, paragraph, pieces[i + 1]]
    ids = np.concatenate([np.asarray(part, np.int64) for part in parts + [question, answer]])
    answer_at = len(ids) - len(answer)
    return Case(ids, answer_at - len(question) + len(paragraph), answer_at, stated)


def joined(parts):
    return [i for ids, _ in parts for i in ids]


def recall_case(tasks, length, keys=3, wording="trained"):
    """Several keys of five digits in book text, one of them asked at the end.

    wording: a name of wordings.SETS, which statement, question and kind of thing are drawn from.
    """
    kinds, stated, asked = wordings.SETS[wording]
    kind = tasks.pick(kinds)
    owners = tasks.owners(keys)
    values = [tasks.digits(5) for _ in owners]
    sentences = [joined(tasks.render(tasks.pick(stated), kind, owner, value))
                 for owner, value in zip(owners, values)]
    chosen = int(tasks.rng.integers(keys))
    question = joined(tasks.render(tasks.pick(asked), kind, owners[chosen]))
    return assemble_case(tasks, length, sentences, question, tasks.encode(" " + values[chosen]),
                         chosen)


def chain_case(tasks, length, hops):
    """Two chains of owners with the same key, in any order; the last of the first is asked."""
    owners, kind = tasks.owners(2 * hops + 2), tasks.pick(wordings.KINDS)
    values, sentences = [tasks.digits(5), tasks.digits(5)], []
    for value, chain in zip(values, (owners[: hops + 1], owners[hops + 1 :])):
        sentences.append(tasks.render(tasks.pick(wordings.STATEMENTS), kind, chain[0], value))
        sentences += [tasks.render(tasks.pick(wordings.SAME_AS), kind, near, "", far)
                      for near, far in zip(chain[1:], chain)]
    order = tasks.rng.permutation(len(sentences))
    question = joined(tasks.render(tasks.pick(wordings.QUESTIONS), kind, owners[hops]))
    return assemble_case(tasks, length, [joined(sentences[i]) for i in order], question,
                         tasks.encode(" " + values[0]), int(np.flatnonzero(order == 0)[0]))
