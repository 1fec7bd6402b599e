#include "engine/backend/backend.h"

#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/backend/cpu/cpu.h"
#include "engine/backend/cpu/matmul_onednn.h"

namespace kascade {
namespace {

absl::StatusOr<std::unique_ptr<Backend>> open_cpu(const BackendOptions& options) {
  const bool wanted = options.weights == WeightFormat::kBF16;
  const bool natural =
      options.weights == WeightFormat::kAuto && options.checkpoint_dtype == DType::kBF16;
  DType weights = DType::kF32;
  if (wanted || natural) {
    if (cpu::bf16_matmul_supported()) {
      weights = DType::kBF16;
    } else if (wanted) {
      return absl::UnavailableError(
          "weights bf16: this machine has no bf16 instructions (avx512_bf16); use f32");
    }
  }
  return cpu::make_cpu_backend({.weights = weights, .threads = options.threads});
}

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> open_backend(const BackendOptions& options) {
  if (options.name == "auto" || options.name == "cpu") return open_cpu(options);
  if (options.name == "cuda") return absl::UnavailableError("backend cuda: built without CUDA");
  if (options.name == "reference") {
    if (options.weights == WeightFormat::kBF16) {
      return absl::UnavailableError("weights bf16: backend reference computes in f32 only");
    }
    return make_reference_backend();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "backend: must be auto, reference, cpu or cuda, is \"", std::string(options.name), "\""));
}

}  // namespace kascade
