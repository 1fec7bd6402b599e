#include "engine/backend/backend.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/backend/cpu/affinity.h"
#include "engine/backend/cpu/cores.h"
#include "engine/backend/cpu/cpu.h"
#include "engine/backend/cpu/panel_kernels.h"

namespace kascade {
namespace {

// The CPU of each thread; empty if threads are not pinned.
absl::StatusOr<std::vector<int32_t>> cpus_to_pin(const BackendOptions& options) {
  if (!options.cpu.pin) return std::vector<int32_t>{};
  auto cpus = allowed_cpus();
  if (!cpus.ok()) return cpus.status();
  const auto allowed = static_cast<int32_t>(cpus->size());
  const int32_t threads = options.cpu.count > 0 ? options.cpu.count : cpu::usable_cores(allowed);
  if (threads > allowed) {
    return absl::FailedPreconditionError(absl::StrCat(
        "pin_threads: ", threads, " threads, and this process may use only ", allowed, " CPUs"));
  }
  cpus->resize(static_cast<size_t>(threads));
  return cpus;
}

absl::StatusOr<std::unique_ptr<Backend>> open_cpu(const BackendOptions& options) {
  WeightFormat weights = options.weights;
  if (weights == WeightFormat::kAuto) {
    const bool bf16 =
        options.checkpoint_dtype == DType::kBF16 && cpu::pick_bf16_kernels() != nullptr;
    weights = has_blocks(options.checkpoint_dtype) ? WeightFormat::kNative
              : bf16                               ? WeightFormat::kBF16
                                                   : WeightFormat::kF32;
  } else if (weights == WeightFormat::kBF16 && cpu::pick_bf16_kernels() == nullptr) {
    return absl::UnavailableError(
        "weights bf16: this machine has no bf16 instructions (avx512_bf16); use f32 or int8");
  }
  auto cpus = cpus_to_pin(options);
  if (!cpus.ok()) return cpus.status();
  return cpu::make_cpu_backend({.weights = weights,
                                .cache = options.cache,
                                .threads = options.cpu.count,
                                .cpus = *std::move(cpus)});
}

}  // namespace

absl::StatusOr<WeightFormat> weight_format_named(std::string_view name) {
  for (const WeightFormat format :
       {WeightFormat::kAuto, WeightFormat::kF32, WeightFormat::kBF16, WeightFormat::kInt8,
        WeightFormat::kInt4, WeightFormat::kNative}) {
    if (name == name_of(format)) return format;
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "weights: must be auto, f32, bf16, int8, int4 or native, is \"", std::string(name), "\""));
}

absl::StatusOr<std::optional<DType>> cache_dtype_named(std::string_view name) {
  if (name == "auto") return std::nullopt;
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kInt8}) {
    if (name == name_of(dtype)) return dtype;
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "kv_cache_dtype: must be auto, f32, bf16 or int8, is \"", std::string(name), "\""));
}

absl::StatusOr<std::unique_ptr<Backend>> open_backend(const BackendOptions& options) {
  if (options.name == "auto" || options.name == "cpu") return open_cpu(options);
  if (options.name == "cuda") return absl::UnavailableError("backend cuda: built without CUDA");
  if (options.name == "reference") {
    if (options.cpu.pin) {
      return absl::InvalidArgumentError("pin_threads: backend reference has no threads to pin");
    }
    if (options.weights == WeightFormat::kBF16) {
      return absl::UnavailableError("weights bf16: backend reference has f32, int8, int4, native");
    }
    const WeightFormat automatic =
        has_blocks(options.checkpoint_dtype) ? WeightFormat::kNative : WeightFormat::kF32;
    const bool chosen = options.weights != WeightFormat::kAuto;
    return make_reference_backend(chosen ? options.weights : automatic, options.cache);
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "backend: must be auto, reference, cpu or cuda, is \"", std::string(options.name), "\""));
}

}  // namespace kascade
