#include "tools/version/version.h"

#include "tools/version/commit.h"  // generated: write_commit.cmake

namespace kascade {

std::string version_line() { return "kascade " KASCADE_VERSION " (commit " KASCADE_COMMIT ")"; }

}  // namespace kascade
