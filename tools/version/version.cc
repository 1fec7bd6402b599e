#include "tools/version/version.h"

#include "tools/version/commit.h"  // generated: write_commit.cmake

namespace kascade {

std::string version() { return KASCADE_VERSION; }

std::string commit_hash() { return KASCADE_COMMIT; }

std::string version_line() { return "kascade " + version() + " (commit " + commit_hash() + ")"; }

}  // namespace kascade
