// The quality suite measures what Kascade costs in quality. It compares schedules of many kinds,
// baselines and experiments with dense attention, each on held-out text and on pass keys.
#ifndef KASCADE_CLIENT_EVAL_QUALITY_SUITE_H_
#define KASCADE_CLIENT_EVAL_QUALITY_SUITE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "client/eval/recall.h"
#include "client/rpc/session.h"
#include "kascade/v1/schedule.pb.h"

namespace kascade::client {

struct SuiteText {
  std::string name{};
  std::string text{};  // UTF-8
};

struct QualityInputs {
  SuiteText calibration{};  // the text that schedules are calibrated on
  SuiteText held_out{};     // the text that is scored and that pass keys are hidden in
  // Texts of other kinds. The second half of each is scored; for some rows the schedule is
  // calibrated on the first halves too.
  std::vector<SuiteText> others{};
  // groups of rows to measure besides the default schedule; empty means all
  std::vector<std::string> groups{};
  // Tokens scored of each text. Rows of group "domain" score up to three times as many.
  int32_t tokens = 4096;
  int32_t cases = 20;           // number of pass keys for each row
  int32_t default_cases = 100;  // number of pass keys for the default schedule, at each length
  std::string chat = "auto";    // whether pass keys are asked for in a chat: wants_chat()
};

// Sparse attention compared with dense attention in windows of one length.
struct WindowFigures {
  int32_t window = 0;  // tokens
  int64_t tokens = 0;  // number of scored tokens
  double dense_perplexity = 0;
  double change_percent = 0;  // change of perplexity with per-query selection
  double change_error = 0;    // standard error
  double mean_kl = 0;         // nats
  double mean_kl_error = 0;   // standard error
  double tile_change_percent = 0;
  double tile_mean_kl = 0;
  std::vector<float> kl{};  // KL of each scored token, with per-query selection
};

struct QualityRow {
  // "kascade", "tile", "greedy", "baseline", "equal bytes", "experiment", "domain"
  std::string group{};
  std::string label{};
  std::string comparison_row{};  // label of the comparison row; empty if there is none
  v1::BaselineKind baseline = v1::BASELINE_KIND_UNSPECIFIED;
  std::optional<double> ratio{};
  std::optional<int32_t> anchors{};       // number of anchors: the anchor layers and layer 0
  std::optional<int32_t> dense_layers{};  // number of dense layers, layer 0 included
  std::optional<double> predicted_similarity{};
  std::optional<bool> passed{};  // whether the schedule passed its quality check
  std::optional<double>
      quality_check_change{};  // change of perplexity in the quality check, in percent
  std::optional<double> quality_check_error{};  // standard error
  double reuse_layers_ratio = 0;
  // this ratio and the next three values: at the longest window, with per-query selection
  double keys_attended_ratio = 0;
  double keys_scored_ratio = 0;
  double kv_bytes_per_token = 0;
  double dense_kv_bytes_per_token = 0;
  std::vector<WindowFigures> windows{};
  int32_t found = 0;  // pass keys found
  int32_t cases = 0;

  const WindowFigures& longest() const { return windows.back(); }
  double bytes_ratio() const { return kv_bytes_per_token / dense_kv_bytes_per_token; }
};

struct QualityResults {
  v1::GetModelInfoResponse model{};
  v1::CalibrationResult schedule{};  // the default schedule
  std::vector<QualityRow> rows{};    // the row of the default schedule comes first
  std::vector<RecallCell> recall{};  // of the default schedule
  std::string asked_in{};            // how pass keys were asked for: describe(PromptStyle)
  double seconds = 0;
  std::string program{};     // the client's version and commit
  std::string broken_off{};  // the error that ended the suite early; empty if it is complete
};

// Runs the suite and fills `results`. After an error, `results` holds what was measured before it.
// The suite activates one schedule per row on the server and at the end restores the schedule that
// was active before. The model's context must have at least 512 tokens. A text on which the dense
// model is hardly better than guessing is an error.
absl::Status run_quality_suite(Session& session, const QualityInputs& inputs,
                               QualityResults& results);

// The ratio at which that baseline reads `bytes_ratio` of what dense attention reads, between the
// measured rows of group "baseline" by linear interpolation; nothing beyond them.
std::optional<double> ratio_reading(const std::vector<QualityRow>& rows, v1::BaselineKind kind,
                                    double bytes_ratio);

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_EVAL_QUALITY_SUITE_H_
