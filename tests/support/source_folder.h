// The source folder of this checkout, for tests that read its files.
#ifndef KASCADE_TESTS_SUPPORT_SOURCE_FOLDER_H_
#define KASCADE_TESTS_SUPPORT_SOURCE_FOLDER_H_

#include <filesystem>

namespace kascade {

std::filesystem::path source_folder();

}  // namespace kascade

#endif  // KASCADE_TESTS_SUPPORT_SOURCE_FOLDER_H_
