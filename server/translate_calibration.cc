#include "server/translate_calibration.h"

#include <cstdio>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/digest.h"
#include "engine/calibration/windows.h"
#include "server/errors.h"
#include "server/limits.h"
#include "server/translate.h"

namespace kascade::server {
namespace {

using Request = v1::CalibrateRequest;

// The kind of schedule that is asked for.
struct Kind {
  Family family = Family::kKascade;
  Planner planner = Planner::kDynamicProgramming;
};

absl::StatusOr<std::optional<Preset>> read_preset(const Request& in) {
  switch (in.preset()) {
    case v1::CALIBRATION_PRESET_UNSPECIFIED:
      return std::nullopt;
    case v1::CALIBRATION_PRESET_BALANCED:
      return preset("balanced");
    case v1::CALIBRATION_PRESET_CONSERVATIVE:
      return preset("conservative");
    case v1::CALIBRATION_PRESET_AGGRESSIVE:
      return preset("aggressive");
    case v1::CALIBRATION_PRESET_LARGE_MODEL:
      return preset("large-model");
    case v1::CALIBRATION_PRESET_CPU_8B:
      return preset("cpu-8b");
    case v1::CALIBRATION_PRESET_LONG:
      return preset("long");
    default:
      return invalid_field("preset", absl::StrCat("unknown value ", int{in.preset()}));
  }
}

absl::StatusOr<Kind> read_kind(const Request& in, bool has_preset) {
  Kind kind;
  switch (in.family()) {
    case v1::SELECTION_FAMILY_UNSPECIFIED:
      kind.family = has_preset ? Family::kTile : Family::kKascade;
      break;
    case v1::SELECTION_FAMILY_KASCADE:
      kind.family = Family::kKascade;
      break;
    case v1::SELECTION_FAMILY_TILE:
      kind.family = Family::kTile;
      break;
    default:
      return invalid_field("family", absl::StrCat("unknown value ", int{in.family()}));
  }
  switch (in.maker()) {
    case v1::SCHEDULE_MAKER_UNSPECIFIED:
      kind.planner = kind.family == Family::kTile ? Planner::kGreedy : Planner::kDynamicProgramming;
      break;
    case v1::SCHEDULE_MAKER_DP:
      kind.planner = Planner::kDynamicProgramming;
      break;
    case v1::SCHEDULE_MAKER_GREEDY:
      kind.planner = Planner::kGreedy;
      break;
    default:
      return invalid_field("maker", absl::StrCat("unknown value ", int{in.maker()}));
  }
  if (has_preset && kind.family != Family::kTile) {
    return invalid_field("preset", "presets are of family TILE; family is KASCADE");
  }
  if (has_preset && kind.planner != Planner::kGreedy) {
    return invalid_field("preset", "presets are of maker GREEDY; maker is DP");
  }
  return kind;
}

// Refuses what was set for another kind of schedule.
absl::Status check_fit(const Request& in, const Kind& kind) {
  struct Option {
    const char* name;
    bool set;
    bool fits;
    const char* belongs;
  };
  const bool keys = kind.family == Family::kKascade;
  const bool optimal = kind.planner == Planner::kDynamicProgramming;
  const Option options[] = {
      {"anchors", in.has_anchors(), optimal, "maker DP; maker is GREEDY"},
      {"threshold", in.has_threshold(), !optimal, "maker GREEDY; maker is DP"},
      {"max_reuse_dist", in.has_max_reuse_dist(), !optimal, "maker GREEDY; maker is DP"},
      {"ratio", in.has_ratio(), keys, "family KASCADE; family is TILE"},
      {"min_keys", in.has_min_keys(), keys, "family KASCADE; family is TILE"},
      {"decode_own_tile", in.has_decode_own_tile(), keys, "family KASCADE; family is TILE"},
      {"sink_keys", in.has_sink_keys(), keys, "family KASCADE; family is TILE"},
      {"pooling", in.has_pooling(), keys, "family KASCADE; family is TILE"},
      {"all_heads", in.has_all_heads(), keys, "family KASCADE; family is TILE"},
      {"published_head_map_slip", in.has_published_head_map_slip(), optimal,
       "maker DP; maker is GREEDY"},
      {"plan_weight", in.has_plan_weight(), optimal, "maker DP; maker is GREEDY"},
      {"top_k", in.has_top_k(), !keys, "family TILE; family is KASCADE"},
      {"min_recall", in.has_min_recall(), in.auto_dense_layers(),
       "auto_dense_layers; auto_dense_layers is false"},
  };
  for (const Option& option : options) {
    if (option.set && !option.fits) {
      return invalid_field(option.name, absl::StrCat("is an option of ", option.belongs));
    }
  }
  return absl::OkStatus();
}

absl::Status read_integer(const char* field, bool set, int64_t value, int64_t low, int64_t high,
                          int32_t& out) {
  if (!set) return absl::OkStatus();
  out = static_cast<int32_t>(value);
  return check_range(field, value, low, high);
}

absl::Status read_real(const char* field, bool set, double value, double high, double& out) {
  if (!set) return absl::OkStatus();
  out = value;
  return check_range(field, value, 0.0, high);
}

absl::Status read_pooling(const Request& in, ScorePooling& out) {
  switch (in.pooling()) {
    case v1::SCORE_POOLING_UNSPECIFIED:
    case v1::SCORE_POOLING_SUM:
      out = ScorePooling::kSum;
      return absl::OkStatus();
    case v1::SCORE_POOLING_MAX:
      out = ScorePooling::kMax;
      return absl::OkStatus();
    default:
      return invalid_field("pooling", absl::StrCat("unknown value ", int{in.pooling()}));
  }
}

absl::Status read_weight(const Request& in, LayerCost& out) {
  switch (in.plan_weight()) {
    case v1::PLAN_WEIGHT_IMPORTANCE:
      out = LayerCost::kImportance;
      return absl::OkStatus();
    case v1::PLAN_WEIGHT_UNSPECIFIED:
    case v1::PLAN_WEIGHT_LOSS:
      out = LayerCost::kLoss;
      return absl::OkStatus();
    default:
      return invalid_field("plan_weight", absl::StrCat("unknown value ", int{in.plan_weight()}));
  }
}

absl::Status read_rule(const Request& in, const Kind& kind, SelectionSettings& rule) {
  rule.family = kind.family;
  if (in.has_tile_size()) {
    const int32_t size = in.tile_size();
    if (size != 16 && size != 32 && size != 64 && size != 128) {
      return invalid_field("tile_size", absl::StrCat("must be 16, 32, 64 or 128, got ", size));
    }
    rule.query_tile = size;
  }
  if (in.has_ratio()) {
    rule.ratio = in.ratio();
    if (absl::Status status = check_positive("ratio", in.ratio(), 1); !status.ok()) return status;
  }
  if (in.has_decode_own_tile()) rule.decode_own_tile = in.decode_own_tile();
  rule.all_heads = in.all_heads();
  for (const absl::Status& status :
       {read_pooling(in, rule.pooling),
        read_integer("min_keys", in.has_min_keys(), in.min_keys(), 1, 1 << 20, rule.min_keys),
        read_integer("top_k", in.has_top_k(), in.top_k(), 1, 1 << 16, rule.top_k),
        read_integer("sink_keys", in.has_sink_keys(), in.sink_keys(), 0, 1 << 16,
                     rule.sink_keys)}) {
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status read_maker(const Request& in, const ModelConfig& model, CalibrationOptions& out) {
  for (int i = 0; i < in.dense_layers_size(); ++i) {
    absl::Status status = check_range(absl::StrCat("dense_layers[", i, "]"),
                                      int64_t{in.dense_layers(i)}, 0, int64_t{model.layers} - 1);
    if (!status.ok()) return status;
  }
  // Layer 0 is dense anyway; each of the others is named once in what is kept.
  std::set<int32_t> dense(in.dense_layers().begin(), in.dense_layers().end());
  dense.erase(0);
  out.dense_layers.assign(dense.begin(), dense.end());
  out.auto_dense_layers = in.auto_dense_layers();
  out.published_head_map_slip = in.published_head_map_slip();
  for (const absl::Status& status :
       {read_weight(in, out.weight),
        read_integer("anchors", in.has_anchors(), in.anchors(), 1, model.layers, out.anchors),
        read_real("threshold", in.has_threshold(), in.threshold(), 1, out.greedy.threshold),
        read_integer("max_reuse_dist", in.has_max_reuse_dist(), in.max_reuse_dist(), 1, 1024,
                     out.greedy.max_reuse_dist),
        read_real("min_recall", in.has_min_recall(), in.min_recall(), 1, out.min_recall),
        read_integer("window_tokens", in.has_window_tokens(), in.window_tokens(), 64, 1 << 20,
                     out.window_tokens),
        read_real("max_degradation_percent", in.has_max_degradation_percent(),
                  in.max_degradation_percent(), 1000, out.max_degradation_percent)}) {
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

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

std::string id_of(const CalibrationPlan& plan, const ModelIdentity& model) {
  const std::string text =
      absl::StrCat(model.weights_digest, "\n", model.config_digest, "\n", model.tokenizer_digest,
                   "\n", plan.data_digest, "\n", text_of(plan.options));
  return absl::StrCat("cal-", digest(text).substr(0, 16));
}

}  // namespace

absl::StatusOr<CalibrationOptions> read_calibration_options(const Request& in,
                                                            const ModelConfig& model) {
  const auto named = read_preset(in);
  if (!named.ok()) return named.status();
  const std::optional<Preset>& preset = *named;
  const auto kind = read_kind(in, preset.has_value());
  if (!kind.ok()) return kind.status();
  if (absl::Status status = check_fit(in, *kind); !status.ok()) return status;
  CalibrationOptions out;
  if (kind->family == Family::kTile) out.selection.query_tile = 16;
  if (preset) {
    out.selection = preset->rule();
    out.greedy = preset->greedy();
    out.window_tokens = preset->window_tokens;
  }
  out.planner = kind->planner;
  if (absl::Status status = read_rule(in, *kind, out.selection); !status.ok()) return status;
  if (absl::Status status = read_maker(in, model, out); !status.ok()) return status;
  if (absl::Status status = validate(out, model); !status.ok()) return status;
  return out;
}

absl::StatusOr<CalibrationPlan> plan_calibration(const Request& in, const Engine& engine) {
  CalibrationPlan plan;
  if (in.texts().empty() || in.texts_size() > kMaxTexts) {
    return invalid_field("texts",
                         absl::StrCat("must be 1 to ", kMaxTexts, ", got ", in.texts_size()));
  }
  auto options = read_calibration_options(in, engine.model());
  if (!options.ok()) return options.status();
  plan.options = *std::move(options);
  for (int i = 0; i < in.texts_size(); ++i) {
    auto tokens = engine.tokenizer().encode(
        in.texts(i), {.add_special_tokens = false, .parse_special_tokens = false});
    if (!tokens.ok()) {
      return invalid_field(absl::StrCat("texts[", i, "]"), std::string(tokens.status().message()));
    }
    plan.tokens += static_cast<int64_t>(tokens->size());
    plan.texts.push_back(*std::move(tokens));
  }
  plan.data_digest = token_digest(plan.texts);
  plan.id = id_of(plan, engine.identity());
  plan.activate = !in.has_activate() || in.activate();
  return plan;
}

}  // namespace kascade::server
