// The version of the programs.
#pragma once

#include <string>

namespace kascade {

// "kascade 0.1.0 (commit abcdef0)"; outside a git work tree the commit is "unknown".
std::string version_line();

}  // namespace kascade
