// Bounds that follow from no property of the model. What a request to the engine may hold is
// bounded in engine/request.h, and nowhere else.
#ifndef KASCADE_SERVER_CORE_LIMITS_H_
#define KASCADE_SERVER_CORE_LIMITS_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/base/refusal.h"

namespace kascade::core {

inline constexpr int64_t kMaxTexts = 4096;  // of one scoring or tokenization
// Of one calibration, which cannot be spread over several requests, as the others can.
inline constexpr size_t kMaxCalibrationTexts = 65536;
inline constexpr size_t kMaxKindBytes = 64;            // of the name of a kind of text
inline constexpr int32_t kMaxTokensPerText = 1 << 20;  // that a request may cut its texts to
inline constexpr size_t kMaxStopStrings = 16;
inline constexpr size_t kMaxStopStringBytes = 1024;
// Stop tokens that a request may name; the end tokens of model and chat format join them.
inline constexpr size_t kMaxRequestStopTokens = 256;
inline constexpr int32_t kDefaultMaxNewTokens = 256;

// Memory of the messages that a client has not read yet. A scoring submits no further window
// beyond it; a generation ends.
inline constexpr size_t kMaxUnsentBytes = size_t{16} << 20;
// Upper bounds on what a token takes in such messages: its columns, while their lists may be twice
// as long as needed; and its candidates, if any, in a message of their own with a block for each
// column.
inline constexpr int64_t kSentTokenBytes = 64;
inline constexpr int64_t kSentCandidatesBytes = 192;
inline constexpr int64_t kSentCandidateBytes = 16;
inline int64_t sent_token_bytes(int32_t top_logprobs) {
  return kSentTokenBytes +
         (top_logprobs > 0 ? kSentCandidatesBytes + kSentCandidateBytes * top_logprobs : 0);
}
// Inputs of one scoring that are in the engine at once.
inline constexpr int kMaxParallelInputs = 8;

// Tokens that a trace runs at most: it computes the probabilities of every key once more.
inline constexpr int32_t kMaxTracedTokens = 16384;
// Most selected keys, and most cells of maps, that a trace holds in memory.
inline constexpr int64_t kMaxTracedValues = int64_t{1} << 22;

// Of one piece of a streamed text; half of the largest message if that is less.
inline constexpr int64_t kMaxPieceBytes = int64_t{1} << 20;
inline int64_t max_piece_bytes(int64_t max_message_bytes) {
  return std::min(kMaxPieceBytes, max_message_bytes / 2);
}
// A streamed text is encoded as it comes, when so much of it has not been.
inline constexpr size_t kEncodedAtOnceBytes = size_t{64} << 10;
// A stream whose next piece has no room in the memory of requests waits so long for it.
inline constexpr absl::Duration kLongestWaitForMemory = absl::Seconds(10);

// Larger requests are tokenized on the work queue instead of the thread that received them.
inline constexpr size_t kMaxInlineBytes = size_t{64} << 10;
// Larger ones do not keep these waiting there.
inline constexpr size_t kMaxMediumBytes = size_t{1} << 20;

// INVALID_ARGUMENT naming `field`: no text, or more than kMaxTexts.
absl::Status check_text_count(const std::string& field, size_t count);
// INVALID_ARGUMENT naming "max_tokens_per_text": not in [1, kMaxTokensPerText].
absl::Status check_max_tokens_per_text(int32_t tokens);

}  // namespace kascade::core

#endif  // KASCADE_SERVER_CORE_LIMITS_H_
