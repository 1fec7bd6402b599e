// Times of repeated runs, and how much faster sparse attention is.
#ifndef KASCADE_CLIENT_BENCHMARK_RUN_TIMES_H_
#define KASCADE_CLIENT_BENCHMARK_RUN_TIMES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "kascade/v1/model_info.pb.h"

namespace kascade::client {

// Milliseconds of the runs of one kind, in the order in which they ran. At least one.
struct RunTimes {
  std::vector<double> milliseconds{};

  double mean() const;
  double median() const;  // of an even number, the mean of the two in the middle
  double least() const;
  double largest() const;
};

// Of a weight in this format; the scales of integer formats are left out.
double bytes_per_weight(const v1::RuntimeInfo& runtime, const v1::ModelInfo& model);

enum class Work { kPrefill, kDecode };

// Dense and sparse runs of the same work, one after the other in turn.
struct SpeedComparison {
  Work work = Work::kPrefill;
  // Tokens of the prompt. Prefill: all of them are computed. Decode: they are the context in front
  // of the new tokens, and a time is that of one new token.
  int32_t tokens = 0;
  // The share of dense work that attention is, see attention_share().
  double attention_share = 0;
  RunTimes dense{}, sparse{};

  // The dense median divided by the sparse one.
  double speedup() const { return dense.median() / sparse.median(); }
};

// What attention's own part of dense work is, 0 to 1. Nothing that is done to attention alone can
// save more. Prefill: of the arithmetic operations, over a prompt of `tokens`. Decode: of the bytes
// of weights and of keys and values that are read for a new token after `tokens`.
double attention_share(Work work, int32_t tokens, const v1::ModelInfo& model,
                       const v1::RuntimeInfo& runtime);

// A sentence about the speedup: above 1.2 it is faster, from 0.8 to 1.2 about equal, below slower,
// and why. One above 1.2 that attention's share cannot explain is not praised: it is likely luck.
std::string speed_sentence(const SpeedComparison& comparison);

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_BENCHMARK_RUN_TIMES_H_
