#include "tests/support/source_folder.h"

namespace kascade {

// The only file that is compiled with the folder's name, so that compilers' caches serve all
// checkouts.
std::filesystem::path source_folder() { return KASCADE_SOURCE_DIR; }

}  // namespace kascade
