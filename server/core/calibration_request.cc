#include "server/core/calibration_request.h"

#include <algorithm>
#include <cstdio>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/digest.h"
#include "engine/base/refusal.h"
#include "engine/calibration/windows.h"
#include "server/core/limits.h"
#include "server/core/prompt.h"

namespace kascade::core {
namespace {

// Every option in full precision, defaults applied.
std::string text_of(const CalibrationOptions& options) {
  const auto exact = [](double value) {
    char text[32];
    std::snprintf(text, sizeof(text), "%a", value);
    return std::string(text);
  };
  const SelectionSettings& rule = options.selection;
  std::string text =
      absl::StrCat(std::string(name_of(rule.family)), " ", rule.query_tile, " ", exact(rule.ratio),
                   " ", rule.min_keys, " ", rule.top_k, " ", rule.decode_own_tile, " ",
                   rule.sink_keys, " ", static_cast<int>(options.planner), " ", options.anchors,
                   " ", exact(options.greedy.threshold), " ", options.greedy.max_reuse_dist, " ");
  absl::StrAppend(&text, options.auto_dense_layers, " ", exact(options.min_recall), " ",
                  options.window_tokens, " ", exact(options.max_degradation_percent));
  absl::StrAppend(&text, " ", std::string(name_of(rule.pooling)), " ", rule.all_heads, " ",
                  options.published_head_map_slip, " ", static_cast<int>(options.layer_cost));
  for (const int32_t layer : options.dense_layers) absl::StrAppend(&text, " ", layer);
  if (rule.mass > 0) {
    absl::StrAppend(&text, " mass ", exact(rule.mass), " ", exact(rule.max_ratio));
  }
  if (rule.int4_keys) text += " int4 keys";
  if (options.searches_mass) text += " search";
  if (options.auto_threshold) text += " auto threshold";
  if (options.checks_long_windows) text += " long checks";
  if (!options.long_window) text += " no long window";
  if (!options.retrieval) text += " no retrieval";
  if (options.dense_below) absl::StrAppend(&text, " dense below ", *options.dense_below);
  if (options.join_texts) text += *options.join_texts ? " joined" : " not joined";
  return text;
}

// Names and their lengths, so that no two lists look alike.
std::string text_of(const std::vector<std::string>& kinds) {
  std::string text;
  for (const std::string& kind : kinds) absl::StrAppend(&text, " ", kind.size(), " ", kind);
  return text;
}

std::string id_of(const PreparedCalibration& job, const ModelIdentity& model) {
  const std::string text = absl::StrCat(
      model.weights_digest, "\n", model.config_digest, "\n", model.tokenizer_digest, "\n",
      job.data_digest, "\n", text_of(job.options),
      job.held_out_tokens ? "\n" + token_digest(job.texts.held_out) : "",
      job.texts.kinds.empty() ? "" : "\nkinds" + text_of(job.texts.kinds),
      job.texts.held_out_kinds.empty() ? ""
                                       : "\nheld-out kinds" + text_of(job.texts.held_out_kinds));
  return absl::StrCat("cal-", digest(text).substr(0, 16));
}

// Layer 0 is dense anyway; each of the others is named once in what is kept.
std::vector<int32_t> distinct_dense_layers(const std::vector<int32_t>& layers) {
  std::set<int32_t> distinct(layers.begin(), layers.end());
  distinct.erase(0);
  return {distinct.begin(), distinct.end()};
}

absl::StatusOr<Texts> encode(const std::string& field, const std::vector<std::string_view>& texts,
                             const CalibrationRequest& request, const Engine& engine,
                             RequestGuard& guard) {
  if (texts.size() > kMaxCalibrationTexts) {
    return invalid_field(
        field, absl::StrCat("must be at most ", kMaxCalibrationTexts, ", got ", texts.size()));
  }
  Texts encoded;
  for (size_t i = 0; i < texts.size(); ++i) {
    const std::string text = absl::StrCat(field, "[", i, "]");
    auto tokens = engine.tokenizer().encode(
        texts[i],
        {.add_special_tokens = false, .parse_special_tokens = false, .bounds = {.watch = &guard}});
    if (!tokens.ok()) return text_error(text, tokens.status());
    if (absl::Status known = check_known(engine, *tokens, text); !known.ok()) return known;
    if (request.max_tokens_per_text) {
      tokens->resize(std::min(tokens->size(), static_cast<size_t>(*request.max_tokens_per_text)));
    }
    const auto bytes = static_cast<int64_t>(sizeof(*tokens) + tokens->capacity() * sizeof(Token));
    if (absl::Status status = guard.hold_more(bytes); !status.ok()) return status;
    encoded.push_back(*std::move(tokens));
  }
  return encoded;
}

absl::Status check_kinds(const std::string& field, const std::vector<std::string>& kinds,
                         const std::string& texts_field, size_t texts) {
  if (!kinds.empty() && kinds.size() != texts) {
    return invalid_field(field, absl::StrCat("must be as many as ", texts_field, ", which are ",
                                             texts, ", or none, got ", kinds.size()));
  }
  for (size_t i = 0; i < kinds.size(); ++i) {
    if (!kinds[i].empty() && kinds[i].size() <= kMaxKindBytes) continue;
    return invalid_field(
        absl::StrCat(field, "[", i, "]"),
        absl::StrCat("must have 1 to ", kMaxKindBytes, " bytes, has ", kinds[i].size()));
  }
  return absl::OkStatus();
}

}  // namespace

void identify(const ModelIdentity& model, PreparedCalibration& job) {
  job.tokens = count_tokens(job.texts.texts);
  if (!job.texts.held_out.empty()) job.held_out_tokens = count_tokens(job.texts.held_out);
  job.data_digest = token_digest(job.texts.texts);
  job.id = id_of(job, model);
}

absl::StatusOr<PreparedCalibration> prepare(const CalibrationRequest& request, const Engine& engine,
                                            const std::shared_ptr<RequestGuard>& guard) {
  if (request.texts.empty()) {
    return invalid_field("texts", absl::StrCat("must be 1 to ", kMaxCalibrationTexts, ", got 0"));
  }
  if (absl::Status status = validate(request.options, engine.model()); !status.ok()) return status;
  if (absl::Status status = engine.check_cache(request.options.selection); !status.ok()) {
    return status;
  }
  // The quality check compares two runs. Their windows are cut to what the cache holds.
  if (absl::Status status = engine.check_fits(/*tokens=*/1, /*runs=*/2); !status.ok()) {
    return status;
  }
  absl::Status kinds = check_kinds("kinds", request.kinds, "texts", request.texts.size());
  kinds.Update(check_kinds("held_out_kinds", request.held_out_kinds, "held_out_texts",
                           request.held_out_texts.size()));
  if (!kinds.ok()) return kinds;
  if (request.max_tokens_per_text) {
    absl::Status status = check_max_tokens_per_text(*request.max_tokens_per_text);
    if (!status.ok()) return status;
  }
  PreparedCalibration job{.options = request.options,
                          .activate = request.activate,
                          .fresh = request.fresh,
                          .memory = guard};
  job.options.dense_layers = distinct_dense_layers(request.options.dense_layers);
  auto texts = encode("texts", request.texts, request, engine, *guard);
  if (!texts.ok()) return texts.status();
  auto held_out = encode("held_out_texts", request.held_out_texts, request, engine, *guard);
  if (!held_out.ok()) return held_out.status();
  job.texts = {*std::move(texts), *std::move(held_out), request.kinds, request.held_out_kinds};
  identify(engine.identity(), job);
  return job;
}

}  // namespace kascade::core
