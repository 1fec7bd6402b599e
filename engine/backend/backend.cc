#include "engine/backend/backend.h"

#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace kascade {

absl::StatusOr<std::unique_ptr<Backend>> open_backend(const BackendOptions& options) {
  if (options.name == "reference" || options.name == "auto") {
    if (options.weights == WeightFormat::kBF16) {
      return absl::UnavailableError("backend reference keeps weights in f32 only, bf16 was asked");
    }
    return make_reference_backend();
  }
  if (options.name == "cuda") return absl::UnavailableError("backend cuda: built without CUDA");
  return absl::InvalidArgumentError(absl::StrCat(
      "backend: must be auto, reference, cpu or cuda, is \"", std::string(options.name), "\""));
}

}  // namespace kascade
