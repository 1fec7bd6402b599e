// Test vectors of llama.cpp: the texts are in NAME.inp, and NAME.out has one line of token ids for
// each.
#ifndef KASCADE_TESTS_SUPPORT_TOKENIZER_VECTORS_H_
#define KASCADE_TESTS_SUPPORT_TOKENIZER_VECTORS_H_

#include <filesystem>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "engine/tokenizer/tokenizer.h"
#include "gtest/gtest.h"
#include "tests/support/shared_data.h"

namespace kascade::testing {

inline std::vector<std::string> texts_of_vectors(const std::string& file) {
  constexpr std::string_view kSeparator = "\n__ggml_vocab_test__\n";
  std::vector<std::string> texts;
  size_t begin = 0;
  for (size_t end; (end = file.find(kSeparator, begin)) != std::string::npos;) {
    texts.push_back(file.substr(begin, end - begin));
    begin = end + kSeparator.size();
  }
  if (begin < file.size()) texts.push_back(file.substr(begin));
  return texts;
}

// Checks the tokenizer against the vectors. `stem` is their path without ".inp" and ".out".
inline void check_vectors(const Tokenizer& tokenizer, const std::filesystem::path& stem) {
  const std::vector<std::string> texts = texts_of_vectors(read_file(stem.string() + ".inp"));
  std::istringstream lines(read_file(stem.string() + ".out"));
  size_t count = 0;
  for (std::string line; std::getline(lines, line); ++count) {
    ASSERT_LT(count, texts.size());
    std::istringstream numbers(line);
    std::vector<int32_t> expected;
    for (int32_t id; numbers >> id;) expected.push_back(id);
    const auto ids = tokenizer.encode(texts[count], {.add_special_tokens = false});
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_EQ(*ids, expected) << "case " << count << ": " << texts[count];
  }
  EXPECT_EQ(count, texts.size());
  EXPECT_GT(count, 40u);
}

}  // namespace kascade::testing

#endif  // KASCADE_TESTS_SUPPORT_TOKENIZER_VECTORS_H_
