#include "server/core/calibration_request.h"

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
                  options.published_head_map_slip, " ", static_cast<int>(options.weight));
  for (const int32_t layer : options.dense_layers) absl::StrAppend(&text, " ", layer);
  return text;
}

std::string id_of(const PreparedCalibration& job, const ModelIdentity& model) {
  const std::string text =
      absl::StrCat(model.weights_digest, "\n", model.config_digest, "\n", model.tokenizer_digest,
                   "\n", job.data_digest, "\n", text_of(job.options));
  return absl::StrCat("cal-", digest(text).substr(0, 16));
}

// Layer 0 is dense anyway; each of the others is named once in what is kept.
std::vector<int32_t> distinct_dense_layers(const std::vector<int32_t>& layers) {
  std::set<int32_t> distinct(layers.begin(), layers.end());
  distinct.erase(0);
  return {distinct.begin(), distinct.end()};
}

}  // namespace

absl::StatusOr<PreparedCalibration> prepare(const CalibrationRequest& request,
                                            const Engine& engine) {
  if (absl::Status status = check_text_count("texts", request.texts.size()); !status.ok()) {
    return status;
  }
  if (absl::Status status = validate(request.options, engine.model()); !status.ok()) return status;
  PreparedCalibration job{.options = request.options, .activate = request.activate};
  job.options.dense_layers = distinct_dense_layers(request.options.dense_layers);
  for (size_t i = 0; i < request.texts.size(); ++i) {
    auto tokens = engine.tokenizer().encode(
        request.texts[i], {.add_special_tokens = false, .parse_special_tokens = false});
    if (!tokens.ok()) {
      return invalid_field(absl::StrCat("texts[", i, "]"), message_of(tokens.status()));
    }
    const std::string field = absl::StrCat("texts[", i, "]");
    if (absl::Status known = check_known(engine, *tokens, field); !known.ok()) return known;
    job.tokens += static_cast<int64_t>(tokens->size());
    job.texts.push_back(*std::move(tokens));
  }
  job.data_digest = token_digest(job.texts);
  job.id = id_of(job, engine.identity());
  return job;
}

}  // namespace kascade::core
