#include "tools/bundled_texts/bundled_text.h"

#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"

namespace kascade {

namespace fs = std::filesystem;

absl::StatusOr<std::string> bundled_text(const std::string& name, std::string_view options) {
  std::error_code error;
  const fs::path here = fs::read_symlink("/proc/self/exe", error).parent_path();
  // PREFIX/bin beside PREFIX/share; or SOURCE/build/PRESET/client, or one folder further down.
  const fs::path installed = here.parent_path() / "share/kascade/texts" / name;
  const fs::path above = here.parent_path().parent_path().parent_path();
  const fs::path source = above / "models/demo" / name;
  for (const fs::path& path : {installed, source, above.parent_path() / "models/demo" / name}) {
    if (fs::exists(path, error)) return path.string();
  }
  return absl::NotFoundError(absl::StrCat("the bundled text is neither ", installed.string(),
                                          " nor ", source.string(), ": give texts with ",
                                          std::string(options)));
}

}  // namespace kascade
