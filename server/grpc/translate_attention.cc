#include "server/grpc/translate_attention.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"

namespace kascade::server {
namespace {

using core::AttentionSource;
using core::NamedSchedule;

absl::StatusOr<BaselineKind> read_kind(const v1::AttentionBaseline& in, const std::string& field) {
  switch (in.kind()) {
    case v1::BASELINE_KIND_UNSPECIFIED:
      return invalid_field(field + ".kind", "must be set");
    case v1::BASELINE_KIND_ORACLE:
      return BaselineKind::kOracle;
    case v1::BASELINE_KIND_STREAMING:
      return BaselineKind::kStreaming;
    case v1::BASELINE_KIND_QUEST:
      return BaselineKind::kQuest;
    case v1::BASELINE_KIND_WINDOW:
      return BaselineKind::kWindow;
    case v1::BASELINE_KIND_CHUNK:
      return BaselineKind::kChunk;
    default:
      return invalid_field(field + ".kind", absl::StrCat("unknown value ", int{in.kind()}));
  }
}

// Refuses settings of another kind, and the lack of those that have no default.
absl::Status check_settings(const v1::AttentionBaseline& in, BaselineKind kind,
                            const std::string& field) {
  const bool window = kind == BaselineKind::kWindow, chunk = kind == BaselineKind::kChunk;
  const bool quest = kind == BaselineKind::kQuest, has_budget = !window && !chunk;
  const struct {
    const char* name;
    bool is_set, allowed;
    const char* owners;
  } settings[] = {{"ratio", in.has_ratio(), has_budget, "ORACLE, STREAMING and QUEST"},
                  {"min_keys", in.has_min_keys(), has_budget, "ORACLE, STREAMING and QUEST"},
                  {"sink_keys", in.has_sink_keys(), has_budget && !quest, "ORACLE and STREAMING"},
                  {"page_size", in.has_page_size(), quest, "QUEST"},
                  {"window", in.has_window(), window, "WINDOW"},
                  {"chunk", in.has_chunk(), chunk, "CHUNK"}};
  for (const auto& setting : settings) {
    if (!setting.is_set || setting.allowed) continue;
    return invalid_field(absl::StrCat(field, ".", setting.name),
                         absl::StrCat("is an option of kind ", setting.owners));
  }
  if (window && !in.has_window()) return invalid_field(field + ".window", "must be set");
  if (chunk && !in.has_chunk()) return invalid_field(field + ".chunk", "must be set");
  return absl::OkStatus();
}

absl::StatusOr<AttentionSource> read_baseline(const v1::AttentionBaseline& in,
                                              const std::string& field, int32_t layers) {
  const auto kind = read_kind(in, field);
  if (!kind.ok()) return kind.status();
  if (absl::Status status = check_settings(in, *kind, field); !status.ok()) return status;
  BaselineAttention out = BaselineAttention::defaults(*kind);
  if (in.has_ratio()) out.ratio = in.ratio();
  if (in.has_min_keys()) out.min_keys = in.min_keys();
  if (in.has_sink_keys()) out.sink_keys = in.sink_keys();
  if (in.has_page_size()) out.page_size = in.page_size();
  if (in.has_window()) out.window = in.window();
  if (in.has_chunk()) out.chunk = in.chunk();
  if (in.has_dense_layers()) {
    const auto& asked = in.dense_layers().layers();
    out.dense_layers.assign(asked.begin(), asked.end());
  } else {
    std::erase_if(out.dense_layers, [&](int32_t layer) { return layer >= layers; });
  }
  return out;
}

AttentionSource read_schedule(const v1::ScheduleAttention& in) {
  NamedSchedule out;
  if (in.has_schedule_id()) out.id = in.schedule_id();
  if (in.has_ratio()) out.ratio = in.ratio();
  if (in.has_dense_below()) out.dense_below = in.dense_below();
  return out;
}

// What "sparse" stands for: the baseline, else the active schedule.
absl::StatusOr<AttentionSource> read_sparse(const v1::AttentionOptions& in, int32_t layers) {
  if (in.has_baseline()) return read_baseline(in.baseline(), "attention.baseline", layers);
  NamedSchedule out;
  if (in.has_ratio()) out.ratio = in.ratio();
  if (in.has_dense_below()) out.dense_below = in.dense_below();
  return out;
}

absl::Status check_mode(const v1::AttentionOptions& in, bool may_compare) {
  if (!v1::AttentionMode_IsValid(in.mode())) {
    return invalid_field("attention.mode", absl::StrCat("unknown value ", int{in.mode()}));
  }
  const bool compares = in.mode() == v1::ATTENTION_MODE_COMPARE;
  if (compares && !may_compare) {
    return invalid_field("attention.mode", "COMPARE is for Score only");
  }
  if (!compares && in.has_first()) {
    return invalid_field("attention.first", "goes with attention.mode COMPARE only");
  }
  if (!compares && in.has_second()) {
    return invalid_field("attention.second", "goes with attention.mode COMPARE only");
  }
  return absl::OkStatus();
}

// Refuses what says two things about one run.
absl::Status check_contradictions(const v1::AttentionOptions& in) {
  if (in.mode() == v1::ATTENTION_MODE_DENSE) {
    if (in.has_baseline()) {
      return invalid_field("attention.baseline", "has no meaning with attention.mode DENSE");
    }
    if (in.has_ratio()) {
      return invalid_field("attention.ratio", "has no meaning with attention.mode DENSE");
    }
    if (in.has_dense_below()) {
      return invalid_field("attention.dense_below", "has no meaning with attention.mode DENSE");
    }
  }
  if (in.has_baseline() && in.has_dense_below()) {
    return invalid_field("attention.dense_below", "is the schedule's; a baseline has none");
  }
  if (in.has_second() && in.has_dense_below()) {
    return invalid_field("attention.dense_below",
                         "does not go with attention.second, which has its own");
  }
  if (in.has_baseline() && in.has_ratio()) {
    return invalid_field("attention.ratio",
                         "is the schedule's; a baseline has attention.baseline.ratio");
  }
  if (in.has_second() && in.has_ratio()) {
    return invalid_field("attention.ratio", "does not go with attention.second, which has its own");
  }
  if (in.has_second() && in.has_baseline()) {
    return invalid_field("attention.baseline", "does not go with attention.second");
  }
  return absl::OkStatus();
}

absl::StatusOr<AttentionSources> read_comparison(const v1::AttentionOptions& in, int32_t layers) {
  absl::StatusOr<AttentionSource> first = DenseAttention{};
  if (in.has_first()) first = read_choice(in.first(), "attention.first", layers);
  if (!first.ok()) return first.status();
  auto second = in.has_second() ? read_choice(in.second(), "attention.second", layers)
                                : read_sparse(in, layers);
  if (!second.ok()) return second.status();
  return AttentionSources{*std::move(first), *std::move(second)};
}

v1::BaselineKind to_proto(BaselineKind kind) {
  switch (kind) {
    case BaselineKind::kOracle:
      return v1::BASELINE_KIND_ORACLE;
    case BaselineKind::kStreaming:
      return v1::BASELINE_KIND_STREAMING;
    case BaselineKind::kQuest:
      return v1::BASELINE_KIND_QUEST;
    case BaselineKind::kWindow:
      return v1::BASELINE_KIND_WINDOW;
    case BaselineKind::kChunk:
      return v1::BASELINE_KIND_CHUNK;
  }
  return v1::BASELINE_KIND_UNSPECIFIED;
}

// Only the settings that the kind has.
void fill(const BaselineAttention& in, v1::AttentionBaseline& out) {
  out.set_kind(to_proto(in.kind));
  if (in.kind == BaselineKind::kWindow) {
    out.set_window(in.window);
  } else if (in.kind == BaselineKind::kChunk) {
    out.set_chunk(in.chunk);
  } else {
    out.set_ratio(in.ratio);
    out.set_min_keys(in.min_keys);
    if (in.kind == BaselineKind::kQuest) out.set_page_size(in.page_size);
    if (in.kind != BaselineKind::kQuest) out.set_sink_keys(in.sink_keys);
  }
  std::vector<int32_t> layers = in.dense_layers;  // in order and each once, however they were sent
  std::ranges::sort(layers);
  const auto repeated = std::ranges::unique(layers);
  layers.erase(repeated.begin(), repeated.end());
  out.mutable_dense_layers()->mutable_layers()->Add(layers.begin(), layers.end());
}

}  // namespace

absl::StatusOr<core::AttentionSource> read_choice(const v1::AttentionChoice& in,
                                                  const std::string& field, int32_t layers) {
  switch (in.choice_case()) {
    case v1::AttentionChoice::kDense:
      return DenseAttention{};
    case v1::AttentionChoice::kSchedule:
      return read_schedule(in.schedule());
    case v1::AttentionChoice::kBaseline:
      return read_baseline(in.baseline(), field + ".baseline", layers);
    case v1::AttentionChoice::CHOICE_NOT_SET:
      break;
  }
  return invalid_field(field, "dense, schedule or baseline must be set");
}

absl::StatusOr<AttentionSources> read_attention(const v1::AttentionOptions& in, int32_t layers,
                                                bool may_compare) {
  if (absl::Status status = check_mode(in, may_compare); !status.ok()) return status;
  if (absl::Status status = check_contradictions(in); !status.ok()) return status;
  if (in.mode() == v1::ATTENTION_MODE_COMPARE) return read_comparison(in, layers);
  AttentionSources out;
  if (in.mode() == v1::ATTENTION_MODE_DENSE) out.attention = DenseAttention{};
  // A schedule's setting asks for a schedule, even where no mode is named.
  if (in.mode() == v1::ATTENTION_MODE_SPARSE || in.has_baseline() || in.has_ratio() ||
      in.has_dense_below()) {
    auto sparse = read_sparse(in, layers);
    if (!sparse.ok()) return sparse.status();
    out.attention = *std::move(sparse);
  }
  return out;
}

std::vector<FieldName> attention_fields(const v1::AttentionOptions& in) {
  std::vector<FieldName> names;
  if (in.mode() != v1::ATTENTION_MODE_COMPARE) {
    names = {{"attention.schedule.ratio", "attention.ratio"},
             {"attention.schedule.dense_below", "attention.dense_below"},
             {"attention.schedule", "attention.mode"}};
  } else {
    names = {{"attention.schedule", "attention.first.schedule"},
             {"attention.baseline", "attention.first.baseline"}};
    if (in.has_second()) {
      names.push_back({"compared_with", "attention.second"});
    } else {
      names.push_back({"compared_with.schedule.ratio", "attention.ratio"});
      names.push_back({"compared_with.schedule.dense_below", "attention.dense_below"});
      names.push_back({"compared_with.schedule", "attention.mode"});
      names.push_back({"compared_with.baseline", "attention.baseline"});
    }
  }
  names.push_back({"dense_layers[", "dense_layers.layers["});
  return names;
}

v1::AttentionMode mode_of(const AttentionChoice& choice) {
  return std::holds_alternative<DenseAttention>(choice) ? v1::ATTENTION_MODE_DENSE
                                                        : v1::ATTENTION_MODE_SPARSE;
}

void to_proto(const AttentionChoice& choice, v1::AttentionChoice& out) {
  if (const auto* scheduled = std::get_if<ScheduledAttention>(&choice)) {
    out.mutable_schedule()->set_schedule_id(scheduled->schedule->schedule_id);
    if (scheduled->ratio) out.mutable_schedule()->set_ratio(*scheduled->ratio);
    out.mutable_schedule()->set_dense_below(
        scheduled->dense_below.value_or(scheduled->schedule->selection.dense_below));
  } else if (const auto* baseline = std::get_if<BaselineAttention>(&choice)) {
    fill(*baseline, *out.mutable_baseline());
  } else {
    out.mutable_dense();
  }
}

v1::AttentionReport report_attention(const AttentionCounts& counts, const AttentionChoice& choice,
                                     v1::AttentionMode mode) {
  const auto ratio = [](int64_t part, int64_t whole) {
    return whole > 0 ? static_cast<double>(part) / static_cast<double>(whole) : 0.0;
  };
  v1::AttentionReport out;
  out.set_mode(mode);
  to_proto(choice, *out.mutable_choice());
  if (out.choice().has_baseline()) *out.mutable_baseline() = out.choice().baseline();
  if (const auto schedule = schedule_of(choice)) {
    out.set_schedule_id(schedule->schedule_id);
    out.set_reuse_layers_ratio(schedule->reuse_layers_ratio());
  }
  out.set_keys_attended_ratio(ratio(counts.attended, counts.causal));
  out.set_keys_scored_ratio(ratio(counts.scored, counts.causal));
  out.set_kv_bytes_read_per_token(ratio(counts.kv_bytes_read, counts.positions));
  out.set_dense_kv_bytes_read_per_token(ratio(counts.dense_kv_bytes_read, counts.positions));
  out.set_positions(counts.positions);
  out.set_dense_positions(counts.dense_positions);
  return out;
}

}  // namespace kascade::server
