// The Kascade schedule (docs/method.md): which layers are dense, which select keys, and whose
// selection each of the other layers reuses through which head map. A schedule is a value that does
// not change once it is in use. Planners and the JSON format are pure functions.
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
#include "engine/schedule/quality_record.h"
#include "engine/schedule/selection_settings.h"

namespace kascade {

enum class Role { kDense, kAnchor, kReuse };
constexpr std::string_view name_of(Role role) {
  return role == Role::kDense ? "dense" : role == Role::kAnchor ? "anchor" : "reuse";
}

struct LayerSchedule {
  Role role = Role::kDense;
  int32_t anchor = 0;               // reuse: the source of its selection; else the layer itself
  std::vector<int32_t> head_map{};  // [kv_heads] reuse: KV heads of the source; else identity
  double similarity = 1;            // to its source, [0, 1]; 1 for dense and anchor layers
  double importance = 0;            // 1 − cos(x, x + attention(x)), mean over tokens, [0, 2]
  // What reuse in this layer alone costs, in nats per token (Similarity::reuse_cost), ≥ 0; unset if
  // it was not measured.
  std::optional<double> reuse_cost{};
  std::string reason{};  // why the layer does not reuse, in words; else empty
};

// Digests are SHA-256 in hex; empty means unknown, which never occurs for a loaded model. The
// digest of the weights covers names, dtypes, shapes and the first and last 64 KiB of each tensor.
struct ModelIdentity {
  std::string name{};
  std::string weights_digest{};
  std::string config_digest{};
  std::string tokenizer_digest{};
  bool operator==(const ModelIdentity&) const = default;
};

// The request that the planner fulfilled.
struct RequestedSchedule {
  int32_t anchors = 0;                  // "dp": includes layer 0; 0 = automatic (calibration.h)
  std::vector<int32_t> dense_layers{};  // in addition to layer 0
  bool auto_dense_layers = false;       // and layers whose self_recall is < min_recall
  double min_recall = 0;                // [0, 1]
  bool operator==(const RequestedSchedule&) const = default;
};

struct CalibrationRecord {
  std::string planner{};                         // "dp" or "greedy"
  std::optional<RequestedSchedule> requested{};  // absent in older files
  std::string data_digest{};
  std::string held_out_digest{};
  int32_t windows = 0;
  int32_t window_tokens = 0;
  int64_t tokens = 0;
  double duration_seconds = 0;
  double threshold = 0;                  // "greedy" only
  bool auto_threshold = false;           // "greedy": whether it follows from the measurement
  int32_t max_reuse_dist = 0;            // "greedy" only
  bool published_head_map_slip = false;  // "dp": head maps with the published code's mistake
  // "dp": whether the planner went by measured layer costs, not by importance; in files
  // "weighted_by_loss".
  bool uses_measured_costs = false;
  bool operator==(const CalibrationRecord&) const = default;
};

struct Schedule {
  std::string schedule_id{};  // digest of all other fields
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

// Says why a schedule saves nothing, or less than it may seem, for a model of `context` tokens;
// empty if there is nothing to say.
std::string savings_warning(const Schedule& schedule, int32_t context);

// The shape of the model that a schedule must fit.
struct ScheduleShape {
  int32_t layers = 0;
  int32_t kv_heads = 0;
};

// Checks that layer 0 is dense, that the source of each reuse layer is an earlier layer that
// selects (is not itself a reuse layer), and that head maps and settings are in range.
// decode_own_tile = false, sink_keys > 0 and all_heads are only for Family::kKascade.
// decode_own_tile = false also needs min_keys ≥ 1, since otherwise a row could be left without any
// key. mass > 0 is only for Family::kKascade, and max_ratio < 1 only with a mass. Errors are
// INVALID_ARGUMENT and name layer, field, limit and value.
absl::Status validate(const Schedule& schedule, const ScheduleShape& shape);
absl::Status validate(const SelectionSettings& settings);

// Checks that a schedule was made for `model`: every digest that `model` knows must equal the
// schedule's. FAILED_PRECONDITION names the field and both digests.
absl::Status check_model(const Schedule& schedule, const ModelIdentity& model);

// Schedules as JSON, with keys in a fixed order. parse_schedule() refuses (INVALID_ARGUMENT, naming
// the field) unknown format versions, missing or unknown keys, wrong types, deep nesting, and a
// schedule_id that is not the digest of the rest. An empty schedule_id is accepted and filled in.
// Within "calibration" and "quality" a missing key keeps its default. Ranges are checked by
// validate().
inline constexpr size_t kMaxScheduleBytes = 4 << 20;  // 128 layers of 128 heads need below 100 kB
std::string to_json(const Schedule& schedule);
absl::StatusOr<Schedule> parse_schedule(std::string_view json);
absl::StatusOr<Schedule> load_schedule(const std::filesystem::path& file);
// Writes a temporary file in the same folder, syncs it and renames it to `file`. INVALID_ARGUMENT
// for a schedule that load_schedule() would refuse: an outdated schedule_id, or a number that is
// not finite.
absl::Status save_schedule(const Schedule& schedule, const std::filesystem::path& file);
// Sets schedule_id to the digest of the other fields.
void seal(Schedule& schedule);

// ---- Planners ----

// The measurements of calibration, all zero at first. Pairs of layers (a → b) have a < b; sim(a, a)
// = 1.
class Similarity {
 public:
  Similarity(int32_t layers, int32_t kv_heads);
  int32_t layers() const { return layers_; }
  int32_t kv_heads() const { return kv_heads_; }

  // sim(a→b, g_b, g_a): how well the selection of KV head g_a of layer a serves KV head g_b of
  // layer b. It is a share of recalled attention mass or the Jaccard similarity of the two
  // selections (docs/method.md, "What calibration measures").
  double& at(int32_t a, int32_t b, int32_t g_b, int32_t g_a);
  double at(int32_t a, int32_t b, int32_t g_b, int32_t g_a) const;

  // The share of the attention of KV head g_b of layer b that falls on the selection of KV head g_a
  // of layer a and on what is attended to in any case (sinks and own tile).
  double& recall(int32_t a, int32_t b, int32_t g_b, int32_t g_a) {
    return recalls_[index(a, b, g_b, g_a)];
  }
  double recall(int32_t a, int32_t b, int32_t g_b, int32_t g_a) const {
    return recalls_[index(a, b, g_b, g_a)];
  }

  // For each g_b the most similar g_a; of equal ones the lowest.
  std::vector<int32_t> head_map(int32_t a, int32_t b) const;
  // The mean over g_b of the maximum over g_a.
  double layer(int32_t a, int32_t b) const;
  void forget_costs();  // clears reuse_cost, layer_cost and select_cost

  std::vector<double> importance;  // [layers]
  // [layers] KL(dense ‖ sparse) that reuse in this layer alone adds to that of selecting, in nats
  // per token; unset if not measured. If no layer has one, planners go by importance.
  std::vector<std::optional<double>> reuse_cost;
  // [layers] reuse_cost divided by the square of the recall that reuse loses
  // (docs/method.md, "Layer costs"); empty if reuse_cost is unset.
  std::vector<double> layer_cost;
  // [layers] KL that a layer adds by selecting instead of being dense, in nats per token; 0 for
  // layers that are dense anyway; empty if not measured.
  std::vector<double> select_cost;
  // [layers] share of a layer's attention mass that its own selection keeps
  std::vector<double> self_recall;

 private:
  size_t index(int32_t a, int32_t b, int32_t g_b, int32_t g_a) const;

  int32_t layers_;
  int32_t kv_heads_;
  std::vector<double> values_;   // [layers, layers, kv_heads, kv_heads]
  std::vector<double> recalls_;  // [layers, layers, kv_heads, kv_heads]
};

// The entry of `layer` in a schedule in which it reuses the selection of `anchor` < `layer`.
LayerSchedule reuse_layer(const Similarity& similarity, int32_t layer, int32_t anchor);

// Finds the best layers for every number of anchors by dynamic programming; result[m − 1] has m
// anchors, including layer 0. It maximises Σ importance(b) · sim(source of b → b) or, if layer
// costs were measured, −Σ layer_cost(b) · (1 − sim)². A selecting layer is its own source, with
// similarity 1. `dense` layers (besides 0; entries outside [1, layers) are ignored) stay dense and
// select too. Such a layer serves the layers after it, up to the next selecting layer, exactly as
// an anchor would, but is not counted, so that m runs from 1 to layers − their number. Of equally
// good results, the one whose last selecting layer has the smallest index is taken, then the one
// before it, and so on.
std::vector<std::vector<LayerSchedule>> schedules_by_dynamic_programming(
    const Similarity& similarity, const std::vector<int32_t>& dense);

// The predicted similarity of a schedule: Σ importance · similarity over all layers ÷ Σ importance,
// or the plain mean if no layer has any importance.
double predicted_similarity(const std::vector<LayerSchedule>& layers);

struct GreedyOptions {
  double threshold = 0.65;     // [0, 1]
  int32_t max_reuse_dist = 4;  // ≥ 1; a reuse layer is at most max_reuse_dist − 1 after its anchor
};
// Decides layer by layer. Layer 0 is dense and serves no other layer. The sources are anchors and
// the layers of `dense` (as above). The first layer after layer 0 that is not in `dense` and has no
// source before it becomes an anchor ("first sparse layer"). Every other layer reuses the most
// similar source within reach (of equal ones the nearest) if its similarity is ≥ threshold;
// otherwise it becomes a new anchor ("low similarity: …", or "distance" if no source is in reach).
std::vector<LayerSchedule> greedy_schedule(const Similarity& similarity,
                                           const GreedyOptions& options,
                                           const std::vector<int32_t>& dense);

}  // namespace kascade

#endif  // KASCADE_ENGINE_SCHEDULE_SCHEDULE_H_
