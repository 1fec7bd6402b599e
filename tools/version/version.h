// The version of the programs.
#pragma once

#include <string>

namespace kascade {

// "0.1.0".
std::string version();
// The first digits, at least seven, of the git commit that was built; "unknown" outside a git work
// tree.
std::string commit_hash();
// "kascade 0.1.0 (commit abcdef0)".
std::string version_line();

}  // namespace kascade
