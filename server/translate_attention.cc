// AttentionOptions → what the engine is asked, and what was used → AttentionReport.
#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "server/errors.h"
#include "server/translate.h"

namespace kascade::server {
namespace {

constexpr int64_t kMaxBaselineKeys = 1 << 20;
constexpr int64_t kMaxPageSize = 128;

absl::Status no_schedule(const char* field) {
  return failed_precondition(absl::StrCat(field, ": no schedule is active"), reason::kNoSchedule,
                             "schedule",
                             "make one with CalibrationService.Calibrate, or activate one with "
                             "CalibrationService.ActivateSchedule");
}

absl::StatusOr<Mode> read_mode(const v1::AttentionOptions& in, const Schedule* active,
                               bool may_compare) {
  switch (in.mode()) {
    case v1::ATTENTION_MODE_UNSPECIFIED:
      return in.has_baseline() || active != nullptr ? Mode::kSparse : Mode::kDense;
    case v1::ATTENTION_MODE_DENSE:
      return Mode::kDense;
    case v1::ATTENTION_MODE_SPARSE:
      return Mode::kSparse;
    case v1::ATTENTION_MODE_COMPARE:
      if (!may_compare) return invalid_field("attention.mode", "COMPARE is for Score only");
      return Mode::kCompare;
    default:
      return invalid_field("attention.mode", absl::StrCat("unknown value ", int{in.mode()}));
  }
}

absl::StatusOr<BaselineKind> read_kind(const v1::AttentionBaseline& in) {
  switch (in.kind()) {
    case v1::BASELINE_KIND_UNSPECIFIED:
      return invalid_field("attention.baseline.kind", "must be set");
    case v1::BASELINE_KIND_ORACLE:
      return BaselineKind::kOracle;
    case v1::BASELINE_KIND_STREAMING:
      return BaselineKind::kStreaming;
    case v1::BASELINE_KIND_QUEST:
      return BaselineKind::kQuest;
    default:
      return invalid_field("attention.baseline.kind",
                           absl::StrCat("unknown value ", int{in.kind()}));
  }
}

absl::Status read_dense_layers(const v1::AttentionBaseline& in, int32_t layers,
                               BaselineAttention& out) {
  if (!in.has_dense_layers()) {
    std::erase_if(out.dense_layers, [&](int32_t layer) { return layer >= layers; });
    return absl::OkStatus();
  }
  out.dense_layers.clear();
  for (int i = 0; i < in.dense_layers().layers_size(); ++i) {
    const int32_t layer = in.dense_layers().layers(i);
    absl::Status status =
        check_range(absl::StrCat("attention.baseline.dense_layers.layers[", i, "]"), int64_t{layer},
                    0, int64_t{layers} - 1);
    if (!status.ok()) return status;
    out.dense_layers.push_back(layer);
  }
  std::ranges::sort(out.dense_layers);
  const auto repeated = std::ranges::unique(out.dense_layers);
  out.dense_layers.erase(repeated.begin(), repeated.end());
  return absl::OkStatus();
}

absl::Status read_integer(const char* field, bool set, int64_t value, int64_t low, int64_t high,
                          int32_t& out) {
  if (!set) return absl::OkStatus();
  out = static_cast<int32_t>(value);
  return check_range(absl::StrCat("attention.baseline.", field), value, low, high);
}

absl::StatusOr<BaselineAttention> read_baseline(const v1::AttentionBaseline& in,
                                                const ModelConfig& model) {
  const auto kind = read_kind(in);
  if (!kind.ok()) return kind.status();
  const bool quest = *kind == BaselineKind::kQuest;
  if (in.has_page_size() && !quest) {
    return invalid_field("attention.baseline.page_size", "is an option of kind QUEST");
  }
  if (in.has_sink_keys() && quest) {
    return invalid_field("attention.baseline.sink_keys", "is no option of kind QUEST");
  }
  BaselineAttention out = BaselineAttention::defaults(*kind);
  if (in.has_ratio()) {
    absl::Status status = check_positive("attention.baseline.ratio", in.ratio(), 1);
    if (!status.ok()) return status;
    out.ratio = in.ratio();
  }
  for (const absl::Status& status : {read_integer("min_keys", in.has_min_keys(), in.min_keys(), 0,
                                                  kMaxBaselineKeys, out.min_keys),
                                     read_integer("sink_keys", in.has_sink_keys(), in.sink_keys(),
                                                  0, kMaxBaselineKeys, out.sink_keys),
                                     read_integer("page_size", in.has_page_size(), in.page_size(),
                                                  1, kMaxPageSize, out.page_size),
                                     read_dense_layers(in, model.layers, out)}) {
    if (!status.ok()) return status;
  }
  return out;
}

absl::StatusOr<double> read_ratio(const v1::AttentionOptions& in, const Schedule* active) {
  if (absl::Status status = check_positive("attention.ratio", in.ratio(), 1); !status.ok()) {
    return status;
  }
  if (in.mode() == v1::ATTENTION_MODE_DENSE) {
    return invalid_field("attention.ratio", "has no meaning with attention.mode DENSE");
  }
  if (in.has_baseline()) {
    return invalid_field("attention.ratio",
                         "is the schedule's; a baseline has attention.baseline.ratio");
  }
  if (active == nullptr) return no_schedule("attention.ratio");
  if (active->selection.family != Family::kKascade) {
    return invalid_field("attention.ratio",
                         "the active schedule is of family tile, which has no ratio");
  }
  return in.ratio();
}

void fill(const BaselineAttention& in, v1::AttentionBaseline& out) {
  const bool quest = in.kind == BaselineKind::kQuest;
  out.set_kind(quest                                 ? v1::BASELINE_KIND_QUEST
               : in.kind == BaselineKind::kStreaming ? v1::BASELINE_KIND_STREAMING
                                                     : v1::BASELINE_KIND_ORACLE);
  out.set_ratio(in.ratio);
  out.set_min_keys(in.min_keys);
  if (quest) {
    out.set_page_size(in.page_size);
  } else {
    out.set_sink_keys(in.sink_keys);
  }
  out.mutable_dense_layers()->mutable_layers()->Add(in.dense_layers.begin(), in.dense_layers.end());
}

}  // namespace

absl::StatusOr<AskedAttention> translate_attention(const v1::AttentionOptions& in,
                                                   const ModelConfig& model, const Schedule* active,
                                                   bool may_compare) {
  AskedAttention out;
  const auto mode = read_mode(in, active, may_compare);
  if (!mode.ok()) return mode.status();
  out.mode = *mode;
  if (in.has_baseline()) {
    if (out.mode == Mode::kDense) {
      return invalid_field("attention.baseline", "has no meaning with attention.mode DENSE");
    }
    auto baseline = read_baseline(in.baseline(), model);
    if (!baseline.ok()) return baseline.status();
    out.baseline = *std::move(baseline);
  }
  if (out.uses_schedule() && active == nullptr) return no_schedule("attention.mode");
  if (!in.has_ratio()) return out;
  const auto ratio = read_ratio(in, active);
  if (!ratio.ok()) return ratio.status();
  out.ratio = *ratio;
  return out;
}

v1::AttentionMode to_proto(Mode mode) {
  switch (mode) {
    case Mode::kDense:
      return v1::ATTENTION_MODE_DENSE;
    case Mode::kSparse:
      return v1::ATTENTION_MODE_SPARSE;
    case Mode::kCompare:
      return v1::ATTENTION_MODE_COMPARE;
  }
  return v1::ATTENTION_MODE_UNSPECIFIED;
}

v1::AttentionReport report_attention(const AttentionCounts& counts, const AskedAttention& used,
                                     const Schedule* schedule) {
  const auto ratio = [](int64_t part, int64_t whole) {
    return whole > 0 ? static_cast<double>(part) / static_cast<double>(whole) : 0.0;
  };
  v1::AttentionReport out;
  out.set_mode(to_proto(used.mode));
  if (used.baseline) fill(*used.baseline, *out.mutable_baseline());
  if (schedule != nullptr) {
    out.set_schedule_id(schedule->schedule_id);
    out.set_reuse_layers_ratio(schedule->reuse_layers_ratio());
  }
  out.set_keys_attended_ratio(ratio(counts.attended, counts.causal));
  out.set_keys_scored_ratio(ratio(counts.scored, counts.causal));
  out.set_kv_bytes_read_per_token(ratio(counts.kv_bytes_read, counts.positions));
  out.set_dense_kv_bytes_read_per_token(ratio(counts.dense_kv_bytes_read, counts.positions));
  out.set_positions(counts.positions);
  return out;
}

}  // namespace kascade::server
