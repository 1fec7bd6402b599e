// What the quality suite measures, as requests.
#ifndef KASCADE_CLIENT_EVAL_VARIANTS_H_
#define KASCADE_CLIENT_EVAL_VARIANTS_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "kascade/v1/attention.pb.h"
#include "kascade/v1/calibration_service.pb.h"

namespace kascade::client {

// One row of the report.
struct Variant {
  std::string group{};
  std::string label{};
  std::optional<double> ratio{};  // for the table
  std::optional<v1::CalibrateRequest>
      calibration{};                 // less the texts; none: the schedule of before, or a baseline
  v1::AttentionOptions attention{};  // less the mode
  std::string rival{};               // label of the row that it is to be compared with
  bool is_default = false;
  bool mixes_texts = false;  // calibrated on the other texts as well
  int32_t text = -1;         // index of the other text that is scored; -1 = the held-out one
  // Scores more of the text than other rows do, in the longest windows alone; no pass keys.
  bool is_long = false;
};

struct VariantPlan {
  int32_t layers = 0;
  int32_t context = 0;
  int32_t default_anchors = 0;           // of the default schedule
  std::vector<int32_t> default_dense{};  // its dense layers, without layer 0
  std::string held_out{};                // name of the held-out text
  std::vector<std::string> others{};     // names of the other texts
  std::vector<std::string> groups{};     // to measure; empty: all
};

// Of all rows with a ratio: the smallest that lets the ratio act at every length.
constexpr int32_t kMinKeys = 16;

// The default schedule, the one that calibration makes when no number of selecting layers is asked
// for, and the same one on more of all texts.
std::vector<Variant> default_variants(const VariantPlan& plan);
// All others that can be told once the default schedule is known.
std::vector<Variant> other_variants(const VariantPlan& plan);
// Rows of the report at most.
size_t expected_rows(const VariantPlan& plan);
// The best plan with as many selecting layers as the greedy row of that label, on the same
// selection.
Variant dp_like(const std::string& greedy, int32_t anchors);
// A baseline that reads as much as the Kascade row of that label.
Variant reading_like(const std::string& kascade, v1::BaselineKind kind, double ratio);

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_EVAL_VARIANTS_H_
