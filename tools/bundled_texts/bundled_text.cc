#include "client/benchmark/bundled_texts.h"

#include <fmt/format.h>

#include <filesystem>
#include <system_error>

namespace kascade::client {

namespace fs = std::filesystem;

absl::StatusOr<std::string> bundled_text(const std::string& name) {
  std::error_code error;
  const fs::path here = fs::read_symlink("/proc/self/exe", error).parent_path();
  // PREFIX/bin beside PREFIX/share, or SOURCE/build/PRESET/client.
  const fs::path installed = here.parent_path() / "share/kascade/texts" / name;
  const fs::path source = here.parent_path().parent_path().parent_path() / "models/demo" / name;
  for (const fs::path& path : {installed, source}) {
    if (fs::exists(path, error)) return path.string();
  }
  return absl::NotFoundError(
      fmt::format("the bundled text is neither {} nor {}: name texts with --calibration and "
                  "--held-out",
                  installed.string(), source.string()));
}

}  // namespace kascade::client
