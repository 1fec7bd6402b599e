#include "engine/adapter/options.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace kascade {
namespace {

absl::Status check_range(const std::string& name, double value, double least, double most) {
  if (value >= least && value <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("%s: must be in [%.10g, %.10g], is %.10g", name, least, most, value));
}

absl::Status check_blocks(const AdapterOptions& options) {
  if (options.compress_block % options.compress_stride != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("compress_stride: must divide compress_block, which is ",
                     options.compress_block, "; is ", options.compress_stride));
  }
  if (options.selection_block < options.compress_block ||
      options.selection_block % options.compress_stride != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("selection_block: must be at least compress_block (", options.compress_block,
                     ") and a multiple of compress_stride (", options.compress_stride, "), is ",
                     options.selection_block));
  }
  if (options.first_blocks + options.local_blocks > options.selected_blocks) {
    return absl::InvalidArgumentError(absl::StrCat(
        "selected_blocks: must be at least first_blocks + local_blocks, which are ",
        options.first_blocks, " and ", options.local_blocks, "; is ", options.selected_blocks));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status validate(const AdapterOptions& options) {
  struct Range {
    std::string name;
    double value;
    double least;
    double most;
  };
  const Range ranges[] = {
      {"compress_block", 1.0 * options.compress_block, 1, 256},
      {"compress_stride", 1.0 * options.compress_stride, 1, 256},
      {"mlp_expansion", options.mlp_expansion, 1e-6, 4},
      {"memory_slots", 1.0 * options.memory_slots, 0, 16},
      {"selection_block", 1.0 * options.selection_block, 1, 4096},
      {"selected_blocks", 1.0 * options.selected_blocks, 1, 4096},
      {"first_blocks", 1.0 * options.first_blocks, 0, 4096},
      {"local_blocks", 1.0 * options.local_blocks, 1, 4096},
      {"window", 1.0 * options.window, 1, 1 << 20},
      {"gate_start[0]", options.gate_start[0], -100, 100},
      {"gate_start[1]", options.gate_start[1], -100, 100},
      {"gate_start[2]", options.gate_start[2], -100, 100},
  };
  for (const Range& range : ranges) {
    absl::Status status = check_range(range.name, range.value, range.least, range.most);
    if (!status.ok()) return status;
  }
  return check_blocks(options);
}

std::string_view name_of(Compressor compressor) {
  constexpr std::string_view kNames[] = {"max_pool", "mean_pool", "mlp"};
  return kNames[static_cast<int>(compressor)];
}

std::string_view name_of(GateFunction gate) {
  return gate == GateFunction::kSigmoid ? "sigmoid" : "softmax";
}

absl::StatusOr<Compressor> compressor_named(std::string_view name) {
  for (const Compressor compressor : {Compressor::kMax, Compressor::kMean, Compressor::kMlp}) {
    if (name == name_of(compressor)) return compressor;
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "compressor: must be max_pool, mean_pool or mlp, is \"", std::string(name), "\""));
}

absl::StatusOr<GateFunction> gate_named(std::string_view name) {
  for (const GateFunction gate : {GateFunction::kSigmoid, GateFunction::kSoftmax}) {
    if (name == name_of(gate)) return gate;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("gate: must be sigmoid or softmax, is \"", std::string(name), "\""));
}

}  // namespace kascade
