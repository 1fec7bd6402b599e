// How the score protocols cut a sequence of tokens into windows.
#ifndef KASCADE_SERVER_CORE_SCORE_WINDOWS_H_
#define KASCADE_SERVER_CORE_SCORE_WINDOWS_H_

#include <cstdint>
#include <vector>

namespace kascade::core {

// Tokens [begin, begin + count) of a sequence; those from first_scored (in the window) on are
// scored.
struct ScoreWindow {
  int64_t begin = 0;
  int32_t count = 0;
  int32_t first_scored = 1;
  bool operator==(const ScoreWindow&) const = default;
};

// `size` is the number of tokens of the sequence, `window` that of a window. The first
// `first_scored` ≥ 1 tokens of the sequence are never scored.

// Cuts `size` tokens, those from `first_scored` on scored once, into windows of at most `window` ≥
// 2 tokens. Every window after the first begins with the last token of the one before; the last one
// is filled up from the front. With first_scored 1 equal to loglikelihood_rolling with context_len
// 1 and max_seq_len = window − 1.
std::vector<ScoreWindow> rolling_windows(int64_t size, int32_t window, int64_t first_scored = 1);

// Disjoint windows of `window` ≥ 3 tokens, each scored from window / 2 + 1 on; what is left at the
// end belongs to none. Equal to llama-perplexity with n_ctx = window.
std::vector<ScoreWindow> chunk_windows(int64_t size, int32_t window);

// Windows of at most `window` tokens that begin every `stride` tokens, 1 ≤ stride < window; each
// token from `first_scored` on is scored in the first window that holds it. Equal to the sliding
// window of Hugging Face's guide with max_length = window.
std::vector<ScoreWindow> strided_windows(int64_t size, int32_t window, int32_t stride,
                                         int64_t first_scored = 1);

}  // namespace kascade::core

#endif  // KASCADE_SERVER_CORE_SCORE_WINDOWS_H_
