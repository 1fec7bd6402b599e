// The texts that come with the project, for jobs that name none.
#ifndef KASCADE_CLIENT_BENCHMARK_BUNDLED_TEXTS_H_
#define KASCADE_CLIENT_BENCHMARK_BUNDLED_TEXTS_H_

#include <string>

#include "absl/status/statusor.h"

namespace kascade::client {

// Returns the path of a file of models/demo ("calibration.txt", "evaluation.txt"), where `cmake
// --install` puts it or in the source folder that this program was built in. NOT_FOUND names both.
absl::StatusOr<std::string> bundled_text(const std::string& name);

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_BENCHMARK_BUNDLED_TEXTS_H_
