// The sign test, which says whether two methods that were asked the same questions differ.
#ifndef KASCADE_CLIENT_EVAL_SIGN_TEST_H_
#define KASCADE_CLIENT_EVAL_SIGN_TEST_H_

#include <cstdint>

namespace kascade::client {

// Returns the two-sided p-value of the exact sign test: how probable it is, if each question on
// which the two methods disagree is a fair coin, that they divide these at least as unequally as
// here. `first_only` and `second_only` (≥ 0) are the questions that one method alone answered.
// Questions on which both agree do not count; without others the result is 1.
double sign_test_p_value(int64_t first_only, int64_t second_only);

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_EVAL_SIGN_TEST_H_
