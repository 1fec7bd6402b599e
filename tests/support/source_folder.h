// Where the sources of this checkout lie, for tests that read files of theirs.
#ifndef KASCADE_TESTS_SUPPORT_SOURCE_FOLDER_H_
#define KASCADE_TESTS_SUPPORT_SOURCE_FOLDER_H_

#include <filesystem>

namespace kascade {

std::filesystem::path source_folder();

}  // namespace kascade

#endif  // KASCADE_TESTS_SUPPORT_SOURCE_FOLDER_H_
