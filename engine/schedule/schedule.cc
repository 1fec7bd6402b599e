#include "engine/schedule/schedule.h"

#include <algorithm>
#include <limits>
#include <type_traits>

#include "absl/strings/str_cat.h"

namespace kascade {
namespace {

constexpr int32_t kMaxQueryTile = 128;  // rows that share a selection; limits the kernels' buffers
constexpr int32_t kMaxKeys = 1 << 24;   // beyond any context; keeps products within int64

absl::Status out_of_range(const std::string& field, const std::string& limit,
                          const std::string& value) {
  return absl::InvalidArgumentError(absl::StrCat(field, " must be ", limit, ", is ", value));
}

// Written so that a NaN counts as out of range.
template <typename Number>
absl::Status check_range(const std::string& field, Number value, std::type_identity_t<Number> low,
                         std::type_identity_t<Number> high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return out_of_range(field, absl::StrCat("in [", low, ", ", high, "]"), absl::StrCat(value));
}

absl::Status check_head_map(const std::string& name, const LayerSchedule& layer, int32_t kv_heads) {
  const auto size = static_cast<int32_t>(layer.head_map.size());
  if (size != kv_heads) {
    return out_of_range(name + ".head_map", absl::StrCat("of ", kv_heads, " KV heads"),
                        absl::StrCat("of ", size));
  }
  for (int32_t head = 0; head < kv_heads; ++head) {
    const std::string field = absl::StrCat(name, ".head_map[", head, "]");
    const int32_t source = layer.head_map[head];
    if (auto status = check_range(field, source, 0, kv_heads - 1); !status.ok()) return status;
    if (layer.role != Role::kReuse && source != head) {
      return out_of_range(field, absl::StrCat(head, " (only reuse layers map heads)"),
                          absl::StrCat(source));
    }
  }
  return absl::OkStatus();
}

absl::Status check_source(const Schedule& schedule, int32_t index, const std::string& name) {
  const LayerSchedule& layer = schedule.layers[index];
  if (layer.role != Role::kReuse) {
    if (layer.anchor == index) return absl::OkStatus();
    return out_of_range(name + ".anchor", absl::StrCat(index, " (only reuse layers have another)"),
                        absl::StrCat(layer.anchor));
  }
  if (auto status = check_range(name + ".anchor", layer.anchor, 0, index - 1); !status.ok()) {
    return status;
  }
  if (schedule.layers[layer.anchor].role != Role::kReuse) return absl::OkStatus();
  return out_of_range(name + ".anchor", "a layer that selects (dense or anchor)",
                      absl::StrCat(layer.anchor, ", a reuse layer"));
}

absl::Status check_layer(const Schedule& schedule, int32_t index, int32_t kv_heads) {
  const LayerSchedule& layer = schedule.layers[index];
  const std::string name = absl::StrCat("layers[", index, "]");
  if (index == 0 && layer.role != Role::kDense) {
    return out_of_range(name + ".role", "dense", std::string(name_of(layer.role)));
  }
  if (auto status = check_source(schedule, index, name); !status.ok()) return status;
  if (auto status = check_head_map(name, layer, kv_heads); !status.ok()) return status;
  if (auto status = check_range(name + ".similarity", layer.similarity, 0, 1); !status.ok()) {
    return status;
  }
  if (auto status = check_range(name + ".reuse_cost", layer.reuse_cost.value_or(0), 0,
                                std::numeric_limits<double>::max());
      !status.ok()) {
    return status;
  }
  return check_range(name + ".importance", layer.importance, 0, 2);
}

absl::Status check_mass(const SelectionSettings& settings) {
  if (!(settings.mass >= 0 && settings.mass <= 1)) {
    return out_of_range("selection.mass", "in (0, 1], or 0 for a fixed ratio",
                        absl::StrCat(settings.mass));
  }
  if (!(settings.max_ratio > 0 && settings.max_ratio <= 1)) {
    return out_of_range("selection.max_ratio", "in (0, 1]", absl::StrCat(settings.max_ratio));
  }
  if (settings.mass > 0 && settings.family != Family::kKascade) {
    return out_of_range("selection.mass", "0 for family tile", absl::StrCat(settings.mass));
  }
  if (settings.mass == 0 && settings.max_ratio != 1) {
    return out_of_range("selection.max_ratio", "1 without mass", absl::StrCat(settings.max_ratio));
  }
  return absl::OkStatus();
}

// A file may hold any text in place of a digest, and an error message must stay short.
std::string shown(const std::string& digest) {
  constexpr size_t kDigestLetters = 64;
  return digest.empty() ? "none" : digest.substr(0, kDigestLetters);
}

}  // namespace

int32_t Schedule::count(Role role) const {
  return static_cast<int32_t>(
      std::count_if(layers.begin(), layers.end(),
                    [role](const LayerSchedule& layer) { return layer.role == role; }));
}

double Schedule::reuse_layers_ratio() const {
  if (layers.empty()) return 0;
  return static_cast<double>(count(Role::kReuse)) / static_cast<double>(layers.size());
}

bool Schedule::selection_used(int32_t layer) const {
  return std::any_of(layers.begin(), layers.end(), [layer](const LayerSchedule& other) {
    return other.role == Role::kReuse && other.anchor == layer;
  });
}

absl::Status validate(const SelectionSettings& settings) {
  const bool kascade = settings.family == Family::kKascade;
  const int32_t min_keys = kascade && !settings.decode_own_tile ? 1 : 0;
  const absl::Status checks[] = {
      check_range("selection.query_tile", settings.query_tile, 1, kMaxQueryTile),
      check_range("selection.min_keys", settings.min_keys, min_keys, kMaxKeys),
      check_range("selection.top_k", settings.top_k, 1, kMaxKeys),
      check_range("selection.sink_keys", settings.sink_keys, 0, kMaxKeys),
      check_range("selection.dense_below", settings.dense_below, 0, kMaxDenseBelow),
  };
  for (const absl::Status& status : checks) {
    if (!status.ok()) return status;
  }
  if (!(settings.ratio > 0 && settings.ratio <= 1)) {
    return out_of_range("selection.ratio", "in (0, 1]", absl::StrCat(settings.ratio));
  }
  if (auto status = check_mass(settings); !status.ok()) return status;
  if (!kascade && !settings.decode_own_tile) {
    return out_of_range("selection.decode_own_tile", "true for family tile", "false");
  }
  if (!kascade && settings.sink_keys != 0) {
    return out_of_range("selection.sink_keys", "0 for family tile",
                        absl::StrCat(settings.sink_keys));
  }
  if (!kascade && settings.all_heads) {
    return out_of_range("selection.all_heads", "false for family tile", "true");
  }
  return absl::OkStatus();
}

absl::Status validate(const Schedule& schedule, const ScheduleShape& shape) {
  if (auto status = validate(schedule.selection); !status.ok()) return status;
  const auto layers = static_cast<int32_t>(schedule.layers.size());
  if (layers == 0 || layers != shape.layers) {
    return out_of_range("layers", absl::StrCat("of ", shape.layers, " layers (≥ 1)"),
                        absl::StrCat("of ", layers));
  }
  for (int32_t index = 0; index < layers; ++index) {
    if (auto status = check_layer(schedule, index, shape.kv_heads); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status check_model(const Schedule& schedule, const ModelIdentity& model) {
  const ModelIdentity& made_for = schedule.model;
  const struct {
    const char* field;
    const std::string& expected;
    const std::string& found;
  } digests[] = {{"weights_digest", model.weights_digest, made_for.weights_digest},
                 {"config_digest", model.config_digest, made_for.config_digest},
                 {"tokenizer_digest", model.tokenizer_digest, made_for.tokenizer_digest}};
  for (const auto& [field, expected, found] : digests) {
    if (expected.empty() || expected == found) continue;
    return absl::FailedPreconditionError(
        absl::StrCat("the schedule was made for another model: its model.", field, " must be ",
                     shown(expected), " (model \"", model.name, "\"), is ", shown(found),
                     " (model \"", shown(made_for.name), "\")"));
  }
  return absl::OkStatus();
}

}  // namespace kascade
