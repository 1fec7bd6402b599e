#include "tools/convert/verify.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include "absl/strings/str_cat.h"
#include "engine/model/checkpoint.h"
#include "engine/model/file.h"
#include "engine/model/folder_check.h"
#include "engine/tokenizer/tokenizer.h"
#include "tools/convert/conversion_record.h"
#include "tools/convert/value_cast.h"

namespace kascade::convert {
namespace {

namespace fs = std::filesystem;

TensorSummary summarise(const std::string& name, const StoredTensor& tensor) {
  TensorSummary summary{.name = name, .dtype = tensor.dtype, .shape = tensor.shape};
  DType dtype = *weight_type(tensor.dtype);
  std::span<const std::byte> values(tensor.data, static_cast<size_t>(tensor.bytes));
  std::vector<std::byte> dequantized_values;
  if (has_blocks(dtype)) {
    dequantized_values = dequantized(values, dtype);
    values = dequantized_values;
    dtype = DType::kF32;
  }
  const auto count = static_cast<int64_t>(values.size()) / size_of(dtype);
  double squares = 0;
  summary.min = std::numeric_limits<float>::infinity();
  summary.max = -summary.min;
  for (int64_t i = 0; i < count; ++i) {
    const float value = value_at(values, dtype, i);
    if (!std::isfinite(value)) {
      ++summary.not_finite;
      continue;
    }
    summary.min = std::min(summary.min, value);
    summary.max = std::max(summary.max, value);
    squares += static_cast<double>(value) * value;
  }
  const int64_t finite = count - summary.not_finite;
  if (finite > 0) summary.rms = std::sqrt(squares / static_cast<double>(finite));
  return summary;
}

absl::Status check_digests(const fs::path& folder, Verification& result) {
  const auto recorded = recorded_outputs(folder);
  if (!recorded.ok()) return recorded.status();
  for (const auto& [name, expected] : *recorded) {
    if (fs::path(name).filename() != name) {
      return absl::InvalidArgumentError(
          absl::StrCat((folder / kRecordFile).string(),
                       ": outputs: ", "expected names of files beside it, found ", name));
    }
    const auto found = file_digest(folder / name);
    if (!found.ok()) return found.status();
    if (*found != expected) {
      return absl::DataLossError(absl::StrCat((folder / name).string(), ": expected sha256 ",
                                              expected, " (conversion.json), found ", *found));
    }
    ++result.digests_checked;
  }
  return absl::OkStatus();
}

absl::Status check_tokenizer(const fs::path& folder, Verification& result) {
  const auto tokenizer = open_tokenizer(folder);
  if (absl::IsNotFound(tokenizer.status())) return absl::OkStatus();
  if (!tokenizer.ok()) return tokenizer.status();
  result.tokenizer_ids = (*tokenizer)->vocab_size();
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Verification> verify(const fs::path& folder) {
  Verification result;
  if (auto status = check_model_folder(folder); !status.ok()) return status;
  auto config = load_config(folder);
  if (!config.ok()) return config.status();
  result.config = *std::move(config);
  const auto checkpoint = open_checkpoint(folder, result.config);
  if (!checkpoint.ok()) return checkpoint.status();
  if (auto status = check_digests(folder, result); !status.ok()) return status;
  if (auto status = check_tokenizer(folder, result); !status.ok()) return status;
  for (const auto& [name, tensor] : checkpoint->files->tensors()) {
    if (is_ignored_tensor(name)) continue;
    result.weight_bytes += tensor.bytes;
    result.tensors.push_back(summarise(name, tensor));
    result.not_finite += result.tensors.back().not_finite;
  }
  return result;
}

}  // namespace kascade::convert
