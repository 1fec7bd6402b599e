#include "engine/backend/backend.h"

#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/backend/cpu/cpu.h"
#include "engine/backend/cpu/panel_kernels.h"

namespace kascade {
namespace {

absl::StatusOr<std::unique_ptr<Backend>> open_cpu(const BackendOptions& options) {
  WeightFormat weights = options.weights;
  if (weights == WeightFormat::kAuto) {
    const bool bf16 =
        options.checkpoint_dtype == DType::kBF16 && cpu::pick_bf16_kernels() != nullptr;
    weights = bf16 ? WeightFormat::kBF16 : WeightFormat::kF32;
  } else if (weights == WeightFormat::kBF16 && cpu::pick_bf16_kernels() == nullptr) {
    return absl::UnavailableError(
        "weights bf16: this machine has no bf16 instructions (avx512_bf16); use f32 or int8");
  }
  return cpu::make_cpu_backend({.weights = weights, .threads = options.threads});
}

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> open_backend(const BackendOptions& options) {
  if (options.name == "auto" || options.name == "cpu") return open_cpu(options);
  if (options.name == "cuda") return absl::UnavailableError("backend cuda: built without CUDA");
  if (options.name == "reference") {
    if (options.weights == WeightFormat::kBF16) {
      return absl::UnavailableError("weights bf16: backend reference has f32, int8 and int4");
    }
    return make_reference_backend(options.weights == WeightFormat::kAuto ? WeightFormat::kF32
                                                                         : options.weights);
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "backend: must be auto, reference, cpu or cuda, is \"", std::string(options.name), "\""));
}

}  // namespace kascade
