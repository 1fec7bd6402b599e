// What Kascade costs in quality: schedules of many kinds, baselines and experiments, each measured
// on held-out text and on pass keys, against dense attention.
#ifndef KASCADE_CLIENT_EVAL_QUALITY_SUITE_H_
#define KASCADE_CLIENT_EVAL_QUALITY_SUITE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "client/eval/recall.h"
#include "client/eval/session.h"
#include "kascade/v1/schedule.pb.h"

namespace kascade::client {

struct NamedText {
  std::string name{};
  std::string text{};  // UTF-8
};

struct QualityInputs {
  NamedText calibration{};            // schedules are made from it
  NamedText held_out{};               // and tried on this, which is the filler of pass keys too
  std::vector<NamedText> others{};    // of other kinds: tried on, and calibrated on for one row
  std::vector<std::string> groups{};  // of rows besides the default schedule; empty: all
  int32_t tokens = 8192;              // of each text that is scored
  int32_t cases = 20;                 // pass keys of each row
  int32_t default_cases = 100;        // of the default schedule, at each length
};

// Dense against sparse in windows of one length.
struct WindowFigures {
  int32_t window = 0;  // tokens
  int64_t tokens = 0;  // scored
  double dense_perplexity = 0;
  double change_percent = 0;  // row rule
  double change_error = 0;    // standard error of it
  double mean_kl = 0;         // nats
  double tile_change_percent = 0;
  double tile_mean_kl = 0;
};

struct QualityRow {
  std::string group{};  // "kascade", "tile", "greedy", "baseline", "experiment", "domain"
  std::string label{};
  std::optional<double> ratio{};
  std::optional<int32_t> anchors{};  // selecting layers, layer 0 counted
  std::optional<double> predicted_similarity{};
  double reuse_layers_ratio = 0;
  double keys_attended_ratio = 0;  // these at the longest window, row rule
  double keys_scored_ratio = 0;
  double kv_bytes_per_token = 0;
  double dense_kv_bytes_per_token = 0;
  std::vector<WindowFigures> windows{};
  int32_t found = 0;  // pass keys
  int32_t cases = 0;

  const WindowFigures& longest() const { return windows.back(); }
  double bytes_ratio() const { return kv_bytes_per_token / dense_kv_bytes_per_token; }
};

struct QualityResults {
  v1::GetModelInfoResponse model{};
  v1::CalibrationResult schedule{};  // the default one
  std::vector<QualityRow> rows{};    // the default schedule's first
  std::vector<RecallCell> recall{};  // of the default schedule
  double seconds = 0;
};

// Leaves the schedule active that was active before.
absl::StatusOr<QualityResults> run_quality_suite(Session& session, const QualityInputs& inputs);

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_EVAL_QUALITY_SUITE_H_
