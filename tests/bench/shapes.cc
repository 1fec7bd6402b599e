#include "tests/bench/shapes.h"

#include <fstream>
#include <iterator>
#include <numeric>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace kascade::bench {
namespace {

ModelConfig llama_3_2_1b() {
  return {.name = "llama-3.2-1b",
          .layers = 16,
          .hidden = 2048,
          .intermediate = 8192,
          .heads = 32,
          .kv_heads = 8,
          .head_dim = 64,
          .vocab = 128256,
          .context = 131072,
          .rope_theta = 500000,
          .rope_scaling = Llama3RopeScaling{.factor = 32, .high_freq_factor = 4},
          .tied_head = true};
}

ModelConfig llama_3_1_8b() {
  return {.name = "llama-3.1-8b",
          .layers = 32,
          .hidden = 4096,
          .intermediate = 14336,
          .heads = 32,
          .kv_heads = 8,
          .head_dim = 128,
          .vocab = 128256,
          .context = 131072,
          .rope_theta = 500000,
          .rope_scaling = Llama3RopeScaling{}};
}

ModelConfig smollm2_135m() {
  return {.name = "smollm2-135m",
          .layers = 30,
          .hidden = 576,
          .intermediate = 1536,
          .heads = 9,
          .kv_heads = 3,
          .head_dim = 64,
          .vocab = 49152,
          .context = 8192,
          .rope_theta = 100000,
          .tied_head = true};
}

absl::StatusOr<ModelConfig> read_shape(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    return absl::NotFoundError(absl::StrCat(
        "shape ", path, ": neither llama-3.2-1b, llama-3.1-8b, smollm2-135m nor a readable file"));
  }
  const std::string text(std::istreambuf_iterator<char>(file), {});
  auto config = parse_config(text, "{}");
  if (config.ok()) config->name = path;
  return config;
}

}  // namespace

absl::StatusOr<ModelConfig> shape_named(const std::string& name) {
  for (const ModelConfig& config : {llama_3_2_1b(), llama_3_1_8b(), smollm2_135m()}) {
    if (config.name == name) return config;
  }
  return read_shape(name);
}

std::shared_ptr<const Schedule> typical_schedule(const ModelConfig& config, double ratio) {
  std::vector<int32_t> identity(config.kv_heads);
  std::iota(identity.begin(), identity.end(), 0);
  const int32_t anchors = std::max(1, config.layers / 4);
  Schedule schedule;
  schedule.selection.ratio = ratio;
  int32_t next = 0;  // anchor
  for (int32_t layer = 0; layer < config.layers; ++layer) {
    LayerSchedule plan{.anchor = layer, .head_map = identity};
    if (layer > 0 && next < anchors && layer == 1 + next * (config.layers - 1) / anchors) {
      plan.role = Role::kAnchor;
      ++next;
    } else if (layer > 0) {
      plan.role = Role::kReuse;
      plan.anchor = schedule.layers.back().anchor;
    }
    schedule.layers.push_back(std::move(plan));
  }
  seal(schedule);
  return std::make_shared<const Schedule>(std::move(schedule));
}

}  // namespace kascade::bench
