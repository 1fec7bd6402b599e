// The folders of the third-party data for tests, which is not part of the project, and of the demo
// model, which is.
#ifndef KASCADE_TESTS_SUPPORT_SHARED_DATA_H_
#define KASCADE_TESTS_SUPPORT_SHARED_DATA_H_

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "gtest/gtest.h"
#include "tests/support/source_folder.h"

namespace kascade::testing {

inline std::filesystem::path shared_data() {
  if (const char* path = std::getenv("KASCADE_SHARED_DATA")) return path;
  return source_folder() / ".." / "shared" / "data";
}

inline std::filesystem::path demo_model() { return source_folder() / "models" / "demo"; }

inline std::string read_file(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  EXPECT_TRUE(in.good()) << "cannot read " << path;
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

// Put this at the start of a test that needs shared_data()/relative. Without the data the test is
// skipped with a message, or fails if KASCADE_REQUIRE_DATA=1 is set, as in CI.
#define KASCADE_NEEDS_DATA(relative)                                                           \
  do {                                                                                         \
    const auto needed = ::kascade::testing::shared_data() / (relative);                        \
    if (!std::filesystem::exists(needed)) {                                                    \
      const char* required = std::getenv("KASCADE_REQUIRE_DATA");                              \
      ASSERT_FALSE(required&& std::string(required) == "1") << "missing test data " << needed; \
      GTEST_SKIP() << "test data absent: " << needed << " (set KASCADE_SHARED_DATA)";          \
    }                                                                                          \
  } while (false)

}  // namespace kascade::testing

#endif  // KASCADE_TESTS_SUPPORT_SHARED_DATA_H_
