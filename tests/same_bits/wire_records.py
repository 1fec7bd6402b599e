"""What is recorded of each kind of answer of kascade-server. Fields are listed by name, so that a
field that a later version adds is no difference; times and rates are left out."""

import json

from recording import hexadecimal

MODEL = ("name", "architecture", "parameters", "layers", "hidden_size", "intermediate_size",
         "heads", "kv_heads", "head_dim", "vocab_size", "context_length", "bos_token_id",
         "eos_token_ids", "adds_bos", "weights_digest", "config_digest", "tokenizer_digest",
         "chat_format")
RUNTIME = ("backend", "weights_dtype", "cache_dtype", "kv_bytes_per_token")
ATTENTION = ("mode", "schedule_id", "reuse_layers_ratio", "keys_attended_ratio",
             "keys_scored_ratio", "kv_bytes_read_per_token", "dense_kv_bytes_read_per_token",
             "positions", "baseline")
PARTS = {"baseline": ("kind", "ratio", "min_keys", "sink_keys", "page_size", "dense_layers"),
         "dense_layers": ("layers",)}  # of fields that are messages
GENERATE_STARTED = ("prompt_tokens", "seed", "mode", "schedule_id", "max_new_tokens")
GENERATE_FINISHED = ("reason", "stop_string", "stop_token_id", "prompt_tokens", "generated_tokens")
SCORE_COUNTS = ("protocol", "windows", "tokens", "tokens_scored", "bytes_scored", "words_scored",
                "phase", "window_tokens", "stride_tokens", "begins_with_bos", "suspect")
SCORE_FIGURES = ("nll_sum", "mean_nll", "mean_nll_standard_error", "perplexity", "bits_per_byte",
                 "top1_ratio", "word_perplexity", "byte_perplexity", "perplexity_standard_error")
COMPARISON = ("sparse_nll_sum", "sparse_perplexity", "degradation_percent", "mean_kl",
              "same_top1_ratio", "max_logprob_difference", "degradation_percent_standard_error",
              "mean_logprob_difference", "mean_logprob_difference_standard_error", "max_kl",
              "mean_kl_standard_error", "sparse_mean_nll_standard_error",
              "sparse_perplexity_standard_error")
QUALITY = ("phase", "protocol", "tokens", "dense_perplexity", "sparse_perplexity",
           "degradation_percent", "mean_kl", "same_top1_ratio", "keys_attended_ratio",
           "keys_scored_ratio", "kv_bytes_read_per_token", "dense_kv_bytes_read_per_token",
           "max_degradation_percent", "degradation_percent_standard_error", "suspect", "passed")
MEASURED = ("schedule_id", "created_at")  # of a schedule's JSON: when it was made


def shown(message, name):
    """A field's value as text with all its bits; "unset" for an optional one without a value."""
    field = message.DESCRIPTOR.fields_by_name[name]
    if field.has_presence and not message.HasField(name):
        return "unset"
    value = getattr(message, name)
    if field.message_type is not None:
        return "{" + " ".join(all_shown(value, PARTS[name])) + "}"
    if field.label == field.LABEL_REPEATED:
        return str(list(value))
    return hexadecimal(value) if isinstance(value, float) else str(value)


def all_shown(message, names):
    return [f"{name}:{shown(message, name)}" for name in names]


def record_info(info, recording):
    recording.exact("model", all_shown(info.model, MODEL))
    recording.exact("runtime", all_shown(info.runtime, RUNTIME))


def joined(messages, name):
    """A column of consecutive messages, however the server cut it."""
    return [value for message in messages for value in getattr(message, name)]


def record_top(candidates, recording):
    if not candidates:
        return
    recording.exact("top tokens", [token for top in candidates for token in top.token_ids])
    recording.near("top logprobs", [value for top in candidates for value in top.logprobs])


def record_generated(messages, recording):
    started, finished = messages[0].started, messages[-1].finished
    deltas = [message.delta for message in messages[1:-1]]
    recording.exact("started", all_shown(started, GENERATE_STARTED))
    recording.exact("tokens", joined(deltas, "token_ids"))
    recording.exact("text", repr("".join(delta.text for delta in deltas)))
    recording.near("logprobs", joined(deltas, "logprobs"))
    recording.exact("ranks", joined(deltas, "ranks"))
    record_top(joined(deltas, "top"), recording)
    recording.exact("finished", all_shown(finished, GENERATE_FINISHED))
    recording.exact("attention", all_shown(finished.attention, ATTENTION))


def record_comparison(summary, prefix, recording):
    comparison = getattr(summary, prefix + "comparison")
    recording.bits(prefix + "comparison", all_shown(comparison, COMPARISON))
    recording.bits(prefix + "percentiles", [hexadecimal(at.difference) for at in
                                            comparison.logprob_difference_percentiles])
    if prefix:
        recording.exact(prefix + "attention", all_shown(summary.tile_attention, ATTENTION))


def record_summary(summary, recording):
    recording.exact("counts", all_shown(summary, SCORE_COUNTS))
    recording.bits("figures", all_shown(summary, SCORE_FIGURES))
    recording.exact("attention", all_shown(summary.attention, ATTENTION))
    for prefix in ("", "tile_"):
        if summary.HasField(prefix + "comparison"):
            record_comparison(summary, prefix, recording)


def record_scored(messages, recording):
    """Columns of all inputs, input by input, and the total."""
    columns = [message.tokens for message in messages if message.WhichOneof("event") == "tokens"]
    columns.sort(key=lambda part: (part.input_index, part.first_position))
    recording.exact("tokens", joined(columns, "token_ids"))
    recording.exact("most likely", "".join("01"[top] for top in joined(columns, "top1")))
    for name in ("logprobs", "sparse_logprobs", "kl"):
        if values := joined(columns, name):
            recording.near(name, values)
    for name in ("ranks", "sparse_ranks"):
        if values := joined(columns, name):
            recording.exact(name, values)
    record_top(joined(columns, "top"), recording)
    record_summary(messages[-1].total, recording)


def record_calibration(messages, recording):
    started, result = messages[0].started, messages[-1].result
    recording.exact("started", all_shown(started, ("data_digest", "tokens")))
    schedule = json.loads(result.schedule_json)
    del schedule["calibration"]["duration_seconds"]
    layers = schedule.pop("layers")
    for name, value in schedule.items():
        if name not in MEASURED:
            recording.bits(f"schedule {name}", json.dumps(value))
    for index, layer in enumerate(layers):
        recording.bits(f"layer {index}", json.dumps(layer))
    for index, row in enumerate(result.similarity):
        recording.bits(f"similarity {index}", [hexadecimal(value) for value in row.to_layers])
    for index, candidate in enumerate(result.candidates):
        names = ("anchors", "dense_layers", "predicted_similarity")
        recording.bits(f"candidate {index}", all_shown(candidate, names)
                       + all_shown(candidate.quality, QUALITY))
    recording.bits("result", all_shown(result, ("passed", "activated", "note")))
