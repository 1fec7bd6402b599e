// The measurements of the quality suite, as requests to a server.
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

// One measurement, which becomes one row of the report.
struct Variant {
  std::string group{};
  std::string label{};
  std::optional<double> ratio{};  // as shown in the table
  std::optional<v1::CalibrateRequest>
      // The calibration request without its texts. Unset: the row uses a baseline, or the schedule
      // that is active already.
      calibration{};
  v1::AttentionOptions attention{};  // without the mode
  std::string comparison_row{};      // label of the comparison row
  bool is_default = false;
  bool mixes_texts = false;  // whether the schedule is also calibrated on the other texts
  int32_t text = -1;         // index of the other text that is scored; −1 is the held-out text
  // Whether the row scores a longer part of the text than other rows do, with the longest windows
  // only and without pass keys.
  bool is_long = false;
};

struct VariantOptions {
  int32_t layers = 0;
  int32_t context = 0;
  int32_t default_anchors = 0;           // number of anchors of the default schedule
  std::vector<int32_t> default_dense{};  // dense layers of the default schedule, without layer 0
  std::string held_out{};                // name of the held-out text
  std::vector<std::string> others{};     // names of the other texts
  std::vector<std::string> groups{};     // groups of rows to measure; empty means all
};

// The min_keys of all rows that have a ratio: small enough that the ratio determines the number of
// keys at every length.
constexpr int32_t kMinKeys = 16;

// Returns the variants of the default schedule, which is what calibration produces if no number of
// anchors is requested: one row for the held-out text, and one for a longer part of every text.
std::vector<Variant> default_variants(const VariantOptions& options);
// Returns all other variants that can be derived once the default schedule is known.
std::vector<Variant> other_variants(const VariantOptions& options);
// Upper bound for the number of rows in the report.
size_t expected_rows(const VariantOptions& options);
// Returns a variant with the best schedule of the dynamic-programming planner that has the same
// number of anchors and the same key selection as the greedy row with label `greedy`.
Variant dp_like(const std::string& greedy, int32_t anchors);
// Returns a variant with a baseline that reads as many bytes as the Kascade row with label
// `kascade`.
Variant reading_like(const std::string& kascade, v1::BaselineKind kind, double ratio);

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_EVAL_VARIANTS_H_
