// The Kascade schedule: which layers are dense, which select keys, which reuse whose selection and
// through which head map (docs/method.md). A value; immutable once it serves. Its planners and its
// JSON file are pure functions.
#ifndef KASCADE_ENGINE_SCHEDULE_SCHEDULE_H_
#define KASCADE_ENGINE_SCHEDULE_SCHEDULE_H_

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/schedule/selection_settings.h"

namespace kascade {

enum class Role { kDense, kAnchor, kReuse };
constexpr std::string_view name_of(Role role) {
  return role == Role::kDense ? "dense" : role == Role::kAnchor ? "anchor" : "reuse";
}

struct LayerSchedule {
  Role role = Role::kDense;
  int32_t anchor = 0;               // reuse: the layer whose selection it takes; else itself
  std::vector<int32_t> head_map{};  // [kv_heads] reuse: KV head of the anchor; else identity
  double similarity = 1;            // to its anchor, [0, 1]; 1 for dense and anchor layers
  double importance = 0;            // 1 − cos(x, x + attention(x)), mean over tokens, [0, 2]
  // Nats per token that reuse in this layer alone costs (Similarity::reuse_cost), ≥ 0; unset where
  // it was not measured.
  std::optional<double> reuse_cost{};
  std::string reason{};  // why not reuse, for people; empty for reuse layers
};

// SHA-256 in hex; empty = unknown, never so of a loaded model. Weights: over names, dtypes, shapes
// and each tensor's first and last 64 KiB.
struct ModelIdentity {
  std::string name{};
  std::string weights_digest{};
  std::string config_digest{};
  std::string tokenizer_digest{};
  bool operator==(const ModelIdentity&) const = default;
};

// What was asked of the planner.
struct RequestedSchedule {
  int32_t anchors = 0;                  // dp: layer 0 counted; 0 = auto (calibration.h)
  std::vector<int32_t> dense_layers{};  // besides layer 0
  bool auto_dense_layers = false;       // and those whose own budget recalls < min_recall
  double min_recall = 0;                // [0, 1]
  bool operator==(const RequestedSchedule&) const = default;
};

struct CalibrationRecord {
  std::string planner{};                         // "dp" or "greedy"
  std::optional<RequestedSchedule> requested{};  // files from before this was recorded have none
  std::string data_digest{};
  std::string held_out_digest{};
  int32_t windows = 0;
  int32_t window_tokens = 0;
  int64_t tokens = 0;
  double duration_seconds = 0;
  double threshold = 0;                  // greedy
  int32_t max_reuse_dist = 0;            // greedy
  bool published_head_map_slip = false;  // dp: measured with the published code's mistake
  bool weighted_by_loss = false;         // dp: as LayerCost::kLoss, else by importance
  bool operator==(const CalibrationRecord&) const = default;
};

// Result of the gate on held-out text; every figure by `phase` "row".
struct QualityRecord {
  std::string phase = "row";
  std::string protocol{};
  int64_t tokens = 0;
  double dense_perplexity = 0;
  double sparse_perplexity = 0;
  double degradation_percent = 0;  // signed
  // One standard error of it, paired token by token; files from before it was recorded have none.
  std::optional<double> degradation_error_percent{};
  double mean_kl = 0;              // KL(dense ‖ sparse), nats per token
  double same_top1 = 0;            // [0, 1]
  double keys_attended_ratio = 0;  // [0, 1]
  double keys_scored_ratio = 0;
  std::optional<double> kv_bytes_read_per_token{};  // files from before this was recorded have none
  std::optional<double> dense_kv_bytes_read_per_token{};
  double max_degradation_percent = 1.0;
  bool suspect = false;  // the dense model is worse than ln(vocabulary) − 1 on this text
  bool passed = false;   // degradation and its error together are at most the limit
};

struct Schedule {
  std::string schedule_id{};  // digest of all the rest
  ModelIdentity model{};
  std::string created_at{};  // RFC 3339, UTC
  CalibrationRecord calibration{};
  SelectionSettings selection{};
  std::vector<LayerSchedule> layers{};
  QualityRecord quality{};

  int32_t count(Role role) const;
  double reuse_layers_ratio() const;
  // Whether some reuse layer takes this layer's selection.
  bool selection_used(int32_t layer) const;
};

// What a schedule must fit.
struct ScheduleShape {
  int32_t layers = 0;
  int32_t kv_heads = 0;
};

// INVALID_ARGUMENT naming the layer, field, limit and value: layer 0 dense, a reuse layer's anchor
// is earlier and selects (is not itself reuse), maps in range, rule values in range,
// decode_own_tile = false, sink_keys > 0 and all_heads only for Family::kKascade. (decode_own_tile
// = false also needs min_keys ≥ 1, for else a row could be left without any key.)
absl::Status validate(const Schedule& schedule, const ScheduleShape& shape);
absl::Status validate(const SelectionSettings& rule);

// FAILED_PRECONDITION naming the field and both sides when a digest of `model` that is known
// differs from the schedule's or the schedule has none.
absl::Status check_model(const Schedule& schedule, const ModelIdentity& model);

// JSON, keys in fixed order. parse refuses (INVALID_ARGUMENT, naming the field)
// unknown format versions, missing or unknown keys, wrong types, hostile nesting, and a schedule_id
// that is not the digest of the rest (an empty one is accepted and filled in). Within "calibration"
// and "quality" a missing key keeps its default. Ranges are validate()'s business.
inline constexpr size_t kMaxScheduleBytes = 4 << 20;  // 128 layers of 128 heads need below 100 kB
std::string to_json(const Schedule& schedule);
absl::StatusOr<Schedule> parse_schedule(std::string_view json);
absl::StatusOr<Schedule> load_schedule(const std::filesystem::path& file);
// Writes a temporary file beside `file`, syncs and renames it. INVALID_ARGUMENT for what
// load_schedule would not read back: a stale schedule_id, a figure that is not finite.
absl::Status save_schedule(const Schedule& schedule, const std::filesystem::path& file);
// Fills schedule_id from the rest.
void seal(Schedule& schedule);

// ---- Planners ----

// What calibration measured, zero at first. Pairs (a → b) with a < b only; sim(a, a) = 1.
class Similarity {
 public:
  Similarity(int32_t layers, int32_t kv_heads);
  int32_t layers() const { return layers_; }
  int32_t kv_heads() const { return kv_heads_; }

  // sim(a→b, g_b, g_a): how well what head g_a of layer a selects serves head g_b of layer b.
  double& at(int32_t a, int32_t b, int32_t g_b, int32_t g_a);
  double at(int32_t a, int32_t b, int32_t g_b, int32_t g_a) const;

  // argmax over g_a for each g_b; ties → lowest.
  std::vector<int32_t> head_map(int32_t a, int32_t b) const;
  // Mean over g_b of the maximum over g_a.
  double layer(int32_t a, int32_t b) const;
  void forget_weights();  // reuse_cost, weight and select_cost

  std::vector<double> importance;  // [layers]
  // [layers] KL(dense ‖ sparse) that reuse in this layer alone costs above what selecting costs,
  // nats per token; unset: not measured. Where none is, plans go by importance.
  std::vector<std::optional<double>> reuse_cost;
  // [layers] reuse_cost per square of the recall that is lost by it; empty with reuse_cost unset.
  std::vector<double> weight;
  // [layers] KL that a layer adds by selecting rather than being dense, nats per token; 0 for
  // layers that are dense anyway; empty: not measured.
  std::vector<double> select_cost;
  std::vector<double> self_recall;  // [layers] share of its mass that a layer's own budget recalls

 private:
  int32_t layers_;
  int32_t kv_heads_;
  std::vector<double> values_;  // [layers, layers, kv_heads, kv_heads]
};

// `layer` as a plan has it where it reuses what `anchor` < `layer` selects.
LayerSchedule reuse_layer(const Similarity& similarity, int32_t layer, int32_t anchor);

// The best plan for every number of anchors by dynamic programming over Σ importance(b) ·
// sim(the selecting layer that serves b → b), or, where weights were measured, over
// −Σ weight(b) · (1 − sim)²; a selecting layer serves itself, with similarity 1.
// result[m − 1] has m anchors, layer 0 counted. `dense` layers (besides 0; entries outside
// [1, layers) are ignored) stay dense and select too: such a layer serves the layers after it up to
// the next selecting layer, exactly as an anchor would, but is not counted, so m runs from 1 to
// layers − their number. Ties → the smallest index for the last selecting layer, then for the one
// before it, and so on.
std::vector<std::vector<LayerSchedule>> schedules_by_dynamic_programming(
    const Similarity& similarity, const std::vector<int32_t>& dense);

// The predicted similarity of a plan: Σ importance · similarity over all layers ÷ Σ importance; the
// plain mean if no layer has any importance.
double predicted_similarity(const std::vector<LayerSchedule>& plan);

struct GreedyOptions {
  double threshold = 0.65;     // [0, 1]
  int32_t max_reuse_dist = 4;  // ≥ 1; a reuse layer is at most max_reuse_dist − 1 after its anchor
};
// Layer 0 dense and no source; the first layer after it that is not dense itself and has no source
// before it an anchor ("first sparse layer"); then the most similar source within reach (ties →
// nearest) if its similarity ≥ threshold, else a new anchor ("low similarity: …", or "distance"
// when none is in reach). Sources are anchors and the layers of `dense` (as above).
std::vector<LayerSchedule> greedy_schedule(const Similarity& similarity,
                                           const GreedyOptions& options,
                                           const std::vector<int32_t>& dense);

// Named settings of the tile family with the greedy planner. "large-model" is for about 8 billion
// parameters, "cpu-8b" for the same with least memory, "long" for long texts.
struct Preset {
  std::string_view name;
  int32_t query_tile;
  int32_t top_k;
  double threshold;
  int32_t max_reuse_dist;
  int32_t window_tokens = 2048;  // of a measured window

  constexpr GreedyOptions greedy() const { return {threshold, max_reuse_dist}; }
  constexpr SelectionSettings rule() const {
    return {.family = Family::kTile, .query_tile = query_tile, .top_k = top_k};
  }
};
inline constexpr Preset kPresets[] = {
    {"conservative", 16, 16, 0.75, 3}, {"balanced", 16, 12, 0.65, 4},
    {"aggressive", 16, 10, 0.55, 5},   {"large-model", 16, 8, 0.75, 4},
    {"cpu-8b", 16, 8, 0.1, 4, 512},    {"long", 32, 16, 0.65, 4},
};
constexpr std::optional<Preset> preset(std::string_view name) {
  for (const Preset& entry : kPresets) {
    if (entry.name == name) return entry;
  }
  return std::nullopt;
}

}  // namespace kascade

#endif  // KASCADE_ENGINE_SCHEDULE_SCHEDULE_H_
