// What Kascade costs in quality: schedules of many kinds, baselines and experiments, each measured
// on held-out text and on pass keys, against dense attention.
#ifndef KASCADE_CLIENT_EVAL_QUALITY_SUITE_H_
#define KASCADE_CLIENT_EVAL_QUALITY_SUITE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "client/eval/recall.h"
#include "client/eval/session.h"
#include "kascade/v1/schedule.pb.h"

namespace kascade::client {

struct NamedText {
  std::string name{};
  std::string text{};  // UTF-8
};

struct QualityInputs {
  NamedText calibration{};  // schedules are made from it
  NamedText held_out{};     // and tried on this, which is the filler of pass keys too
  // Of other kinds: the second half of each is tried on, the first calibrated on for some rows.
  std::vector<NamedText> others{};
  std::vector<std::string> groups{};  // of rows besides the default schedule; empty: all
  // Of each text that is scored; up to three times as many in group "domain".
  int32_t tokens = 4096;
  int32_t cases = 20;           // pass keys of each row
  int32_t default_cases = 100;  // of the default schedule, at each length
};

// Dense against sparse in windows of one length.
struct WindowFigures {
  int32_t window = 0;  // tokens
  int64_t tokens = 0;  // scored
  double dense_perplexity = 0;
  double change_percent = 0;  // row rule
  double change_error = 0;    // standard error of it
  double mean_kl = 0;         // nats
  double mean_kl_error = 0;   // standard error of it
  double tile_change_percent = 0;
  double tile_mean_kl = 0;
  std::vector<float> kl{};  // of each scored token, row rule
};

struct QualityRow {
  // "kascade", "tile", "greedy", "baseline", "equal bytes", "experiment", "domain"
  std::string group{};
  std::string label{};
  std::string rival{};  // label of the row that this one is compared with; empty: none
  v1::BaselineKind baseline = v1::BASELINE_KIND_UNSPECIFIED;
  std::optional<double> ratio{};
  std::optional<int32_t> anchors{};       // selecting layers, layer 0 counted
  std::optional<int32_t> dense_layers{};  // layer 0 counted
  std::optional<double> predicted_similarity{};
  std::optional<bool> passed{};         // its gate
  std::optional<double> gate_change{};  // of the perplexity there, percent
  std::optional<double> gate_error{};   // standard error of it
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
  std::string broken_off{};  // why rows are missing; empty: none is
};

// Fills `results` as far as it gets: what was measured before an error is there too. Activates a
// schedule per row on the server, and at the end the one that was active before. The model's
// context must be 512 tokens or more, and no text one that it predicts hardly better than by
// guessing.
absl::Status run_quality_suite(Session& session, const QualityInputs& inputs,
                               QualityResults& results);

// The ratio at which that baseline reads `bytes_ratio` of what dense attention reads, between the
// measured rows of group "baseline" by linear interpolation; nothing beyond them.
std::optional<double> ratio_reading(const std::vector<QualityRow>& rows, v1::BaselineKind kind,
                                    double bytes_ratio);

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_EVAL_QUALITY_SUITE_H_
