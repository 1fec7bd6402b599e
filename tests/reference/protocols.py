"""The score protocols, written from their definitions, on float64 log-probabilities.

A window is (sequence, indices): the token at each of the indices is scored given all before it in
the sequence, together with the index of each scored token in the whole text.
"""

import math
import re
from dataclasses import dataclass

import numpy as np

from llama import log_softmax, logits_of, through_layers


@dataclass
class Window:
    sequence: list  # tokens as the model gets them
    scored: range  # indices into sequence
    origin: int  # index in the text's tokens of sequence[0]


def whole(tokens):
    return [Window(tokens, range(1, len(tokens)), 0)]


def harness_rolling(tokens, max_length):
    """lm-evaluation-harness's rolling log-likelihood, context length 1, made disjoint.

    tokens[0] is the prefix token. Each request is an input of max_length tokens and the continuation
    that it predicts, the last of whose tokens is not fed.
    """
    prefix, text = tokens[0], tokens[1:]
    first = min(max_length, len(text))
    windows = [Window([prefix] + text[:first], range(1, first + 1), 0)]
    predicted = first
    while predicted < len(text):
        count = min(max_length, len(text) - predicted)
        end = predicted + count
        fed = text[end - max_length - 1:end - 1]
        windows.append(Window(fed + [text[end - 1]],
                              range(len(fed) + 1 - count, len(fed) + 1), end - max_length))
        predicted = end
    return windows


def llama_cpp_chunks(tokens, context, bos):
    """llama-perplexity: logits from position context / 2 on, each predicting the next token."""
    windows = []
    for chunk in range(len(tokens) // context):
        sequence = tokens[chunk * context:(chunk + 1) * context]
        if bos is not None:
            sequence = [bos] + sequence[1:]
        first = context // 2
        targets = range(first + 1, first + 1 + context - 1 - first)
        windows.append(Window(sequence, targets, chunk * context))
    return windows


def sliding(tokens, max_length, stride):
    """Hugging Face's guide: begin_loc, end_loc, trg_len; labels are shifted by one."""
    windows, previous_end = [], 0
    for begin in range(0, len(tokens), stride):
        end = min(begin + max_length, len(tokens))
        target_length = end - previous_end
        labelled = range(end - begin - target_length, end - begin)
        # The label of a window's first token has no logits.
        windows.append(Window(tokens[begin:end], range(max(1, labelled.start), labelled.stop), begin))
        previous_end = end
        if end == len(tokens):
            break
    return windows


def score(model, windows):
    """Positions in the text, tokens and float64 log-probabilities of all scored tokens, in order."""
    positions, tokens, logprobs = [], [], []
    for window in windows:
        x = through_layers(model, model.embedding[np.asarray(window.sequence[:-1])])
        before = [index - 1 for index in window.scored]
        for index, row in zip(window.scored, log_softmax(logits_of(model, x[before]))):
            positions.append(window.origin + index)
            tokens.append(window.sequence[index])
            logprobs.append(row[window.sequence[index]])
    return positions, tokens, np.array(logprobs)


def figures(logprobs, text):
    """What a summary tells of scored tokens and the text that they stand for."""
    losses, words, size = -logprobs, len(re.split(r"\s+", text)), len(text.encode(errors="surrogateescape"))
    mean = losses.mean()
    error = losses.std(ddof=1) / math.sqrt(len(losses)) if len(losses) > 1 else 0.0
    return {
        "tokens_scored": len(losses), "words_scored": words, "bytes_scored": size,
        "nll_sum": losses.sum(), "mean_nll": mean, "perplexity": math.exp(mean),
        "mean_nll_standard_error": error, "perplexity_standard_error": math.exp(mean) * error,
        "word_perplexity": math.exp(losses.sum() / words),
        "byte_perplexity": math.exp(losses.sum() / size),
        "bits_per_byte": losses.sum() / size / math.log(2),
    }
