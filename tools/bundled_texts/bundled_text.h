// The texts that come with the project, for jobs that name none.
#ifndef KASCADE_TOOLS_BUNDLED_TEXTS_BUNDLED_TEXT_H_
#define KASCADE_TOOLS_BUNDLED_TEXTS_BUNDLED_TEXT_H_

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace kascade {

// Returns the path of a file of models/demo ("calibration.txt", "evaluation.txt"), where `cmake
// --install` puts it or in the source folder that this program was built in. NOT_FOUND names both
// places and `options`, with which users give texts of their own.
absl::StatusOr<std::string> bundled_text(const std::string& name, std::string_view options);

}  // namespace kascade

#endif  // KASCADE_TOOLS_BUNDLED_TEXTS_BUNDLED_TEXT_H_
