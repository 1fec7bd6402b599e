#include "client/benchmark/run_times.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "tools/terminal/print.h"

namespace kascade::client {
namespace {

constexpr double kFaster = 1.2;
constexpr double kSlower = 0.8;

const char* noun(Work work) { return work == Work::kPrefill ? "prefill" : "decode"; }

// What attention is a share of.
const char* whole(Work work) {
  return work == Work::kPrefill ? "the arithmetic" : "the bytes read per token";
}

}  // namespace

double bytes_per_weight(const v1::RuntimeInfo& runtime, const v1::ModelInfo& model) {
  const std::string& dtype = runtime.weights_dtype();
  if (dtype == "f32") return 4;
  if (dtype == "bf16") return 2;
  if (dtype == "int8") return 1;
  if (dtype == "int4") return 0.5;
  return static_cast<double>(runtime.packed_bytes()) / static_cast<double>(model.parameters());
}

double RunTimes::mean() const {
  const double sum = std::accumulate(milliseconds.begin(), milliseconds.end(), 0.0);
  return sum / static_cast<double>(milliseconds.size());
}

double RunTimes::median() const {
  std::vector<double> sorted = milliseconds;
  std::ranges::sort(sorted);
  const size_t middle = sorted.size() / 2;
  return sorted.size() % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

double RunTimes::least() const { return std::ranges::min(milliseconds); }

double RunTimes::largest() const { return std::ranges::max(milliseconds); }

double attention_share(Work work, int32_t tokens, const v1::ModelInfo& model,
                       const v1::RuntimeInfo& runtime) {
  const double rows = tokens;
  const double layer_width =
      double{1} * model.hidden_size() *
      (2.0 * model.heads() * model.head_dim() + 2.0 * model.kv_heads() * model.head_dim() +
       3.0 * model.intermediate_size());
  const double layer_weights = layer_width * model.layers();
  const double head_weights = double{1} * model.vocab_size() * model.hidden_size();
  if (work == Work::kDecode) {
    const double cache = rows * static_cast<double>(runtime.kv_bytes_per_token());
    const double weights = (layer_weights + head_weights) * bytes_per_weight(runtime, model);
    return cache / (cache + weights);
  }
  // A multiplication and an addition for each weight and row; q·k and the weighted sum of values
  // for each of the half of all pairs that causal attention has. The head runs for the last row.
  const double pairs = rows * (rows + 1) / 2;
  const double attention = 4.0 * model.layers() * model.heads() * model.head_dim() * pairs;
  return attention / (attention + 2 * layer_weights * rows + 2 * head_weights);
}

std::string speed_sentence(const SpeedComparison& comparison) {
  const double speedup = comparison.speedup();
  const std::string place =
      fmt::format("{} at {} (attention is {} of {})", noun(comparison.work),
                  counted(comparison.tokens, "token"), percent(comparison.attention_share, 1),
                  whole(comparison.work));
  const double most = 1 / (1 - comparison.attention_share);
  if (speedup > kFaster && speedup > most) {
    return fmt::format(
        "Faster than explained: {:.2f}x in {}, where attention that takes no time would give "
        "{:.2f}x; run again with more --runs, the machine may have been busy",
        speedup, place, most);
  }
  if (speedup > kFaster) return fmt::format("Faster: {:.2f}x in {}", speedup, place);
  if (speedup >= kSlower) {
    return fmt::format(
        "About equal: {:.2f}x in {}; no saving can exceed attention's share, and choosing the keys "
        "takes some of it",
        speedup, place);
  }
  return fmt::format(
      "Slower: {:.2f}x in {}; choosing the keys takes longer here than attending to all of them: "
      "sparse attention is for longer texts",
      speedup, place);
}

}  // namespace kascade::client
