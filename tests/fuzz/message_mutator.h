// Changes one field of a protobuf message at random, so that a fuzzer reaches what is behind the
// parser: every field, nested ones included, with values at and beyond the ends of their ranges.
#ifndef KASCADE_TESTS_FUZZ_MESSAGE_MUTATOR_H_
#define KASCADE_TESTS_FUZZ_MESSAGE_MUTATOR_H_

#include <random>

#include "google/protobuf/message.h"

namespace kascade::testing {

void mutate(google::protobuf::Message& message, std::minstd_rand& random);

}  // namespace kascade::testing

#endif  // KASCADE_TESTS_FUZZ_MESSAGE_MUTATOR_H_
