#include "server/weights_loss.h"

#include "spdlog/fmt/fmt.h"

namespace kascade::server {
namespace {

// Of SmolLM2-135M-Instruct over four kinds of text; tests/server/config compares them with
// docs/quality/formats-smollm2-135m-instruct.json.
struct MeasuredLoss {
  std::string_view weights;
  double mean_kl;   // KL(f32 ‖ format), nats per token
  double nll_rise;  // nats per token
};
constexpr MeasuredLoss kMeasured[] = {{"int8", 0.0039, 0.0043}, {"int4", 0.1353, 0.1273}};

}  // namespace

std::string weights_loss_line(std::string_view weights) {
  for (const MeasuredLoss& loss : kMeasured) {
    if (loss.weights != weights) continue;
    return fmt::format(
        "weights {}: expect KL {:.4f} and ΔNLL {:+.4f} nats per token from f32, as on "
        "SmolLM2-135M-Instruct (docs/quality/formats.md); measure your own model with "
        "kascade-convert --report DIR",
        loss.weights, loss.mean_kl, loss.nll_rise);
  }
  return {};
}

}  // namespace kascade::server
