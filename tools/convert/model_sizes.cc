#include "tools/convert/model_sizes.h"

#include <variant>

#include "absl/strings/str_cat.h"

namespace kascade::convert {
namespace {

absl::Status invalid(const std::string& file, const std::string& field, const std::string& expected,
                     int64_t found) {
  return absl::InvalidArgumentError(
      absl::StrCat(file, ": ", field, ": expected ", expected, ", found ", found));
}

struct Limit {
  int64_t ModelSizes::* size;
  std::string ModelSizeNames::* name;
  int64_t low;
  int64_t high;
};

constexpr Limit kLimits[] = {
    {&ModelSizes::layers, &ModelSizeNames::layers, 1, 1024},
    {&ModelSizes::hidden, &ModelSizeNames::hidden, 1, 1 << 18},
    {&ModelSizes::intermediate, &ModelSizeNames::intermediate, 1, 1 << 20},
    {&ModelSizes::heads, &ModelSizeNames::heads, 1, 4096},
    {&ModelSizes::kv_heads, &ModelSizeNames::kv_heads, 1, 4096},
    {&ModelSizes::head_dim, &ModelSizeNames::head_dim, 2, 1024},
    {&ModelSizes::vocab, &ModelSizeNames::vocab, 1, 1 << 24},
    {&ModelSizes::context, &ModelSizeNames::context, 1, 1 << 24},
};

}  // namespace

absl::StatusOr<ModelConfig> config_of(const ModelSizes& sizes, const ModelSizeNames& names,
                                      const std::string& file) {
  for (const Limit& limit : kLimits) {
    const int64_t size = sizes.*limit.size;
    if (size >= limit.low && size <= limit.high) continue;
    return invalid(file, names.*limit.name, absl::StrCat(limit.low, "..", limit.high), size);
  }
  if (sizes.heads % sizes.kv_heads != 0) {
    return invalid(file, names.kv_heads, absl::StrCat("a divisor of ", sizes.heads, " heads"),
                   sizes.kv_heads);
  }
  if (sizes.head_dim % 2 != 0) {
    return invalid(file, names.head_dim, "an even head size", sizes.head_dim);
  }
  ModelConfig config;
  config.layers = static_cast<int32_t>(sizes.layers);
  config.hidden = static_cast<int32_t>(sizes.hidden);
  config.intermediate = static_cast<int32_t>(sizes.intermediate);
  config.heads = static_cast<int32_t>(sizes.heads);
  config.kv_heads = static_cast<int32_t>(sizes.kv_heads);
  config.head_dim = static_cast<int32_t>(sizes.head_dim);
  config.vocab = static_cast<int32_t>(sizes.vocab);
  config.context = static_cast<int32_t>(sizes.context);
  return config;
}

absl::Status apply_rope_factor(const SourceOptions& options, ModelConfig& config) {
  if (!options.rope_factor) return absl::OkStatus();
  const double factor = *options.rope_factor;
  if (!(factor >= 1 && factor <= 1e38)) {
    return absl::InvalidArgumentError(
        absl::StrCat("rope factor: expected a number in 1..1e38, found ", factor));
  }
  if (factor == 1) {
    config.rope_scaling.reset();
    return absl::OkStatus();
  }
  RopeScaling scaling = config.rope_scaling.value_or(Llama3RopeScaling());
  auto* llama3 = std::get_if<Llama3RopeScaling>(&scaling);
  if (llama3 == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(
        "rope factor: replaces that of llama3 rope scaling only; the source has ",
        std::string(name_of(scaling)), " rope scaling with factor ", factor_of(scaling)));
  }
  llama3->factor = factor;
  config.rope_scaling = scaling;
  return absl::OkStatus();
}

}  // namespace kascade::convert
