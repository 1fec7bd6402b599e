// Compares what two runs of the same tokens gave.
#ifndef KASCADE_TESTS_SUPPORT_SAME_REPLY_H_
#define KASCADE_TESTS_SUPPORT_SAME_REPLY_H_

#include <cstddef>
#include <string_view>

#include "gtest/gtest.h"
#include "tests/support/engine_client.h"

namespace kascade::testing {

// By how much a log-probability may differ between a row that is computed in a tile and one that is
// computed alone [nats]: with the f32 kernels of the CPU backend the last bits differ.
inline double row_tolerance(std::string_view backend, std::string_view weights) {
  return backend == "cpu" && weights == "f32" ? 2e-4 : 0.0;
}

inline void expect_same(const Reply& a, const Reply& b, double tolerance) {
  ASSERT_EQ(a.tokens.size(), b.tokens.size());
  for (size_t i = 0; i < a.tokens.size(); ++i) {
    EXPECT_EQ(a.tokens[i].token, b.tokens[i].token) << i;
    EXPECT_NEAR(a.tokens[i].logprob, b.tokens[i].logprob, tolerance) << i;
  }
}

}  // namespace kascade::testing

#endif  // KASCADE_TESTS_SUPPORT_SAME_REPLY_H_
