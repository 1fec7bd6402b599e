// Bounds of requests that follow from no property of the model.
#ifndef KASCADE_SERVER_LIMITS_H_
#define KASCADE_SERVER_LIMITS_H_

#include <cstddef>
#include <cstdint>

namespace kascade::server {

inline constexpr int kMaxTexts = 4096;  // of one Score, Tokenize or Calibrate
inline constexpr int kMaxStopStrings = 16;
inline constexpr size_t kMaxStopStringBytes = 1024;
inline constexpr int kMaxStopTokens = 256;
inline constexpr int kMaxLogitBiases = 1024;
inline constexpr int32_t kMaxTopLogprobs = 20;
inline constexpr int32_t kDefaultMaxNewTokens = 256;

// Of one message of a stream: with 20 candidates each this many tokens stay far below the 4 MiB
// that clients accept by default.
inline constexpr int kMaxTokensPerMessage = 4096;
// A Score submits no further window while the client leaves so much unread.
inline constexpr size_t kMaxUnsentBytes = size_t{64} << 20;
// Inputs of one Score that are in the engine at once.
inline constexpr int kMaxParallelInputs = 8;

// Larger requests are tokenized on the work queue.
inline constexpr size_t kMaxInlineBytes = size_t{64} << 10;
// Of the requests that are there or wait for it, together.
inline constexpr size_t kMaxQueuedBytes = size_t{512} << 20;

}  // namespace kascade::server

#endif  // KASCADE_SERVER_LIMITS_H_
