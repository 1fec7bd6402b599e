// The weight formats that a report compares with f32.
#ifndef KASCADE_TOOLS_FORMAT_REPORT_FORMAT_NAMES_H_
#define KASCADE_TOOLS_FORMAT_REPORT_FORMAT_NAMES_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/backend/tensor.h"

namespace kascade::format_report {

// Reads a list such as "bf16,int8". INVALID_ARGUMENT for a name that is not bf16, int8, int4 or
// native, and for one that occurs twice.
absl::StatusOr<std::vector<WeightFormat>> formats_named(std::string_view list);

struct DefaultFormats {
  std::vector<WeightFormat> formats{};
  std::vector<std::string> left_out{};  // one sentence for each that this machine cannot compute
};
// bf16, int8 and int4, and native if the checkpoint has blocks.
DefaultFormats default_formats(DType checkpoint_dtype);

}  // namespace kascade::format_report

#endif  // KASCADE_TOOLS_FORMAT_REPORT_FORMAT_NAMES_H_
