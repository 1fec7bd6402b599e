#include "tools/format_report/format_names.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "engine/backend/backend.h"

namespace kascade::format_report {
namespace {

constexpr WeightFormat kCompared[] = {WeightFormat::kBF16, WeightFormat::kInt8, WeightFormat::kInt4,
                                      WeightFormat::kNative};

}  // namespace

absl::StatusOr<std::vector<WeightFormat>> formats_named(std::string_view list) {
  std::vector<WeightFormat> formats;
  const std::vector<std::string> names = absl::StrSplit(std::string(list), ',');
  for (const std::string& name : names) {
    const auto* const found =
        std::ranges::find_if(kCompared, [&](WeightFormat each) { return name_of(each) == name; });
    if (found == std::end(kCompared)) {
      return absl::InvalidArgumentError(
          absl::StrCat("formats: each must be bf16, int8, int4 or native, found \"", name, "\""));
    }
    if (std::ranges::find(formats, *found) != formats.end()) {
      return absl::InvalidArgumentError(absl::StrCat("formats: ", name, " is named twice"));
    }
    formats.push_back(*found);
  }
  return formats;
}

DefaultFormats default_formats(DType checkpoint_dtype) {
  DefaultFormats chosen;
  for (const WeightFormat format : kCompared) {
    if (format == WeightFormat::kNative && !has_blocks(checkpoint_dtype)) continue;
    const auto backend = open_backend({.name = "cpu",
                                       .weights = format,
                                       .checkpoint_dtype = checkpoint_dtype,
                                       .cpu = {.count = 1}});
    if (backend.ok()) {
      chosen.formats.push_back(format);
    } else {
      chosen.left_out.emplace_back(backend.status().message());
    }
  }
  return chosen;
}

}  // namespace kascade::format_report
